"""Memories in a prompt whose tokens are those of a chain of their own.

What a memory's own chain is made of is known from the text: its block rendered alone. So a stored chain is found by the
digest of its token ids, without reading any.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from memos_core.engine.kv.codec import TokenIds, as_token_ids
from memos_core.engine.prompt import PROBE, Prompt, PromptBuilder
from memos_core.render import MemoryBlock

__all__ = ["Span", "spans"]


@dataclass(frozen=True, slots=True)
class Span:
    """A memory in a prompt whose tokens are those of its own chain.

    Attributes:
        chain: ``[tokens]``, the ids of that chain.
        source: First position of the memory in its chain.
        start: First position of the memory in the prompt.
        length: Its tokens.
    """

    chain: TokenIds
    source: int
    start: int
    length: int

    @property
    def stop(self) -> int:
        return self.start + self.length

    def behind(self, position: int) -> Span:
        """Return the part at or behind ``position``: an exact prefix may reach into a memory."""
        taken = max(0, position - self.start)
        return Span(self.chain, self.source + taken, self.start + taken, self.length - taken)


def spans(prompts: PromptBuilder, block: MemoryBlock, prompt: Prompt, behind: int) -> Iterator[Span]:
    """Yield those parts of memories behind position ``behind`` that a chain of their own would hold too."""
    for index, (start, (_, end)) in enumerate(zip(prompt.starts, prompt.ends, strict=True)):
        if end <= max(behind, start):
            continue
        alone = prompts.build([PROBE], block.alone(index))
        chain = alone.token_ids[: alone.memory_end]
        source = alone.starts[0] if alone.starts else 0
        # A memory computed behind another heading would be off by more than was measured.
        same_head = bool(source) and chain[:source] == prompt.token_ids[: prompt.starts[0]]
        if same_head and chain[source : source + end - start] == prompt.token_ids[start:end]:
            yield Span(as_token_ids(chain), source, start, end - start).behind(behind)
