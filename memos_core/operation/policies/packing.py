"""Packing: which memories to take, given what each is worth and what it takes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from memos_core.operation.policies.base import Candidate, Chosen, Policy, SelectionPolicy

__all__ = ["Packing"]

Valued = tuple[Candidate, float]


class Packing(SelectionPolicy):
    """Takes what is worth most under the budget, the best first; a long memory does not block a short one.

    Where the worth of memories adds up (``Policy.additive``), the order by worth per token is tried as well, and what
    comes to more is kept: together they are never worse than half of the best that is possible (Dantzig, 1957).
    Scores do not add up: eleven poor matches are no good one. Of equals the first found goes first, so the same
    candidates always give the same choice.

    Args:
        policy: Says what each is worth.
        min_share: Leaves out what is worth less than this share of the best. 0 keeps everything.
    """

    def __init__(self, policy: Policy, min_share: float = 0.25) -> None:
        self.policy = policy
        self.min_share = min_share

    def select(self, candidates: Sequence[Candidate], budget_tokens: int, *, now: datetime) -> Chosen:
        valued = list(zip(candidates, self.policy.values(candidates, now), strict=True))
        # Chances fall off faster than scores do, about with their square.
        share = self.min_share**2 if self.policy.additive else self.min_share
        floor = share * max((value for _, value in valued), default=0.0)
        worthy = [item for item in valued if item[1] >= floor]
        best = taken(sorted(worthy, key=lambda item: -item[1]), budget_tokens)
        if self.policy.additive:
            by_density = taken(sorted(worthy, key=lambda item: -item[1] / max(item[0].cost, 1)), budget_tokens)
            best = max(best, by_density, key=worth)
        held = {id(candidate) for candidate, _ in best}
        left = budget_tokens - sum(candidate.cost for candidate, _ in best)
        left_out = {
            candidate.cube.id: self.why_not(candidate, value, floor, left)
            for candidate, value in valued
            if id(candidate) not in held
        }
        ordered = sorted(best, key=lambda item: -item[1])
        return Chosen(tuple(candidate for candidate, _ in ordered), left_out)

    def why_not(self, candidate: Candidate, value: float, floor: float, left: int) -> str:
        if value < floor:
            return f"worth {value:.2f} by {self.policy.name}: too far below the best"
        size = f"takes {candidate.cost} tokens, {left} of the budget are left beside what is worth more"
        return f"worth {value:.2f} by {self.policy.name}; {size}"


def taken(items: Sequence[Valued], budget: int) -> list[Valued]:
    """Return the items that fit one after the other; a long one does not block a short one."""
    fitting = []
    for item in items:
        if item[0].cost <= budget:
            fitting.append(item)
            budget -= item[0].cost
    return fitting


def worth(items: Sequence[Valued]) -> float:
    return sum(value for _, value in items)
