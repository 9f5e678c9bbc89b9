"""MemScheduler: which memories enter a prompt, in which order, each rather how, and why."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

from memos_core.cube import MemCube
from memos_core.operation.policies import (
    Candidate,
    GreedySelection,
    PreferencePolicy,
    ReusePreference,
    SelectionPolicy,
)
from memos_core.records import Hit, Inject, InjectionPlan, PlannedMemory
from memos_core.render import NOTES_V1, excerpt, render_memory

__all__ = ["MemScheduler", "canonical_order"]

CountTokens = Callable[[str], int]


class MemScheduler:
    """Plans the memory of one request.

    The choice and the order do not depend on ``inject``: text and KV carry the same memories in the same places.
    Memories stand in the order in which they were said, then stored: the same set gives the same prefix in every
    turn, and what is new is more likely to come late.
    """

    def __init__(self, *, selection: SelectionPolicy | None = None, preference: PreferencePolicy | None = None) -> None:
        self.selection = selection or GreedySelection()
        self.preference = preference or ReusePreference()

    def plan(
        self,
        hits: Sequence[Hit],
        *,
        inject: Inject,
        budget_tokens: int,
        count_tokens: CountTokens,
        keep: Sequence[MemCube] = (),
    ) -> InjectionPlan:
        """Return the plan for what a search found, and for what is to stay of ``keep`` in the room that is left."""
        if inject == "off":
            return InjectionPlan(inject=inject, notes=("memory is off",))
        candidates = [candidate(hit, count_tokens) for hit in hits]
        heading = count_tokens(NOTES_V1.heading) if candidates or keep else 0
        room = max(0, budget_tokens - heading)
        chosen = self.selection.select(candidates, room)
        kept = staying(keep, chosen.candidates, room, count_tokens)
        ordered = sorted((*chosen.candidates, *kept), key=lambda item: age(item.cube))
        return InjectionPlan(
            inject=inject,
            memories=tuple(self.planned(item, inject) for item in ordered),
            left_out=chosen.left_out,
            budget_tokens=budget_tokens,
        )

    def plan_exactly(self, cubes: Sequence[MemCube], *, inject: Inject, count_tokens: CountTokens) -> InjectionPlan:
        """Return the plan for memories that the caller named: all of them, in the same order as ever."""
        items = [
            Candidate(cube, line_tokens(cube, count_tokens), 1.0, "named by the caller")
            for cube in canonical_order(cubes)
        ]
        memories = () if inject == "off" else tuple(self.planned(item, inject) for item in items)
        return InjectionPlan(inject=inject, memories=memories, budget_tokens=sum(item.tokens for item in items))

    def planned(self, item: Candidate, inject: Inject) -> PlannedMemory:
        placement, reason = self.preference.prefer(item.cube, inject)
        return PlannedMemory(item.cube, item.tokens, placement, f"{item.why}; {reason}", passage=item.passage)


def staying(
    keep: Sequence[MemCube], chosen: Sequence[Candidate], room: int, count_tokens: CountTokens
) -> list[Candidate]:
    """Return what stays of ``keep``, in the order given, in the room that the chosen ones leave."""
    left = room - sum(item.tokens for item in chosen)
    held = {item.cube.id for item in chosen}
    kept = []
    for cube in keep:
        tokens = line_tokens(cube, count_tokens)
        if cube.id not in held and tokens <= left:
            kept.append(Candidate(cube, tokens, 0.0, "recalled earlier in this conversation"))
            left -= tokens
    return kept


def age(cube: MemCube) -> tuple[datetime, str]:
    return cube.at or cube.created, cube.id


def canonical_order(cubes: Sequence[MemCube]) -> list[MemCube]:
    """Return ``cubes`` in the order in which they stand in every prompt."""
    return sorted(cubes, key=age)


def candidate(hit: Hit, count_tokens: CountTokens) -> Candidate:
    """Return a hit as a candidate; of a long text the passage that matched."""
    cube = hit.cube if hit.passage is None else excerpt(hit.cube, *hit.passage)
    why = f"score {hit.score:.2f}: {hit.why}"
    if hit.passage is not None:
        why += f"; characters {hit.passage[0]} to {hit.passage[1]} of {len(hit.cube.text)}"
    return Candidate(cube, line_tokens(cube, count_tokens), hit.score, why, hit.passage)


def line_tokens(cube: MemCube, count_tokens: CountTokens) -> int:
    return count_tokens("\n" + render_memory(cube))
