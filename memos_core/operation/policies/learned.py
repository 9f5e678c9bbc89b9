"""The chance that a memory holds the answer, learned from questions with known answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime

from memos_core.operation.policies.base import Candidate, Policy

__all__ = ["Learned"]

WEIGHTS = {"one": -4.547, "score": 3.569, "share": 2.224, "rank": -0.802}
"""Of a logistic regression on questions of RealMem and of generated talks; ``tools/train_policy.py`` makes them."""


class Learned(Policy):
    """A logistic regression on the score, its share of the best score, and the rank. No more than four numbers."""

    name = "learned"
    additive = True

    def values(self, candidates: Sequence[Candidate], now: datetime) -> list[float]:
        best = max((one.score for one in candidates), default=0.0) or 1.0
        return [chance(one.score, one.score / best, rank) for rank, one in enumerate(candidates)]


def chance(score: float, share: float, rank: int) -> float:
    """Return the probability that a memory of this score, share of the best score and rank (from 0) is evidence."""
    parts = {"one": 1.0, "score": score, "share": share, "rank": math.log1p(rank)}
    return 1 / (1 + math.exp(-sum(WEIGHTS[name] * value for name, value in parts.items())))
