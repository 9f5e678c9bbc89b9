"""MemoryContext: memory as text, for a model that someone else calls."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from memos_core.cube import normalised
from memos_core.operation.operator import MemOperator
from memos_core.operation.scheduler import MemScheduler
from memos_core.principal import Principal
from memos_core.records import Hit, InjectionPlan, MemoryCall
from memos_core.render import render_block

__all__ = ["MemoryContext", "build_context"]


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
    plan = scheduler.plan(hits, inject="text", budget_tokens=call.max_tokens or 0, count_tokens=count_tokens, keep=kept)
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
