"""Small adapters become one: proposed by a policy, distilled from the memories, and in their place when it passes."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from lora_parts import adapt, random_factors

from memos_core import EvolutionPolicy, HFEngine, MemCube, MemOS, Scope
from memos_core.engine.base import BuiltAdapter
from memos_core.engine.lora.adapter import encode, peft_config
from memos_core.errors import AdapterMismatch, AdapterOutdated, GateFailed, InvalidInput
from memos_core.operation.forms.fusion import together
from memos_core.principal import Principal
from memos_core.records import Placement
from memos_core.testing import FakeClock, HashEmbedder
from memos_core.testing.models import tiny_model
from memos_core.transform.base import Gate, Proposal

TEXTS = ("My cat is called Biscuit.", "I live in Lisbon.", "I work at the harbour.", "My dog is called Rex.")
QUESTION = "What is my cat called?"
FUSING = EvolutionPolicy(fuse_from=3, cold=0, keep_seconds=0)


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


@pytest.fixture
def small(ada: Scope, ids: list[str]) -> list[MemCube]:
    return [adapt(ada, [cube_id], seed=seed) for seed, cube_id in enumerate(ids)]


def fused(ada: Scope, small: list[MemCube], *, recall: float = 1.0) -> Proposal:
    """Return what a fusion of these adapters would propose, with a random adapter in the place of a trained one."""
    engine = ada.engine
    assert isinstance(engine, HFEngine)
    material = ada._layers.transforms.material(Principal("ada"), engine, [cube.id for cube in small])
    factors = random_factors(engine.loaded.model, seed=9)
    built = BuiltAdapter(encode(factors), peft_config(4, list(factors), "tiny"), engine.base_fingerprint, "tiny")
    names = tuple(cube.id for cube in material.fused)
    gates = (Gate("recall", recall, 1.0, 4),)
    parameters = {"fused": list(names)}
    return Proposal("parametric->parametric", material.sources, built, parameters, gates=gates, replaces=names)


def test_the_new_one_is_made_from_the_memories_of_all_and_takes_their_place(
    ada: Scope, ids: list[str], small: list[MemCube]
) -> None:
    made = ada._layers.transforms.commit(Principal("ada"), fused(ada, small))
    lineage = ada.get(made).header.descriptive.lineage
    assert (lineage.pathway, lineage.sources) == ("parametric->parametric", tuple((each, 1) for each in ids))
    assert {ada.get(cube.id).state for cube in small} == {"archived"}
    assert [cube.id for cube in ada.adapters.usable()] == [made]
    reply = ada.chat(QUESTION, memory_ids=ids, inject="lora", max_tokens=2)
    assert reply.plan.adapter_cube_ids == (made,)
    assert {memory.placed for memory in reply.plan.memories} == {Placement.LORA}


def test_one_that_fails_its_gates_leaves_the_others_in_use(ada: Scope, small: list[MemCube]) -> None:
    with pytest.raises(GateFailed):
        ada._layers.transforms.commit(Principal("ada"), fused(ada, small, recall=0.5))
    with pytest.raises(GateFailed, match="parametric->parametric"):  # a random model has nothing to teach
        ada.transform([cube.id for cube in small], to="parametric")
    assert len(ada.adapters.usable()) == 4


def test_the_old_ones_are_kept_until_the_new_one_has_served(
    memos: MemOS, ada: Scope, ids: list[str], small: list[MemCube], clock: FakeClock
) -> None:
    made = ada._layers.transforms.commit(Principal("ada"), fused(ada, small))
    clock.advance(3600)
    assert ada.evolve(policy=FUSING) == ()
    ada.archive(made)  # the way back
    ada.archive(small[0].id, archived=False)
    assert [cube.id for cube in ada.adapters.usable()] == [small[0].id]
    ada.archive(small[0].id)
    ada.archive(made, archived=False)
    ada.chat(QUESTION, memory_ids=ids, inject="lora", max_tokens=2)
    dropped = {each.cube_ids[0] for each in ada.evolve(policy=FUSING) if each.action == "demote"}
    assert dropped == {cube.id for cube in small}
    assert {each.cube_id for each in ada.demotions()} == dropped


def test_a_policy_fuses_many_small_adapters_and_gives_up_what_failed(
    memos: MemOS, ada: Scope, ids: list[str], small: list[MemCube]
) -> None:
    assert ada.evolve(policy=EvolutionPolicy(fuse_from=5), dry_run=True) == ()
    (decision,) = ada.evolve(policy=FUSING, dry_run=True)
    assert (decision.action, set(decision.cube_ids)) == ("fuse", {cube.id for cube in small})
    assert "4 adapters with 4 memories" in decision.reason
    (queued,) = ada.evolve(policy=FUSING)
    memos.run_pending()
    job = ada.job(queued.job_id or "")
    assert (job.state, job.attempts) == ("dead", 1)
    assert "GateFailed" in str(job.reason)
    assert ada.evolve(policy=FUSING) == ()
    ada.forget(ids[3])
    assert [len(each.cube_ids) for each in ada.evolve(policy=FUSING, dry_run=True)] == [3]


def test_what_a_fusion_may_hold_has_a_limit(ada: Scope, ids: list[str], small: list[MemCube]) -> None:
    policy = EvolutionPolicy(fuse_from=2, fuse_max_memories=3)
    assert [cube.id for cube in together(small, policy)] == [cube.id for cube in small[:3]]
    large = adapt(ada, ids[:3], seed=7)
    assert together([large, small[3]], policy) == ()
    assert together(small, EvolutionPolicy()) == ()


def test_only_adapters_that_can_be_made_anew_are_fused(
    ada: Scope, ids: list[str], small: list[MemCube], tmp_path: Path
) -> None:
    one, other = small[0].id, small[1].id
    full = adapt(ada, ids[2:], seed=8, acts="full").id
    ada.adapters.save(one, tmp_path / "out")
    outside = ada.adapters.load(tmp_path / "out", scope="tail").id
    for bad in (full, outside):
        with pytest.raises(InvalidInput, match="acts on every token or was brought from outside"):
            ada.transform([one, bad], to="parametric")
    with pytest.raises(InvalidInput, match="one adapter and nothing else"):
        ada.transform([one, other], to="plaintext")
    elsewhere = HFEngine.from_model(*tiny_model("llama", seed=5), name="other")
    with pytest.raises(AdapterMismatch):
        ada.with_engine(elsewhere).transform([one, other], to="parametric")
    elsewhere.close()
    ada.update(ids[0], "My cat is called Crumble.")
    with pytest.raises(AdapterOutdated):
        ada.transform([one, other], to="parametric")
