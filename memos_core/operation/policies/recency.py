"""What was said last."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from memos_core.operation.policies.base import Candidate, Policy
from memos_core.operation.policies.use import HALF_LIFE_DAYS, freshness

__all__ = ["Recency"]


class Recency(Policy):
    """Keeps what was said last, whatever is asked; unlike ``fifo`` it goes by when it was said, not stored.

    Args:
        half_life_days: Days after which a memory counts half.
    """

    name = "recency"

    def __init__(self, half_life_days: float = HALF_LIFE_DAYS) -> None:
        self.half_life_days = half_life_days

    def values(self, candidates: Sequence[Candidate], now: datetime) -> list[float]:
        return [freshness(one.cube, now, self.half_life_days) for one in candidates]
