"""Forms are dropped to their source, come back from lineage, and are made again for another model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest
from lora_parts import adapt

from memos_core import EvolutionPolicy, HFEngine, MemOS, Scope
from memos_core.cube import MemCube
from memos_core.errors import AdapterMismatch, CubeFrozen, CubeNotFound, EngineMissing, InvalidInput
from memos_core.operation.forms.remaking import Remaker
from memos_core.records import Placement
from memos_core.testing import FakeClock, HashEmbedder
from memos_core.testing.models import tiny_model

TEXTS = ("My cat is called Biscuit.", "I live in Lisbon.", "I work at the harbour.")
QUESTION = "What is my cat called?"
DAY = 86400.0


@pytest.fixture(scope="module")
def llama() -> Iterator[HFEngine]:
    made = HFEngine.from_model(*tiny_model("llama"), name="tiny-llama")
    yield made
    made.close()


@pytest.fixture(scope="module")
def neox() -> Iterator[HFEngine]:
    made = HFEngine.from_model(*tiny_model("gpt_neox"), name="tiny-neox")
    yield made
    made.close()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(datetime(2026, 3, 1, tzinfo=UTC))


@pytest.fixture
def memos(tmp_path: Path, llama: HFEngine, clock: FakeClock) -> Iterator[MemOS]:
    with MemOS.open(tmp_path / "memory", engine=llama, embedder=HashEmbedder(), clock=clock) as memos:
        yield memos


@pytest.fixture
def ada(memos: MemOS) -> Scope:
    return memos.scope("ada")


@pytest.fixture
def ids(ada: Scope) -> list[str]:
    return [receipt.cube_id or "" for receipt in ada.add_many(TEXTS)]


def forms(scope: Scope) -> list[MemCube]:
    return [*scope.list(type="activation"), *scope.list(type="parametric")]


# Down and back


def test_a_demoted_form_leaves_its_source_and_how_it_was_made(memos: MemOS, ada: Scope, ids: list[str]) -> None:
    kv = ada.transform(ids, to="activation")
    gone = ada.demote(kv.id, reason="the disk is small")
    assert (gone.cube_id, gone.type, gone.reason) == (kv.id, "activation", "the disk is small")
    assert gone.lineage == kv.header.descriptive.lineage
    assert gone.size_bytes == kv.payload.blob.size_bytes  # type: ignore[union-attr]
    assert ada.demotions() == (gone,)
    assert forms(ada) == []
    memos.run_pending()
    assert not list(memos._layers.vault.blobs.addresses())
    assert memos.verify()
    text = ada.chat(QUESTION, memory_ids=ids, inject="auto", max_tokens=4)
    assert {memory.placed for memory in text.plan.memories} == {Placement.TEXT}


def test_it_comes_back_by_its_lineage(memos: MemOS, ada: Scope, ids: list[str]) -> None:
    kv = ada.transform(ids[:2], to="activation")
    ada.demote(kv.id)
    again = ada.remake(kv.id)
    assert again.id != kv.id
    assert again.payload == kv.payload
    ada.demote(again.id)
    job = ada.remake_later(again.id)
    memos.run_pending()
    made = ada.get(str(ada.job(job.id).result))
    assert made.payload == kv.payload
    assert [each.cube_id for each in ada.demotions()] == [again.id, kv.id]
    assert len(ada.demotions(limit=1)) == 1


def test_kv_under_an_adapter_comes_back_under_it_and_not_without_it(ada: Scope, ids: list[str]) -> None:
    lora = adapt(ada, ids[:1], acts="full")
    kv = ada.transform([lora.id, ids[2]], to="activation")
    with pytest.raises(InvalidInput, match=f"memory {kv.id} was made from {lora.id}"):
        ada.demote(lora.id)
    ada.demote(kv.id)
    again = ada.remake(kv.id)
    assert again.payload == kv.payload
    assert again.header.descriptive.lineage.sources == kv.header.descriptive.lineage.sources
    ada.demote(again.id)
    ada.demote(lora.id)
    with pytest.raises(CubeNotFound):  # KV of an adapter that is gone means nothing any more
        ada.remake(kv.id)


def test_what_has_no_source_or_is_protected_stays(ada: Scope, ids: list[str], tmp_path: Path) -> None:
    ada.adapters.save(adapt(ada, ids, acts="full").id, tmp_path / "out")
    style = ada.adapters.load(tmp_path / "out")
    with pytest.raises(InvalidInput, match="brought from outside"):
        ada.demote(style.id)
    with pytest.raises(InvalidInput, match="is text"):
        ada.demote(ids[0])
    with pytest.raises(InvalidInput, match="is text"):
        ada.remake(ids[0])
    for absent in ("nothing", "01ARZ3NDEKTSV4RRFFQ69G5FAV"):
        with pytest.raises(CubeNotFound):
            ada.demote(absent)
        with pytest.raises(CubeNotFound):
            ada.remake_later(absent)
    kv = ada.transform(ids, to="activation")
    ada.freeze(kv.id)
    with pytest.raises(CubeFrozen):
        ada.demote(kv.id)
    assert len(forms(ada)) == 3


def test_a_policy_drops_nothing_whose_loss_would_be_one(
    memos: MemOS, ada: Scope, ids: list[str], clock: FakeClock, tmp_path: Path
) -> None:
    ada.adapters.save(adapt(ada, ids).id, tmp_path / "out")
    style = ada.adapters.load(tmp_path / "out", scope="tail")
    clock.advance(60 * DAY)
    (decision,) = ada.evolve(policy=EvolutionPolicy(max_derived_bytes=0))
    assert decision.action == "demote"
    assert [cube.id for cube in forms(ada)] == [style.id]
    (gone,) = ada.demotions()
    assert (gone.cube_id, gone.reason) == (decision.cube_ids[0], decision.reason)
    assert gone.lineage.sources == tuple((each, 1) for each in ids)


def test_forgetting_a_source_takes_the_memory_of_its_forms_along(memos: MemOS, ada: Scope, ids: list[str]) -> None:
    kv = ada.transform(ids, to="activation")
    ada.demote(kv.id)
    assert memos.scope("ben").demotions() == ()
    ada.forget(ids[0])
    assert ada.demotions() == ()
    with pytest.raises(CubeNotFound):
        ada.remake(kv.id)


def test_a_form_whose_source_is_out_of_use_is_not_made_again(ada: Scope, ids: list[str]) -> None:
    kv = ada.transform(ids, to="activation")
    ada.archive(ids[0])
    with pytest.raises(InvalidInput, match="out of use"):
        ada.remake(kv.id)
    ada.archive(ids[0], archived=False)
    ada.update(ids[0], "My cat is called Crumble.")
    assert ada.remake(kv.id).header.descriptive.lineage.sources[0] == (ids[0], 2)


# Another model


def test_with_another_model_forms_are_refused_served_as_text_and_made_again(
    memos: MemOS, ada: Scope, ids: list[str], llama: HFEngine, neox: HFEngine, tmp_path: Path, clock: FakeClock
) -> None:
    kv = ada.transform(ids, to="activation")
    lora = adapt(ada, ids[:1])
    style = adapt(ada, ids[1:2], seed=3, acts="full")
    under = ada.transform(style.id, to="activation")
    with MemOS.open(tmp_path / "memory", engine=neox, embedder=HashEmbedder(), clock=clock) as other:
        eve = other.scope("ada")
        text = eve.chat(QUESTION, memory_ids=ids, inject="text", max_tokens=8)
        reply = eve.chat(QUESTION, memory_ids=ids, inject="auto", max_tokens=8)
        assert (reply.text, reply.usage.memory_tokens) == (text.text, 0)
        with pytest.raises(AdapterMismatch, match="made for tiny"):
            eve.chat(QUESTION, adapter=lora.id)
        waiting = other.run_pending()
        assert waiting == ()
        jobs = {job.parameters["remade_from"][0]: job for job in eve.jobs()}  # type: ignore[index]
        assert set(jobs) == {kv.id, lora.id, style.id}
        assert {job.kind for job in jobs.values()} == {"transform for tiny-neox"}
        made = eve.get(str(jobs[kv.id].result))
        assert made.payload.model == "tiny-neox"  # type: ignore[union-attr]
        assert made.header.descriptive.lineage.parameters["remade_from"] == [kv.id, "tiny-llama"]
        served = eve.chat(QUESTION, memory_ids=ids, inject="kv", max_tokens=8)
        assert (served.text, served.usage.memory_tokens) == (text.text, made.payload.token_count)  # type: ignore[union-attr]
        # A random model cannot teach an adapter; that is told once, and its memories go on as text.
        assert jobs[lora.id].state == "dead"
        assert "GateFailed" in str(jobs[lora.id].reason)
        clock.advance(3600)
        other.run_pending()
        assert len(eve.jobs()) == 3
        assert under.id in {cube.id for cube in forms(eve)}
    assert ada.chat(QUESTION, memory_ids=ids, inject="kv", max_tokens=8).usage.memory_tokens > 0
    clock.advance(3600)
    memos.run_pending()
    assert ada.jobs(states=["waiting"]) == []


def test_new_weights_under_the_old_name_are_another_model(tmp_path: Path, llama: HFEngine) -> None:
    with MemOS.open(tmp_path / "memory", engine=llama, embedder=HashEmbedder()) as memos:
        cube_id = memos.scope("ada").add(TEXTS[0]).cube_id or ""
        memos.scope("ada").transform(cube_id, to="activation")
    retrained = HFEngine.from_model(*tiny_model("llama", seed=9), name="tiny-llama")
    with MemOS.open(tmp_path / "memory", engine=retrained, embedder=HashEmbedder()) as memos:
        assert not retrained.is_loaded
        memos.run_pending()
        assert memos.scope("ada").jobs() == []  # nobody has asked this model yet, so it is not loaded for this
        memos.scope("ada").chat(QUESTION, inject="off", max_tokens=1)
    with MemOS.open(tmp_path / "memory", engine=retrained, embedder=HashEmbedder()) as memos:
        memos.run_pending()
        prints = {cube.payload.fingerprint for cube in memos.scope("ada").list(type="activation")}  # type: ignore[union-attr]
        assert prints == {llama.fingerprint, retrained.fingerprint}
    retrained.close()


def test_what_waits_for_one_model_is_left_alone_by_a_worker_with_another(
    memos: MemOS, ada: Scope, ids: list[str], neox: HFEngine, tmp_path: Path, clock: FakeClock
) -> None:
    ada.transform(ids, to="activation")
    with MemOS.open(tmp_path / "memory", engine=neox, embedder=HashEmbedder(), clock=clock) as other:
        assert Remaker(other._layers.vault, other._layers.jobs, neox).queue_all() == 1
        assert memos.run_pending() == ("1 transform for tiny-neox job for a worker that can do them",)
        assert other.run_pending() == ()
        assert Remaker(other._layers.vault, other._layers.jobs, neox).queue_all() == 0
        # What a policy or its owner drops afterwards does not come back by itself.
        (made,) = (each for each in other.scope("ada").list(type="activation") if "remade_from" in parameters_of(each))
        other.scope("ada").demote(made.id)
        clock.advance(30 * DAY)
        other.run_pending()
        assert Remaker(other._layers.vault, other._layers.jobs, neox).queue_all() == 0
        assert len(other.scope("ada").list(type="activation").cubes) == 1


def parameters_of(cube: MemCube) -> Mapping[str, object]:
    return cube.header.descriptive.lineage.parameters


def test_without_a_model_nothing_is_made_again(tmp_path: Path, memos: MemOS, ada: Scope, ids: list[str]) -> None:
    kv = ada.transform(ids, to="activation")
    with MemOS.open(tmp_path / "memory", embedder=HashEmbedder()) as bare:
        assert bare.run_pending() == ()
        with pytest.raises(EngineMissing):
            bare.scope("ada").remake(kv.id)
        assert bare.scope("ada").demote(kv.id).cube_id == kv.id


async def test_the_async_twins_do_the_same(ada: Scope, ids: list[str]) -> None:
    kv = ada.transform(ids, to="activation")
    await ada.ademote(kv.id)
    assert len(await ada.ademotions()) == 1
    assert (await ada.aremake(kv.id)).payload == kv.payload
    assert (await ada.aremake_later(kv.id)).state == "waiting"
