"""Which of the injected memories an answer drew on, told from its words alone.

What counts is a word, number or name of the answer that stands in a memory and not in the prompt: what the prompt says
already, the model need not have taken from memory. No model is asked, and the same texts always give the same shares.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from memos_core.operation.finding.words import telling_words, words

__all__ = ["shares_used"]

MAX_CHARS = 20_000
"""More of an answer or a memory is not looked at: what was used shows early or not at all."""


def shares_used(answer: str, memories: Sequence[str], prompt: str = "") -> list[float] | None:
    """Return which share of what an answer took from memory came from each memory; together 1.

    A word that stands in several memories counts for each of them in part.

    Args:
        answer: What the model said.
        memories: The texts that were injected.
        prompt: What the user said.

    Returns:
        None where the answer shows nothing: it repeats the prompt, or says what stands in no memory.
    """
    told = telling_words(answer[:MAX_CHARS]) - set(words(prompt[:MAX_CHARS]))
    held = [told.intersection(words(text[:MAX_CHARS])) for text in memories]
    spread = Counter(word for found in held for word in found)
    if not spread:
        return None
    return [sum(1 / spread[word] for word in found) / len(spread) for found in held]
