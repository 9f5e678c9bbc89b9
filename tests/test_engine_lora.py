"""Adapters in requests: what they carry leaves the prompt, base KV serves beside them, and none leaks into another."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from engine_parts import ask, cubes
from lora_parts import FAMILIES, DictBlobs

from memos_core.engine import EngineRequest, HFEngine
from memos_core.errors import AdapterMismatch, BlobDamaged, InjectionUnavailable
from memos_core.records import Placement
from memos_core.render import render_block
from memos_core.testing.models import DictActivations, tiny_model


class Setting:
    """An engine over a tiny model, three memories, and a place for adapters."""

    def __init__(self, family: str = "llama") -> None:
        self.model, tokenizer = tiny_model(family)
        self.engine = HFEngine.from_model(self.model, tokenizer, name=family)
        self.memories = cubes()
        self.blobs = DictBlobs()
        self.store = DictActivations()

    def adapter(self, cube_id: str = "a1", *carries: int, **more: Any) -> Any:
        carried = frozenset(self.memories[index].id for index in carries)
        return self.blobs.offer(self.model, self.engine.base_fingerprint, cube_id=cube_id, carries=carried, **more)

    def request(self, inject: Any, *adapters: Any, **more: Any) -> EngineRequest:
        return replace(ask(inject, self.memories, **more), adapters=adapters, blobs=self.blobs)


@pytest.fixture
def setting() -> Iterator[Setting]:
    made = Setting()
    yield made
    made.engine.close()


def test_what_an_adapter_carries_leaves_the_prompt(setting: Setting) -> None:
    text = setting.engine.generate(setting.request("text"))
    reply = setting.engine.generate(setting.request("lora", setting.adapter("a1", 0, 2)))
    placed = [memory.placed for memory in reply.plan.memories]
    assert placed == [Placement.LORA, Placement.TEXT, Placement.LORA]
    assert "carried by adapter a1" in reply.plan.memories[0].reason
    assert reply.plan.memories[1].reason.endswith("as text: no adapter carries it")
    assert reply.plan.adapter_cube_ids == ("a1",)
    assert reply.usage.carried_tokens == 20
    assert reply.usage.prompt_tokens < text.usage.prompt_tokens
    assert reply.text != text.text
    assert reply.report["carried_tokens"] == 20


def test_with_every_memory_carried_no_block_is_left(setting: Setting) -> None:
    bare = setting.engine.generate(setting.request("off"))
    reply = setting.engine.generate(setting.request("lora", setting.adapter("a1", 0, 1, 2), strict=True))
    assert reply.usage.prompt_tokens == bare.usage.prompt_tokens


@pytest.mark.parametrize("family", FAMILIES)
def test_one_base_kv_serves_every_tail_adapter_exactly(family: str) -> None:
    setting = Setting(family)
    setting.store.publish(setting.engine.prefill(render_block(setting.memories), setting.store))
    texts = []
    for seed in range(3):
        adapter = setting.adapter(f"a{seed}", seed=seed)
        plain = setting.engine.generate(setting.request("text", adapter))
        reply = setting.engine.generate(setting.request("kv", adapter, store=setting.store))
        assert reply.text == plain.text
        assert reply.usage.memory_tokens == setting.store.published["kv-1"].token_count
        texts.append(reply.text)
    assert len({*texts, setting.engine.generate(setting.request("kv", store=setting.store)).text}) == 4
    assert list(setting.store.published) == ["kv-1"]
    setting.engine.close()


def test_kv_that_is_built_beside_a_tail_adapter_is_that_of_the_base_model(setting: Setting) -> None:
    setting.engine.generate(setting.request("kv", setting.adapter(), store=setting.store))
    built = next(iter(setting.store.published.values()))
    assert built.fingerprint == setting.engine.fingerprint
    fresh = DictActivations("other")
    data = setting.engine.prefill(render_block(setting.memories), fresh).data
    assert setting.store.read(built.blob.address) == data


def test_an_adapter_on_every_token_refuses_base_kv_and_has_kv_of_its_own(setting: Setting) -> None:
    setting.store.publish(setting.engine.prefill(render_block(setting.memories), setting.store))
    adapter = setting.adapter(scope="full")
    plain = setting.engine.generate(setting.request("text", adapter))
    first = setting.engine.generate(setting.request("kv", adapter, store=setting.store))
    assert first.text == plain.text
    assert first.usage.memory_tokens == 0
    second = setting.engine.generate(setting.request("kv", adapter, store=setting.store))
    assert second.text == plain.text
    assert second.usage.memory_tokens > 0
    assert len({each.fingerprint for each in setting.store.published.values()}) == 2
    weaker = replace(adapter, weight=0.5)
    assert setting.engine.generate(setting.request("kv", weaker, store=setting.store)).usage.memory_tokens == 0


def test_prefill_under_an_adapter_on_every_token_serves_requests_with_it(setting: Setting) -> None:
    adapter = setting.adapter(scope="full")
    store = DictActivations()
    store.refuse, store.read = setting.blobs.refuse, setting.blobs.read  # type: ignore[method-assign]
    built = setting.engine.prefill(render_block(setting.memories), store, adapters=[adapter])
    setting.store.publish(built)
    reply = setting.engine.generate(setting.request("kv", adapter, store=setting.store))
    assert reply.usage.memory_tokens == built.token_count
    assert reply.text == setting.engine.generate(setting.request("text", adapter)).text


def test_an_adapter_of_another_model_is_refused(setting: Setting) -> None:
    other = Setting("qwen3")
    foreign = other.adapter()
    setting.blobs.held |= other.blobs.held
    with pytest.raises(AdapterMismatch, match="made for tiny"):
        setting.engine.generate(setting.request("lora", foreign))
    changed = tiny_model("llama", seed=1)
    again = HFEngine.from_model(*changed, name="llama")
    with pytest.raises(AdapterMismatch, match="other weights"):
        again.generate(setting.request("lora", setting.adapter()))
    again.close()
    other.engine.close()


def test_a_forged_fingerprint_does_not_get_foreign_matrices_in(setting: Setting) -> None:
    other = tiny_model("qwen3", hidden_size=128, head_dim=64)[0]
    forged = setting.blobs.offer(other, setting.engine.base_fingerprint or "")
    with pytest.raises(AdapterMismatch):
        setting.engine.generate(setting.request("lora", forged))


def test_a_damaged_adapter_is_taken_out_of_use_and_its_memories_go_as_text(setting: Setting) -> None:
    bad, good = setting.adapter("a1", 0), setting.adapter("a2", 1, seed=2)
    setting.blobs.held[bad.payload.blob.address] = b"spoilt"
    reply = setting.engine.generate(setting.request("lora", bad, good))
    assert [memory.placed for memory in reply.plan.memories] == [Placement.TEXT, Placement.LORA, Placement.TEXT]
    assert "a1" in setting.blobs.refused
    assert any("adapter a1 was refused" in note for note in reply.plan.notes)
    with pytest.raises(BlobDamaged):
        setting.engine.generate(setting.request("lora", replace(bad, named=True)))


def test_strict_names_the_memories_that_no_adapter_carries(setting: Setting) -> None:
    with pytest.raises(InjectionUnavailable, match="no adapter carries it") as caught:
        setting.engine.generate(setting.request("lora", setting.adapter("a1", 0), strict=True))
    assert set(caught.value.reasons) == {memory.id for memory in setting.memories[1:]}


def test_concurrent_requests_keep_their_own_adapters(setting: Setting) -> None:
    adapters = [setting.adapter(f"a{seed}", seed=seed) for seed in range(4)]
    requests = [setting.request("text"), *(setting.request("text", adapter) for adapter in adapters)]
    expected = [setting.engine.generate(request).text for request in requests]
    assert len(set(expected)) == 5
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda number: setting.engine.generate(requests[number % 5]).text, range(60)))
    assert found == [expected[number % 5] for number in range(60)]
    assert not any(module._forward_hooks for module in setting.model.modules())


def test_a_cancelled_request_takes_its_hooks_along(setting: Setting) -> None:
    stream = setting.engine.stream(setting.request("text", setting.adapter(), max_tokens=64))
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    setting.engine.close()
    assert not any(module._forward_hooks for module in setting.model.modules())


def test_forgetting_lets_go_of_loaded_adapters(setting: Setting) -> None:
    request = setting.request("text", replace(setting.adapter(), named=True))
    setting.engine.generate(request)
    setting.blobs.held.clear()
    setting.engine.generate(request)
    setting.engine.drop(setting.blobs.owner, ["a1"])
    with pytest.raises(BlobDamaged):
        setting.engine.generate(request)
