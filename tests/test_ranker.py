"""Signals and the ranker: each signal by its meaning, and scores that can be read off."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memos_core import MemOS
from memos_core.calls import EventRange, MemoryCall, TimeRange
from memos_core.errors import InvalidInput, VaultError
from memos_core.infrastructure.vault import Survey
from memos_core.infrastructure.vault.conditions import micros
from memos_core.infrastructure.vault.index.catalogue import ROW
from memos_core.interface.reader import intent_of
from memos_core.operation.finding.ranker import Ranker
from memos_core.operation.finding.ranking import bm25, bm25_matrix, idf_of
from memos_core.operation.finding.search import SearchSettings
from memos_core.operation.finding.signals import SIGNALS, SITUATION, Question, signals_of, situation_of
from memos_core.principal import Principal
from memos_core.testing import FakeClock, HashEmbedder

START = datetime(2026, 3, 2, tzinfo=UTC)


def survey(groups: list[int], counts: list[list[int]], **fields: Any) -> Survey:
    """A survey of one-passage memories, a day apart, of ten words each unless told otherwise."""
    rows = np.zeros(len(groups), ROW)
    rows["cube"] = rows["passage"] = np.arange(len(groups))
    rows["group"], rows["length"] = groups, 10
    rows["moment"] = [micros(START + timedelta(days=day)) for day in range(len(groups))]
    for name in set(fields) & set(ROW.names or ()):
        rows[name] = fields.pop(name)
    similarity = np.array(fields.pop("similarity", [np.nan] * len(groups)), np.float32)
    return Survey(rows, np.array(counts, np.float32), {}, similarity, **fields)


def signals(query: str, seen: Survey, **call: Any) -> dict[str, list[float]]:
    asked = Question.of(MemoryCall(query=query, **call))
    return dict(zip(SIGNALS, signals_of(asked, seen).T.round(3).tolist(), strict=True))


def test_a_neighbour_shares_in_the_words_of_its_session_only() -> None:
    found = signals("cat", survey([0, 0, 0, 1], [[1, 0, 0, 0]]))
    assert found["words"][1] > 0 == found["words"][2]
    assert found["words"][3] == 0
    assert (found["before"][1], found["two_before"][2]) == (0.5, 0.5)
    assert found["session"][:3] == [found["session"][0]] * 3 > [found["session"][3]]


def test_a_session_that_never_ends_counts_by_its_parts() -> None:
    found = signals("cat", survey([0] * 70, [[1] + [0] * 69]))["session"]
    assert found[0] == found[31] > found[32] == found[69]


def test_a_text_that_tells_before_it_asks_is_less_of_a_question() -> None:
    asks = signals("cat", survey([0, 1, 2], [[0, 0, 0]], question=[True, True, False], length=[6, 40, 6]))["asks"]
    assert asks == [1, 0.25, 0]


def test_a_question_without_its_mark_is_no_statement() -> None:
    seen = survey([0], [[1]])
    for query, statement in (("what is my cat called", 0), ("My cat is called Biscuit.", 1)):
        asked = Question.of(MemoryCall(query=query, intent=intent_of(query)))
        assert situation_of(asked, seen)[SITUATION.index("statement")] == statement


def test_what_has_no_session_stands_beside_what_was_said_within_the_hour(tmp_path: Path) -> None:
    with MemOS.open(tmp_path / "m", embedder=None, clock=FakeClock(START)) as memos:
        ada = memos.scope(user="ada")
        for minutes, text in ((0, "Where did you get the zebra?"), (5, "At the harbour."), (300, "At the market.")):
            ada.add(text, at=START + timedelta(minutes=minutes))
        look = memos._layers.operator.finder.look(Principal("ada"), MemoryCall(query="zebra"))
        assert look.signals[:, SIGNALS.index("before")].tolist() == [0, 0.5, 0]
        assert [hit.text for hit in ada.search("zebra")] == ["Where did you get the zebra?"]  # no session tells more


def test_coverage_counts_rare_words_more() -> None:
    found = signals("cat zebra", survey([0, 1, 2], [[1, 1, 0], [0, 0, 1]]))
    assert found["coverage"][2] > found["coverage"][0]


def test_an_unknown_similarity_counts_as_the_lowest_known() -> None:
    found = signals("cat", survey([0, 1, 2], [[0, 0, 0]], similarity=[0.9, 0.1, np.nan]))
    assert found["meaning"] == [1.0, 0.0, 0.0]


def test_the_speaker_that_a_question_names_is_told_by_the_first_name() -> None:
    seen = survey([0, 1, 2], [[0, 0, 0]], speaker=[1, 2, 0], speakers=("", "Ben Okri", "Ada"))
    assert signals("ben?", seen)["speaker"] == [1, 0, 0]
    assert signals("mine?", seen, speakers=("Ada",))["speaker"] == [0, 1, 0]


def test_what_was_said_in_the_time_asked_for_counts_and_fades_outside() -> None:
    span = TimeRange(since=START + timedelta(days=2), until=START + timedelta(days=3))
    period = signals("x", survey([0] * 6, [[0] * 6]), times=(span,))["period"]
    assert period[2] == 1
    assert 0 < period[0] < period[1] < 1
    assert period[5] > period[0]  # one tells of things afterwards rather than before


def test_a_yearly_time_is_found_in_every_year() -> None:
    span = TimeRange(since=START.replace(year=2020), until=START.replace(year=2020, day=3), yearly=True)
    assert signals("x", survey([0] * 3, [[0] * 3]), times=(span,))["period"][0] == 1


def test_an_event_that_is_remembered_bounds_the_time() -> None:
    seen = survey([0, 1, 2, 3], [[0, 0, 1, 0]])
    event = EventRange(relation="before", text="we moved")
    period = signals("moved", seen, events=(event,))["period"]
    assert period[:3] == [1, 1, 1] > period[3:]


def test_bm25_of_all_equals_bm25_of_matches() -> None:
    draw = np.random.default_rng(7)
    for _ in range(50):
        matrix, size = draw.integers(0, 4, (3, 5)).astype(np.float32), draw.integers(1, 40, 5).astype(np.float32)
        passages = [
            Holding(
                place, int(size[place]), {str(word): int(row[place]) for word, row in enumerate(matrix) if row[place]}
            )
            for place in range(5)
        ]
        slow = bm25([one for one in passages if one.counts], passages=5, mean_length=float(size.mean()))
        fast = bm25_matrix(matrix, size, idf_of(matrix))
        assert [slow.get(place, 0.0) for place in range(5)] == pytest.approx(fast.tolist(), abs=1e-4)


@dataclass
class Holding:
    """A passage by the words that it holds."""

    passage_id: int
    length: int
    counts: dict[str, int]


def test_nothing_to_rank_is_ranked_without_complaint() -> None:
    asked, nothing = Question.of(MemoryCall(query="cat")), survey([], [[]])
    assert signals_of(asked, nothing).shape == (0, len(SIGNALS))
    assert situation_of(asked, nothing).shape == (len(SITUATION),)


def test_shares_add_up_to_one_and_name_what_counts_against_a_memory() -> None:
    ranker = Ranker.load()
    asked, seen = Question.of(MemoryCall(query="cat")), survey([0, 0], [[1, 0]], question=[True, False])
    shares = ranker.rank(signals_of(asked, seen), situation_of(asked, seen)).shares([0])[0]
    assert sum(abs(share) for share in shares.values()) == pytest.approx(1, abs=0.01)
    assert shares["asks"] < 0 < shares["words"]


def test_a_signal_can_be_taken_out_by_its_name() -> None:
    ranker = Ranker.load().scaled({"words": 0})
    assert ranker.weights(np.ones(len(SITUATION), np.float32))[SIGNALS.index("words")] == 0
    with pytest.raises(InvalidInput, match="unknown signal"):
        ranker.scaled({"wrods": 0})


@pytest.mark.parametrize("text", ["", "{}", "not json", json.dumps({"format": 1, "extra": 1})])
def test_what_is_no_ranker_is_refused(text: str) -> None:
    with pytest.raises(VaultError):
        Ranker.load(text)


def test_a_far_away_situation_bends_the_weights_no_further_than_what_was_learned() -> None:
    ranker = Ranker.load()
    far = np.full(len(SITUATION), 1e9, np.float32)
    assert ranker.weights(far) == pytest.approx(ranker.weights(far * 10))
    assert np.isfinite(ranker.weights(far)).all()


def test_near_duplicates_do_not_fill_the_list(tmp_path: Path) -> None:
    with MemOS.open(tmp_path / "m", embedder=HashEmbedder(), clock=FakeClock()) as memos:
        ada = memos.scope(user="ada")
        for session in ("S1", "S2", "S3"):
            ada.add("My cat is called Biscuit.", session=session)
        ada.add("The cat sleeps all day.", session="S4")
        texts = [hit.text for hit in ada.search("cat called", k=3)]
        assert texts[:2] == ["My cat is called Biscuit.", "The cat sleeps all day."]
        assert len(ada.search("cat called", k=4)) == 4  # put back, not dropped


def test_settings_and_a_ranker_of_ones_own_are_taken(tmp_path: Path) -> None:
    settings = SearchSettings(factors={"recent": 0}, diverse=False)
    with MemOS.open(tmp_path / "m", embedder=None, search=settings, ranker=Ranker.load()) as memos:
        ada = memos.scope(user="ada")
        ada.add("a cat")
        (hit,) = ada.search("cat")
        assert "recent" not in hit.shares
        assert 0 <= hit.score <= 1
