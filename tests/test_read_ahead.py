"""KV that the next turn will likely begin with is in memory before it is asked for, within a budget, or not at all."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from engine_parts import ask, cubes
from hypothesis import given
from hypothesis import strategies as st
from test_kv_tiers import endless

from memos_core import MemOS
from memos_core.engine import HFEngine
from memos_core.engine.base import BuiltActivation, StoredActivation
from memos_core.engine.kv.ahead import Foreseen
from memos_core.testing import HashEmbedder
from memos_core.testing.models import DictActivations, tiny_model

QUESTION = "What is my cat called?"


def reader(**options: Any) -> HFEngine:
    return HFEngine.from_model(*tiny_model("llama"), name="llama", **{"read_ahead_bytes": 2**28, **options})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A vault with two users, the KV of whose memories is stored."""
    runner = reader()
    with MemOS.open(tmp_path / "memory", engine=runner, embedder=HashEmbedder()) as memos:
        for user, cat in (("ada", "Biscuit"), ("ben", "Crumble")):
            memos.scope(user=user).add(f"My cat is called {cat}.")
            memos.scope(user=user).chat(QUESTION, inject="kv", max_tokens=2)
    runner.close()
    return tmp_path / "memory"


@pytest.fixture
def runner() -> Iterator[HFEngine]:
    made = reader()
    _ = made.fingerprint  # loads the model, without which nothing is read ahead
    yield made
    made.close()


def settle(runner: HFEngine) -> None:
    """Wait until all that was to be read ahead has been."""
    runner._ahead.submit(lambda: 0, 0).result(60)


def served(reply: Any) -> str:
    return next((note for note in reply.plan.notes if "from stored KV" in note), "")


def test_a_context_brings_the_kv_that_the_chat_after_it_is_served_from(folder: Path, runner: HFEngine) -> None:
    with MemOS.open(folder, engine=runner, embedder=HashEmbedder()) as memos:
        ada = memos.scope(user="ada")
        ada.context(QUESTION)
        settle(runner)
        first, second = (ada.chat(QUESTION, inject="kv", max_tokens=2) for _ in range(2))
        assert served(first).endswith("from RAM, read ahead")
        assert served(second).endswith("from RAM")
        assert first.usage.memory_tokens == second.usage.memory_tokens > 0
        told = memos.stats()["read_ahead"]
    assert isinstance(told, dict)
    assert (told["reads"], told["used"], told["wasted"], told["waiting"]) == (1, 1, 0, 0)


def test_after_a_chat_that_computed_its_memory_the_next_one_is_served(folder: Path, runner: HFEngine) -> None:
    with MemOS.open(folder, engine=runner, embedder=HashEmbedder()) as memos:
        ada = memos.scope(user="ada")
        runner.loaded.costs.loaded(1, 60.0)  # as if the disk were slower than computing
        runner.loaded.costs.computed(1000, 0.001)
        first = ada.chat(QUESTION, inject="auto", max_tokens=2)
        settle(runner)
        second = ada.chat(QUESTION, inject="auto", max_tokens=2)
    assert not served(first)
    assert served(second).endswith("from RAM, read ahead")
    assert second.text == first.text


def test_switched_off_nothing_is_read(folder: Path) -> None:
    runner = reader(read_ahead_bytes=0)
    _ = runner.fingerprint
    with MemOS.open(folder, engine=runner, embedder=HashEmbedder()) as memos:
        memos.scope(user="ada").context(QUESTION)
        settle(runner)
        assert served(memos.scope(user="ada").chat(QUESTION, inject="kv", max_tokens=2)).endswith("from disk")
    assert runner.read_ahead_counts["reads"] == 0
    runner.close()


def test_a_model_is_not_loaded_to_read_ahead(folder: Path) -> None:
    runner = reader()
    with MemOS.open(folder, engine=runner, embedder=HashEmbedder()) as memos:
        memos.scope(user="ada").context(QUESTION)
        assert not runner.is_loaded
    runner.close()


def test_what_was_forgotten_meanwhile_serves_nobody(folder: Path, runner: HFEngine) -> None:
    with MemOS.open(folder, engine=runner, embedder=HashEmbedder()) as memos:
        ada = memos.scope(user="ada")
        found = ada.context(QUESTION)
        settle(runner)
        ada.forget(found.plan.memories[0].cube_id)
        assert runner._prefixes().loaded_bytes == 0
        assert not served(ada.chat(QUESTION, inject="kv", max_tokens=2))


