"""Moves the memory of a collection to another embedder, or to another way of cutting texts into passages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import Connection, insert, select, update

from memos_core.cube import MemCube, MemoryType
from memos_core.embedding.base import Embedder
from memos_core.infrastructure.vault import erasure, schema
from memos_core.infrastructure.vault.conditions import chunks
from memos_core.infrastructure.vault.reading import ReadSession
from memos_core.infrastructure.vault.rows import cube_of, current
from memos_core.infrastructure.vault.values import Passage
from memos_core.infrastructure.vault.writing import WriteSession

if TYPE_CHECKING:
    from memos_core.infrastructure.vault.vault import MemVault

__all__ = ["Reembedding", "Structure", "reembed"]

Structure = Callable[[Embedder | None, Sequence[MemCube]], Sequence[Sequence[Passage]]]
Progress = Callable[[int, int], None]
Ready = dict[tuple[str, int], Sequence[Passage]]
"""Passages by cube id and version."""


@dataclass(frozen=True, slots=True)
class Reembedding:
    """What is to be done: which collection, with what, and how texts become passages."""

    collection: str
    embedder: Embedder
    structure: Structure

    def passages(self, cubes: Sequence[MemCube]) -> Ready:
        made = self.structure(self.embedder, cubes)
        return {(cube.id, cube.version): own for cube, own in zip(cubes, made, strict=True)}


def reembed(vault: MemVault, task: Reembedding, *, batch_size: int, progress: Progress | None) -> int:
    """Embed outside of the write lock, then swap within it; what changed in between is embedded there."""
    ready: Ready = {}
    with vault.read() as session:
        ids = members(session.connection, task.collection)
    for start in range(0, len(ids), batch_size):
        with vault.read() as session:
            cubes = load(session, ids[start : start + batch_size])
        ready.update(task.passages(cubes))
        if progress:
            progress(min(start + batch_size, len(ids)), len(ids))
    with vault.ledger.write() as connection:
        session = WriteSession(connection, vault.clock.now(), task.embedder)
        count = swap(session, task, ready)
        session.flush()
        return count


def members(connection: Connection, collection: str) -> list[str]:
    """Return the cubes that have passages in the collection, in order."""
    p = schema.passages
    return list(
        connection.scalars(select(p.c.cube_id).where(p.c.collection == collection).distinct().order_by(p.c.cube_id))
    )


def load(session: ReadSession, cube_ids: Sequence[str]) -> list[MemCube]:
    cubes = []
    for part in chunks(cube_ids):
        query = current().where(schema.cubes.c.id.in_(part), schema.cubes.c.type == str(MemoryType.PLAINTEXT))
        cubes += [cube_of(row, session.now) for row in session.connection.execute(query)]
    return cubes


def swap(session: WriteSession, task: Reembedding, ready: Ready) -> int:
    """Put the new passages in the place of the old ones."""
    cubes = load(session, members(session.connection, task.collection))
    late = [cube for cube in cubes if (cube.id, cube.version) not in ready]
    passages = {**ready, **task.passages(late)}
    erasure.remove_passages(session, [cube.id for cube in cubes], queue=False)
    enter_collection(session, task.collection, task.embedder)
    # Whatever index there is holds the old vectors: it is made anew when it is next needed.
    session.connection.execute(update(schema.index_state).values(generation=""))
    for cube in cubes:
        namespace_id = session._namespace_id(cube.header.governance.namespace)
        session._add_passages(cube.id, namespace_id, passages[cube.id, cube.version], task.collection)
    return len(cubes)


def enter_collection(session: WriteSession, name: str, embedder: Embedder) -> None:
    c = schema.collections
    values = {"embedder": embedder.name, "dimension": embedder.dimension, "metric": "cosine"}
    if not session.connection.execute(update(c).where(c.c.name == name).values(values)).rowcount:
        session.connection.execute(insert(c).values(name=name, **values))
