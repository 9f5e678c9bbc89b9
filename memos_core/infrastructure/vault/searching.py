"""Search by vector: an index proposes, the ledger decides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from sqlalchemy import ColumnElement, Connection, bindparam, select, true

from memos_core.embedding.base import Vector, Vectors
from memos_core.errors import InvalidInput
from memos_core.infrastructure.vault import schema
from memos_core.infrastructure.vault.conditions import chunks
from memos_core.infrastructure.vault.index.base import Place, VectorIndex, load_vectors
from memos_core.infrastructure.vault.index.exact import ExactIndex, Proposals
from memos_core.infrastructure.vault.prepared import Prepared
from memos_core.infrastructure.vault.values import PassageHit

MIN_STEP = 64
"""Fewest proposals that are put to the ledger in one question."""

NAMESPACE = Prepared(select(schema.namespaces.c.id).where(schema.namespaces.c.name == bindparam("name")))
PLACED = Prepared(
    select(
        schema.collections.c.id,
        schema.collections.c.name,
        schema.collections.c.embedder,
        schema.collections.c.dimension,
        schema.namespaces.c.id.label("namespace_id"),
        schema.namespaces.c.revision,
        schema.namespaces.c.removals,
    )
    .join_from(schema.collections, schema.namespaces, true())
    .where(
        schema.collections.c.name == bindparam("collection"),
        schema.namespaces.c.name == bindparam("namespace"),
    )
)
"""A collection and a namespace at once: what an index has to know of where it is to look."""

__all__ = ["PLACED", "Alike", "alike", "exceeds", "nearest", "place_of", "similarities", "unit", "units"]


def unit(vector: Vector, dimension: int) -> Vector:
    """Return ``vector`` as float32 of length 1; a zero vector stays zero.

    Raises:
        InvalidInput: It has another shape, or holds something that is not a number.
    """
    flat = np.asarray(vector, dtype=np.float32)
    if flat.shape != (dimension,):
        raise InvalidInput(f"a vector of this collection has shape ({dimension},), not {flat.shape}")
    if not np.isfinite(flat).all():
        raise InvalidInput("the vector holds infinities or NaN")
    length = float(np.linalg.norm(flat))
    scaled: Vector = flat / np.float32(length) if length else flat
    return scaled


def units(vectors: Vectors, dimension: int) -> Vectors:
    """Return ``vectors`` as ``unit`` returns each of them, shape ``[vectors, dimension]``.

    Raises:
        InvalidInput: One has another shape, or holds something that is not a number.
    """
    rows = np.asarray(vectors, dtype=np.float32)
    if rows.ndim != 2 or rows.shape[1] != dimension:
        raise InvalidInput(f"vectors of this collection have shape (n, {dimension}), not {rows.shape}")
    if not np.isfinite(rows).all():
        raise InvalidInput("a vector holds infinities or NaN")
    lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows))
    lengths[lengths == 0] = 1
    scaled: Vectors = rows / lengths[:, None]
    return scaled


def place_of(connection: Connection, collection_id: int, dimension: int, namespace: str) -> Place | None:
    """Return where the vectors of a namespace lie; None if nothing was ever stored in it."""
    row = NAMESPACE.first(connection, name=namespace)
    return None if row is None else Place(collection_id, row[0], dimension)


def exceeds(connection: Connection, place: Place, limit: int) -> bool:
    """Tell whether a place holds more than ``limit`` vectors."""
    v = schema.vectors
    own = (v.c.collection_id == place.collection_id, v.c.namespace_id == place.namespace_id)
    return connection.scalar(select(v.c.passage_id).where(*own).offset(limit).limit(1)) is not None


def nearest(
    connection: Connection,
    index: VectorIndex,
    place: Place,
    vector: Vector,
    *,
    k: int,
    condition: ColumnElement[bool],
    min_score: float,
) -> list[PassageHit]:
    """Return the ``k`` passages nearest to ``vector`` among those whose cubes meet ``condition``, nearest first."""
    hits: list[PassageHit] = []
    step = max(MIN_STEP, k + k // 4)  # some of what is proposed may not be seen: ask for a little more than k at once
    for ids, scores in index.candidates(connection, place, vector):
        near = scores >= min_score
        proposed = list(zip(ids[near].tolist(), scores[near].tolist(), strict=True))
        for start in range(0, len(proposed), step):
            hits += passing(connection, dict(proposed[start : start + step]), condition)
            if len(hits) >= k:
                return sorted(hits, key=nearness)[:k]
        if not near.all():
            break
    return sorted(hits, key=nearness)


@dataclass(frozen=True, slots=True)
class Alike:
    """What is asked about several vectors at once.

    Attributes:
        place: Where they are to be compared.
        vectors: Unit vectors, shape ``[vectors, dimension]``.
        k: Most passages for each.
        condition: That the cubes of those meet.
        min_score: Least similarity.
    """

    place: Place
    vectors: Vectors
    k: int
    condition: ColumnElement[bool]
    min_score: float


def alike(connection: Connection, index: ExactIndex, asked: Alike, near: Sequence[Proposals]) -> list[list[PassageHit]]:
    """Return for each of the vectors what ``nearest`` returns, from one question to the ledger for all of them.

    Args:
        near: What the index proposes for each: the ``MIN_STEP`` nearest, or ``k`` where that is more.
    """
    most = max(MIN_STEP, asked.k)
    scores = {passage_id: score for own in near for passage_id, score in own}
    seen = {hit.passage_id: hit for hit in passing(connection, scores, asked.condition)}
    found = []
    for vector, own in zip(asked.vectors, near, strict=True):
        hits = [replace(seen[passage_id], score=score) for passage_id, score in own if passage_id in seen][: asked.k]
        if len(hits) < asked.k and len(own) == most:  # hidden ones took the place of others that are less near
            hits = nearest(
                connection, index, asked.place, vector, k=asked.k, condition=asked.condition, min_score=asked.min_score
            )
        found.append(hits)
    return found


def nearness(hit: PassageHit) -> tuple[float, int]:
    return -hit.score, hit.passage_id


def passing(connection: Connection, scores: dict[int, float], condition: ColumnElement[bool]) -> list[PassageHit]:
    p, c = schema.passages, schema.cubes
    query = select(p.c.id, p.c.cube_id, p.c.start, p.c.end).select_from(p.join(c, c.c.id == p.c.cube_id))
    hits = []
    for part in chunks(list(scores)):
        rows = connection.execute(query.where(p.c.id.in_(part), condition))
        hits += [PassageHit(row.id, row.cube_id, row.start, row.end, scores[row.id]) for row in rows]
    return hits


def similarities(connection: Connection, place: Place, passage_ids: Sequence[int], vector: Vector) -> dict[int, float]:
    """Return the cosine similarity of those passages that have a vector, computed from the ledger."""
    ids, matrix = load_vectors(connection, place, passage_ids)
    return dict(zip(ids.tolist(), (matrix @ vector).tolist(), strict=True))
