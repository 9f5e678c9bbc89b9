"""Moves the memory of a collection to another embedder, or to another way of cutting texts into passages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
from memos_core.render import index_text

if TYPE_CHECKING:
    from memos_core.infrastructure.vault.vault import MemVault

__all__ = ["reembed"]

Analyse = Callable[[str], Mapping[str, int]]
Progress = Callable[[int, int], None]


def reembed(
    vault: MemVault, collection: str, embedder: Embedder, analyse: Analyse, batch_size: int, progress: Progress | None
) -> int:
    """Embed outside of the write lock, then swap within it; what changed in between is embedded there."""
    ready: dict[tuple[str, int], list[Passage]] = {}
    with vault.read() as session:
        ids = members(session.connection, collection)
    for start in range(0, len(ids), batch_size):
        with vault.read() as session:
            cubes = load(session, ids[start : start + batch_size])
        ready.update(embedded(cubes, embedder, analyse))
        if progress:
            progress(min(start + batch_size, len(ids)), len(ids))
    with vault.ledger.write() as connection:
        return swap(WriteSession(connection, vault.clock.now(), embedder), collection, embedder, analyse, ready)


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


def embedded(cubes: Sequence[MemCube], embedder: Embedder, analyse: Analyse) -> dict[tuple[str, int], list[Passage]]:
    """Return the passages of each cube, by id and version."""
    spans = [(cube, span) for cube in cubes for span in embedder.passages(cube.text)]
    texts = [index_text(cube, *span) for cube, span in spans]
    made: dict[tuple[str, int], list[Passage]] = {(cube.id, cube.version): [] for cube in cubes}
    if texts:
        for (cube, (start, end)), text, vector in zip(spans, texts, embedder.embed(texts), strict=True):
            made[cube.id, cube.version].append(Passage(start, end, analyse(text), vector))
    return made


def swap(
    session: WriteSession,
    collection: str,
    embedder: Embedder,
    analyse: Analyse,
    ready: Mapping[tuple[str, int], list[Passage]],
) -> int:
    cubes = load(session, members(session.connection, collection))
    late = [cube for cube in cubes if (cube.id, cube.version) not in ready]
    passages = {**ready, **embedded(late, embedder, analyse)}
    erasure.remove_passages(session, [cube.id for cube in cubes], queue=False)
    enter_collection(session, collection, embedder)
    # Whatever index there is holds the old vectors: it is made anew when it is next needed.
    session.connection.execute(update(schema.index_state).values(generation=""))
    for cube in cubes:
        namespace_id = session._namespace_id(cube.header.governance.namespace)
        session._add_passages(cube.id, namespace_id, passages[cube.id, cube.version], collection)
    return len(cubes)


def enter_collection(session: WriteSession, name: str, embedder: Embedder) -> None:
    c = schema.collections
    values = {"embedder": embedder.name, "dimension": embedder.dimension, "metric": "cosine"}
    if not session.connection.execute(update(c).where(c.c.name == name).values(values)).rowcount:
        session.connection.execute(insert(c).values(name=name, **values))
