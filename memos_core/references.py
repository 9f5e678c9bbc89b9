"""How a memory is named from outside: its id, or its id and the passage of it that is meant."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["Reference"]

FORM = re.compile(r"(?P<cube_id>[^\[\]]+)\[(?P<start>\d{1,9}):(?P<end>\d{1,9})\]")


@dataclass(frozen=True, slots=True)
class Reference:
    """Names a memory, or a passage of a long one: ``01JABC...`` or ``01JABC...[120:480]``.

    Attributes:
        cube_id: The memory.
        passage: Its characters from start to end; None: the whole.
    """

    cube_id: str
    passage: tuple[int, int] | None = None

    def __str__(self) -> str:
        return self.cube_id if self.passage is None else f"{self.cube_id}[{self.passage[0]}:{self.passage[1]}]"

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Return what ``text`` names. What is malformed is taken for an id, which no memory has."""
        match = FORM.fullmatch(text)
        if match is None:
            return cls(text)
        return cls(match["cube_id"], (int(match["start"]), int(match["end"])))
