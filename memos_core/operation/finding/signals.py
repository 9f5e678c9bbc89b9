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
from memos_core.infrastructure.vault.conditions import micros
from memos_core.operation.finding.ground import DAY, Beside, Column, Ground, ground_of
from memos_core.operation.finding.ranking import bm25_scores, idf_from, idf_of
from memos_core.operation.finding.words import query_words, stem

__all__ = ["SIGNALS", "SITUATION", "Question", "may_answer", "rarity", "signals_of", "situation_of"]

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

PLACES = {name: place for place, name in enumerate(SIGNALS)}

SITUATION = ("one", "long", "statement", "first_person", "rare", "peak", "voices", "wordy")
"""Names of what the weights depend on: the question and the memory that is searched, not a single passage."""

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


def signals_of(question: Question, survey: Survey, idf: Column | None = None) -> NDArray[np.float32]:
    """Return the signals of every passage, float32 of shape ``[passages, signals]``; most lie between 0 and 1.

    Args:
        question: What is asked.
        survey: The passages.
        idf: Of the words of the question, where it is known already.
    """
    # A signal after the other in memory: that is how they are written and added up.
    found = np.zeros((len(SIGNALS), len(survey)), np.float32).T
    if len(survey):
        ground = ground_of(survey)
        columns = {
            **word_signals(question, survey, ground, rarity(survey) if idf is None else idf),
            **place_signals(question, ground),
            **time_signals(question, survey, ground),
        }
        for name, column in columns.items():  # a signal that says nothing here is not among them
            found[:, PLACES[name]] = column
    return found


def rarity(survey: Survey) -> Column:
    """Return the idf of each word of the question."""
    whole = survey.whole
    return idf_of(survey.counts) if whole is None else idf_from(whole.holding, len(whole.rows))


def may_answer(survey: Survey) -> Mask | None:
    """Tell which passages have anything to do with the question: a similarity, a word in them or, in a session, beside.

    Returns:
        None if all have.
    """
    known = ~np.isnan(survey.similarity)
    if known.all():
        return None
    beside = Beside.of(survey.rows["group"]).around(survey.counts).any(axis=0) & survey.rows["in_session"]
    held: Mask = survey.counts.any(axis=0) | beside | known
    return held


def word_signals(question: Question, survey: Survey, ground: Ground, idf: Column) -> dict[str, Column]:
    """Signals of words and meaning: of the passage, of what stands around it, and of its session."""
    counts, beside = survey.counts, ground.beside
    own = of_best(bm25_scores(counts, ground.norm, idf))
    window = of_best(bm25_scores(beside.around(counts), ground.window_norm, idf))
    near = known(survey.similarity)
    meaning, around = stretched(near), stretched(beside.around(near, 0.5))
    total = own + meaning
    both = np.float32(0.5) * total
    before = beside.earlier(both)
    found = {
        "words": window,
        "coverage": share_of(counts, idf),
        "meaning": meaning,
        "around": around,
        "session": best_of_group(np.float32(0.25) * (total + window + around), ground),
        "before": before,
        "after": beside.later(both),
        "two_before": beside.earlier(before),
    }
    if any(question.names):
        found["entity"] = share_of(counts[list(question.names)], idf[list(question.names)])
    return found


def place_signals(question: Question, ground: Ground) -> dict[str, Column]:
    """Signals of who says it and how."""
    speaking = named_speakers(question.call, ground)
    said = {"speaker": np.isin(ground.speaker, speaking).astype(np.float32)} if speaking else {}
    return {"length": ground.length, "asks": ground.asks, **said}


def time_signals(question: Question, survey: Survey, ground: Ground) -> dict[str, Column]:
    """Signals of when it was said, and whether it tells a time."""
    found = {"recent": ground.recent, "late": ground.late}
    if "time" in survey.cues:
        found["tells_when"] = survey.cues["time"].astype(np.float32)
    if question.call.times or question.call.events:
        found["period"] = np.maximum(within(question.call.times, ground), beside_events(question, survey, ground))
    return found


def situation_of(question: Question, survey: Survey, idf: Column | None = None) -> Column:
    """Return what the weights depend on, float32 of shape ``[situation]``; for the arguments see ``signals_of``."""
    if not len(survey):
        return np.ones(len(SITUATION), np.float32)
    query, ground = question.call.query, ground_of(survey)
    spoken = query.casefold().replace("\u2019", "'").split()
    idf = rarity(survey) if idf is None else idf
    near = known(survey.similarity)
    usual = near if survey.whole is None else survey.whole.usual
    spread = float(usual.std()) or 1.0
    return np.array(
        [
            1.0,
            np.log1p(len(spoken)),
            question.call.intent != "ask",
            not FIRST.isdisjoint(spoken),
            idf.mean() if len(idf) else 0.0,
            (near.max() - usual.mean()) / spread,
            ground.voices,
            ground.wordiness,
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


def best_of_group(values: Column, ground: Ground) -> Column:
    """Return for each passage the highest value in its group. Rows of a group stand together."""
    best: Column = np.repeat(np.maximum.reduceat(values, ground.starts), ground.sizes)
    return best


def named_speakers(call: MemoryCall, ground: Ground) -> list[int]:
    """Return the numbers of the speakers whose (first) name stands in the question, or whom the call names."""
    if not ground.named:
        return []
    spoken = set(re.findall(r"\w+", call.query.casefold()))
    asked = {name.casefold() for name in call.speakers}
    return [voice.number for voice in ground.named if voice.name in asked or voice.first_name in spoken]


def beside_events(question: Question, survey: Survey, ground: Ground) -> Column:
    """Return 1 for what was said on the side of an event that the question names, by the turn that tells most of it."""
    moment, found = ground.moment, np.zeros(len(survey), np.float32)
    for event in question.call.events:
        wanted = set(query_words(event.text))
        chosen = [place for place, word in enumerate(question.words) if word in wanted]
        if not chosen:
            continue
        counts = survey.counts[chosen]
        held = share_of(counts, idf_of(counts))
        told = int(np.argmax(held))
        if held[told] >= EVENT_TOLD:
            days = (moment - moment[told]) / DAY
            outside = {"before": np.maximum(days, 0), "after": np.maximum(-days, 0), "during": np.abs(days)}
            found = np.maximum(found, np.exp(-outside[event.relation] / LATE_DAYS))
    return found


def within(times: Sequence[TimeRange], ground: Ground) -> Column:
    """Return 1 for what was said within one of ``times``, fading with the days outside of it."""
    moments, (first_year, last_year) = ground.moment, ground.years
    found = np.zeros(len(moments), np.float32)
    for span in times:
        for since, until in span.occurrences(first_year - 1, last_year):
            early = np.maximum(int(micros(since) or 0) - moments, 0) / (EARLY_DAYS * DAY)
            late = np.maximum(moments - int(micros(until) or 0), 0) / (LATE_DAYS * DAY)
            found = np.maximum(found, np.exp(-early - late))
    return found
