"""Vectors in partitions: which of many to compare with a query, by the centres that are nearest to it.

An inverted file (Sivic and Zisserman, ICCV 2003; Jegou, Douze and Schmid, TPAMI 2011) without compression: centres by
spherical k-means over a part of the vectors. It only chooses rows; what is chosen is compared exactly.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memos_core.embedding.base import Vector, Vectors

__all__ = ["Partition", "kept_up"]

TRAINED_ON = 16_384
ROUNDS = 6
SAMPLE = 2048
BLOCK = 8192
TAIL = 4096
"""Newer vectors that are compared one by one before they are given to partitions."""

Rows = NDArray[np.intp]
"""Numbers of rows of a matrix of vectors."""


@dataclass(frozen=True, slots=True)
class Partition:
    """The first rows of a matrix, by the centre that is nearest to each. Never changed: replaced by a new one.

    Attributes:
        centres: Unit vectors, shape ``[partitions, dimension]``.
        labels: Number of the nearest centre of each row, shape ``[rows]``.
        sample: Some of the vectors, drawn at random: how similar a query is to any of them is told by these.
        rows: All rows, partition by partition.
        starts: Where each partition begins in ``rows``, and the end.
        made_for: How many rows there were when the centres were found.
    """

    centres: Vectors
    labels: NDArray[np.int32]
    sample: Vectors
    rows: Rows
    starts: Rows
    made_for: int

    def near(self, query: Vector, least: int, size: int) -> Rows:
        """Return the rows of the partitions nearest to ``query``, at least so many, and newer ones below ``size``."""
        order = np.argsort(-(self.centres @ query))
        held = np.cumsum(self.starts[order + 1] - self.starts[order])
        taken = order[: int(np.searchsorted(held, least)) + 1]
        parts = [self.rows[self.starts[one] : self.starts[one + 1]] for one in taken.tolist()]
        return np.concatenate([*parts, np.arange(len(self.labels), size)])

    def extended(self, matrix: Vectors) -> Partition:
        """Return this partition with the rows of ``matrix`` that it does not hold yet."""
        return self.labelled(np.concatenate([self.labels, nearest(matrix[len(self.labels) :], self.centres)]))

    def without(self, kept: NDArray[np.bool_]) -> Partition:
        """Return the partition of those rows that are kept, shape ``[rows]`` or longer."""
        return self.labelled(self.labels[kept[: len(self.labels)]])

    def labelled(self, labels: NDArray[np.int32]) -> Partition:
        rows, starts = grouped(labels, len(self.centres))
        return replace(self, labels=labels, rows=rows, starts=starts)


def kept_up(partition: Partition | None, matrix: Vectors) -> Partition:
    """Return the partition to use for ``matrix``: made anew when it has doubled, extended when the tail is long."""
    if partition is None or len(matrix) > 2 * partition.made_for:
        return made(matrix)
    return partition.extended(matrix) if len(matrix) - len(partition.labels) > TAIL else partition


def made(matrix: Vectors) -> Partition:
    draw = np.random.default_rng(len(matrix))
    chosen = draw.permutation(len(matrix))
    count = max(1, int(len(matrix) ** 0.5))
    training = matrix[chosen[: max(count, TRAINED_ON)]]
    centres = training[:count]
    for _ in range(ROUNDS):
        rows, starts = grouped(nearest(training, centres), count)
        filled = np.flatnonzero(np.diff(starts))
        centres = centres.copy()
        centres[filled] = unit(np.add.reduceat(training[rows], starts[filled]))
    labels = nearest(matrix, centres)
    return Partition(centres, labels, matrix[chosen[:SAMPLE]], *grouped(labels, count), made_for=len(matrix))


def nearest(vectors: Vectors, centres: Vectors) -> NDArray[np.int32]:
    """Return the number of the centre nearest to each vector."""
    blocks = [vectors[start : start + BLOCK] @ centres.T for start in range(0, len(vectors), BLOCK)]
    return np.concatenate([block.argmax(axis=1) for block in blocks] or [np.empty(0)]).astype(np.int32)


def grouped(labels: NDArray[np.int32], count: int) -> tuple[Any, Any]:
    """Return the rows partition by partition, and where each begins."""
    return np.argsort(labels, kind="stable"), np.append(0, np.cumsum(np.bincount(labels, minlength=count)))


def unit(vectors: Vectors) -> Vectors:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(lengths, lengths, 1), np.float32)
