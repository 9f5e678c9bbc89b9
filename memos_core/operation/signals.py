"""What speaks for a memory as the answer to a question: one number for each signal and passage.

All signals are computed over what the asking scope can see and from nothing else, so none tells of another's memory.
A neighbour is the passage just before or after in the same session, or in the same long text. ``docs/search.md``
describes each signal and what it is worth.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memos_core.calls import MemoryCall, TimeRange
from memos_core.infrastructure.vault import Mask, Survey, Wording
from memos_core.infrastructure.vault.conditions import from_micros, micros
from memos_core.operation.ranking import bm25_matrix, idf_of
from memos_core.operation.words import query_words, stem

__all__ = ["SIGNALS", "SITUATION", "Column", "Question", "may_answer", "signals_of", "situation_of"]

Column = NDArray[np.float32]
"""Shape ``[passages]``."""

SIGNALS = (
    "words",
    "coverage",
    "meaning",
    "around",
    "session",
    "before",
    "after",
    "two_before",
    "length",
    "asks",
    "speaker",
    "entity",
    "tells_when",
    "period",
    "recent",
    "late",
)
"""Names of the signals, as columns of ``signals_of`` and in ``hit.shares``."""

SITUATION = ("one", "long", "statement", "first_person", "rare", "peak", "voices", "wordy")
"""Names of what the weights depend on: the question and the memory that is searched, not a single passage."""

DAY = 86_400e6
FRESH_DAYS = 30.0
EARLY_DAYS, LATE_DAYS = 1.5, 7.0
"""What happened is mostly told within a week after, hardly before."""

LEAST_BM25, LEAST_COSINE = 0.25, 0.25
"""Differences below these tell nothing: one common word, or what two unrelated texts happen to have in common."""

EVENT_TOLD = 0.6
"""Share of an event's words that a turn must hold to be the one that tells of it."""

WHEN = re.compile(
    r"\s*(?:when|what (?:date|day|month|year|time)|how long|since when|wann|quand|cu[aá]ndo)\b", re.IGNORECASE
)
FIRST = frozenset(["i", "me", "my", "mine", "we", "us", "our", "i'm", "i've", "i'd", "i'll", "let's"])
TIME_WORDS = (
    "yesterday today tomorrow tonight week month year weekend ago last next recently morning monday tuesday wednesday "
    "thursday friday saturday sunday january february march april may june july august september october november "
    "december"
)


@dataclass(frozen=True, slots=True)
class Question:
    """A call, taken apart for comparison.

    Attributes:
        call: What is asked.
        words: Words worth looking up, as analysed.
        names: Which of them belong to a name that the question mentions.
        asks_when: Whether it asks for a time.
    """

    call: MemoryCall
    words: tuple[str, ...]
    names: tuple[bool, ...]
    asks_when: bool

    @classmethod
    def of(cls, call: MemoryCall) -> Question:
        words = query_words(call.query)
        named = {word for name in call.entities for word in query_words(name)}
        return cls(call, words, tuple(word in named for word in words), bool(WHEN.match(call.query)))

    def wording(self, vector: Column | None) -> Wording:
        """Return what the vault has to look up."""
        cues = {"time": [stem(word) for word in TIME_WORDS.split()]} if self.asks_when else {}
        return Wording(self.words, vector, cues)


def signals_of(question: Question, survey: Survey) -> NDArray[np.float32]:
    """Return the signals of every passage, float32 of shape ``[passages, signals]``; most lie between 0 and 1."""
    if not len(survey):
        return np.zeros((0, len(SIGNALS)), np.float32)
    beside = Beside(survey.rows["group"])
    columns = {
        **word_signals(question, survey, beside),
        **place_signals(question, survey),
        **time_signals(question, survey),
    }
    return np.stack([columns[name] for name in SIGNALS], axis=1).astype(np.float32)


