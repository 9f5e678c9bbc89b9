"""Which of the injected memories an answer drew on, told from its words alone.

What counts is a word, number or name of the answer that stands in a memory and not in the prompt: what the prompt says
already, the model need not have taken from memory. No model is asked, and the same texts always give the same shares.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from memos_core.operation.finding.words import telling_words, words

__all__ = ["sentences", "shares_used", "span_used"]

MAX_CHARS = 20_000
"""More of an answer or a memory is not looked at: what was used shows early or not at all."""


LONG = 200
"""Characters from which it is worth knowing which part of a memory was used."""

BOUNDARY = re.compile(r"(?<=[.!?])\s+|(?<=[\u3002\uff01\uff1f\u061f])\s*|\s*\n+\s*")


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
    told = told_by(answer, prompt)
    held = [told.intersection(words(text[:MAX_CHARS])) for text in memories]
    spread = Counter(word for found in held for word in found)
    if not spread:
        return None
    return [sum(1 / spread[word] for word in found) / len(spread) for found in held]


def span_used(answer: str, text: str, prompt: str = "") -> tuple[int, int] | None:
    """Return the characters of a memory, whole sentences, that hold what an answer took from it.

    Of sentences that say the same, the one that says most counts: they are taken one after the other, each for what the
    ones before it lack.

    Returns:
        None where the memory is short or a single sentence, or nothing was taken from it.
    """
    text = text[:MAX_CHARS]
    spans = sentences(text) if len(text) >= LONG else []
    if len(spans) < 2:
        return None
    left = told_by(answer, prompt)
    held = {span: left.intersection(words(text[slice(*span)])) for span in spans}
    chosen = []
    for _ in spans:
        best = max(spans, key=lambda span: (len(held[span] & left), -span[0]))
        if held[best].isdisjoint(left):
            break
        chosen.append(best)
        left = left - held[best]
    return (min(start for start, _ in chosen), max(end for _, end in chosen)) if chosen else None


def sentences(text: str) -> list[tuple[int, int]]:
    """Return where the sentences of a text begin and end; lines end them too."""
    ends = [(found.start(), found.end()) for found in BOUNDARY.finditer(text)]
    starts = [0, *(end for _, end in ends)]
    return [
        (start, end) for start, end in zip(starts, [*(end for end, _ in ends), len(text)], strict=True) if start < end
    ]


def told_by(answer: str, prompt: str) -> set[str]:
    return telling_words(answer[:MAX_CHARS]) - set(words(prompt[:MAX_CHARS]))
