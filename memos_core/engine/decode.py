"""From token ids to text that can be shown while it grows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

__all__ = ["Detokenizer", "StopStrings"]

REPLACEMENT = "\ufffd"
MAX_HELD_TOKENS = 8
"""A character has at most four bytes, so at most four tokens; a longer run of broken bytes is shown as it is."""


class Detokenizer:
    """Turns tokens into pieces of text, never into half a character.

    A token's text depends on its neighbours (leading spaces, bytes of one character), so each piece is what decoding
    with the new token adds to decoding without it, over a short window. Text that ends in an incomplete character is
    held back.

    Args:
        decode: Ids to text, without special tokens.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._ids: list[int] = []
        self._shown = 0  # tokens of the window whose text has been returned

    def add(self, token_id: int) -> str:
        """Return the text that became final with this token; often all of it, sometimes none."""
        self._ids.append(token_id)
        text = self._new_text()
        held = len(self._ids) - self._shown
        if not text or (text.endswith(REPLACEMENT) and held < MAX_HELD_TOKENS):
            return ""
        self._ids = self._ids[self._shown :]
        self._shown = len(self._ids)
        return text

    def flush(self) -> str:
        """Return what is still held back."""
        text = self._new_text()
        self._shown = len(self._ids)
        return text

    def _new_text(self) -> str:
        before = self._decode(self._ids[: self._shown])
        return self._decode(self._ids)[len(before) :]


class StopStrings:
    """Ends a text at the first of several strings, which may come in pieces; what might begin one is held back."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.found = False

    def add(self, text: str) -> str:
        """Return the text that is now safe to show. After ``found`` it is the last."""
        self._held += text
        starts = [start for stop in self._stops if (start := self._held.find(stop)) >= 0]
        if starts:
            self.found = True
            return self._release(min(starts), drop_rest=True)
        return self._release(len(self._held) - self._possible_beginning())

    def flush(self) -> str:
        """Return what is still held back: the text ended without the rest of a stop string."""
        return self._release(len(self._held))

    def _possible_beginning(self) -> int:
        """Return the length of the longest end of the held text that begins a stop string."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for length in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stops):
                return length
        return 0

    def _release(self, length: int, *, drop_rest: bool = False) -> str:
        shown, self._held = self._held[:length], "" if drop_rest else self._held[length:]
        return shown
