"""Least recently used goes first."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from memos_core.operation.policies.base import Candidate, Policy
from memos_core.operation.policies.use import since_used

__all__ = ["LeastRecentlyUsed"]


class LeastRecentlyUsed(Policy):
    """Keeps what was found or injected last, whatever is asked."""

    name = "lru"

    def values(self, candidates: Sequence[Candidate], now: datetime) -> list[float]:
        return [since_used(one.cube, now) for one in candidates]
