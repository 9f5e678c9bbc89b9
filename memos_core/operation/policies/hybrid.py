"""The default: the score, with a little of everything that is known of a memory's past."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from memos_core.operation.policies.base import Candidate, Policy
from memos_core.operation.policies.use import frequency, freshness, standing

__all__ = ["Hybrid"]


class Hybrid(Policy):
    """The score of the search, up to ``share`` more for what is fresh, often used, trusted and well spoken of.

    Recency is in the score already, as far as the question asks for it; so these only decide between close ones.

    Args:
        share: How much all of these together may add to a score.
    """

    name = "hybrid"

    def __init__(self, share: float = 0.06) -> None:
        self.share = share

    def values(self, candidates: Sequence[Candidate], now: datetime) -> list[float]:
        return [one.score * (1 + self.share * past(one, now)) for one in candidates]


def past(candidate: Candidate, now: datetime) -> float:
    cube = candidate.cube
    return (freshness(cube, now) + frequency(cube) + standing(cube)) / 3
