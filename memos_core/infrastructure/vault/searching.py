"""Search by vector: an index proposes, the ledger decides."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sqlalchemy import ColumnElement, Connection, select

from memos_core.embedding.base import Vector
from memos_core.errors import InvalidInput
from memos_core.infrastructure.vault import schema
from memos_core.infrastructure.vault.conditions import chunks
from memos_core.infrastructure.vault.index.base import Place, VectorIndex, load_vectors
from memos_core.infrastructure.vault.values import PassageHit

MIN_STEP = 64
"""Fewest proposals that are put to the ledger in one question."""

__all__ = ["exceeds", "nearest", "place_of", "similarities", "unit"]


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


def place_of(connection: Connection, collection_id: int, dimension: int, namespace: str) -> Place | None:
    """Return where the vectors of a namespace lie; None if nothing was ever stored in it."""
    n = schema.namespaces
    namespace_id = connection.scalar(select(n.c.id).where(n.c.name == namespace))
    return None if namespace_id is None else Place(collection_id, namespace_id, dimension)


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
