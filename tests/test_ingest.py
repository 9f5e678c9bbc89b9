"""Whole files into memory: batches, idempotence, errors, interruption."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from memos_core.errors import InvalidFile, InvalidInput, InvalidName, ScopeConflict
from memos_core.interface.evidence import Question, Recalled, TurnOrder, read_evidence, recall_table, spread
from memos_core.interface.formats import leading_time
from memos_core.interface.ingest import IngestReport, ingest
from memos_core.memos import MemOS
from memos_core.testing import HashEmbedder


@pytest.fixture
def memos(tmp_path: Path) -> Iterator[MemOS]:
    with MemOS.open(tmp_path / "vault", embedder=HashEmbedder(), max_text_chars=500) as opened:
        yield opened


def paragraphs(folder: Path, count: int) -> Path:
    path = folder / "notes.txt"
    path.write_text("\n\n".join(f"Note {number} is about topic {number % 7}." for number in range(count)))
    return path


def conversations(folder: Path, **turns: list[dict[str, object]]) -> Path:
    path = folder / "talk.json"
    path.write_text(json.dumps({"corpora": turns, "queries": []}))
    return path


def counts(report: IngestReport) -> tuple[int, int, int, int]:
    return report.turns, report.committed, report.duplicates, report.rejected


def test_a_second_run_adds_nothing(memos: MemOS, tmp_path: Path) -> None:
    path = paragraphs(tmp_path, 30)
    assert counts(ingest(memos, path, user="ada", batch_size=8)) == (30, 30, 0, 0)
    assert counts(ingest(memos, path, user="ada", batch_size=7)) == (30, 0, 30, 0)
    assert memos.scope("ada").count() == 30


def test_equal_paragraphs_at_different_places_are_different_memories(memos: MemOS, tmp_path: Path) -> None:
    path = tmp_path / "song.txt"
    path.write_text("La la.\n\nVerse.\n\nLa la.")
    assert counts(ingest(memos, path, user="ada")) == (3, 3, 0, 0)


def test_progress_is_told_after_each_batch(memos: MemOS, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    ingest(memos, paragraphs(tmp_path, 10), user="ada", batch_size=4, progress=lambda *args: told.append(args))
    assert told == [(4, 10), (8, 10), (10, 10)]


def test_each_conversation_goes_to_its_own_user(memos: MemOS, tmp_path: Path) -> None:
    same = [{"id": "1", "text": "The same words."}]
    report = ingest(memos, conversations(tmp_path, left=same, right=same), user="someone else")
    assert report.users == ("left", "right")
    assert memos.users() == ["left", "right"]
    assert [memos.scope(user).list()[0].ref for user in report.users] == ["1", "1"]


def test_a_file_without_users_needs_one(memos: MemOS, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="name a user"):
        ingest(memos, paragraphs(tmp_path, 2))


def test_a_malformed_user_name_anywhere_in_the_file_writes_nothing(memos: MemOS, tmp_path: Path) -> None:
    turns = [{"id": "1", "text": "x"}]
    with pytest.raises(InvalidName):
        ingest(memos, conversations(tmp_path, fine=turns, **{"a/b": turns}))
    assert memos.users() == []


def test_a_turn_that_is_too_long_is_named_and_what_stood_before_it_stays(memos: MemOS, tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("One.\n\nTwo.\n\n" + "x" * 501 + "\n\nFour.")
    with pytest.raises(InvalidFile, match=r"notes.txt:5: .*#3.* of 'ada'.*501") as caught:
        ingest(memos, path, user="ada", batch_size=2)
    assert caught.value.line == 5
    assert memos.scope("ada").count() == 2
    memos.verify()


def test_an_interrupted_run_can_be_run_again(memos: MemOS, tmp_path: Path) -> None:
    path = paragraphs(tmp_path, 20)

    def stop(done: int, total: int) -> None:
        if done >= 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ingest(memos, path, user="ada", batch_size=5, progress=stop)
    assert memos.scope("ada").count() == 10
    assert counts(ingest(memos, path, user="ada", batch_size=5)) == (20, 10, 10, 0)


def test_agent_and_session_bind_what_is_ingested(memos: MemOS, tmp_path: Path) -> None:
    ingest(memos, paragraphs(tmp_path, 3), user="ada", agent="scout", session="s1")
    assert memos.scope("ada", agent="scout", session="s1").count() == 3
    assert memos.scope("ada", agent="other").count() == memos.scope("ada", session="s2").count() == 0
    turns = [{"id": "1", "text": "x", "session": "s2"}]
    with pytest.raises(ScopeConflict):
        ingest(memos, conversations(tmp_path, ada=turns), session="s1")


def test_batches_have_at_least_one_turn(memos: MemOS, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="batch_size"):
        ingest(memos, paragraphs(tmp_path, 2), user="ada", batch_size=0)


# Evidence


def annotated(folder: Path) -> Path:
    days = ["2026-01-01", "2026-01-01", "2026-01-02", "2026-01-02", "2026-01-03"]
    turns = [
        {"id": f"T{n}", "text": f"The code of day {n} is {n}{n}.", "order": n, "ts": day} for n, day in enumerate(days)
    ]
    queries = [
        {"ns": "u", "text": "What is the code of day 2?", "category": "a", "gold": ["T2"], "before": None},
        {"ns": "u", "text": "What is the code of day 2?", "category": "b", "gold": ["T2"], "before": 3},
        {"ns": "u", "text": "What is the code of day 4?", "category": "b", "gold": ["T4", "T0"], "before": 1},
        {"ns": "u", "text": "What is the code?", "category": "b", "gold": [], "before": None},
    ]
    path = folder / "annotated.json"
    path.write_text(json.dumps({"corpora": {"u": turns}, "queries": queries}))
    return path


def test_only_turns_that_exist_when_the_question_is_asked_are_recalled(memos: MemOS, tmp_path: Path) -> None:
    path = annotated(tmp_path)
    ingest(memos, path)
    evidence = read_evidence(path)
    assert len(evidence.questions) == 3
    all_turns, three, one = evidence.recall_all(memos, evidence.questions, lambda done, total: None)
    assert set(all_turns.refs) == {"T0", "T1", "T2", "T3", "T4"}
    assert set(three.refs) == {"T0", "T1", "T2"}
    assert one.refs == ("T0",)
    assert one.recall(10) == 0.5


def test_the_window_of_a_question_is_exact_even_where_times_are_coarse() -> None:
    days = ["2026-01-01", "2026-01-02", "2026-01-02", "2026-01-03"]
    order = TurnOrder({f"T{n}": n for n in range(4)}, {f"T{n}": leading_time(day) for n, day in enumerate(days)})
    assert order.window(None) == (None, 0)
    end, extra = order.window(2)
    assert end is not None
    assert (end.isoformat(), extra) == ("2026-01-02T00:00:00.000001", 1)
    unknown = TurnOrder({"T0": 0, "T1": 1}, {"T0": None, "T1": None})
    assert unknown.window(1) == (None, 1)
    assert [order.exists(ref, 2) for ref in ("T1", "T2", None, "foreign")] == [True, False, False, False]


def test_recall_is_the_mean_share_of_evidence_by_category() -> None:
    def found(category: str, gold: tuple[str, ...], refs: tuple[str, ...]) -> Recalled:
        return Recalled(Question("?", "u", gold, category, None, ""), refs)

    table = recall_table([found("a", ("x", "y"), ("x", "z")), found("b", ("x",), ("z", "y", "x"))])
    assert table["all"] == {"questions": 2, "recall@1": 0.25, "recall@5": 0.75, "recall@10": 0.75}
    assert table["b"] == {"questions": 1, "recall@1": 0.0, "recall@5": 1.0, "recall@10": 1.0}


def test_a_sample_is_spread_over_groups_and_keeps_the_order() -> None:
    items = ["a1", "a2", "a3", "a4", "b1", "c1", "c2"]
    assert spread(items, 4, key=lambda item: item[0]) == ["a1", "a3", "b1", "c1"]
    assert spread(items, 99, key=lambda item: item[0]) == items
    assert spread([], 3, key=str) == []


@pytest.mark.parametrize(
    "data",
    [
        "[]",
        '{"corpora": {}}',
        '{"corpora": {}, "queries": []}',
        '{"corpora": {"u": []}, "queries": [{"ns": "v", "text": "?"}]}',
        '{"corpora": {"u": []}, "queries": [{"ns": "u"}]}',
        '{"corpora": {"u": []}, "queries": [{"ns": "u", "text": "?", "gold": "T1"}]}',
        '{"corpora": {"u": [1]}, "queries": []}',
    ],
)
def test_a_file_without_questions_and_evidence_is_an_invalid_file(tmp_path: Path, data: str) -> None:
    path = tmp_path / "f.json"
    path.write_text(data)
    with pytest.raises(InvalidFile):
        read_evidence(path)


def test_a_real_conversation_comes_in_whole(tmp_path: Path, shared_data: Path) -> None:
    data = json.loads(gzip.decompress((shared_data / "locomo-dev.json.gz").read_bytes()))
    path = tmp_path / "one.json.gz"
    path.write_bytes(gzip.compress(json.dumps({"corpora": {"conv-30": data["corpora"]["conv-30"]}}).encode()))
    with MemOS.open(tmp_path / "vault", embedder=None) as words:
        assert counts(ingest(words, path)) == (369, 369, 0, 0)
        stored = {cube.ref: cube.text for cube in words.scope("conv-30").list(limit=500)}
    for turn in data["corpora"]["conv-30"]:
        assert stored[turn["id"]].startswith(turn["text"])
