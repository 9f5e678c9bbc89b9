"""Which passages of a large namespace a search looks at.

Those nearest to the question, those that hold its rarest words, and what stands beside them. A search over the short
list costs what its length costs, whatever the namespace holds; ``benchmarks/growth.py`` measures what it misses.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memos_core.embedding.base import Vector, Vectors
from memos_core.infrastructure.vault.index.base import Ids
from memos_core.infrastructure.vault.index.catalogue import CatalogueShelf, Counts, Postings
from memos_core.infrastructure.vault.index.partition import Partition, Rows

__all__ = ["SHORTLIST_FROM", "Parted", "best_by_words", "counts_at", "holding_at", "with_neighbours"]

SHORTLIST_FROM = 50_000
"""Passages in use from which a search looks at a short list; below, at all of them."""

NEAR, BY_WORDS = 700, 700
"""Passages that come into the short list by their meaning, and by their words."""

COMPARED = 4096
"""Vectors that are compared to find the nearest, at least."""

LOOKED_UP = 20_000
"""Places of words that bring a passage in; those of the most frequent words beyond only add to what it counts for."""

BESIDE = 2
"""Neighbours on each side that a signal looks at."""


@dataclass(frozen=True, slots=True)
class Parted:
    """The vectors of a large place.

    Attributes:
        ids: Their passages, ascending.
        matrix: Shape ``[passages, dimension]``.
        partition: Of the first of them; the newest are in none yet.
    """

    ids: Ids
    matrix: Vectors
    partition: Partition

    def nearest(self, query: Vector) -> Ids:
        """Return the passages nearest to ``query`` of those in the nearest partitions and of the newest."""
        rows = self.partition.near(query, COMPARED, len(self.ids))
        scores = self.matrix[rows] @ query
        best = np.argpartition(-scores, NEAR)[:NEAR] if len(rows) > NEAR else slice(None)
        found: Ids = self.ids[rows[best]]
        return found

    def similarities(self, query: Vector, passages: Ids) -> Vector:
        """Return the cosine similarity of each passage; NaN where it has no vector."""
        place = np.minimum(np.searchsorted(self.ids, passages), len(self.ids) - 1)
        scores: Vector = self.matrix[place] @ query
        return np.where(self.ids[place] == passages, scores, np.float32(np.nan))

    def usual(self, query: Vector) -> Vector:
        """Return the similarity of vectors drawn at random."""
        scores: Vector = self.partition.sample @ query
        return scores


def best_by_words(shelf: CatalogueShelf, words: Sequence[str]) -> Rows:
    """Return the rows of ``shelf`` whose words count for most, by their rarity and how often they occur."""
    weight, brought = np.zeros(shelf.size, np.float32), np.zeros(shelf.size, np.bool_)
    looked_up = 0
    for posting in sorted(found_postings(shelf, words), key=lambda one: len(one.rows)):
        rows, counts = np.array(posting.rows), np.array(posting.counts, np.float32)
        rarity = np.float32(np.log1p((shelf.size - len(rows) + 0.5) / (len(rows) + 0.5)))
        weight[rows] += rarity * counts / (counts + np.float32(1))
        if looked_up < LOOKED_UP:
            brought[rows[looked_up - LOOKED_UP :]] = True  # the newest, where there are too many
            looked_up += len(rows)
    rows = np.flatnonzero(brought)
    if len(rows) > BY_WORDS:
        rows = rows[np.argpartition(-weight[rows], BY_WORDS)[:BY_WORDS]]
    return rows


def found_postings(shelf: CatalogueShelf, words: Iterable[str]) -> list[Postings]:
    return [posting for word in dict.fromkeys(words) if (posting := shelf.postings.get(word)) is not None]


def with_neighbours(places: Rows, size: int) -> Rows:
    """Return places in the order of standing, and those beside them, ascending and each once."""
    chosen = np.zeros(size + 2 * BESIDE, np.bool_)
    for step in range(2 * BESIDE + 1):
        chosen[places + step] = True
    return np.flatnonzero(chosen[BESIDE : size + BESIDE])


def counts_at(shelf: CatalogueShelf, chosen: Rows, words: Sequence[str]) -> tuple[Counts, NDArray[np.int64]]:
    """Return how often each word occurs in each chosen row of ``shelf``, and in how many rows of all it occurs."""
    place = np.full(shelf.size, -1, np.int32)
    place[chosen] = np.arange(len(chosen), dtype=np.int32)
    found: Counts = np.zeros((len(words), len(chosen)), np.float32)
    holding = np.zeros(len(words), np.int64)
    for number, word in enumerate(words):
        posting = shelf.postings.get(word)
        if posting is not None:
            at = place[np.array(posting.rows)]
            held = at >= 0
            found[number, at[held]] = np.array(posting.counts)[held]
            holding[number] = len(at)
    return found, holding


def holding_at(shelf: CatalogueShelf, chosen: Rows, words: Iterable[str]) -> NDArray[np.bool_]:
    """Tell for each chosen row whether it holds any of ``words``."""
    counts, _ = counts_at(shelf, chosen, list(words))
    return np.asarray(counts.any(axis=0))
