"""MemoryContext: memory as text, for a model that someone else calls."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from memos_core.cube import MemCube, normalised
from memos_core.engine.base import Engine
from memos_core.interface.chat import default_budget
from memos_core.interface.tokens import hosted_counter
from memos_core.operation.scheduler import MemScheduler
from memos_core.records import Hit, InjectionPlan
from memos_core.references import Reference
from memos_core.render import render_block

__all__ = ["MemoryContext", "context_of_hits", "context_of_named", "unsaid"]

HOSTED_WINDOW = 8192
"""Context window that is assumed for a hosted model when ``context`` is asked for no certain size."""


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


def context_of_hits(
    hits: Sequence[Hit], scheduler: MemScheduler, engine: Engine | None, *, max_tokens: int | None
) -> MemoryContext:
    """Return what of ``hits`` fits ``max_tokens``, by default a share of the model's window."""
    count = token_counter(engine)
    if max_tokens is None:
        max_tokens = default_budget(engine.capabilities.context_window if engine else HOSTED_WINDOW)
    plan = scheduler.plan(hits, inject="text", budget_tokens=max_tokens, count_tokens=count)
    return written(plan, hits, count)


def context_of_named(
    named: Sequence[tuple[Reference, MemCube]], scheduler: MemScheduler, engine: Engine | None
) -> MemoryContext:
    """Return all ``named`` memories in the order in which they stand in every prompt."""
    count = token_counter(engine)
    passages = {reference.cube_id: reference.passage for reference, _ in named}
    plan = scheduler.plan_exactly([cube for _, cube in named], inject="text", count_tokens=count)
    memories = tuple(replace(memory, passage=passages[memory.cube_id]) for memory in plan.memories)
    return written(replace(plan, memories=memories), (), count)


def written(plan: InjectionPlan, hits: Sequence[Hit], count: Callable[[str], int]) -> MemoryContext:
    text = render_block([memory.cube for memory in plan.memories]).text
    return MemoryContext(text=text, hits=tuple(hits), plan=plan, tokens=count(text) if text else 0)


def token_counter(engine: Engine | None) -> Callable[[str], int]:
    return engine.count_tokens if engine else hosted_counter()


def unsaid(hits: Sequence[Hit], texts: Collection[str]) -> list[Hit]:
    """Return the hits that say something else than each of ``texts``."""
    said = {normalised(text) for text in texts}
    return [hit for hit in hits if normalised(hit.text) not in said]
