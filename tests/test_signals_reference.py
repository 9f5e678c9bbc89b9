"""The signals as arrays equal the signals as they are described in docs/search.md, worked out passage by passage."""

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from memos_core import MemOS
from memos_core.calls import EventRange, MemoryCall, TimeRange
from memos_core.errors import VaultDamaged
from memos_core.infrastructure.vault import Survey
from memos_core.infrastructure.vault.conditions import micros
from memos_core.infrastructure.vault.index.catalogue import ROW
from memos_core.operation.finding.ranking import K1, B
from memos_core.operation.finding.search import best_first
from memos_core.operation.finding.signals import SIGNALS, Question, signals_of
from memos_core.testing import FakeClock, HashEmbedder

START = datetime(2026, 3, 2, tzinfo=UTC)
DAY = 86_400e6
QUERY = "When did Ben see the cat and the zebra?"
CALL = MemoryCall(
    query=QUERY,
    entities=("Ben",),
    times=(TimeRange(since=START + timedelta(days=2), until=START + timedelta(days=4)),),
    events=(EventRange(relation="after", text="the zebra"),),
)


def drawn(seed: int) -> Survey:
    """Some sessions of some passages each, as a catalogue would hold them."""
    draw = np.random.default_rng(seed)
    size = int(draw.integers(1, 80))
    rows = np.zeros(size, ROW)
    rows["passage"] = rows["cube"] = draw.permutation(size)
    rows["group"] = np.sort(draw.integers(0, draw.integers(1, 6), size))
    rows["length"] = draw.integers(1, 60, size)
    rows["speaker"] = draw.integers(0, 3, size)
    rows["question"] = draw.random(size) < 0.3
    rows["moment"] = [micros(START + timedelta(hours=int(hours))) for hours in draw.integers(0, 400, size)]
    counts = draw.poisson(0.4, (len(Question.of(CALL).words), size)).astype(np.float32)
    similarity = draw.normal(0.3, 0.2, size).astype(np.float32)
    similarity[draw.random(size) < 0.2] = np.nan
    return Survey(rows, counts, {"time": draw.random(size) < 0.3}, similarity, speakers=("", "Ben Okri", "Ada"))


