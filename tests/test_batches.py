"""A batch of adds is one transaction, and means what the same adds mean one by one."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from memos_core import MemOS
from memos_core.errors import CubeConflict
from memos_core.infrastructure.vault import MemVault, NewCube
from memos_core.operation.finding.search import SearchSettings
from memos_core.testing import FakeClock, HashEmbedder


@pytest.fixture
def open_memory(tmp_path: Path) -> Iterator[Callable[..., MemOS]]:
    opened: list[MemOS] = []

    def factory(name: str, **options: object) -> MemOS:
        given: dict[str, object] = {"embedder": HashEmbedder(), "clock": FakeClock(), "index": "exact", **options}
        opened.append(MemOS.open(tmp_path / name, **given))  # type: ignore[arg-type]
        return opened[-1]

    yield factory
    for memos in opened:
        memos.verify()
        memos.close()


STORED = ["the cat sat on the mat today", "a dog barked at the postman", "rain fell on the old town", "tea"]
NEW = [
    "the cat sat on the mat today again",
    "nothing like the others here",
    "a dog barked at the postman",
    "rain fell on the old town once",
    "the cat sat on the mat today now",
    "tea",
    "tea",
]


def test_a_batch_links_what_is_near_as_single_adds_do(open_memory: Callable[..., MemOS]) -> None:
    near = []
    for name in ("single", "batch"):
        ada = open_memory(name, search=SearchSettings(near_duplicate=0.8)).scope(user="ada")
        text_of = {receipt.cube_id: text for receipt, text in zip(ada.add_many(STORED), STORED, strict=True)}
        turns = [{"text": text, "ref": str(number)} for number, text in enumerate(NEW)]
        receipts = ada.add_many(turns) if name == "batch" else [ada.add_many([turn])[0] for turn in turns]
        # One by one, the new ones are near to each other too: what a batch brings together is not compared.
        near.append([{text_of[other] for other in receipt.near if other in text_of} for receipt in receipts])
    single, batch = near
    assert single == batch
    assert [len(own) for own in batch] == [1, 0, 1, 1, 1, 1, 1]


def test_hidden_memories_do_not_crowd_out_near_ones(open_memory: Callable[..., MemOS]) -> None:
    memos = open_memory("m")
    ada = memos.scope(user="ada")
    for number in range(80):  # more than are asked about at once, and none of them seen from session two
        ada.add("the same words", session="one", ref=str(number))
    own = ada.add("the same words", session="two", ref="own")
    receipts = ada.scope(session="two").add_many([{"text": "the same words", "ref": "x"}, "something else"])
    assert receipts[0].near == (own.cube_id,)
    assert receipts[1].near == ()


def test_a_text_twice_in_one_batch_is_one_memory(open_memory: Callable[..., MemOS]) -> None:
    ada = open_memory("m").scope(user="ada")
    first, second, third = ada.add_many(["tea", "Tea ", "coffee"])
    assert (second.outcome, second.cube_id) == ("duplicate", first.cube_id)
    assert third.outcome == "committed"
    assert ada.count() == 2


def test_what_a_batch_supersedes_may_be_said_anew_in_it(open_memory: Callable[..., MemOS]) -> None:
    ada = open_memory("m", search=SearchSettings(supersede=True)).scope(user="ada")
    outcomes = [
        receipt.outcome
        for receipt in ada.add_many(["I live in Bergen.", "I moved to Oslo.", "We had soup.", "I live in Bergen."])
    ]
    assert outcomes == ["committed", "superseded", "committed", "superseded"]
    assert {hit.text for hit in ada.search("Where do I live?", k=5)} >= {"I live in Bergen."}
    assert "I moved to Oslo." not in {hit.text for hit in ada.search("Where do I live?", k=5)}


def test_a_quota_is_counted_within_a_batch(open_memory: Callable[..., MemOS]) -> None:
    ada = open_memory("m", max_bytes=25).scope(user="ada")
    outcomes = [receipt.outcome for receipt in ada.add_many(["ten bytes.", "10 bytes..", "too many..", "five."])]
    assert outcomes == ["committed", "committed", "rejected", "committed"]


def test_an_expired_holder_gives_its_key_to_a_batch(open_memory: Callable[..., MemOS]) -> None:
    clock = FakeClock()
    ada = open_memory("m", clock=clock).scope(user="ada")
    old = ada.add("tea", ttl_seconds=60)
    clock.advance(61)
    new, other = ada.add_many(["tea", "coffee"])
    assert new.outcome == other.outcome == "committed"
    assert ada.get(old.cube_id or "").state == "expired"


@pytest.mark.parametrize("clash", ["key", "id"])
def test_a_conflict_in_a_batch_names_the_cube_and_leaves_nothing(vault: MemVault, make, clash: str) -> None:  # type: ignore[no-untyped-def]
    held, fresh, clashing = make("a"), make("b"), make("c")
    if clash == "id":
        clashing = held
    with vault.write() as session:
        session.collect(NewCube(held, (), "held", "t"))
    with pytest.raises(CubeConflict) as caught, vault.write() as session:
        session.collect(NewCube(fresh, make.passages(fresh), "fresh", "t"))
        session.collect(NewCube(clashing, (), "held" if clash == "key" else "free", "t"))
    if clash == "key":
        assert (caught.value.cube_id, caught.value.other_id) == (clashing.id, held.id)
    with vault.read() as session:
        assert session.namespaces() == ["ada"]
    assert vault.verify().cubes == 1
