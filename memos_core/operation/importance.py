"""How important a text is as a memory, told from its words when it is written: no model is asked, and no other memory.

What people are asked about later tends to be what somebody told of their own life, at some length, with names, numbers
and times in it; what is forgotten first is small talk and questions. These are guesses about a text, so they order
memories where some have to go, and decide nothing alone.
"""

from __future__ import annotations

import re

__all__ = ["importance_of"]

MAX_CHARS = 600
"""More of a text is not looked at: a long one says early what it is."""

FULL_BYTES = 120
"""Length in UTF-8 from which a statement counts in full: a character of Chinese says more than one of English."""

NOTHING_TOLD, CORRECTED, TO_KEEP = 0.05, 0.6, 0.9
"""What only asks; the least for what corrects something, and for what somebody wants to have remembered."""

SENTENCE = re.compile(r"[^.!?\u3002\uff01\uff1f\u061f]+[.!?\u3002\uff01\uff1f\u061f]*")
ASKS = ("?", "\uff1f", "\u061f")
REMEMBER = re.compile(
    r"\b(?:remember (?:that|this|my|to)\b|remember:|(?:don't|don\u2019t|do not) forget\b|keep in mind\b|make a note\b"
    r"|note that\b|for the record\b|from now on\b)",
    re.IGNORECASE,
)
CORRECTION = re.compile(
    r"^(?:no[,.] |actually\b|correction\b|sorry[,.] (?:i meant|it's|it is)|wait[,.])|\bi meant\b"
    r"|\b(?:no longer|not any ?more)\b",
    re.IGNORECASE,
)
WORD = re.compile(r"[^\W_]+")
OWN_LIFE = frozenset({"i", "my", "mine", "our", "we"})
NAME = re.compile(r"(?<=[\w,;] )(?!I\b)[A-Z\u00c0-\u00de\u0391-\u03a9\u0410-\u042f][\w'\u2019-]+")
TIMES = frozenset(
    re.findall(
        r"\w+",
        """
        yesterday today tonight tomorrow ago last next since weekend week weeks month months year years birthday summer
        winter spring autumn monday tuesday wednesday thursday friday saturday sunday january february march april june
        july august september october november december
        """,
    )
)
DIGIT = re.compile(r"\d")


def importance_of(text: str, role: str | None = None) -> float:
    """Return how important ``text`` is as a memory, between 0.05 and 1. The same text always gives the same number.

    A statement counts by its length; it gains if it is about the life of whoever says it, has a time, a name or a
    number in it. Words are known in English; in other languages length, numbers, names and questions count.

    Args:
        role: The chat role under which it was said: what an assistant or a tool calls "I" and "my" is nobody's life.
    """
    looked_at = text[:MAX_CHARS]
    said = [sentence.strip() for sentence in SENTENCE.findall(looked_at)]
    told = " ".join(sentence for sentence in said if not sentence.endswith(ASKS))
    if not told.strip():
        return NOTHING_TOLD
    found = 0.1 + 0.3 * min(1.0, len(told.encode()) / FULL_BYTES)
    words = set(WORD.findall(told.lower()))
    found += 0.2 * (role not in ("assistant", "tool") and not words.isdisjoint(OWN_LIFE))
    found += 0.2 * (not words.isdisjoint(TIMES))
    found += 0.1 * (NAME.search(told) is not None)
    found += 0.1 * (DIGIT.search(told) is not None)
    found -= 0.1 * looked_at.rstrip().endswith(ASKS)
    if REMEMBER.search(told):
        found = max(found, TO_KEEP)
    elif CORRECTION.search(told):
        found = max(found, CORRECTED)
    return round(found, 2)
