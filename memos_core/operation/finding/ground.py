"""What the signals of a search need to know of the passages alone, whatever is asked.

It is made once for the passages that a scope searches and kept with them until they change, so that a question costs
what depends on the question.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from memos_core.infrastructure.vault import Mask, Survey
from memos_core.infrastructure.vault.conditions import from_micros
from memos_core.infrastructure.vault.index.catalogue import Rows
from memos_core.operation.finding.ranking import norm_of

__all__ = ["DAY", "Beside", "Column", "Ground", "Voice", "ground_of"]

Column = NDArray[np.float32]
"""Shape ``[passages]``."""

DAY = 86_400e6
FRESH_DAYS = 30.0

PART = 32
"""Passages of a session that are one part of it: a chat that never ends is about many things."""

QUESTION_WORDS = 10.0
"""Words of a text that does nothing but ask; a longer one that ends by asking mostly tells something before."""


class Beside:
    """Moves values to the neighbours of a passage; 0 comes in where there is none.

    Args:
        same: Of each passage but the last, whether the next one is its neighbour.
    """

    def __init__(self, same: Mask) -> None:
        self.same = same

    @classmethod
    def of(cls, group: NDArray[np.int32]) -> Beside:
        """Return who stands beside whom: those of one group, one after the other."""
        return cls(group[1:] == group[:-1])

    def earlier(self, values: Column) -> Column:
        """Return, for each passage, the value of the one before it; over the last axis."""
        moved = np.zeros_like(values)
        np.multiply(values[..., :-1], self.same, out=moved[..., 1:])
        return moved

    def later(self, values: Column) -> Column:
        """Return, for each passage, the value of the one after it; over the last axis."""
        moved = np.zeros_like(values)
        np.multiply(values[..., 1:], self.same, out=moved[..., :-1])
        return moved

    def around(self, values: Column, share: float = 1.0) -> Column:
        """Return each value with ``share`` of its neighbours' added."""
        total: Column = values + np.float32(share) * (self.earlier(values) + self.later(values))
        return total


@dataclass(frozen=True, slots=True)
class Voice:
    """A speaker: number in the survey, name, and first name, both case folded."""

    number: int
    name: str
    first_name: str


@dataclass(frozen=True, slots=True)
class Ground:
    """The passages of a survey, as far as no question is needed.

    Attributes:
        beside: Who stands beside whom.
        starts: Row at which each part of a group begins.
        sizes: Passages of each part.
        norm: Of their lengths, for BM25.
        window_norm: The same of passages together with their neighbours.
        length: How long each is, in standard deviations from the mean, of the logarithm.
        asks: 1 where the text ends by asking, less the more it says besides.
        speaker: Number of the speaker.
        moment: When it was said, in microseconds.
        recent: 1 for the newest, fading with the days before it.
        late: Place in the order of time, from 0 to 1.
        years: Of the first and the last moment.
        named: The speakers that have a name.
        voices: How many speakers there are, 4 at most.
        wordiness: Logarithm of the mean length.
    """

    beside: Beside
    starts: NDArray[np.intp]
    sizes: NDArray[np.intp]
    norm: Column
    window_norm: Column
    length: Column
    asks: Column
    speaker: NDArray[np.int32]
    moment: NDArray[np.int64]
    recent: Column
    late: Column
    years: tuple[int, int]
    named: tuple[Voice, ...]
    voices: int
    wordiness: float

    def at(self, chosen: NDArray[np.intp]) -> Ground:
        """Return the ground of some of the passages, which ascend, as parts of the whole."""
        columns = ("norm", "window_norm", "length", "asks", "speaker", "moment", "recent", "late")
        part = np.searchsorted(self.starts, chosen, side="right")
        starts = np.append(0, np.flatnonzero(np.diff(part)) + 1)
        return replace(
            self,
            beside=Beside((np.diff(chosen) == 1) & self.beside.same[chosen[:-1]]),
            starts=starts,
            sizes=np.diff(starts, append=len(chosen)),
            **{name: getattr(self, name)[chosen] for name in columns},
        )


def ground_of(survey: Survey) -> Ground:
    """Return the ground of a survey that is not empty; made once for the same passages."""
    whole, found = survey.whole, survey.kept.get("ground")
    if not isinstance(found, Ground):
        found = survey.kept["ground"] = made(survey.rows if whole is None else whole.rows, survey.speakers)
    return found if whole is None else found.at(whole.chosen)


def made(rows: Rows, names: Sequence[str]) -> Ground:
    group, lengths, moment = rows["group"], rows["length"].astype(np.float32), rows["moment"].copy()
    beside = Beside.of(group)
    starts = parts_of(beside)
    logs = np.log1p(lengths)
    late = np.empty(len(rows), np.float32)
    late[np.argsort(moment, kind="stable")] = np.arange(1, len(rows) + 1) / len(rows)
    speakers = rows["speaker"].copy()
    return Ground(
        beside=beside,
        starts=starts,
        sizes=np.diff(starts, append=len(rows)),
        norm=norm_of(lengths),
        window_norm=norm_of(beside.around(lengths)),
        length=np.clip((logs - logs.mean()) / (float(logs.std()) or 1.0), -3, 3),
        asks=rows["question"] * np.minimum(QUESTION_WORDS / np.maximum(lengths, 1), 1).astype(np.float32),
        speaker=speakers,
        moment=moment,
        recent=np.exp(-((moment.max() - moment) / DAY) / FRESH_DAYS).astype(np.float32),
        late=late,
        years=(from_micros(int(moment.min())).year, from_micros(int(moment.max())).year),
        named=tuple(Voice(number, name.casefold(), first(name)) for number, name in enumerate(names) if name),
        voices=min(int(np.count_nonzero(np.bincount(speakers)[1:])), 4),
        wordiness=float(np.log1p(rows["length"].mean())),
    )


def parts_of(beside: Beside) -> NDArray[np.intp]:
    """Return the row at which each part of a group begins."""
    first = np.r_[True, ~beside.same]
    row = np.arange(len(first))
    place = row - np.maximum.accumulate(np.where(first, row, 0))
    return np.flatnonzero(place % PART == 0)


def first(speaker: str) -> str:
    words = re.findall(r"\w+", speaker.casefold())
    return words[0] if words else speaker