def may_answer(survey: Survey) -> Mask:
    """Tell which passages have anything to do with the question: a similarity, or a word in them or beside them."""
    beside = Beside(survey.rows["group"])
    held: Mask = beside.around(survey.counts).any(axis=0) | ~np.isnan(survey.similarity)
    return held


class Beside:
    """Moves values to the neighbours of a passage; 0 comes in where there is none."""

    def __init__(self, group: NDArray[np.int32]) -> None:
        self.same = group[1:] == group[:-1]

    def earlier(self, values: Column) -> Column:
        """Return, for each passage, the value of the one before it; over the last axis."""
        moved = np.zeros_like(values)
        moved[..., 1:] = values[..., :-1] * self.same
        return moved

    def later(self, values: Column) -> Column:
        """Return, for each passage, the value of the one after it; over the last axis."""
        moved = np.zeros_like(values)
        moved[..., :-1] = values[..., 1:] * self.same
        return moved

    def around(self, values: Column, share: float = 1.0) -> Column:
        """Return each value with ``share`` of its neighbours' added."""
        total: Column = values + np.float32(share) * (self.earlier(values) + self.later(values))
        return total


def word_signals(question: Question, survey: Survey, beside: Beside) -> dict[str, Column]:
    """Signals of words and meaning: of the passage, of what stands around it, and of its session."""
    counts, lengths = survey.counts, survey.rows["length"].astype(np.float32)
    idf = idf_of(counts)
    own = of_best(bm25_matrix(counts, lengths, idf))
    window = of_best(bm25_matrix(beside.around(counts), beside.around(lengths), idf))
    near = known(survey.similarity)
    meaning, around = stretched(near), stretched(beside.around(near, 0.5))
    both = np.float32(0.5) * (own + meaning)
    before = beside.earlier(both)
    return {
        "words": window,
        "coverage": share_of(counts, idf),
        "entity": share_of(counts[list(question.names)], idf[list(question.names)]),
        "meaning": meaning,
        "around": around,
        "session": best_of_group(np.float32(0.25) * (own + meaning + window + around), survey.rows["group"]),
        "before": before,
        "after": beside.later(both),
        "two_before": beside.earlier(before),
    }


def place_signals(question: Question, survey: Survey) -> dict[str, Column]:
    """Signals of who says it and how."""
    rows = survey.rows
    lengths = np.log1p(rows["length"].astype(np.float32))
    spread = float(lengths.std()) or 1.0
    speaking = named_speakers(question.call, survey.speakers)
    return {
        "length": np.clip((lengths - lengths.mean()) / spread, -3, 3),
        "asks": rows["question"].astype(np.float32),
        "speaker": np.isin(rows["speaker"], speaking).astype(np.float32),
    }


def time_signals(question: Question, survey: Survey) -> dict[str, Column]:
    """Signals of when it was said, and whether it tells a time."""
    moments = survey.rows["moment"]
    age = (moments.max() - moments) / DAY
    place = np.empty(len(moments), np.float32)
    place[np.argsort(moments, kind="stable")] = np.arange(1, len(moments) + 1) / len(moments)
    held = survey.cues.get("time")
    return {
        "tells_when": np.zeros(len(moments)) if held is None else held.astype(np.float32),
        "period": np.maximum(within(question.call.times, moments), beside_events(question, survey)),
        "recent": np.exp(-age / FRESH_DAYS),
        "late": place,
    }


def situation_of(question: Question, survey: Survey) -> Column:
    """Return what the weights depend on, float32 of shape ``[situation]``."""
    if not len(survey):
        return np.ones(len(SITUATION), np.float32)
    query = question.call.query
    spoken = query.casefold().replace("\u2019", "'").split()
    idf = idf_of(survey.counts)
    near = known(survey.similarity)
    spread = float(near.std()) or 1.0
    return np.array(
        [
            1.0,
            np.log1p(len(spoken)),
            not query.rstrip().endswith("?"),
            not FIRST.isdisjoint(spoken),
            idf.mean() if len(idf) else 0.0,
            (near.max() - near.mean()) / spread,
            min(len(np.unique(survey.rows["speaker"][survey.rows["speaker"] > 0])), 4),
            np.log1p(survey.rows["length"].mean()),
        ],
        dtype=np.float32,
    )


