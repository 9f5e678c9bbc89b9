"""What fits the question best."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from memos_core.operation.policies.base import Candidate, Policy

__all__ = ["Semantic"]


class Semantic(Policy):
    """Goes by the score of the search alone."""

    name = "semantic"

    def values(self, candidates: Sequence[Candidate], now: datetime) -> list[float]:
        return [one.score for one in candidates]