def described(question: Question, seen: Survey) -> list[dict[str, float]]:
    """The signals of each passage, by loops over plain numbers."""
    size, rows = len(seen), seen.rows
    counts = seen.counts.T.tolist()
    group, lengths, moments = (rows[name].tolist() for name in ("group", "length", "moment"))
    idf = [
        math.log1p((size - held + 0.5) / (held + 0.5))
        for held in (sum(row[word] > 0 for row in counts) for word in range(len(question.words)))
    ]
    known = [value for value in seen.similarity.tolist() if not math.isnan(value)]
    near = [min(known, default=0.0) if math.isnan(value) else value for value in seen.similarity.tolist()]

    def at(values: list[Any], row: int, step: int) -> Any:
        there = 0 <= row + step < size and group[row + step] == group[row]
        return values[row + step] if there else [0.0] * len(values[row]) if isinstance(values[row], list) else 0.0

    def window(values: list[float], share: float = 1.0) -> list[float]:
        return [values[row] + share * (at(values, row, -1) + at(values, row, 1)) for row in range(size)]

    def bm25(matrix: list[list[float]], sizes: list[float]) -> list[float]:
        mean = sum(sizes) / size
        scores = []
        for row, length in zip(matrix, sizes, strict=True):
            norm = K1 * (1 - B + B * length / mean)
            scores.append(sum(i * count * (K1 + 1) / (count + norm) for i, count in zip(idf, row, strict=True)))
        return [score / max(*scores, 0.25) for score in scores]

    def stretched(values: list[float]) -> list[float]:
        return [(value - min(values)) / max(max(values) - min(values), 0.25) for value in values]

    def held(row: int, words: list[int]) -> float:
        total = sum(idf[word] for word in words)
        return sum(idf[word] for word in words if counts[row][word] > 0) / total if total else 0.0

    three = [(counts[row], at(counts, row, -1), at(counts, row, 1)) for row in range(size)]
    around_counts = [[sum(values) for values in zip(*three[row], strict=True)] for row in range(size)]
    own, beside = bm25(counts, lengths), bm25(around_counts, window(lengths))
    meaning, around = stretched(near), stretched(window(near, 0.5))
    both = [0.5 * (a + b) for a, b in zip(own, meaning, strict=True)]
    before = [at(both, row, -1) for row in range(size)]
    four = [0.25 * sum(values) for values in zip(own, meaning, beside, around, strict=True)]
    logs = [math.log1p(length) for length in lengths]
    mean = sum(logs) / size
    deviation = math.sqrt(sum((value - mean) ** 2 for value in logs) / size) or 1.0
    order = sorted(range(size), key=lambda row: moments[row])
    part = [(group[row], sum(other == group[row] for other in group[:row]) // 32) for row in range(size)]
    zebra = question.words.index("zebra")
    told = next((row for row in range(size) if counts[row][zebra] > 0), None)

    def period(row: int) -> float:
        since, until = (micros(moment) for moment in (CALL.times[0].since, CALL.times[0].until))
        early, late = max(since - moments[row], 0) / (1.5 * DAY), max(moments[row] - until, 0) / (7 * DAY)
        event = 0.0 if told is None else math.exp(-max((moments[told] - moments[row]) / DAY, 0) / 7)
        return max(math.exp(-early - late), event)

    return [
        {
            "words": beside[row],
            "coverage": held(row, list(range(len(idf)))),
            "meaning": meaning[row],
            "around": around[row],
            "session": max(four[other] for other in range(size) if part[other] == part[row]),
            "before": before[row],
            "after": at(both, row, 1),
            "two_before": at(before, row, -1),
            "length": max(-3.0, min(3.0, (logs[row] - mean) / deviation)),
            "asks": float(rows["question"][row]) * min(1.0, 10 / lengths[row]),
            "speaker": float(rows["speaker"][row] == 1),
            "entity": held(row, [word for word, named in enumerate(question.names) if named]),
            "tells_when": float(seen.cues["time"][row]),
            "period": period(row),
            "recent": math.exp(-(max(moments) - moments[row]) / DAY / 30),
            "late": (order.index(row) + 1) / size,
        }
        for row in range(size)
    ]


@pytest.mark.parametrize("seed", range(40))
def test_signals_are_what_is_said_of_them(seed: int) -> None:
    question, seen = Question.of(CALL), drawn(seed)
    slow = [[signals[name] for name in SIGNALS] for signals in described(question, seen)]
    np.testing.assert_allclose(signals_of(question, seen), np.array(slow), atol=2e-5)


def test_what_is_kept_of_the_passages_changes_no_signal() -> None:
    question, seen = Question.of(CALL), drawn(3)
    first = signals_of(question, seen)
    assert seen.kept  # so the second time it is used
    np.testing.assert_array_equal(signals_of(question, seen), first)


@pytest.mark.parametrize("size", [1, 511, 512, 513, 6000])
def test_rows_come_as_one_sort_would_give_them(size: int) -> None:
    draw = np.random.default_rng(size)
    scores = draw.integers(0, max(size // 40, 2), size).astype(np.float32)  # with runs of equal ones
    ages = draw.permutation(size)
    allowed = draw.random(size) < 0.9
    sorted_at_once = np.lexsort((ages, -scores))
    assert list(best_first(scores, ages, None)) == sorted_at_once.tolist()
    assert list(best_first(scores, ages, allowed)) == [row for row in sorted_at_once.tolist() if allowed[row]]


def test_looking_at_every_passage_finds_what_the_short_way_finds(tmp_path: Any) -> None:
    clock = FakeClock(START)
    with MemOS.open(tmp_path, embedder=HashEmbedder(), clock=clock) as memos:
        ada = memos.scope(user="ada")
        animals = ("cat", "dog", "zebra", "horse", "newt")
        for number in range(30):
            text = f"Ben saw a {animals[number % 5]} and a {animals[number % 3]} at {number} o'clock"
            ada.add(text, session=f"S{number % 3}", speaker=("Ben", "Ada")[number % 2], at=clock.now())
            clock.advance(3600)
        for question in ("When did Ben see the cat?", "zebra", "Which dog did I see last year?"):
            short = [(hit.id, hit.score, hit.shares) for hit in ada.search(question, k=30)]
            # A condition that all meet, but that has to be looked at for each passage.
            thorough = ada.search(question, k=30, before=clock.now() + timedelta(days=1))
            assert [(hit.id, hit.score, hit.shares) for hit in thorough] == short


def test_a_question_that_was_stored_does_not_stand_before_what_answers_it(tmp_path: Any) -> None:
    with MemOS.open(tmp_path, embedder=HashEmbedder()) as memos:
        ada = memos.scope(user="ada")
        ada.add_many(["My cat is called Biscuit.", "What is my cat called?", "The weather is called bad."])
        for asked in ("What is my cat called?", "what is my cat called"):
            hits = ada.search(asked)
            assert hits[0].text == "My cat is called Biscuit."
            assert "What is my cat called?" in [hit.text for hit in hits]  # it is found, only later


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE cubes SET header = replace(header, 'turn', 'note')",
        "UPDATE versions SET payload = replace(payload, 'cat', 'dog')",
        "UPDATE usage SET reads = 'many'",
    ],
)
def test_a_damaged_row_is_refused_by_search_and_named_by_verify(tmp_path: Any, change: str) -> None:
    with MemOS.open(tmp_path, embedder=HashEmbedder()) as memos:
        ada = memos.scope(user="ada")
        receipt = ada.add("My cat is called Biscuit.")
        assert ada.search("cat")
        with memos._layers.vault.ledger.write() as connection:
            connection.exec_driver_sql(change)
        with pytest.raises(VaultDamaged, match=str(receipt.cube_id)):
            ada.search("cat")
        with pytest.raises(VaultDamaged, match=str(receipt.cube_id)):
            memos.verify()
