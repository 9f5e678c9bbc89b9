"""Erasure: every row that tells of a cube, and of what was made from it, leaves the ledger in one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, func, insert, select, update

from memos_core.cube import MemCube
from memos_core.infrastructure.vault import schema
from memos_core.infrastructure.vault.conditions import chunks
from memos_core.infrastructure.vault.jobs import remove_jobs_about
from memos_core.infrastructure.vault.learning import unlearn
from memos_core.infrastructure.vault.rows import cube_of, current, headers
from memos_core.infrastructure.vault.values import ErasedRows, Visibility

if TYPE_CHECKING:
    from memos_core.infrastructure.vault.writing import WriteSession

__all__ = ["erase", "remove_passages"]


@dataclass(frozen=True, slots=True)
class Removal:
    """What left the tables: versions, vectors, and the addresses of blobs that nothing refers to any more."""

    versions: int
    vectors: int
    orphans: tuple[str, ...]


def erase(session: WriteSession, visibility: Visibility, cube_ids: Sequence[str], *, texts: bool = True) -> ErasedRows:
    """Delete the visible ones of ``cube_ids`` and all that was made from them, and note what the disk still holds.

    What other users made from them under a grant goes too. It is told to their engines (``WriteSession.lost``) and
    to nobody else.
    """
    asked = [cube.id for cube in session.cubes(visibility, cube_ids)]
    below = [cube_id for cube_id in session.derived(None, asked) if cube_id not in set(asked)]
    owners = namespaces_of(session, below)
    derived = [cube_id for cube_id in below if owners[cube_id] == visibility.namespace]
    if not asked:
        return ErasedRows((), (), 0, 0, ())
    told = {cube.id for cube in session.cubes(visibility, derived)}
    for namespace in sorted(set(owners.values()) - {visibility.namespace}):
        lost = [cube_id for cube_id in below if owners[cube_id] == namespace]
        remove(session, namespace, lost, texts=False)
        session.lost[namespace] += lost
    gone = remove(session, visibility.namespace, [*asked, *derived], texts=texts)
    shown = tuple(cube_id for cube_id in derived if cube_id in told)
    return ErasedRows((*asked, *shown), shown, gone.versions, gone.vectors, gone.orphans)


def remove(session: WriteSession, namespace: str, doomed: Sequence[str], *, texts: bool) -> Removal:
    """Delete cubes of one namespace."""
    addresses = blob_addresses(session, doomed)
    bytes_used = used_by(session, doomed)
    vectors = remove_passages(session, doomed, queue=False)
    unlink(session, doomed)
    remove_jobs_about(session, doomed)
    unlearn(session, doomed)
    forget_details(session, doomed)
    versions = remove_rows(session, doomed)
    orphans = unreferenced(session, addresses)
    note_pending(session, orphans, texts=texts)
    session._changed(session._namespace_id(namespace), bytes_used=-bytes_used)
    return Removal(versions, vectors, orphans)


def namespaces_of(session: WriteSession, cube_ids: Sequence[str]) -> dict[str, str]:
    """Return the name of the namespace that each of these cubes lives in."""
    c, n = schema.cubes, schema.namespaces
    found: dict[str, str] = {}
    for part in chunks(cube_ids):
        query = select(c.c.id, n.c.name).join_from(c, n, n.c.id == c.c.namespace_id).where(c.c.id.in_(part))
        found.update((row.id, row.name) for row in session.connection.execute(query))
    return found


def blob_addresses(session: WriteSession, cube_ids: Sequence[str]) -> list[str]:
    v = schema.versions
    found: set[str] = set()
    for part in chunks(cube_ids):
        query = select(v.c.blob_address).where(v.c.cube_id.in_(part), v.c.blob_address.is_not(None))
        found.update(session.connection.scalars(query))
    return sorted(found)


def used_by(session: WriteSession, cube_ids: Sequence[str]) -> int:
    v = schema.versions
    totals = [
        session.connection.scalar(select(func.sum(v.c.size_bytes)).where(v.c.cube_id.in_(part))) or 0
        for part in chunks(cube_ids)
    ]
    return int(sum(totals))


def remove_passages(session: WriteSession, cube_ids: Sequence[str], *, queue: bool) -> int:
    """Delete the passages of cubes with their words and vectors, and return how many vectors went.

    Args:
        queue: Tell the index through the outbox. An erasure does not: it has the index written anew.
    """
    connection, p = session.connection, schema.passages
    removed = 0
    for part in chunks(cube_ids):
        rows = connection.execute(select(p.c.id, p.c.namespace_id).where(p.c.cube_id.in_(part))).all()
        for ids in chunks([row.id for row in rows]):
            if queue:
                queue_removals(session, ids)
            else:
                connection.execute(delete(schema.outbox).where(schema.outbox.c.passage_id.in_(ids)))
            connection.execute(delete(schema.postings).where(schema.postings.c.passage_id.in_(ids)))
            removed += connection.execute(delete(schema.vectors).where(schema.vectors.c.passage_id.in_(ids))).rowcount
            connection.execute(delete(p).where(p.c.id.in_(ids)))
        for namespace_id in {row.namespace_id for row in rows}:
            session._changed(namespace_id, removals=1)
    return removed


def queue_removals(session: WriteSession, passage_ids: Sequence[int]) -> None:
    v = schema.vectors
    held = session.connection.execute(select(v.c.collection_id, v.c.passage_id).where(v.c.passage_id.in_(passage_ids)))
    rows = [{"collection_id": row[0], "operation": "remove", "passage_id": row[1]} for row in held]
    if rows:
        session.connection.execute(insert(schema.outbox), rows)


def unlink(session: WriteSession, cube_ids: Sequence[str]) -> None:
    """Take links to erased cubes out of the headers of those that stay."""
    doomed = set(cube_ids)
    pointing: set[str] = set()
    for part in chunks(cube_ids):
        pointing.update(
            session.connection.scalars(select(schema.links.c.cube_id).where(schema.links.c.target.in_(part)))
        )
    for part in chunks(sorted(pointing - doomed)):
        for row in session.connection.execute(current().where(schema.cubes.c.id.in_(part))).all():
            store_links(session, without_links(cube_of(row, session.now), doomed))


def without_links(cube: MemCube, targets: set[str]) -> MemCube:
    descriptive = cube.header.descriptive
    kept = tuple(link for link in descriptive.links if link.target not in targets)
    header = cube.header.model_copy(update={"descriptive": descriptive.model_copy(update={"links": kept})})
    return cube.model_copy(update={"header": header})


def store_links(session: WriteSession, cube: MemCube) -> None:
    header, digest = headers(cube)
    values = {"header": header, "header_digest": digest}
    session.connection.execute(update(schema.cubes).where(schema.cubes.c.id == cube.id).values(values))
    session._write_relations(cube)


def forget_details(session: WriteSession, cube_ids: Sequence[str]) -> None:
    """Empty what the audit tells about these cubes besides that something was done to them."""
    for part in chunks(cube_ids):
        about = select(schema.audit_cubes.c.audit_id).where(schema.audit_cubes.c.cube_id.in_(part))
        session.connection.execute(update(schema.audit).where(schema.audit.c.id.in_(about)).values(detail="{}"))


def remove_rows(session: WriteSession, cube_ids: Sequence[str]) -> int:
    """Delete the cubes themselves and return how many versions they had."""
    versions = 0
    own: tuple[Any, ...] = (
        schema.tags,
        schema.links,
        schema.grants,
        schema.lineage,
        schema.document_fields,
        schema.usage,
        schema.snapshot_cubes,
    )
    for part in chunks(cube_ids):
        for table in own:
            session.connection.execute(delete(table).where(table.c.cube_id.in_(part)))
        gone = session.connection.execute(delete(schema.versions).where(schema.versions.c.cube_id.in_(part)))
        versions += gone.rowcount
        session.connection.execute(delete(schema.cubes).where(schema.cubes.c.id.in_(part)))
    return versions


def unreferenced(session: WriteSession, addresses: Sequence[str]) -> tuple[str, ...]:
    v = schema.versions
    held: set[str] = set()
    for part in chunks(addresses):
        query = select(v.c.blob_address).where(v.c.blob_address.in_(part))
        held.update(address for address in session.connection.scalars(query) if address is not None)
    return tuple(address for address in addresses if address not in held)


def note_pending(session: WriteSession, addresses: Sequence[str], *, texts: bool) -> None:
    rows = [{"kind": "blob", "subject": address} for address in addresses]
    if texts:
        rows.append({"kind": "wal", "subject": ""})
        if session.queues:
            rows.append({"kind": "index", "subject": ""})
    if rows:
        session.connection.execute(insert(schema.pending_erasure), rows)
