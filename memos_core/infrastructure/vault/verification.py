"""Verification: everything that is stored, against its digests and against each other.

Read in pages, so that a large vault does not have to fit in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from sqlalchemy import Connection, Row, Select, Table, func, select

from memos_core.cube import Descriptive, MemCube
from memos_core.errors import BlobDamaged, VaultDamaged, VaultError
from memos_core.infrastructure.vault import schema, sqlite
from memos_core.infrastructure.vault.blobs import BlobStore
from memos_core.infrastructure.vault.conditions import from_micros, micros
from memos_core.infrastructure.vault.reading import ReadSession
from memos_core.infrastructure.vault.rows import (
    blob_of,
    check,
    checksum,
    cube_of,
    cube_row,
    current,
    size_of,
    terms_crc,
)
from memos_core.infrastructure.vault.selecting import field_values
from memos_core.infrastructure.vault.values import VaultReport

__all__ = ["verify"]

PAGE = 500
RELATIONS: tuple[tuple[Any, ...], ...] = (
    (schema.tags, schema.tags.c.tag),
    (schema.links, schema.links.c.target, schema.links.c.relation),
    (schema.lineage, schema.lineage.c.source_id, schema.lineage.c.source_version),
    (schema.document_fields, *schema.document_fields.c["collection", "field", "value"]),
    (schema.grants, schema.grants.c.grantee, schema.grants.c.right, schema.grants.c.until),
)
MOMENT = from_micros(0)


def verify(connection: Connection, blobs: BlobStore) -> VaultReport:
    """Return what was looked at, if all of it is right.

    Raises:
        VaultDamaged: Names everything that is not.
    """
    problems = sqlite.integrity_problems(connection)
    try:
        for part in (cubes, quotas, words, vectors):
            problems += part(connection)
        problems += blob_files(connection, blobs)
    except VaultError as error:
        # A page that cannot be read stops a check; what SQLite said about the file comes first then.
        problems.append(str(error))
    if problems:
        raise VaultDamaged(problems)
    return report(connection, blobs)


def report(connection: Connection, blobs: BlobStore) -> VaultReport:
    def count(table: Table) -> int:
        return connection.scalar(select(func.count()).select_from(table)) or 0

    return VaultReport(
        namespaces=count(schema.namespaces),
        cubes=count(schema.cubes),
        versions=count(schema.versions),
        passages=count(schema.passages),
        vectors=count(schema.vectors),
        blobs=sum(1 for _ in blobs.addresses()),
        blob_bytes=blobs.size,
    )


def pages(connection: Connection, query: Select[Any], key: Any) -> Iterator[Sequence[Row[Any]]]:
    """Yield the rows of ``query`` in the order of ``key``, a unique column, page by page."""
    last = None
    while True:
        page = query if last is None else query.where(key > last)
        rows = connection.execute(page.order_by(key).limit(PAGE)).all()
        if rows:
            yield rows
        if len(rows) < PAGE:
            return
        last = rows[-1]._mapping[key.name]


# Cubes and their versions


@dataclass(frozen=True, slots=True)
class Held:
    """What the ledger holds of the cubes of one page, by their ids, from a few queries for all of them.

    Attributes:
        columns: The row of the cube itself.
        current: The row of ``rows.current``; absent where the current version or the counters are missing.
        versions: All versions, in order.
        relations: By table, what stands there.
    """

    columns: Mapping[str, Row[Any]]
    current: Mapping[str, Row[Any]]
    versions: Mapping[str, Sequence[Row[Any]]]
    relations: Mapping[str, Mapping[str, set[tuple[Any, ...]]]]


def held(connection: Connection, page: Sequence[Row[Any]]) -> Held:
    c, v = schema.cubes, schema.versions
    first, last = page[0].id, page[-1].id

    def grouped(query: Select[Any], key: Any) -> dict[str, list[Any]]:
        rows = connection.execute(query.where(key.between(first, last)).order_by(key))
        return {cube_id: list(own) for cube_id, own in groupby(rows, key=lambda row: row[0])}

    relations = {}
    for table, *columns in RELATIONS:
        rows = grouped(select(table.c.cube_id, *columns), table.c.cube_id)
        relations[table.name] = {cube_id: {tuple(row[1:]) for row in own} for cube_id, own in rows.items()}
    return Held(
        columns={row.id: row for row in page},
        current={cube_id: row for cube_id, (row,) in grouped(current(), c.c.id).items()},
        versions=grouped(select(v).order_by(v.c.cube_id, v.c.version), v.c.cube_id),
        relations=relations,
    )


def cubes(connection: Connection) -> list[str]:
    """Check that each cube and each version can be read and is complete, and that the searchable columns and relations
    say what the headers say."""
    problems: list[str] = []
    session = ReadSession(connection, MOMENT)
    for page in pages(connection, select(schema.cubes), schema.cubes.c.id):
        there = held(connection, page)
        for cube_id in there.columns:
            problems += one_cube(session, there, cube_id)
    return problems


def one_cube(session: ReadSession, there: Held, cube_id: str) -> list[str]:
    if cube_id not in there.current:
        return [f"cube {cube_id}: its current version or its counters are missing"]
    try:
        cube = cube_of(there.current[cube_id], MOMENT)
    except VaultDamaged as error:
        return list(error.problems)
    return columns(there, cube) + versions(session, there.versions[cube_id], cube)


def columns(there: Held, cube: MemCube) -> list[str]:
    row = there.columns[cube.id]._mapping
    wrong = [name for name, value in cube_row(cube).items() if row[name] != value]
    descriptive = cube.header.descriptive
    expected = {
        "tags": {(tag,) for tag in descriptive.tags},
        "links": {(link.target, link.relation) for link in descriptive.links},
        "lineage": set(descriptive.lineage.sources),
        "document_fields": fields_of(descriptive),
        "grants": {(grant.grantee, grant.right, micros(grant.until)) for grant in cube.header.governance.grants},
    }
    wrong += [name for name, own in expected.items() if there.relations[name].get(cube.id, set()) != own]
    return [f"cube {cube.id}: {name} is not what its header says" for name in wrong]


def fields_of(descriptive: Descriptive) -> set[tuple[Any, ...]]:
    if descriptive.collection is None:
        return set()
    return {(descriptive.collection, *own) for own in field_values(descriptive.metadata)}


def versions(session: ReadSession, rows: Sequence[Row[Any]], cube: MemCube) -> list[str]:
    """Check that the versions of a cube are complete and can be read."""
    problems = []
    numbers, item = [row.version for row in rows], cube.header.descriptive.item
    if numbers != list(range(item.oldest if item else 1, cube.version + 1)):
        problems.append(f"cube {cube.id}: version {cube.version} is current, but there are {numbers}")
    for row in rows:
        try:
            check(row.header, row.header_digest, f"cube {cube.id}: header of version {row.version}")
            problems += version_columns(session._version(cube, row), row)
        except VaultDamaged as error:
            problems += error.problems
    return problems


def version_columns(cube: MemCube, row: Row[Any]) -> list[str]:
    found = {"digest": cube.digest, "blob_address": blob_of(cube), "size_bytes": size_of(cube)}
    stored = row._mapping
    return [
        f"cube {cube.id}: {name} of version {row.version} is wrong"
        for name, value in found.items()
        if stored[name] != value
    ]


def quotas(connection: Connection) -> list[str]:
    n, c, v = schema.namespaces, schema.cubes, schema.versions
    query = select(c.c.namespace_id, func.sum(v.c.size_bytes)).join_from(c, v).group_by(c.c.namespace_id)
    used = {row[0]: row[1] for row in connection.execute(query)}
    return [
        f"namespace {row.name}: {row.bytes_used} bytes are counted, {used.get(row.id, 0)} are there"
        for row in connection.execute(select(n))
        if row.bytes_used != used.get(row.id, 0)
    ]


def words(connection: Connection) -> list[str]:
    """Check the words of each passage against their checksum and sum."""
    p, t = schema.passages, schema.postings
    problems: list[str] = []
    for page in pages(connection, select(p), p.c.id):
        query = select(t.c.passage_id, t.c.term, t.c.count, t.c.namespace_id)
        rows = connection.execute(query.where(t.c.passage_id.between(page[0].id, page[-1].id)).order_by(t.c.passage_id))
        terms = {key: [tuple(row) for row in group] for key, group in groupby(rows, key=lambda row: row[0])}
        for row in page:
            own = terms.get(row.id, [])
            pairs = [(term, count) for _, term, count, _ in own]
            strays = any(namespace_id != row.namespace_id for *_, namespace_id in own)
            if strays or terms_crc(pairs) != row.terms_crc or sum(count for _, count in pairs) != row.length:
                problems.append(f"passage {row.id} of cube {row.cube_id}: its words are not what was written")
    return problems


def vectors(connection: Connection) -> list[str]:
    v, k = schema.vectors, schema.collections
    query = select(v.c.passage_id, v.c.data, v.c.crc, k.c.dimension).join_from(v, k)
    return [
        f"passage {row.passage_id}: vector does not match its checksum"
        for page in pages(connection, query, v.c.passage_id)
        for row in page
        if len(row.data) != 4 * row.dimension or checksum(row.data) != row.crc
    ]


def blob_files(connection: Connection, blobs: BlobStore) -> list[str]:
    """Check that each blob that a version refers to is there and whole."""
    n, c, v = schema.namespaces, schema.cubes, schema.versions
    joined = v.join(c, c.c.id == v.c.cube_id).join(n, n.c.id == c.c.namespace_id)
    query = select(v.c.blob_address, n.c.salt).select_from(joined).where(v.c.blob_address.is_not(None)).distinct()
    problems: list[str] = []
    for row in connection.execute(query):
        try:
            blobs.read(row.blob_address, row.salt)
        except BlobDamaged as error:
            problems.append(str(error))
    return problems
