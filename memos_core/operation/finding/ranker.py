"""The learned ranker: one weight for each signal, which depends on the question and on the memory that is searched.

    weight = table @ situation,    score = signals @ weight

So it has a few hundred numbers, takes microseconds, and every score is a sum that can be read off. The numbers lie in
``data/ranker.json``; ``tools/train_ranker.py`` makes them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import resources

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from memos_core.errors import InvalidInput, VaultError
from memos_core.operation.finding.ground import Column
from memos_core.operation.finding.signals import SIGNALS, SITUATION

__all__ = ["Ranker", "Ranking"]

DATA = "data/ranker.json"

BOUND = np.float32(2.0)
"""Standard deviations within which the situation counts: beyond what was seen, nothing was learned."""


class RankerData(BaseModel):
    """The file of a ranker.

    Attributes:
        format: Version of this form.
        trained_on: What the weights were learned from, and how, for people.
        centre: Subtracted from each part of the situation.
        scale: Each part of the situation is divided by it.
        table: For each signal the weights of the parts of the situation.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int
    trained_on: str
    centre: dict[str, float]
    scale: dict[str, float]
    table: dict[str, dict[str, float]]


@dataclass(frozen=True, slots=True)
class Ranking:
    """Scores of passages and what they are made of.

    Attributes:
        scores: Between 0 and 1, shape ``[passages]``; 1 is what would have every signal for it and none against it.
        parts: What each signal adds, shape ``[passages, signals]``.
        signals: The signals themselves, of the same shape.
        best: What is scaled to a score of 1.
        names: Of the signals.
    """

    scores: Column
    parts: NDArray[np.float32]
    signals: NDArray[np.float32]
    best: float = 1.0
    names: tuple[str, ...] = SIGNALS

    def shares(self, passages: Sequence[int]) -> list[dict[str, float]]:
        """Return each signal's share in the score of each passage, the largest first; they add up to 1 in size."""
        parts = self.parts[list(passages)].astype(np.float64)
        sizes = np.abs(parts)
        order = np.argsort(-sizes, axis=1, kind="stable")
        totals = sizes.sum(axis=1, keepdims=True)
        ordered = np.take_along_axis(parts / np.where(totals, totals, 1.0), order, axis=1).round(4)
        return [
            {self.names[place]: share for place, share in zip(places, shares, strict=True) if share}
            for places, shares in zip(order.tolist(), ordered.tolist(), strict=True)
        ]

    def with_more(self, signals: NDArray[np.float32], weights: Column, names: tuple[str, ...]) -> Ranking:
        """Return this ranking with further signals, shape ``[passages, more]``, that move scores by their weights.

        The scale of scores stays that of the shipped signals.
        """
        parts = np.concatenate([self.parts, signals * weights], axis=1)
        scores = np.clip(parts.sum(axis=1) / np.float32(self.best), 0.0, 1.0)
        return Ranking(scores, parts, np.concatenate([self.signals, signals], axis=1), self.best, names)


@dataclass(frozen=True)
class Ranker:
    """Weighs signals.

    Attributes:
        table: Shape ``[signals, situation]``.
        centre: Shape ``[situation]``.
        scale: Shape ``[situation]``.
    """

    table: NDArray[np.float32]
    centre: Column
    scale: Column

    @classmethod
    def load(cls, text: str | None = None) -> Ranker:
        """Return the ranker that ``text`` (JSON) describes; by default the one that ships with the project.

        Raises:
            VaultError: It is no ranker, or one for other signals.
        """
        return shipped() if text is None else parsed(text)

    def scaled(self, factors: Mapping[str, float]) -> Ranker:
        """Return the same ranker with the weights of some signals multiplied; 0 takes a signal out.

        Raises:
            InvalidInput: There is no such signal.
        """
        for name in factors:
            if name not in SIGNALS:
                raise InvalidInput(f"unknown signal {name!r}; known are {', '.join(SIGNALS)}")
        column = np.array([factors.get(name, 1.0) for name in SIGNALS], np.float32)
        return replace(self, table=self.table * column[:, None])

    def with_added(self, added: Column) -> Ranker:
        """Return the same ranker with something added to the plain weight of each signal, shape ``[signals]``."""
        table = self.table.copy()
        table[:, 0] += added
        return replace(self, table=table)

    def weights(self, situation: Column) -> Column:
        """Return the weight of each signal."""
        weights: Column = self.table @ self.placed(situation)
        return weights

    def placed(self, situation: Column) -> Column:
        """Return a situation in units of those that the table was learned on, and no further out than them."""
        placed: Column = np.clip((situation - self.centre) / self.scale, -BOUND, BOUND)
        return placed

    def rank(self, signals: NDArray[np.float32], situation: Column) -> Ranking:
        """Return the scores of passages from their signals, shape ``[passages, signals]``."""
        weights = self.weights(situation)
        parts = signals * weights
        best = float(np.maximum(weights, 0).sum()) or 1.0
        return Ranking(np.clip(parts.sum(axis=1) / np.float32(best), 0.0, 1.0), parts, signals, best)


@lru_cache(maxsize=1)
def shipped() -> Ranker:
    return parsed(resources.files("memos_core.operation.finding").joinpath(DATA).read_text(encoding="utf-8"))


def parsed(text: str) -> Ranker:
    try:
        data = RankerData.model_validate_json(text)
    except ValidationError as error:
        raise VaultError(f"this is no ranker: {error.errors()[0]['msg']}") from error
    if data.format != 1 or set(data.table) != set(SIGNALS) or set(data.centre) != set(SITUATION):
        raise VaultError("this ranker was made for other signals; train it anew with tools/train_ranker.py")
    table = [[data.table[signal].get(part, 0.0) for part in SITUATION] for signal in SIGNALS]
    return Ranker(
        np.array(table, np.float32),
        np.array([data.centre[part] for part in SITUATION], np.float32),
        np.array([data.scale[part] for part in SITUATION], np.float32),
    )
