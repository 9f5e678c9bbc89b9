"""Cartridges: a few trained positions that stand for a whole memory, under a key and with a name of their own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from engine_parts import cubes
from lora_parts import adapt

from memos_core import HFEngine, MemCube, MemOS, Scope
from memos_core.engine.generate import Session
from memos_core.engine.kv.cartridge import cartridge_fingerprint, decode_cartridge, encode_cartridge, slots_of
from memos_core.engine.kv.codec import KVBlob, decode, token_digest
from memos_core.engine.work import Reuse
from memos_core.errors import BlobDamaged, GateFailed, InjectionUnavailable, InvalidInput
from memos_core.principal import Principal
from memos_core.records import Placement
from memos_core.render import render_block
from memos_core.testing import HashEmbedder
from memos_core.testing.models import DictActivations, payload_of, tiny_model
from memos_core.transform.base import Progress
from memos_core.transform.cartridge import Cartridge, TextCartridge, stored_form
from memos_core.transform.lessons import Batch, Reading
from memos_core.transform.study import Question
from memos_core.transform.trained_kv import CartridgeSettings, CartridgeTrainer, behind, spread, start

TEXTS = ("Belka's cat is called Nimbus.", "Torin lives in Ashwick.", "Dunya plays the harp.")
QUESTION = "What is the name of Belka's cat?"


def prefix_of(engine: HFEngine) -> KVBlob:
    """Return exact KV of a few memories."""
    store = DictActivations()
    built = engine.prefill(render_block(cubes()), store)
    cube_id = store.publish(built)
    return decode(built.data, store.published[cube_id or ""])


# Where slots stand


@pytest.mark.parametrize(
    ("tokens", "slots", "places"),
    [(10, 1, [0]), (10, 2, [0, 1]), (10, 4, [0, 1, 5, 9]), (5, 5, [0, 1, 2, 3, 4])],
)
def test_slots_begin_spread_over_the_memory(tokens: int, slots: int, places: list[int]) -> None:
    assert spread(tokens, slots) == places


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt_neox"])
def test_with_a_slot_for_every_token_a_cartridge_is_the_memory(family: str) -> None:
    engine = HFEngine.from_model(*tiny_model(family), name=family)
    reading, prefix = Reading(engine.loaded), prefix_of(engine)
    asked = [Question(text, 0, 0) for text in ("What is the name of the cat?", "Where?")]
    lessons = [replace(reading.lesson(each, cubes()), answer=(5, 6, 7)) for each in asked]
    slots = list(zip(*start(engine.loaded.model, prefix, prefix.tokens), strict=True))
    with torch.inference_mode():
        short = behind(engine.loaded.model, slots, lessons)
        full = Batch.of(lessons, engine.loaded.model.device).logits(engine.loaded.model)
    assert (short - full).abs().max() < 1e-4
    engine.close()


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_what_follows_a_cartridge_goes_on_from_its_last_slot(family: str, attention: str) -> None:
    engine = HFEngine.from_model(*tiny_model(family, attention=attention), name=family)
    prefix, loaded = prefix_of(engine), engine.loaded
    slots = list(zip(*start(loaded.model, prefix, 6), strict=True))
    made = stored_form(prefix, slots, "f")
    lesson = Reading(loaded).lesson(Question("What is the name of the cat?", 0, 0), cubes())
    session = Session(loaded, Reuse(None, made, lesson.start), lesson.prompt, snapshots=False)
    with torch.inference_mode():
        list(session.prefill(lesson.prompt[lesson.start :]))
        session.feed([9])
        by_definition = behind(loaded.model, slots, [replace(lesson, answer=(9, 10))])  # positions given one by one
    assert session.cache.get_seq_length() == 6 + len(lesson.prompt) - lesson.start + 1
    assert (session.logits - by_definition[-1]).abs().max() < 1e-4
    engine.close()


# As bytes


def test_a_cartridge_survives_its_bytes_and_nothing_else_does() -> None:
    engine = HFEngine.from_model(*tiny_model("llama"), name="llama")
    prefix, layout = prefix_of(engine), engine.loaded.layout or ()
    made = stored_form(prefix, list(zip(*start(engine.loaded.model, prefix, 6), strict=True)), "f")
    data = encode_cartridge(made)
    told = payload_of(made, data, codec="cartridge")
    again = decode_cartridge(data, told, layout)
    assert slots_of(again) == 6
    assert token_digest(again.token_ids) == token_digest(prefix.token_ids)
    assert all(torch.equal(one, other) for one, other in zip(again.keys, made.keys, strict=True))
    spoilt = bytearray(data)
    spoilt[-5] ^= 1
    for bad in (data[:-9], data[:40], b"", bytes(spoilt), b"\xff" * 100):
        with pytest.raises(BlobDamaged):
            decode_cartridge(bad, told, layout)
    for wrong in ({"fingerprint": "g"}, {"token_digest": "0" * 64}, {"token_count": 3}):
        with pytest.raises(BlobDamaged, match="other memories or for another model"):
            decode_cartridge(data, told.model_copy(update=wrong), layout)
    with pytest.raises(BlobDamaged, match="shapes"):
        decode_cartridge(data, told, layout[:1])
    with pytest.raises(BlobDamaged):  # exact KV is no cartridge, and a cartridge no exact KV
        decode(data, told)
    engine.close()


# Training


def test_training_moves_all_slots_but_the_first_and_leaves_the_model_alone() -> None:
    engine = HFEngine.from_model(*tiny_model("llama"), name="llama")
    model, prefix = engine.loaded.model, prefix_of(engine)
    before = engine.fingerprint
    reading = Reading(engine.loaded)
    lesson = reading.taught([replace(reading.lesson(Question("Who?", 0, 0), cubes()), answer=(5, 6))])
    trainer = CartridgeTrainer(model, prefix, 5, CartridgeSettings(steps=30, check_every=10, patience=9))
    begun = trainer.tensors()
    told: list[Progress] = []
    trainer.train(lesson, [], learned=lambda slots: 0.5, progress=told.append)
    assert [each.done for each in told] == [10, 20, 30]
    assert told[-1].figures["loss"] < told[0].figures["loss"]
    for (keys, values), (old_keys, old_values) in zip(trainer.kept, begun, strict=True):
        assert torch.equal(keys[:, :1], old_keys[:, :1])
        assert torch.equal(values[:, :1], old_values[:, :1])
        assert not torch.equal(values[:, 1:], old_values[:, 1:])
    assert engine.fingerprint == before
    assert all(parameter.grad is None for parameter in model.parameters())
    engine.close()


def test_where_slots_would_slide_away_none_are_trained(tmp_path: Path) -> None:
    engine = HFEngine.from_model(*tiny_model("mistral"), name="windowed")
    with MemOS.open(tmp_path / "memory", engine=engine, embedder=HashEmbedder()) as memos:
        ada = memos.scope("ada")
        with pytest.raises(InjectionUnavailable, match="slide away"):
            ada.transform(ada.add(TEXTS[0]).cube_id or "", to="cartridge")
    engine.close()


# In a vault, with the bundled reader


@pytest.fixture(scope="module")
def reader() -> Iterator[HFEngine]:
    made = HFEngine.from_pretrained("memos-reader")
    yield made
    made.close()


@pytest.fixture(scope="module")
def memos(tmp_path_factory: pytest.TempPathFactory, reader: HFEngine) -> Iterator[MemOS]:
    with MemOS.open(tmp_path_factory.mktemp("vault"), engine=reader, embedder=HashEmbedder()) as memos:
        yield memos


@pytest.fixture(scope="module")
def ada(memos: MemOS) -> Scope:
    return memos.scope("ada")


@pytest.fixture(scope="module")
def ids(ada: Scope) -> list[str]:
    return [receipt.cube_id or "" for receipt in ada.add_many(TEXTS)]


@pytest.fixture(scope="module")
def cartridge(ada: Scope, ids: list[str]) -> MemCube:
    kv, transforms = ada.transform(ids, to="activation"), ada._layers.transforms
    material = transforms.material(Principal("ada"), ada.engine, [kv.id])  # type: ignore[arg-type]
    quick = Cartridge(CartridgeSettings(sure=1, steps=300))
    made = ada.get(transforms.commit(Principal("ada"), quick.propose(material)))
    ada.demote(kv.id)  # it began with the KV and does not need it any more
    return made


def test_it_is_activation_memory_of_its_own_kind_with_its_figures(
    ada: Scope, ids: list[str], cartridge: MemCube, reader: HFEngine
) -> None:
    descriptive, payload = cartridge.header.descriptive, cartridge.payload
    assert (descriptive.type, descriptive.kind, payload.codec) == ("activation", "cartridge", "cartridge")  # type: ignore[union-attr]
    assert payload.fingerprint == cartridge_fingerprint(reader.fingerprint)  # type: ignore[union-attr]
    lineage = descriptive.lineage
    assert (lineage.pathway, lineage.sources) == ("activation->cartridge", tuple((each, 1) for each in ids))
    assert lineage.parameters["fidelity"]["recall"] >= 0.99
    assert 1 <= lineage.parameters["slots"] <= lineage.parameters["tokens"] / 6
    assert ada.lineage(cartridge.id).size_bytes < 200_000


def test_it_serves_just_its_memories_where_kv_is_asked_for(ada: Scope, ids: list[str], cartridge: MemCube) -> None:
    reply = ada.chat(QUESTION, memory_ids=ids, inject="kv", max_tokens=12)
    assert "Nimbus" in reply.text
    assert reply.plan.prefix_cube_id == cartridge.id
    assert reply.usage.memory_tokens == cartridge.payload.token_count  # type: ignore[union-attr]
    assert {memory.placed for memory in reply.plan.memories} == {Placement.KV}
    assert f"cartridge {cartridge.id} stands for" in reply.plan.explain()
    assert "approximate" in reply.plan.explain()
    assert ada.chat(QUESTION, memory_ids=ids, inject="kv", strict=True, max_tokens=12).text == reply.text
    for inject in ("auto", "text"):
        assert ada.chat(QUESTION, memory_ids=ids, inject=inject, max_tokens=2).plan.prefix_cube_id is None
    assert ada.chat(QUESTION, memory_ids=ids[:2], inject="kv", max_tokens=2).plan.prefix_cube_id != cartridge.id


def test_requests_at_once_get_what_they_get_alone(ada: Scope, ids: list[str], cartridge: MemCube) -> None:
    from concurrent.futures import ThreadPoolExecutor

    questions = [QUESTION, "Where does Torin live?", "What does Dunya play?", "Who are you?"]

    def ask(text: str) -> str:
        return ada.chat(text, memory_ids=ids, inject="kv", max_tokens=12).text

    alone = [ask(text) for text in questions]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, questions)) == alone


def test_exact_kv_goes_first_and_adapters_shut_it_out(ada: Scope, ids: list[str], cartridge: MemCube) -> None:
    lora = adapt(ada, ids[:1])
    beside = ada.chat(QUESTION, memory_ids=ids, inject="kv", adapter=lora.id, max_tokens=2)  # builds exact KV
    assert beside.plan.prefix_cube_id != cartridge.id
    exact = ada.chat(QUESTION, memory_ids=ids, inject="kv", max_tokens=2).plan
    assert exact.prefix_cube_id not in (None, cartridge.id)
    ada.demote(exact.prefix_cube_id or "")
    ada.demote(lora.id)
    assert ada.chat(QUESTION, memory_ids=ids, inject="kv", max_tokens=2).plan.prefix_cube_id == cartridge.id


def test_nothing_is_made_of_it_but_itself_again(ada: Scope, cartridge: MemCube) -> None:
    for to in ("plaintext", "cartridge"):
        with pytest.raises(InvalidInput, match="is a cartridge"):
            ada.transform(cartridge.id, to=to)  # type: ignore[arg-type]
    job = ada.remake_later(cartridge.id)
    assert job.parameters == {"to": "cartridge"}
    ada.cancel_job(job.id)


def test_too_few_steps_fail_the_gate(memos: MemOS, ada: Scope, ids: list[str]) -> None:
    transforms = memos._layers.transforms
    material = transforms.material(Principal("ada"), ada.engine, ids)  # type: ignore[arg-type]
    made = TextCartridge(CartridgeSettings(steps=1, ratios=(20, 15))).propose(material)
    assert not made.passed
    assert len(made.parameters["tried"]) == 2  # type: ignore[arg-type]
    with pytest.raises(GateFailed, match="recall behind the cartridge"):
        transforms.commit(Principal("ada"), made)


def test_what_says_nothing_to_ask_about_stays_text(ada: Scope) -> None:
    with pytest.raises(GateFailed, match="no question could be made of 1 of 1 memories"):
        ada.transform(ada.add("Hm, well, perhaps.").cube_id or "", to="cartridge")


def test_a_damaged_one_is_archived_and_the_text_serves(memos: MemOS, ada: Scope, ids: list[str]) -> None:
    with MemOS.open(memos.path, engine=HFEngine(memos.engine.loaded), embedder=HashEmbedder()) as again:  # type: ignore[union-attr]
        eve = again.scope("ada")
        (cube,) = (each for each in eve.list(type="activation") if each.header.descriptive.kind == "cartridge")
        blobs = again._layers.vault.root / "blobs"
        address = cube.payload.blob.address  # type: ignore[union-attr]
        (path,) = (each for each in blobs.rglob("*.blob") if address in each.name)
        whole = path.read_bytes()
        path.write_bytes(b"spoilt")
        reply = eve.chat(QUESTION, memory_ids=ids, inject="kv", max_tokens=2)
        assert reply.usage.memory_tokens == 0
        assert "was refused" in reply.plan.explain()
        assert eve.get(cube.id).state == "archived"
        path.write_bytes(whole)
        eve.archive(cube.id, archived=False)


def test_it_falls_with_its_memories(memos: MemOS, ada: Scope, ids: list[str], cartridge: MemCube) -> None:
    ada.update(ids[0], "Belka's cat is called Comet.")
    reply = ada.chat(QUESTION, memory_ids=ids, inject="kv", max_tokens=12)
    assert reply.plan.prefix_cube_id != cartridge.id
    assert cartridge.id in ada.forget(ids[1]).cube_ids
