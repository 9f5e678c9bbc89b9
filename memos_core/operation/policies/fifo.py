"""First in, first out."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from memos_core.operation.policies.base import Candidate, Policy

__all__ = ["FirstInFirstOut"]


class FirstInFirstOut(Policy):
    """Keeps what was stored last, whatever is asked."""

    name = "fifo"

    def values(self, candidates: Sequence[Candidate], now: datetime) -> list[float]:
        order = sorted(one.cube.id for one in candidates)  # ids sort by the time of the commit
        place = {cube_id: number for number, cube_id in enumerate(order, start=1)}
        return [place[one.cube.id] / len(order) for one in candidates]
