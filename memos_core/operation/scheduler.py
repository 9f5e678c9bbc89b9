"""MemScheduler: which memories enter a prompt, in which order, each rather how, and why."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict, Field

from memos_core.cube import MemCube
from memos_core.operation.policies import (
    Candidate,
    Packing,
    Policy,
    PreferencePolicy,
    ReusePreference,
    SelectionPolicy,
    policy_named,
)
from memos_core.operation.working import WorkingMemory
from memos_core.records import Hit, Inject, InjectionPlan, PlannedMemory
from memos_core.render import NOTES_V1, excerpt, render_memory

__all__ = ["MemScheduler", "SchedulerSettings", "canonical_order"]

CountTokens = Callable[[str], int]
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class SchedulerSettings(BaseModel):
    """How memories are chosen, as data.

    Attributes:
        policy: ``hybrid``, ``semantic``, ``semantic_recency``, ``recency``, ``lru``, ``lfu``, ``fifo``, ``learned``, or
            one that an installed package brings.
        min_share: What is worth less than this share of the best is left out. 0 fills the budget.
        kv_after: Injections after which ``inject="auto"`` keeps a memory as KV.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    policy: str = "hybrid"
    min_share: float = Field(default=0.25, ge=0, le=1)
    kv_after: int = Field(default=2, ge=0)


class MemScheduler:
    """Plans the memory of one request.

    The choice and the order do not depend on ``inject``: text and KV carry the same memories in the same places.
    Memories stand in the order in which they were said, then stored: the same set gives the same prefix in every
    turn, and what is new is more likely to come late.

    Args:
        settings: How to choose, as data: a policy by its name, and the share of the best worth that is enough.
        policy: A policy of yours, instead of the one that the settings name.
        selection: Chooses in another way altogether.
        preference: Says how a memory should rather enter.
        working: What is pinned; a fresh one by default.

    Raises:
        InvalidInput: The settings name a policy that there is not.
    """

    def __init__(
        self,
        settings: SchedulerSettings | None = None,
        *,
        policy: Policy | None = None,
        selection: SelectionPolicy | None = None,
        preference: PreferencePolicy | None = None,
        working: WorkingMemory | None = None,
    ) -> None:
        settings = settings or SchedulerSettings()
        self.selection = selection or Packing(policy or policy_named(settings.policy), settings.min_share)
        self.preference = preference or ReusePreference(settings.kv_after)
        self.working = working or WorkingMemory()

    def plan(
        self,
        hits: Sequence[Hit],
        *,
        inject: Inject,
        budget_tokens: int,
        count_tokens: CountTokens,
        keep: Sequence[MemCube] = (),
        pinned: Sequence[MemCube] = (),
        now: datetime | None = None,
    ) -> InjectionPlan:
        """Return the plan for what a search found.

        Args:
            hits: What was found, best first.
            inject: How memory is to enter.
            budget_tokens: What all of it together may take.
            count_tokens: Counts tokens of a text.
            keep: What was recalled before; it stays in the room that is left.
            pinned: What goes in before everything else.
            now: What the policies reckon ages from; by default the newest moment that the memories know of.
        """
        if inject == "off":
            return InjectionPlan(inject=inject, notes=("memory is off",))
        candidates = [candidate(hit, count_tokens) for hit in hits]
        heading = count_tokens(NOTES_V1.heading) if candidates or keep or pinned else 0
        room = max(0, budget_tokens - heading)
        first = staying(pinned, (), room, count_tokens, why="pinned")
        held = {item.cube.id for item in first}
        candidates = [item for item in candidates if item.cube.id not in held]
        left = room - sum(item.cost for item in first)
        chosen = self.selection.select(candidates, left, now=now or newest(candidates))
        kept = staying(keep, (*first, *chosen.candidates), room, count_tokens)
        ordered = sorted((*first, *chosen.candidates, *kept), key=lambda item: age(item.cube))
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
        return PlannedMemory(
            item.cube, item.tokens, placement, f"{item.why}; {reason}", passage=item.passage, weighed=item.weighed
        )


def newest(candidates: Sequence[Candidate]) -> datetime:
    moments = [item.cube.header.behaviour.last_used or item.cube.at or item.cube.created for item in candidates]
    return max(moments, default=EPOCH)


def staying(
    keep: Sequence[MemCube],
    chosen: Sequence[Candidate],
    room: int,
    count_tokens: CountTokens,
    why: str = "recalled earlier in this conversation",
) -> list[Candidate]:
    """Return what stays of ``keep``, in the order given, in the room that the chosen ones leave."""
    left = room - sum(item.cost for item in chosen)
    held = {item.cube.id for item in chosen}
    kept = []
    for cube in keep:
        tokens = line_tokens(cube, count_tokens)
        if cube.id not in held and tokens <= left:
            kept.append(Candidate(cube, tokens, 0.0, why))
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
    return Candidate(cube, line_tokens(cube, count_tokens), hit.score, why, hit.passage, hit.weighed)


def line_tokens(cube: MemCube, count_tokens: CountTokens) -> int:
    return count_tokens("\n" + render_memory(cube))