def of_best(scores: Column) -> Column:
    """Return BM25 scores as shares of the best one."""
    return scores / np.float32(max(float(scores.max()), LEAST_BM25))


def stretched(similarity: Column) -> Column:
    """Return similarities stretched to [0, 1], unless all are much alike."""
    low, high = float(similarity.min()), float(similarity.max())
    return (similarity - np.float32(low)) / np.float32(max(high - low, LEAST_COSINE))


def known(similarity: Column) -> Column:
    """Return similarities with the lowest known one in the place of unknown ones; 0 if none is known."""
    missing = np.isnan(similarity)
    if not missing.any():
        return similarity
    lowest = np.float32(0.0 if missing.all() else np.nanmin(similarity))
    return np.where(missing, lowest, similarity)


def share_of(counts: NDArray[np.float32], idf: Column) -> Column:
    """Return which share of the words each passage holds, a word counted by its rarity; 0 if there are no words."""
    total = float(idf.sum())
    held: Column = idf @ (counts > 0) / np.float32(total) if total > 0 else np.zeros(counts.shape[1], np.float32)
    return held


def best_of_group(values: Column, group: NDArray[np.int32]) -> Column:
    """Return for each passage the highest value in its group. Rows of a group stand together."""
    starts = np.flatnonzero(np.r_[True, group[1:] != group[:-1]])
    best: Column = np.repeat(np.maximum.reduceat(values, starts), np.diff(np.r_[starts, len(values)]))
    return best


def named_speakers(call: MemoryCall, speakers: Sequence[str]) -> list[int]:
    """Return the numbers of the speakers whose (first) name stands in the question, or whom the call names."""
    spoken = set(re.findall(r"\w+", call.query.casefold()))
    asked = {name.casefold() for name in call.speakers}
    return [
        number
        for number, name in enumerate(speakers)
        if name and (name.casefold() in asked or first_name(name) in spoken)
    ]


def beside_events(question: Question, survey: Survey) -> Column:
    """Return 1 for what was said on the side of an event that the question names, by the turn that tells most of it."""
    rows, found = survey.rows, np.zeros(len(survey), np.float32)
    for event in question.call.events:
        wanted = set(query_words(event.text))
        chosen = [place for place, word in enumerate(question.words) if word in wanted]
        if not chosen:
            continue
        counts = survey.counts[chosen]
        held = share_of(counts, idf_of(counts))
        told = int(np.argmax(held))
        if held[told] >= EVENT_TOLD:
            days = (rows["moment"] - rows["moment"][told]) / DAY
            outside = {"before": np.maximum(days, 0), "after": np.maximum(-days, 0), "during": np.abs(days)}
            found = np.maximum(found, np.exp(-outside[event.relation] / LATE_DAYS))
    return found


def first_name(speaker: str) -> str:
    words = re.findall(r"\w+", speaker.casefold())
    return words[0] if words else speaker


def within(times: Sequence[TimeRange], moments: NDArray[np.int64]) -> Column:
    """Return 1 for what was said within one of ``times``, fading with the days outside of it."""
    found = np.zeros(len(moments), np.float32)
    years = {from_micros(int(edge)).year for edge in (moments.min(), moments.max())}
    for span in times:
        for since, until in span.occurrences(min(years) - 1, max(years)):
            early = np.maximum(int(micros(since) or 0) - moments, 0) / (EARLY_DAYS * DAY)
            late = np.maximum(moments - int(micros(until) or 0), 0) / (LATE_DAYS * DAY)
            found = np.maximum(found, np.exp(-early - late))
    return found
