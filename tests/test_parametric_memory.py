"""Parametric memory in a vault: chosen, applied, refused and gone with its sources. The adapters here are random; what
training gives is tested in test_distillation.py."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from lora_parts import adapt, random_factors

from memos_core import HFEngine, MemOS, Scope
from memos_core.engine.lora.adapter import encode
from memos_core.errors import (
    AdapterMismatch,
    AdapterOutdated,
    CubeNotFound,
    InjectionUnavailable,
    InvalidFile,
    InvalidInput,
)
from memos_core.principal import Principal
from memos_core.records import Placement
from memos_core.testing import FakeClock, HashEmbedder
from memos_core.testing.models import tiny_model

TEXTS = ("My cat is called Biscuit.", "I live in Lisbon.", "I work at the harbour.")
QUESTION = "What is my cat called?"


@pytest.fixture(scope="module")
def engine() -> Iterator[HFEngine]:
    made = HFEngine.from_model(*tiny_model("llama"), name="tiny")
    yield made
    made.close()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(datetime(2026, 3, 1, tzinfo=UTC))


@pytest.fixture
def memos(tmp_path: Path, engine: HFEngine, clock: FakeClock) -> Iterator[MemOS]:
    with MemOS.open(tmp_path / "memory", engine=engine, embedder=HashEmbedder(), clock=clock) as memos:
        yield memos


@pytest.fixture
def ada(memos: MemOS) -> Scope:
    return memos.scope("ada")


@pytest.fixture
def ids(ada: Scope) -> list[str]:
    return [receipt.cube_id or "" for receipt in ada.add_many(TEXTS)]


def placed(reply: Any) -> dict[str, Placement | None]:
    return {memory.cube_id: memory.placed for memory in reply.plan.memories}


def test_memories_with_an_adapter_leave_the_prompt_and_the_others_go_as_text(ada: Scope, ids: list[str]) -> None:
    lora = adapt(ada, ids[:2])
    text = ada.chat(QUESTION, memory_ids=ids, inject="text", max_tokens=4)
    reply = ada.chat(QUESTION, memory_ids=ids, inject="lora", max_tokens=4)
    assert placed(reply) == {ids[0]: Placement.LORA, ids[1]: Placement.LORA, ids[2]: Placement.TEXT}
    assert reply.plan.adapter_cube_ids == (lora.id,)
    assert "no adapter carries it" in reply.plan.explain()
    assert reply.usage.carried_tokens > 0
    assert reply.usage.prompt_tokens < text.usage.prompt_tokens
    assert ada.get(ids[0]).header.behaviour.injected_lora == 1
    assert ada.get(lora.id).header.behaviour.tokens_saved == reply.usage.carried_tokens


def test_its_lineage_tells_what_it_was_made_of(ada: Scope, ids: list[str]) -> None:
    lora = adapt(ada, ids)
    lineage = lora.header.descriptive.lineage
    assert lineage.sources == tuple((cube_id, 1) for cube_id in ids)
    assert lineage.pathway == "plaintext->parametric"
    assert lineage.parameters["steps"] == 3
    assert lora.type == "parametric"
    assert adapt(ada, ids, seed=5).id == lora.id  # one adapter for one set of versions


def test_without_an_adapter_everything_goes_as_text_or_is_refused(ada: Scope, ids: list[str]) -> None:
    reply = ada.chat(QUESTION, memory_ids=ids, inject="lora", max_tokens=4)
    assert set(placed(reply).values()) == {Placement.TEXT}
    with pytest.raises(InjectionUnavailable, match="no adapter carries it"):
        ada.chat(QUESTION, memory_ids=ids, inject="lora", strict=True)


def test_named_memories_admit_no_adapter_that_holds_more(ada: Scope, ids: list[str]) -> None:
    adapt(ada, ids)
    reply = ada.chat(QUESTION, memory_ids=ids[:1], inject="lora", max_tokens=4)
    assert placed(reply) == {ids[0]: Placement.TEXT}
    found = ada.chat(QUESTION, inject="lora", max_tokens=4)
    assert Placement.LORA in placed(found).values()
    assert any("other memories too" in note for note in found.plan.notes) or len(found.plan.memories) == 3


def test_other_ways_of_injecting_use_no_adapter_unasked(ada: Scope, ids: list[str]) -> None:
    adapt(ada, ids)
    for inject in ("text", "kv", "auto", "off"):
        reply = ada.chat(QUESTION, memory_ids=ids, inject=inject, max_tokens=4)
        assert reply.plan.adapter_cube_ids == ()


@pytest.mark.parametrize("inject", ["text", "kv", "off"])
def test_a_named_adapter_acts_beside_text_and_kv(ada: Scope, ids: list[str], inject: Any) -> None:
    lora = adapt(ada, ids[:1])
    plain = ada.chat(QUESTION, memory_ids=ids, inject=inject, max_tokens=16)
    reply = ada.chat(QUESTION, memory_ids=ids, inject=inject, adapter=lora.id, max_tokens=16)
    assert reply.plan.adapter_cube_ids == (lora.id,)
    assert Placement.LORA not in placed(reply).values()
    assert reply.usage.prompt_tokens == plain.usage.prompt_tokens
    assert reply.text != plain.text


@pytest.mark.parametrize("fate", ["edited", "forgotten", "expired", "archived"])
def test_an_adapter_dies_with_its_sources(memos: MemOS, ada: Scope, clock: FakeClock, fate: str) -> None:
    first = ada.add("My cat is called Biscuit.", ttl_seconds=60).cube_id or ""
    second = ada.add("I live in Lisbon.").cube_id or ""
    lora = adapt(ada, [first, second])
    assert ada.chat(QUESTION, adapter=lora.id, max_tokens=2).plan.adapter_cube_ids == (lora.id,)
    change = {
        "edited": lambda: ada.update(first, "My cat is called Crumble."),
        "forgotten": lambda: ada.forget(first),
        "expired": lambda: clock.advance(61),
        "archived": lambda: ada.archive(first),
    }
    change[fate]()
    assert ada.adapters.usable() == []
    reply = ada.chat(QUESTION, memory_ids=[second], inject="lora", max_tokens=4)
    assert placed(reply) == {second: Placement.TEXT}
    with pytest.raises(CubeNotFound if fate == "forgotten" else AdapterOutdated):
        ada.chat(QUESTION, adapter=lora.id)
    if fate == "forgotten":
        assert ada.count(type="parametric") == 0
        assert not list(memos._layers.vault.blobs.addresses())
    if fate == "archived":
        ada.archive(first, archived=False)
        assert [cube.id for cube in ada.adapters.usable()] == [lora.id]


def test_an_adapter_of_another_model_or_user_is_refused(memos: MemOS, ada: Scope, ids: list[str]) -> None:
    lora = adapt(ada, ids)
    other = HFEngine.from_model(*tiny_model("llama", seed=7), name="other")
    with pytest.raises(AdapterMismatch, match="made for tiny"):
        ada.with_engine(other).chat(QUESTION, adapter=lora.id)
    reply = ada.with_engine(other).chat(QUESTION, memory_ids=ids, inject="lora", max_tokens=2)
    assert set(placed(reply).values()) == {Placement.TEXT}
    with pytest.raises(CubeNotFound):
        memos.scope("ben").chat(QUESTION, adapter=lora.id)
    with pytest.raises(InvalidInput, match="plaintext"):
        ada.chat(QUESTION, adapter=ids[0])
    other.close()


def test_a_damaged_adapter_is_archived_and_its_memories_go_as_text(memos: MemOS, ada: Scope, ids: list[str]) -> None:
    lora = adapt(ada, ids)
    blob = next((memos._layers.vault.root / "blobs").rglob("*.blob"))
    blob.write_bytes(b"spoilt")
    reply = ada.chat(QUESTION, memory_ids=ids, inject="lora", max_tokens=4)
    assert set(placed(reply).values()) == {Placement.TEXT}
    assert ada.get(lora.id).state == "archived"


def test_adapters_go_out_to_peft_and_come_in_from_it(ada: Scope, ids: list[str], tmp_path: Path) -> None:
    lora = adapt(ada, ids)
    ada.adapters.save(lora.id, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"adapter_model.safetensors", "adapter_config.json"}
    imported = ada.adapters.load(tmp_path / "out", scope="tail")
    assert imported.header.descriptive.lineage.sources == ()
    assert imported.payload.scope == "tail"  # type: ignore[union-attr]
    found = ada.chat(QUESTION, inject="off", adapter=imported.id, max_tokens=16).text
    assert found == ada.chat(QUESTION, inject="off", adapter=lora.id, max_tokens=16).text
    assert ada.chat(QUESTION, memory_ids=ids, inject="lora", max_tokens=2).plan.adapter_cube_ids == (lora.id,)


def test_what_is_no_adapter_for_this_model_does_not_come_in(ada: Scope, ids: list[str], tmp_path: Path) -> None:
    with pytest.raises(InvalidFile):
        ada.adapters.load(tmp_path)
    folder = tmp_path / "out"
    ada.adapters.save(adapt(ada, ids).id, folder)
    (folder / "adapter_model.safetensors").write_bytes(b"spoilt")
    with pytest.raises(InvalidFile):
        ada.adapters.load(folder)
    factors = random_factors(tiny_model("gpt_neox")[0])
    (folder / "adapter_model.safetensors").write_bytes(encode(factors))
    with pytest.raises(AdapterMismatch):
        ada.adapters.load(folder)
    assert ada.count(type="parametric") == 1


def test_kv_made_under_an_adapter_falls_with_the_memories_of_the_adapter(ada: Scope, ids: list[str]) -> None:
    lora = adapt(ada, ids[:1])
    material = ada._layers.transforms.material(Principal("ada"), ada.engine, [lora.id])  # type: ignore[arg-type]
    assert material.sources == ((lora.id, 1), (ids[0], 1))
    assert [cube.id for cube in material.cubes] == ids[:1]


def test_peers_of_a_new_adapter_are_given_with_their_memories(ada: Scope, ids: list[str]) -> None:
    lora, transforms, engine = adapt(ada, ids[:2]), ada._layers.transforms, ada.engine
    assert engine is not None
    material = transforms.in_company(Principal("ada"), transforms.material(Principal("ada"), engine, ids[2:]))
    assert [(peer.name, {cube.id for cube in peer.cubes}) for peer in material.peers] == [(lora.id, set(ids[:2]))]
    assert [cube.id for cube in material.foreign] == ids[:2]
