"""What fits the question, and of that rather the new."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from memos_core.operation.policies.base import Candidate, Policy
from memos_core.operation.policies.use import HALF_LIFE_DAYS, freshness

__all__ = ["SemanticRecency"]


class SemanticRecency(Policy):
    """The score of the search, up to a half less for what is old.

    Args:
        half_life_days: Days after which a quarter of the score is gone.
    """

    name = "semantic_recency"

    def __init__(self, half_life_days: float = HALF_LIFE_DAYS) -> None:
        self.half_life_days = half_life_days

    def values(self, candidates: Sequence[Candidate], now: datetime) -> list[float]:
        return [one.score * (0.5 + 0.5 * freshness(one.cube, now, self.half_life_days)) for one in candidates]
