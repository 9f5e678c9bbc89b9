"""A summary of a chat without a model: the sentences that say most of what it is about, in their order."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence

from memos_core.interface.tokens import hosted_counter
from memos_core.operation.finding.words import query_words
from memos_core.records import Message
from memos_core.render import is_recalled

__all__ = ["extractive_summary"]

BOUNDARY = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])|\n+")
SPEAKERS = {"user": "User", "assistant": "Assistant"}
SPEAKER = re.compile("^(?:User|Assistant): ")
MAX_SENTENCES = 2_000
"""Only the newest this many sentences are weighed: the cost grows with their square."""


def extractive_summary(
    messages: Sequence[Message],
    *,
    max_tokens: int = 256,
    earlier: str = "",
    count_tokens: Callable[[str], int] | None = None,
) -> str:
    """Return the sentences of user and assistant that say most, each with its speaker, in at most ``max_tokens``.

    They are chosen one by one by the mean probability of their words in the whole chat; the words of a chosen one then
    count less, so that nothing is said twice (SumBasic: Nenkova and Vanderwende, *The Impact of Frequency on
    Summarization*, 2005). The same messages always give the same summary.

    Args:
        messages: The chat; other roles, and recalled memory, are passed over.
        max_tokens: Size of the summary at most.
        earlier: Summary of what came before; its lines are weighed like the sentences of the chat.
        count_tokens: Counts tokens; by default as for a hosted model.
    """
    count = count_tokens or hosted_counter()
    before = [line.strip() for line in earlier.splitlines() if line.strip()]
    lines = list(dict.fromkeys([*before, *spoken_lines(messages)]))[-MAX_SENTENCES:]
    terms = {line: query_words(SPEAKER.sub("", line)) for line in lines}
    tokens = {line: count(line + "\n") for line in lines}
    total = Counter(word for line in lines for word in terms[line])
    weight = {word: number / total.total() for word, number in total.items()}

    def worth(line: str) -> float:
        # A greeting of one frequent word is no sentence worth keeping: short ones are weighed as if they had four.
        return sum(weight[word] for word in terms[line]) / max(4, len(terms[line]))

    chosen: set[str] = set()
    left = max_tokens
    while waiting := [line for line in lines if line not in chosen and terms[line] and tokens[line] <= left]:
        best = max(waiting, key=worth)
        chosen.add(best)
        left -= tokens[best]
        weight.update({word: weight[word] ** 2 for word in terms[best]})
    return "\n".join(line for line in lines if line in chosen)


def spoken_lines(messages: Sequence[Message]) -> list[str]:
    """Return each sentence of user and assistant with its speaker."""
    return [
        f"{SPEAKERS[message.role]}: {sentence}"
        for message in messages
        if message.role in SPEAKERS and not is_recalled(message.content)
        for sentence in (" ".join(part.split()) for part in BOUNDARY.split(message.content))
        if sentence
    ]
