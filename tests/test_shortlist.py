"""A search of a large scope looks at a short list: what it finds, and that it is never behind the ledger."""

from collections.abc import Iterator
from pathlib import Path
from random import Random

import numpy as np
import pytest

from memos_core import MemOS, Scope
from memos_core.infrastructure.vault.index import partition, shortlist
from memos_core.infrastructure.vault.index.partition import kept_up
from memos_core.testing import FakeClock, HashEmbedder

HELD = 400
RNG = Random(7)
TEXTS = [" ".join(f"word{int(RNG.paretovariate(0.6)) % 300}" for _ in range(8)) for _ in range(HELD)]
QUESTIONS = [" ".join(RNG.sample(RNG.choice(TEXTS).split(), 4)) for _ in range(30)]


@pytest.fixture
def ada(tmp_path: Path) -> Iterator[Scope]:
    memos = MemOS.open(tmp_path / "vault", embedder=HashEmbedder(), clock=FakeClock())
    scope = memos.scope(user="ada")
    scope.add_many([{"text": text, "ref": str(n), "session": f"S{n % 9}"} for n, text in enumerate(TEXTS)])
    yield scope
    memos.close()


def best(scope: Scope, question: str) -> list[tuple[str | None, float]]:
    return [(hit.ref, round(hit.score, 4)) for hit in scope.search(question)]


def short(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Let searches of these tests look at short lists, of so many by meaning and by words."""
    monkeypatch.setattr(shortlist, "SHORTLIST_FROM", 100)
    monkeypatch.setattr(shortlist, "COMPARED", 3 * size)
    for name in ("NEAR", "BY_WORDS"):
        monkeypatch.setattr(shortlist, name, size)


def test_a_short_list_that_leaves_nothing_out_ranks_like_all_passages(
    ada: Scope, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [best(ada, question) for question in QUESTIONS]
    short(monkeypatch, HELD)
    for question, hits in zip(QUESTIONS, expected, strict=True):
        found = best(ada, question)
        assert [score for _, score in found] == pytest.approx([score for _, score in hits], abs=2e-4)
        assert len({ref for ref, _ in found} & {ref for ref, _ in hits}) >= 9  # equal scores may change places


def test_a_short_list_finds_nearly_all_of_the_best(ada: Scope, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [{ref for ref, _ in best(ada, question)} for question in QUESTIONS]
    short(monkeypatch, 40)
    found = [{ref for ref, _ in best(ada, question)} for question in QUESTIONS]
    shares = [len(own & hits) / len(hits) for own, hits in zip(found, expected, strict=True)]
    assert np.mean(shares) > 0.85


def test_a_short_list_knows_what_has_just_come_and_gone(ada: Scope, monkeypatch: pytest.MonkeyPatch) -> None:
    short(monkeypatch, 40)
    ada.search("word1")  # the vectors are in partitions now
    new = ada.add("A zebra word1 word2 word3.", ref="zebra")
    assert ada.search("Which zebra?")[0].ref == "zebra"
    ada.forget(new.cube_id)
    assert "zebra" not in {hit.ref for hit in ada.search("Which zebra?")}
    old = ada.search(TEXTS[5])[0]
    ada.forget(old.id)
    assert old.id not in {hit.id for hit in ada.search(TEXTS[5])}


def test_where_not_everything_may_answer_all_passages_are_looked_at(
    ada: Scope, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = ada.search("word1 word40", k=50, filters={"session": "S3"})
    short(monkeypatch, 5)
    assert ada.search("word1 word40", k=50, filters={"session": "S3"}) == expected


def test_partitions_hold_each_row_once_while_rows_come_and_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partition, "TAIL", 10)
    matrix = np.random.default_rng(1).normal(size=(150, 8)).astype(np.float32)
    parts = kept_up(None, matrix[:100])
    assert kept_up(parts, matrix[:105]) is parts
    everything = parts.near(matrix[0], 100, 105)
    assert sorted(everything.tolist()) == list(range(105))
    parts = kept_up(parts, matrix[:130])
    assert sorted(parts.rows.tolist()) == list(range(130))
    kept = np.arange(130) % 3 > 0
    fewer, left = parts.without(kept), parts.labels[kept]
    assert (fewer.labels == left).all()
    assert sorted(fewer.near(matrix[0], 1000, len(left)).tolist()) == list(range(len(left)))
    assert kept_up(fewer, np.tile(matrix, (2, 1))).made_for == 300
