"""Least frequently used goes first."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from memos_core.operation.policies.base import Candidate, Policy
from memos_core.operation.policies.use import frequency

__all__ = ["LeastFrequentlyUsed"]


class LeastFrequentlyUsed(Policy):
    """Keeps what was found or injected most often, whatever is asked."""

    name = "lfu"

    def values(self, candidates: Sequence[Candidate], now: datetime) -> list[float]:
        return [frequency(one.cube) for one in candidates]
