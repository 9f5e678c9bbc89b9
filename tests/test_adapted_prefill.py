"""KV under an adapter that acts on every token: served under exactly that adapter, and gone with it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from lora_parts import FAMILIES, adapt

from memos_core import HFEngine, MemCube, MemOS, Scope
from memos_core.errors import AdapterMismatch, AdapterOutdated, InvalidInput
from memos_core.principal import Principal
from memos_core.testing import HashEmbedder
from memos_core.testing.models import tiny_model

TEXTS = ("My cat is called Biscuit.", "I live in Lisbon.", "I work at the harbour.")
QUESTION = "What is my cat called?"


@pytest.fixture(scope="module")
def engine() -> Iterator[HFEngine]:
    made = HFEngine.from_model(*tiny_model("llama"), name="tiny")
    yield made
    made.close()


@pytest.fixture
def memos(tmp_path: Path, engine: HFEngine) -> Iterator[MemOS]:
    with MemOS.open(tmp_path / "memory", engine=engine, embedder=HashEmbedder()) as memos:
        yield memos


@pytest.fixture
def ada(memos: MemOS) -> Scope:
    return memos.scope("ada")


@pytest.fixture
def ids(ada: Scope) -> list[str]:
    return [receipt.cube_id or "" for receipt in ada.add_many(TEXTS)]


def saved(ada: Scope, ids: list[str], lora: MemCube | None) -> int:
    """Return how many tokens of a request come from stored KV; its answer must be that of the text."""
    named = None if lora is None else lora.id
    text = ada.chat(QUESTION, memory_ids=ids, inject="text", adapter=named, max_tokens=12)
    # What a request builds itself does not count as served.
    reply = ada.chat(QUESTION, memory_ids=ids, inject="kv", adapter=named, max_tokens=12)
    assert reply.text == text.text
    return reply.usage.memory_tokens


@pytest.mark.parametrize("family", FAMILIES)
def test_it_serves_under_exactly_that_adapter(memos: MemOS, family: str) -> None:
    sizes = {"sliding_window": None} if family == "mistral" else {}
    engine = HFEngine.from_model(*tiny_model(family, **sizes), name="tiny")
    ada = memos.scope("ada").with_engine(engine)
    ids = [receipt.cube_id or "" for receipt in ada.add_many(TEXTS)]
    lora, other = adapt(ada, ids, acts="full"), adapt(ada, ids[:1], seed=1, acts="full")
    kv = ada.transform(lora.id, to="activation")
    assert kv.payload.fingerprint != engine.fingerprint  # type: ignore[union-attr]
    assert saved(ada, ids, lora) == kv.payload.token_count  # type: ignore[union-attr]
    assert saved(ada, ids, other) == 0
    assert saved(ada, ids, None) == 0
    assert ada.transform(lora.id, to="activation").id == kv.id
    engine.close()


def test_its_lineage_names_the_adapter_and_the_memories(ada: Scope, ids: list[str]) -> None:
    lora = adapt(ada, ids[:2], acts="full")
    lineage = ada.transform(lora.id, to="activation").header.descriptive.lineage
    assert lineage.pathway == "parametric->activation"
    assert lineage.sources == ((lora.id, 1), (ids[0], 1), (ids[1], 1))
    assert (lineage.parameters["adapters"], lineage.parameters["memories"]) == ([lora.id], ids[:2])
    tree = ada.lineage(ids[0])
    assert {each.pathway for each in tree.derived} == {"plaintext->parametric", "parametric->activation"}


def test_memories_can_be_named_beside_an_adapter_from_outside(ada: Scope, ids: list[str], tmp_path: Path) -> None:
    ada.adapters.save(adapt(ada, ids[:1], acts="full").id, tmp_path / "out")
    style = ada.adapters.load(tmp_path / "out")
    with pytest.raises(InvalidInput, match="name memories beside it"):
        ada.transform(style.id, to="activation")
    kv = ada.transform([ids[2], style.id, ids[1]], to="activation")
    assert kv.header.descriptive.lineage.sources == ((style.id, 1), (ids[1], 1), (ids[2], 1))
    assert saved(ada, ids[1:], style) == kv.payload.token_count  # type: ignore[union-attr]


def test_a_tail_adapter_is_referred_to_the_kv_of_the_plain_model(ada: Scope, ids: list[str]) -> None:
    lora = adapt(ada, ids)
    with pytest.raises(InvalidInput, match="transform the memories alone"):
        ada.transform(lora.id, to="activation")
    with pytest.raises(InvalidInput, match="name it alone"):
        ada.transform([adapt(ada, ids[:1]).id, ids[2]], to="plaintext")
    assert ada.count(type="activation") == 0


@pytest.mark.parametrize("built", ["by transform", "within a request"])
@pytest.mark.parametrize("fate", ["forgotten", "archived", "a memory of it was edited"])
def test_it_dies_with_the_adapter(memos: MemOS, ada: Scope, ids: list[str], built: str, fate: str) -> None:
    lora = adapt(ada, ids[:2], acts="full")
    if built == "by transform":
        ada.transform(lora.id, to="activation")
        asked = ids[:2]
    else:
        asked = ids[2:]  # the adapter knows of memories that are not in this prompt
        assert ada.chat(QUESTION, memory_ids=asked, inject="kv", adapter=lora.id, max_tokens=2).plan.notes
    (kv,) = ada.list(type="activation")
    assert saved(ada, asked, lora) > 0
    if fate == "forgotten":
        assert kv.id in ada.forget(lora.id).cube_ids
        assert not list(memos._layers.vault.blobs.addresses())
    elif fate == "archived":
        ada.archive(lora.id)
    else:
        ada.update(ids[0], "My cat is called Crumble.")
        with pytest.raises(AdapterOutdated):
            ada.transform(lora.id, to="activation")
    activations = memos._layers.activations(Principal("ada"), ())
    assert activations.find(kv.payload.fingerprint) == []  # type: ignore[union-attr]
    if fate != "archived":
        memos.run_pending()
        assert ada.count(type="activation") == 0


def test_under_an_adapter_of_another_model_nothing_is_computed(ada: Scope, ids: list[str]) -> None:
    lora = adapt(ada, ids, acts="full")
    other = HFEngine.from_model(*tiny_model("llama", seed=7), name="other")
    with pytest.raises(AdapterMismatch, match="made for tiny"):
        ada.with_engine(other).transform(lora.id, to="activation")
    other.close()


def test_a_proposal_whose_adapter_went_meanwhile_is_not_stored(memos: MemOS, ada: Scope, ids: list[str]) -> None:
    lora = adapt(ada, ids, acts="full")
    transforms, ada_herself = memos._layers.transforms, Principal("ada")
    made = transforms.propose(ada_herself, ada.engine, [lora.id], "activation")  # type: ignore[arg-type]
    assert replace(made, sources=made.sources[1:]).passed
    ada.forget(lora.id)
    assert transforms.publish(ada_herself, made) is None
    assert ada.count(type="activation") == 0
