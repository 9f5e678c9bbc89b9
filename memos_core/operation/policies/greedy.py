"""Selection by score: the best that fit."""

from __future__ import annotations

from collections.abc import Sequence

from memos_core.operation.policies.base import Candidate, Chosen, SelectionPolicy

__all__ = ["GreedySelection"]


class GreedySelection(SelectionPolicy):
    """Takes candidates in the order of their scores as long as they fit; a long one does not block a short one.

    Args:
        min_share: Leaves out what scores less than this share of the best candidate. 0 keeps everything.
    """

    def __init__(self, min_share: float = 0.25) -> None:
        self.min_share = min_share

    def select(self, candidates: Sequence[Candidate], budget_tokens: int) -> Chosen:
        chosen: list[Candidate] = []
        left_out: dict[str, str] = {}
        left = budget_tokens
        floor = self.min_share * candidates[0].score if candidates else 0.0
        for candidate in candidates:
            if candidate.score < floor:
                left_out[candidate.cube.id] = f"score {candidate.score:.2f} is too far below the best"
            elif candidate.tokens > left:
                left_out[candidate.cube.id] = f"takes {candidate.tokens} tokens, {left} of the budget are left"
            else:
                chosen.append(candidate)
                left -= candidate.tokens
        return Chosen(tuple(chosen), left_out)
