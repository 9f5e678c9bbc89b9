"""The contract of a vector index."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Row, bindparam, select

from memos_core.embedding.base import Vector, Vectors
from memos_core.errors import VaultDamaged
from memos_core.infrastructure.vault import schema
from memos_core.infrastructure.vault.conditions import chunks
from memos_core.infrastructure.vault.prepared import Prepared
from memos_core.infrastructure.vault.rows import checksum

__all__ = ["Candidates", "Ids", "Place", "VectorIndex", "decoded", "load_vectors", "rows_to_arrays"]

Ids = NDArray[np.int64]
"""Passage ids, shape ``[passages]``."""

Candidates = Iterator[tuple[Ids, Vector]]
"""Batches of passage ids with their cosine similarities, nearest first."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where to search: one namespace within one collection, by their row ids, and the length of its vectors."""

    collection_id: int
    namespace_id: int
    dimension: int


STATE = Prepared(
    select(schema.namespaces.c.revision, schema.namespaces.c.removals).where(
        schema.namespaces.c.id == bindparam("namespace_id")
    )
)
"""How often a namespace has changed. What every search asks is built once: building takes longer than asking."""


class VectorIndex(ABC):
    """Proposes passages that are near a vector; whether they may be seen is for the ledger to decide.

    An implementation proposes every passage of the place that the transaction of ``connection`` sees, sooner or later,
    each once. It may propose passages that are gone, never one of another place.
    """

    name: str

    @abstractmethod
    def candidates(self, connection: Connection, place: Place, query: Vector) -> Candidates:
        """Yield all passages of ``place`` in batches, nearest first. ``query`` has unit length. Thread-safe."""

    def prepare(self) -> None:
        """Catch up with the ledger. Called before a search, outside of its transaction."""
        return

    def apply(self) -> int:
        """Take over what was committed since the last time, and return how many changes that were."""
        return 0

    def rebuild(self) -> int:
        """Make the index anew from the ledger, drop the old one, and return how many vectors it holds."""
        return 0

    def close(self) -> None:
        """Give up what it holds. May be called again."""
        return


def load_vectors(connection: Connection, place: Place, passage_ids: Sequence[int]) -> tuple[Ids, Vectors]:
    """Return those of the passages that have a vector in the place's collection, with their vectors.

    Raises:
        VaultDamaged: A vector is not what was written.
    """
    v = schema.vectors
    rows: list[Row[Any]] = []
    for part in chunks(passage_ids):
        query = select(v.c.passage_id, v.c.data, v.c.crc).where(v.c.passage_id.in_(part))
        rows.extend(connection.execute(query.where(v.c.collection_id == place.collection_id)))
    return rows_to_arrays(rows, place.dimension)


def rows_to_arrays(rows: Sequence[Sequence[Any]], dimension: int) -> tuple[Ids, Vectors]:
    """Return passage ids and vectors of rows ``(passage_id, data, crc)``."""
    for passage_id, data, crc in rows:
        if len(data) != 4 * dimension or checksum(data) != crc:
            raise VaultDamaged([f"passage {passage_id}: vector does not match its checksum"])
    ids = np.fromiter((row[0] for row in rows), dtype=np.int64, count=len(rows))
    return ids, decoded([row[1] for row in rows], dimension)


def decoded(data: Sequence[bytes], dimension: int) -> Vectors:
    """Return vectors as they are stored as one matrix, a row for each."""
    return np.frombuffer(b"".join(data), dtype="<f4").astype(np.float32, copy=False).reshape(len(data), dimension)
