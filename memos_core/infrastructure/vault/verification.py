"""Verification: everything that is stored, against its digests and against each other.

Read in pages, so that a large vault does not have to fit in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any

from sqlalchemy import Connection, Row, Select, Table, func, select

from memos_core.cube import MemCube
from memos_core.errors import BlobDamaged, VaultDamaged, VaultError
from memos_core.infrastructure.vault import schema, sqlite
from memos_core.infrastructure.vault.blobs import BlobStore
from memos_core.infrastructure.vault.conditions import from_micros, micros
from memos_core.infrastructure.vault.reading import ReadSession
from memos_core.infrastructure.vault.rows import checksum, cube_of, cube_row, current, terms_crc, version_row
from memos_core.infrastructure.vault.values import VaultReport

__all__ = ["verify"]

PAGE = 500
MOMENT = from_micros(0)


def verify(connection: Connection, blobs: BlobStore) -> VaultReport:
    """Return what was looked at, if all of it is right.

    Raises:
        VaultDamaged: Names everything that is not.
    """
    problems = sqlite.integrity_problems(connection)
    try:
        for check in (cubes, versions, quotas, words, vectors):
            problems += check(connection)
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


def pages(connection: Connection, query: Select[Any], key: Any) -> Iterator[Row[Any]]:
    """Yield the rows of ``query`` in the order of ``key``, a unique column, page by page."""
    last = None
    while True:
        page = query if last is None else query.where(key > last)
        rows = connection.execute(page.order_by(key).limit(PAGE)).all()
        yield from rows
        if len(rows) < PAGE:
            return
        last = rows[-1]._mapping[key.name]


def cubes(connection: Connection) -> list[str]:
    """Check that each cube can be read, and that its searchable columns and relations say what its header says."""
    problems: list[str] = []
    stored = set(connection.scalars(select(schema.cubes.c.id)))
    for row in pages(connection, current(), schema.cubes.c.id):
        stored.discard(row.id)
        try:
            cube = cube_of(row, MOMENT)
        except VaultDamaged as error:
            problems += error.problems
            continue
        problems += columns(connection, cube)
    return problems + [f"cube {cube_id}: its current version or its counters are missing" for cube_id in sorted(stored)]


def columns(connection: Connection, cube: MemCube) -> list[str]:
    c = schema.cubes
    row = connection.execute(select(c).where(c.c.id == cube.id)).one()._mapping
    wrong = [name for name, value in cube_row(cube).items() if row[name] != value]
    descriptive = cube.header.descriptive
    relations: tuple[tuple[Any, set[Any]], ...] = (
        ((schema.tags.c.tag,), {(tag,) for tag in descriptive.tags}),
        (
            (schema.links.c.target, schema.links.c.relation),
            {(link.target, link.relation) for link in descriptive.links},
        ),
        ((schema.lineage.c.source_id, schema.lineage.c.source_version), set(descriptive.lineage.sources)),
        (
            (schema.grants.c.grantee, schema.grants.c.right, schema.grants.c.until),
            {(grant.grantee, grant.right, micros(grant.until)) for grant in cube.header.governance.grants},
        ),
    )
    for own, expected in relations:
        table = own[0].table
        held = {tuple(found) for found in connection.execute(select(*own).where(table.c.cube_id == cube.id))}
        wrong += [table.name] if held != expected else []
    return [f"cube {cube.id}: {name} is not what its header says" for name in wrong]


def versions(connection: Connection) -> list[str]:
    """Check that the versions of each cube are complete and can be read."""
    problems: list[str] = []
    session = ReadSession(connection, MOMENT)
    v = schema.versions
    for row in pages(connection, current(), schema.cubes.c.id):
        numbers = connection.scalars(select(v.c.version).where(v.c.cube_id == row.id).order_by(v.c.version)).all()
        try:
            cube = cube_of(row, MOMENT)
            item = cube.header.descriptive.item
            if list(numbers) != list(range(item.oldest if item else 1, row.version + 1)):
                problems.append(f"cube {row.id}: version {row.version} is current, but there are {list(numbers)}")
            for record in session._versions(cube):
                problems += version_columns(connection, record.cube)
        except VaultDamaged as error:
            problems += error.problems
    return list(dict.fromkeys(problems))


def version_columns(connection: Connection, cube: MemCube) -> list[str]:
    v = schema.versions
    query = select(v).where(v.c.cube_id == cube.id, v.c.version == cube.version)
    row = connection.execute(query).one()._mapping
    expected = version_row(cube, author="", reason="", committed=MOMENT)
    names = ("digest", "blob_address", "size_bytes")
    return [
        f"cube {cube.id}: {name} of version {cube.version} is wrong" for name in names if row[name] != expected[name]
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
    last = 0
    while True:
        passages = connection.execute(select(p).where(p.c.id > last).order_by(p.c.id).limit(PAGE)).all()
        if not passages:
            return problems
        ids = [row.id for row in passages]
        query = select(t.c.passage_id, t.c.term, t.c.count, t.c.namespace_id).where(t.c.passage_id.in_(ids))
        rows = connection.execute(query.order_by(t.c.passage_id)).all()
        terms = {key: list(group) for key, group in groupby(rows, key=lambda row: row.passage_id)}
        for row in passages:
            own = terms.get(row.id, [])
            pairs = [(entry.term, entry[2]) for entry in own]
            strays = any(entry.namespace_id != row.namespace_id for entry in own)
            if strays or terms_crc(pairs) != row.terms_crc or sum(count for _, count in pairs) != row.length:
                problems.append(f"passage {row.id} of cube {row.cube_id}: its words are not what was written")
        last = ids[-1]


def vectors(connection: Connection) -> list[str]:
    v, k = schema.vectors, schema.collections
    query = select(v.c.passage_id, v.c.data, v.c.crc, k.c.dimension).join_from(v, k)
    return [
        f"passage {row.passage_id}: vector does not match its checksum"
        for row in pages(connection, query, v.c.passage_id)
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
