"""What changed between two versions of a text, word by word: memories are sentences, so lines say too little."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import Literal

from memos_core.records import VersionRecord

__all__ = ["Change", "VersionDiff", "compared"]

WORD = re.compile(r"\S+\s*|\s+")
MARKS = {"same": ("", ""), "removed": ("[-", "-]"), "added": ("{+", "+}")}


@dataclass(frozen=True, slots=True)
class Change:
    """A run of text that both versions have, or one of them."""

    kind: Literal["same", "removed", "added"]
    text: str


@dataclass(frozen=True, slots=True)
class VersionDiff:
    """What changed from one version to another.

    Attributes:
        cube_id: The memory.
        before: The earlier version, with its author and time.
        after: The later one.
        changes: Runs of text in their order; those not removed make up the later text, those not added the earlier.
    """

    cube_id: str
    before: VersionRecord
    after: VersionRecord
    changes: tuple[Change, ...]

    @property
    def changed(self) -> bool:
        return any(change.kind != "same" for change in self.changes)

    def __str__(self) -> str:
        """Return the later text with what was ``[-removed-]`` and ``{+added+}`` marked."""
        return "".join(MARKS[each.kind][0] + each.text + MARKS[each.kind][1] for each in self.changes)


def compared(cube_id: str, before: VersionRecord, after: VersionRecord) -> VersionDiff:
    """Return the difference of two versions."""
    old, new = WORD.findall(before.text), WORD.findall(after.text)
    changes: list[Change] = []
    for kind, start, stop, new_start, new_stop in difflib.SequenceMatcher(None, old, new, False).get_opcodes():
        if kind == "equal":
            changes.append(Change("same", "".join(old[start:stop])))
            continue
        changes += [Change("removed", "".join(old[start:stop]))] if stop > start else []
        changes += [Change("added", "".join(new[new_start:new_stop]))] if new_stop > new_start else []
    return VersionDiff(cube_id, before, after, tuple(changes))
