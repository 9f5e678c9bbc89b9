"""Loaded KV lies on the device or beside it, within its budgets; what is pinned stays."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from engine_parts import ask, cubes, engine
from hypothesis import given, settings
from hypothesis import strategies as st

from memos_core import MemOS
from memos_core.engine.kv.ahead import MAX_WAITING, Ahead
from memos_core.engine.kv.codec import KVBlob, as_token_ids
from memos_core.engine.kv.tiers import DEVICE, RAM, Place, Tiers, to_host
from memos_core.errors import CubeNotFound
from memos_core.testing import HashEmbedder
from memos_core.testing.models import DictActivations

SIZE = 4 * 4 * 2 * 2 + 16  # of the tensors and the ids of a blob of four tokens


def blob_of(tokens: int = 4) -> KVBlob:
    tensor = torch.zeros(2, tokens, 2)
    return KVBlob(as_token_ids(range(tokens)), (tensor,), (tensor.clone(),), ("full_attention",), "mark")


class Copies:
    """Stands for the way between a device and the host: new tensors for each copy, and a log of them."""

    def __init__(self) -> None:
        self.log: list[str] = []

    def lower(self, blob: KVBlob) -> KVBlob:
        self.log.append("lower")
        return copied(blob)

    def raise_(self, blob: KVBlob) -> KVBlob:
        self.log.append("raise")
        return copied(blob)


def copied(blob: KVBlob) -> KVBlob:
    keys, values = (tuple(each.clone() for each in tensors) for tensors in (blob.keys, blob.values))
    return KVBlob(blob.token_ids, keys, values, blob.layer_types, blob.fingerprint)


def tiers(device_blobs: int, host_blobs: int = 0, device: str = "cuda") -> tuple[Tiers[str], Copies]:
    size = blob_of().size_bytes
    copies = Copies()
    place = Place(torch.device(device), device_blobs * size, host_blobs * size)
    return Tiers(place, lower=copies.lower, raise_=copies.raise_), copies


def test_what_the_device_lets_go_is_kept_by_the_host_and_comes_back() -> None:
    held, copies = tiers(1, 2)
    held.put("a", blob_of())
    held.put("b", blob_of())
    assert copies.log == ["lower"]
    assert held.get("b")[1] == DEVICE
    assert held.get("a")[1] == RAM
    assert copies.log == ["lower", "raise", "lower"]
    assert held.get("a")[1] == DEVICE


def test_on_a_cpu_there_is_one_tier_and_nothing_is_copied() -> None:
    held, copies = tiers(1, 5, device="cpu")
    first = blob_of()
    held.put("a", first)
    assert held.get("a") == (first, RAM)
    held.put("b", blob_of())
    assert "a" not in held
    assert copies.log == []
    assert to_host(first).keys[0].data_ptr() == first.keys[0].data_ptr()


def test_what_the_host_lets_go_is_forgotten() -> None:
    held, _ = tiers(1, 1)
    for name in "abc":
        held.put(name, blob_of())
    assert held.keys() == {"b", "c"}
    with pytest.raises(KeyError):
        held.get("a")


def test_what_is_pinned_stays_and_what_no_longer_fits_is_not_kept() -> None:
    held, _ = tiers(2, 0)
    held.put("a", blob_of())
    held.pinned = {"a", "b"}
    for name in "bcd":
        assert held.put(name, blob_of()) is (name == "b")
    assert held.keys() == {"a", "b"}
    assert held.release(10**9) == 0
    held.pinned = {"b"}
    assert held.put("c", blob_of())
    assert held.keys() == {"b", "c"}


def test_a_pin_holds_in_the_host_too() -> None:
    held, _ = tiers(1, 1)
    held.put("a", blob_of())
    held.put("b", blob_of())
    held.pinned = {"a"}
    held.put("c", blob_of())
    assert held.keys() == {"a", "c"}


def test_a_blob_larger_than_the_device_leaves_everything_as_it_was() -> None:
    held, _ = tiers(2, 1)
    held.put("a", blob_of())
    assert not held.put("large", blob_of(40))
    assert held.keys() == {"a"}


operations = st.lists(st.tuples(st.sampled_from(["put", "get", "pin", "unpin", "drop", "release"]), st.integers(0, 5)))


@settings(deadline=None, max_examples=60)
@given(operations, st.integers(1, 4), st.integers(0, 3))
def test_budgets_hold_and_pins_stay_whatever_happens(steps: list[tuple[str, int]], device: int, host: int) -> None:
    held, _ = tiers(device, host)
    for action, number in steps:
        key, kept = str(number), held.pinned & held.keys()
        if action == "put":
            held.put(key, blob_of(1 + number))
        elif action == "get" and key in held:
            held.get(key)
        elif action == "pin":
            held.pinned.add(key)
        elif action == "unpin":
            held.pinned.discard(key)
        elif action == "drop":
            held.discard(key)
        else:
            held.release(number * SIZE)
        for tier in (held.device, held.host):
            assert tier.size_bytes <= tier.max_bytes
            blobs = [tier.peek(each) for each in sorted(tier.keys())]
            assert tier.size_bytes == sum(blob.size_bytes for blob in blobs if blob is not None)
        if action in {"get", "release", "pin"} or (action == "put" and key not in kept):
            assert kept <= held.keys()


def test_the_plan_says_from_where_kv_came() -> None:
    memories, store = cubes(), DictActivations()
    with_kv = engine()
    with_kv.generate(ask("kv", memories, store=store))
    again = with_kv.generate(ask("kv", memories, store=store))
    other = engine().generate(ask("kv", memories, store=store))
    assert any(note.endswith("kv-1, from RAM") for note in again.plan.notes)
    assert any(note.endswith("kv-1, from disk") for note in other.plan.notes)


def test_prefetched_kv_serves_from_memory() -> None:
    memories, store = cubes(), DictActivations()
    built = engine().generate(ask("kv", memories, store=store))
    fresh = engine()
    assert fresh.prefetch(ask("kv", memories, store=store)).result(60) > 0
    reply = fresh.generate(ask("kv", memories, store=store))
    assert any(note.endswith("kv-1, from RAM") for note in reply.plan.notes)
    assert reply.text == built.text
    assert len(store.published) == 1


def test_a_prefetch_gives_way_to_requests_under_way() -> None:
    memories, store = cubes(), DictActivations()
    runner = engine()
    runner.generate(ask("kv", memories, store=store))
    runner.drop("user")
    answering = runner.stream(ask("text", memories, max_tokens=64))
    next(answering)
    runner._worker.submit(endless(), lambda item: None)
    assert runner.prefetch(ask("kv", memories, store=store)).result(60) == 0
    answering.close()  # type: ignore[attr-defined]
    runner.close()


def endless() -> Iterator[str]:
    while True:
        yield ""


def test_what_waits_too_long_gives_way_to_what_is_newer() -> None:
    ahead, gate, done = Ahead("test", lambda: False), threading.Event(), []
    first = ahead.submit(lambda: gate.wait(60), False)
    waiting = [ahead.submit(lambda number=number: done.append(number), None) for number in range(MAX_WAITING + 3)]
    gate.set()
    assert first.result(60)
    ahead.close()
    assert [each.cancelled() for each in waiting[:3]] == [True] * 3
    assert done == list(range(3, MAX_WAITING + 3)) or set(done) <= set(range(3, MAX_WAITING + 3))
    assert ahead.submit(lambda: 1, 0).result(60) == 1
    ahead.close()


def test_a_scope_pins_and_prefetches_kv(tmp_path: Path) -> None:
    small = engine()
    with MemOS.open(tmp_path / "memory", engine=small, embedder=HashEmbedder()) as memos:
        ada, ben = memos.scope(user="ada"), memos.scope(user="ben")
        cat = ada.add("My cat is called Biscuit.").cube_id
        kv = ada.transform(cat, to="activation")
        ada.pin(kv.id)
        with pytest.raises(CubeNotFound):
            ben.pin(kv.id)
        assert ada.prefetch("What is my cat called?", inject="kv").result(60) > 0
        assert small._prefixes().release(10**12) == 0
        reply = ada.chat("What is my cat called?", inject="kv", max_tokens=4)
        assert any("from RAM" in note for note in reply.plan.notes)
        assert [memory.cube_id for memory in reply.plan.memories] == [cat]
        ada.pin(kv.id, pinned=False)
        assert small._prefixes().release(10**12) > 0
        ada.pin(kv.id)
        ada.forget(cat)
        assert small._prefixes().loaded_bytes == 0
    small.close()