def test_damage_that_is_found_ahead_is_refused_and_the_chat_answers(folder: Path, runner: HFEngine) -> None:
    for file in folder.rglob("*.blob"):
        file.write_bytes(file.read_bytes()[:-1] + b"?")
    with MemOS.open(folder, engine=runner, embedder=HashEmbedder()) as memos:
        ada = memos.scope(user="ada")
        text = ada.chat(QUESTION, inject="text", max_tokens=8).text
        ada.context(QUESTION)
        settle(runner)
        assert ada.chat(QUESTION, inject="kv", max_tokens=8).text == text


def stored(runner: HFEngine, *texts: str) -> tuple[list[Any], DictActivations]:
    """Return a memory for each text and a store that holds the KV of each alone."""
    store, memories = DictActivations(), [cubes(text) for text in texts]
    for each in memories:
        runner.generate(ask("kv", each, store=store, max_tokens=1))
    runner.drop(store.owner)
    return memories, store


def test_above_the_budget_the_oldest_that_nobody_used_is_let_go() -> None:
    maker = reader()
    memories, store = stored(maker, *(f"My cat is called {name}." for name in ("Alfa", "Beta", "Gamma")))
    size = next(iter(store.published.values())).blob.size_bytes
    runner = reader(read_ahead_bytes=int(2.5 * size))
    _ = runner.fingerprint
    for each in memories:
        assert runner.read_ahead(ask("kv", each, store=store)).result(60) > 0
    assert [runner._prefixes().has((store.owner, f"kv-{number}")) for number in (1, 2, 3)] == [False, True, True]
    total = sum(payload.blob.size_bytes for payload in store.published.values())
    assert runner.read_ahead_counts == {"reads": 3, "bytes": total, "used": 0, "wasted": 1, "waiting": 2}
    maker.close()
    runner.close()


def test_it_gives_way_to_requests_under_way() -> None:
    runner = reader()
    (memory,), store = stored(runner, "My cat is called Biscuit.")
    runner._worker.submit(endless(), lambda item: None)
    assert runner.read_ahead(ask("kv", memory, store=store)).result(60) == 0
    runner.close()


class Slow(DictActivations):
    """A store whose reads wait for a sign."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.go, self.reads = threading.Event(), threading.Event(), 0

    def read(self, address: str) -> bytes:
        self.reads += 1
        self.begun.set()
        assert self.go.wait(60)
        return super().read(address)

    def fill(self, runner: HFEngine, memory: Any) -> BuiltActivation:
        self.go.set()
        runner.generate(ask("kv", memory, store=self, max_tokens=1))
        runner.drop(self.owner)
        self.begun.clear()
        self.go.clear()
        self.reads = 0
        return next(iter(self.published.values()))  # type: ignore[return-value]


def test_a_chat_that_comes_meanwhile_waits_for_that_read_and_reads_nothing_itself() -> None:
    runner, store, memory = reader(), Slow(), cubes()
    store.fill(runner, memory)
    ahead = runner.read_ahead(ask("kv", memory, store=store))
    assert store.begun.wait(60)
    said: list[Any] = []
    chat = threading.Thread(target=lambda: said.append(runner.generate(ask("kv", memory, store=store, max_tokens=2))))
    chat.start()
    store.go.set()
    chat.join()
    assert ahead.result(60) > 0
    assert store.reads == 1
    assert said[0].usage.memory_tokens > 0
    runner.close()


@given(st.lists(st.tuples(st.sampled_from(["read", "use", "lose"]), st.integers(0, 3), st.integers(1, 10))))
def test_every_read_is_used_or_wasted_or_waits_and_the_budget_holds(steps: list[tuple[str, int, int]]) -> None:
    book: Foreseen[int] = Foreseen(15)
    held: dict[int, int] = {}
    for step, key, size in steps:
        if step == "read" and key not in held:
            held[key] = size
            for gone in book.book(key, size, held.__contains__):
                held.pop(gone)
        elif step == "use":
            book.use(key)
        elif step == "lose":
            held.pop(key, None)
        counts = book.counts
        assert counts["reads"] == counts["used"] + counts["wasted"] + counts["waiting"]
        assert sum(book._waiting.values()) <= 15


def test_a_store_names_what_it_holds() -> None:
    runner = reader()
    (memory,), store = stored(runner, "My cat is called Biscuit.")
    assert [type(each) for each in store.find(runner.fingerprint)] == [StoredActivation]
    assert runner.read_ahead(ask("kv", memory, store=None)).result(60) == 0
    runner.close()
