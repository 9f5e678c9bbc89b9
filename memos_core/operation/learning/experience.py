"""Experience of a user: what feedback has taught about the ranking of their memories.

Two signals come from it. ``used`` is how often a memory was used when it was given to a model, ``asked`` the same for
questions like this one. They weigh nothing until the user's own feedback says so, and what is added to the weights of
these and of the shipped signals stays within a ball around what ships (``operation.fitting``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from memos_core.embedding.base import Vector
from memos_core.infrastructure.vault.learning import Recall
from memos_core.operation.finding.ground import Column
from memos_core.operation.finding.ranker import Ranker, Ranking
from memos_core.operation.finding.signals import SIGNALS, SITUATION

__all__ = ["ALL_SIGNALS", "Experience", "Past", "Use", "features_of", "past_of"]

ALL_SIGNALS = (*SIGNALS, "used", "asked")
"""The signals of a passage and, after them, those of experience."""

DEPTH = 200
"""Passages to which experience is added: the first by everything else. It moves what was found; it finds nothing."""

ALIKE = 0.3
"""Cosine similarity from which two questions have anything in common."""

DOUBT_USED, DOUBT_ASKED = 2.0, 0.5
"""Requests that speak for the mean before a memory's own are counted."""


@dataclass(frozen=True, slots=True)
class Use:
    """That a memory was given for a question: by the number of the recall, the memory, and whether it was used."""

    recall: int
    cube_id: str
    used: bool


@dataclass(frozen=True)
class Past:
    """What was given for which questions, as arrays.

    Attributes:
        vectors: Of the questions, shape ``[recalls, dimension]``; zeros where one is not known.
        recall: Number of the recall of each use.
        cube: Number of the memory of each use.
        above: 1 or 0, for used or not, minus the mean of all.
        cubes: Number of each memory by id.
        rate: The mean.
    """

    vectors: NDArray[np.float32]
    recall: NDArray[np.int64]
    cube: NDArray[np.int64]
    above: Column
    cubes: Mapping[str, int]
    rate: float

    def signals(self, cube_ids: Sequence[str], question: Vector | None) -> NDArray[np.float32]:
        """Return the signals of experience for memories, shape ``[cubes, 2]``; 0 for what was never given."""
        found = np.zeros((len(cube_ids), 2), np.float32)
        places = np.array([self.cubes.get(cube_id, -1) for cube_id in cube_ids], np.int64)
        held = places >= 0
        if not held.any():
            return found
        count = len(self.cubes)
        given = np.bincount(self.cube, minlength=count)
        used = np.bincount(self.cube, self.above, minlength=count) / (given + DOUBT_USED)
        found[held, 0] = used[places[held]]
        if question is not None and self.vectors.shape[1] == len(question):
            alike = np.square(np.maximum((self.vectors @ question - ALIKE) / (1 - ALIKE), 0))[self.recall]
            weight = np.bincount(self.cube, alike, minlength=count) + DOUBT_ASKED
            found[held, 1] = (np.bincount(self.cube, alike * self.above, minlength=count) / weight)[places[held]]
        return found


@dataclass(frozen=True)
class Experience:
    """What a user's ranking goes by beside what ships.

    Attributes:
        version: Of the learned weights.
        added: What is added to the weight of each of ``ALL_SIGNALS``.
        past: What was given before, up to this version.
    """

    version: int = 0
    added: NDArray[np.float32] = field(default_factory=lambda: np.zeros(len(ALL_SIGNALS), np.float32))
    past: Past | None = None

    def rank(
        self,
        ranker: Ranker,
        signals: NDArray[np.float32],
        situation: Column,
        cube_id: Callable[[int], str],
        question: Vector | None,
    ) -> Ranking:
        """Return the scores of passages; with nothing learned, those of the shipped ranker to the last bit.

        Args:
            ranker: What ships.
            signals: Shape ``[passages, signals]``.
            situation: Shape ``[situation]``.
            cube_id: Returns the memory of a passage.
            question: Its vector.
        """
        own = self.added[: len(SIGNALS)]
        if own.any():
            ranker = ranker.with_added(own)
        ranking = ranker.rank(signals, situation)
        if self.past is None or not len(signals):
            return ranking
        first = np.argsort(-ranking.scores, kind="stable")[:DEPTH]
        more = np.zeros((len(signals), 2), np.float32)
        more[first] = self.past.signals([cube_id(row) for row in first.tolist()], question)
        return ranking.with_more(more, self.added[len(SIGNALS) :], ALL_SIGNALS)


def past_of(recalls: Sequence[Recall], uses: Iterable[Use]) -> Past | None:
    """Return the past as arrays; None where nothing was given yet.

    Args:
        recalls: Whose numbers the uses name.
        uses: Which memories they were given, and whether these were used.
    """
    given = list(uses)
    if not given:
        return None
    cubes: dict[str, int] = {}
    numbers = [cubes.setdefault(use.cube_id, len(cubes)) for use in given]
    used = np.array([use.used for use in given], np.float32)
    rate = float((used.sum() + 1) / (len(used) + 5))
    width = next((len(recall.vector) for recall in recalls if recall.vector is not None), 0)
    vectors = np.zeros((len(recalls), width), np.float32)
    for row, recall in enumerate(recalls):
        if recall.vector is not None and len(recall.vector) == width:
            vectors[row] = recall.vector
    order = np.array([use.recall for use in given], np.int64)
    return Past(vectors, order, np.array(numbers, np.int64), used - np.float32(rate), cubes, rate)


def features_of(embedder: str | None) -> str:
    """Return what names these signals, this situation and an embedder: numbers of others cannot be compared."""
    return hashlib.sha256(" ".join([*ALL_SIGNALS, *SITUATION, embedder or ""]).encode()).hexdigest()[:16]
