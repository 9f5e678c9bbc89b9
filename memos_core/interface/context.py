"""MemoryContext: memory as text, for a model that someone else calls."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from memos_core.cube import MemCube, normalised
from memos_core.operation.operator import MemOperator
from memos_core.operation.scheduler import MemScheduler
from memos_core.principal import Principal
from memos_core.records import Hit, InjectionPlan, MemoryCall
from memos_core.references import Reference
from memos_core.render import render_block

__all__ = ["MemoryContext", "build_context", "context_of"]


@dataclass(frozen=True, slots=True)
class MemoryContext:
    """What to put before a hosted model.

    Attributes:
        text: The memory block; empty if nothing fits.
        hits: What the search found, best first.
        plan: What was chosen, in the order of the text, and why.
        tokens: Size of the text.
    """

    text: str
    hits: tuple[Hit, ...]
    plan: InjectionPlan
    tokens: int

    @property
    def messages(self) -> list[dict[str, str]]:
        """The block as one OpenAI-style system message, to stand before the chat; no message if it is empty."""
        return [{"role": "system", "content": self.text}] if self.text else []

    @property
    def references(self) -> tuple[str, ...]:
        """What names the chosen memories, as short strings: ``Scope.context_of`` makes the same text of them again."""
        return tuple(memory.reference for memory in self.plan.memories)

    @property
    def why(self) -> str:
        """The choice in words, a line for each memory."""
        return self.plan.explain()

    def __str__(self) -> str:
        return self.text


def build_context(
    operator: MemOperator,
    scheduler: MemScheduler,
    principal: Principal,
    call: MemoryCall,
    *,
    count_tokens: Callable[[str], int],
    known: Sequence[str] = (),
    keep: Sequence[str] = (),
) -> MemoryContext:
    """Return the best memories for ``call`` within its ``max_tokens``; see ``Scope.context`` for the arguments."""
    said = {normalised(text) for text in known}
    found = operator.search(principal, call.model_copy(update={"k": call.k + len(said)}))
    hits = unsaid(found, said)[: call.k]
    said_by = dict.fromkeys(said, "the prompt") | {normalised(hit.text): hit.id for hit in hits}
    kept = [c for c in operator.standing(principal, keep) if said_by.get(normalised(c.text), c.id) == c.id]
    plan = scheduler.plan(
        hits,
        inject="text",
        budget_tokens=call.max_tokens or 0,
        count_tokens=count_tokens,
        keep=kept,
        pinned=operator.standing(principal, scheduler.working.pins(principal)),
        now=operator.governance.clock.now(),
    )
    return written(replace(plan, asked=call), hits, count_tokens)


def context_of(
    named: Sequence[tuple[Reference, MemCube]], scheduler: MemScheduler, count_tokens: Callable[[str], int]
) -> MemoryContext:
    """Return all ``named`` memories, in the order in which they stand in every prompt."""
    passages = {reference.cube_id: reference.passage for reference, _ in named}
    plan = scheduler.plan_exactly([cube for _, cube in named], inject="text", count_tokens=count_tokens)
    memories = tuple(replace(memory, passage=passages[memory.cube_id]) for memory in plan.memories)
    return written(replace(plan, memories=memories), (), count_tokens)


def written(plan: InjectionPlan, hits: Sequence[Hit], count_tokens: Callable[[str], int]) -> MemoryContext:
    text = render_block([memory.cube for memory in plan.memories]).text
    return MemoryContext(text=text, hits=tuple(hits), plan=plan, tokens=count_tokens(text) if text else 0)


def unsaid(hits: Iterable[Hit], said: set[str]) -> list[Hit]:
    """Return the hits whose text is not among ``said``, and of those that say the same the first."""
    seen = set(said)
    fresh = []
    for hit in hits:
        text = normalised(hit.text)
        if text not in seen:
            seen.add(text)
            fresh.append(hit)
    return fresh
