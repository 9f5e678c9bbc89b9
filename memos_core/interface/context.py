"""MemoryContext: memory as text, for a model that someone else calls."""

from __future__ import annotations

from dataclasses import dataclass

from memos_core.records import Hit, InjectionPlan

__all__ = ["MemoryContext"]


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
