"""The exact index: one matrix for each namespace, kept in memory and brought up to date from the ledger.

Measured at 600 vectors of 384 dimensions: 0.02 ms a search. A search of a large place compares a part (``parted``).
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import Connection, bindparam, select

from memos_core.embedding.base import Vector, Vectors
from memos_core.infrastructure.vault import schema
from memos_core.infrastructure.vault.index.base import (
    STATE,
    Candidates,
    Ids,
    Place,
    VectorIndex,
    decoded,
    rows_to_arrays,
)
from memos_core.infrastructure.vault.index.partition import Partition, kept_up
from memos_core.infrastructure.vault.index.shortlist import Parted
from memos_core.infrastructure.vault.prepared import Prepared

__all__ = ["Arrival", "ExactIndex", "Proposals"]

FIRST_BATCH = 512
MAX_BYTES = 512 * 2**20
NEWER = Prepared(
    select(schema.vectors.c.passage_id, schema.vectors.c.data, schema.vectors.c.crc)
    .where(
        schema.vectors.c.collection_id == bindparam("collection_id"),
        schema.vectors.c.namespace_id == bindparam("namespace_id"),
        schema.vectors.c.passage_id > bindparam("newest"),
    )
    .order_by(schema.vectors.c.passage_id)
)

BLOCK = 4 * 2**20
"""Similarities that are computed at a time, where many vectors are compared with many."""

Proposals = list[tuple[int, float]]
"""Passages with their similarities, best first."""


@dataclass(slots=True)
class Shelf:
    """The vectors of one place. ``ids`` and ``matrix`` are buffers; the first ``size`` rows count."""

    ids: Ids
    matrix: Vectors
    size: int
    revision: int
    removals: int
    partition: Partition | None = None

    def view(self) -> tuple[Ids, Vectors]:
        # Rows are only ever added behind the ones seen here, so the view stays right while others append.
        return self.ids[: self.size], self.matrix[: self.size]


@dataclass(frozen=True, slots=True)
class Arrival:
    """The vectors that one transaction has added to a place.

    Attributes:
        place: Where.
        since: Revision of the namespace before it; 0: there was none.
        revision: The same after it.
        removals: Of the namespace, the same before and after.
        rows: Ids and vectors as they are stored, in the order of the ids.
    """

    place: Place
    since: int
    revision: int
    removals: int
    rows: Sequence[tuple[int, bytes]]

    def arrays(self) -> tuple[Ids, Vectors]:
        ids = np.fromiter((row[0] for row in self.rows), dtype=np.int64, count=len(self.rows))
        return ids, decoded([row[1] for row in self.rows], self.place.dimension)


class ExactIndex(VectorIndex):
    """Compares a query with every vector of the namespace.

    Args:
        max_bytes: Matrices kept in memory; those not used for longest go first.
    """

    name = "exact"

    def __init__(self, *, max_bytes: int = MAX_BYTES) -> None:
        self.max_bytes = max_bytes
        self._shelves: OrderedDict[Place, Shelf] = OrderedDict()
        self._bytes = 0  # of all shelves
        self._lock = threading.Lock()

    def candidates(self, connection: Connection, place: Place, query: Vector) -> Candidates:
        ids, scores = self.similarities(connection, place, query)
        done, batch = 0, FIRST_BATCH
        while done < len(ids):
            chosen = ranked(scores, done, batch)
            yield ids[chosen], scores[chosen]
            done += batch
            batch *= 4

    def similarities(self, connection: Connection, place: Place, query: Vector) -> tuple[Ids, Vector]:
        """Return all passages of ``place`` in the order of their ids, with their cosine similarities to ``query``."""
        with self._lock:
            ids, matrix = self._current(connection, place).view()
        scores: Vector = matrix @ query
        return ids, scores

    def parted(self, connection: Connection, place: Place) -> Parted:
        """Return the vectors of ``place`` in partitions, which are made at the first call: for large places."""
        with self._lock:
            shelf = self._current(connection, place)
            ids, matrix = shelf.view()
            shelf.partition = kept_up(shelf.partition, matrix)
            return Parted(ids, matrix, shelf.partition)

    def above(
        self, connection: Connection, place: Place, queries: Vectors, least: float, most: int, *, state: Any = None
    ) -> list[Proposals]:
        """Return for each query the passages whose similarity is ``least`` or more: the ``most`` nearest, best first.

        Args:
            queries: Unit vectors, shape ``[queries, dimension]``.
            state: ``revision`` and ``removals`` of the namespace, if the transaction has asked for them already.
        """
        with self._lock:
            ids, matrix = self._current(connection, place, state).view()
        step = max(1, BLOCK // max(1, len(ids)))
        return [
            strongest(ids, scores, least, most)
            for start in range(0, len(queries), step)
            for scores in queries[start : start + step] @ matrix.T
        ]

    def size(self, place: Place) -> int | None:
        """Return how many vectors of ``place`` are in memory, as of the last look; None if they were never read."""
        with self._lock:
            shelf = self._shelves.get(place)
            return None if shelf is None else shelf.size

    def take(self, arrival: Arrival) -> None:
        """Take over what this process has just committed, so that it need not be read again.

        Whatever does not follow at once on what is held is left to the next look at the ledger.
        """
        with self._lock:
            shelf = self._shelves.get(arrival.place)
            if shelf is None and arrival.since == 0:  # the first that its namespace holds
                shelf = self._shelves[arrival.place] = empty(arrival.place)
                shelf.revision = 0
            if shelf is None or (shelf.revision, shelf.removals) != (arrival.since, arrival.removals):
                return
            self._bytes -= shelf.matrix.nbytes
            extend(shelf, *arrival.arrays())
            shelf.revision = arrival.revision
            self._bytes += shelf.matrix.nbytes
            self._make_room()

    def close(self) -> None:
        with self._lock:
            self._shelves.clear()
            self._bytes = 0

    def _current(self, connection: Connection, place: Place, state: Any = None) -> Shelf:
        state = state or STATE.first(connection, namespace_id=place.namespace_id)
        held = self._shelves.pop(place, None)
        shelf = held or empty(place)
        self._bytes -= shelf.matrix.nbytes if held else 0
        if shelf.revision < state.revision:
            if shelf.removals != state.removals:
                drop_removed(shelf, connection, place)
            append_new(shelf, connection, place)
            shelf.revision, shelf.removals = state.revision, state.removals
        self._shelves[place] = shelf
        self._bytes += shelf.matrix.nbytes
        self._make_room()
        return shelf

    def _make_room(self) -> None:
        while len(self._shelves) > 1 and self._bytes > self.max_bytes:
            _, shelf = self._shelves.popitem(last=False)
            self._bytes -= shelf.matrix.nbytes


def empty(place: Place) -> Shelf:
    return Shelf(np.empty(0, np.int64), np.empty((0, place.dimension), np.float32), size=0, revision=-1, removals=0)


def ranked(scores: Vector, start: int, count: int) -> Any:
    """Return the positions of the scores from rank ``start`` on, best first; equal scores in the order of age."""
    end = min(start + count, len(scores))
    # A partition cuts a run of equal scores anywhere, and elsewhere in the next call: the whole run must be sorted.
    least = np.partition(scores, len(scores) - end)[len(scores) - end]
    order = np.flatnonzero(scores >= least)
    return order[np.argsort(-scores[order], kind="stable")][start:end]


def strongest(ids: Ids, scores: Vector, least: float, most: int) -> Proposals:
    near = np.flatnonzero(scores >= least)
    if not len(near):
        return []
    best = near[np.argsort(-scores[near], kind="stable")][:most]
    return list(zip(ids[best].tolist(), scores[best].tolist(), strict=True))


def drop_removed(shelf: Shelf, connection: Connection, place: Place) -> None:
    v = schema.vectors
    own = (v.c.collection_id == place.collection_id, v.c.namespace_id == place.namespace_id)
    held = np.fromiter(connection.scalars(select(v.c.passage_id).where(*own)), dtype=np.int64)
    ids, matrix = shelf.view()
    kept = np.isin(ids, held)
    shelf.ids, shelf.matrix, shelf.size = ids[kept], matrix[kept], int(kept.sum())
    shelf.partition = shelf.partition and shelf.partition.without(kept)


def append_new(shelf: Shelf, connection: Connection, place: Place) -> None:
    """Add what was committed after the newest vector held. Passage ids grow in the order of commits."""
    newest = int(shelf.ids[shelf.size - 1]) if shelf.size else 0
    own = {"collection_id": place.collection_id, "namespace_id": place.namespace_id}
    rows = NEWER.all(connection, **own, newest=newest)
    if not rows:
        return
    extend(shelf, *rows_to_arrays(rows, place.dimension))


def extend(shelf: Shelf, ids: Ids, vectors: Vectors) -> None:
    size = shelf.size + len(ids)
    if size > len(shelf.ids):
        grow(shelf, max(size, 2 * shelf.size), vectors.shape[1])
    shelf.ids[shelf.size : size] = ids
    shelf.matrix[shelf.size : size] = vectors
    shelf.size = size


def grow(shelf: Shelf, capacity: int, dimension: int) -> None:
    ids, matrix = shelf.view()
    shelf.ids, shelf.matrix = np.zeros(capacity, np.int64), np.zeros((capacity, dimension), np.float32)
    shelf.ids[: shelf.size], shelf.matrix[: shelf.size] = ids, matrix
