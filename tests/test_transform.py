"""Pathways return proposals and commit nothing; the operation layer commits what passes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from engine_parts import cubes, engine
from lora_parts import adapt

from memos_core import HFEngine, MemoryType, MemOS
from memos_core.errors import GateFailed, InvalidInput
from memos_core.principal import Principal
from memos_core.testing import HashEmbedder
from memos_core.testing.models import DictActivations
from memos_core.transform import PATHWAYS, Gate, Material, pathway
from memos_core.transform.base import BuiltText, Cost, Meter, Proposal
from memos_core.transform.elicit import Elicitation


@pytest.fixture(scope="module")
def tiny() -> Iterator[HFEngine]:
    made = engine()
    yield made
    made.close()


@pytest.fixture
def memos(tmp_path: Path, tiny: HFEngine) -> Iterator[MemOS]:
    with MemOS.open(tmp_path / "memory", engine=tiny, embedder=HashEmbedder()) as memos:
        yield memos


def test_prefill_proposes_and_stores_nothing(tiny: HFEngine) -> None:
    store, memories = DictActivations(), tuple(cubes())
    proposal = pathway(MemoryType.PLAINTEXT, MemoryType.ACTIVATION).propose(Material(tiny, memories, store))
    assert proposal.target is MemoryType.ACTIVATION
    assert proposal.sources == tuple((cube.id, 1) for cube in memories)
    assert proposal.passed
    assert proposal.cost.bytes == len(proposal.product.data)  # type: ignore[union-attr]
    assert proposal.cost.seconds > 0
    assert not store.published


def test_the_lineage_of_a_derived_cube_says_what_it_cost(memos: MemOS) -> None:
    ada = memos.scope("ada")
    ids = [ada.add(text).cube_id or "" for text in ("My cat is called Biscuit.", "I live in Lisbon.")]
    derived = ada.transform(ids, to="activation")
    lineage = derived.header.descriptive.lineage
    assert lineage.pathway == "plaintext->activation"
    assert lineage.sources == tuple((cube_id, 1) for cube_id in ids)
    assert {"seconds", "cpu_seconds", "bytes", "fidelity", "gates"} <= set(lineage.parameters)
    assert ada.transform(list(reversed(ids)), to="activation").id == derived.id


def test_what_fails_a_gate_is_not_stored(memos: MemOS) -> None:
    ada = memos.scope("ada")
    cube_id = ada.add("My cat is called Biscuit.").cube_id or ""
    transforms = memos._layers.transforms
    material = transforms.material(Principal("ada"), ada.engine, [cube_id])  # type: ignore[arg-type]
    made = pathway(MemoryType.PLAINTEXT, MemoryType.ACTIVATION).propose(material)
    gates = (Gate("recall", 0.5, 1.0, 4), Gate("peers", 0.0, 0.9, 0, "there are none"))
    bad = Proposal(made.pathway, made.sources, made.product, gates=gates)
    with pytest.raises(GateFailed, match=r"recall 0\.500 of 4 questions, 1 is required") as caught:
        transforms.commit(Principal("ada"), bad)
    assert len(caught.value.failures) == 1
    assert ada.count(type="activation") == 0


def test_a_proposal_whose_source_changed_is_not_stored(memos: MemOS) -> None:
    ada = memos.scope("ada")
    cube_id = ada.add("My cat is called Biscuit.").cube_id or ""
    transforms = memos._layers.transforms
    material = transforms.material(Principal("ada"), ada.engine, [cube_id])  # type: ignore[arg-type]
    made = pathway(MemoryType.PLAINTEXT, MemoryType.ACTIVATION).propose(material)
    ada.update(cube_id, "My cat is called Crumble.")
    with pytest.raises(InvalidInput, match="changed"):
        transforms.commit(Principal("ada"), made)


def test_kv_is_read_back_word_for_word(memos: MemOS) -> None:
    ada = memos.scope("ada")
    texts = ["My cat is called Biscuit.", "Zürich: 雪 and\n  two lines.", "- a bullet <|im_end|>"]
    ids = [ada.add(text, speaker="Ben").cube_id or "" for text in texts]
    read = ada.transform(ada.transform(ids, to="activation").id, to="plaintext")
    assert read.text.splitlines()[0] == "Ben: My cat is called Biscuit."
    assert "雪 and\n" in read.text
    lineage = read.header.descriptive.lineage
    assert lineage.pathway == "activation->plaintext"
    assert set(ids) < {cube_id for cube_id, _ in lineage.sources}
    assert lineage.parameters["fidelity"] == {"memories read back word for word": 1.0}
    assert ada.search("Biscuit", k=5)


def test_kv_of_one_plain_memory_is_read_back_as_that_memory(memos: MemOS) -> None:
    ada = memos.scope("ada")
    cube_id = ada.add("My cat is called Biscuit.").cube_id or ""
    assert ada.transform(ada.transform(cube_id, to="activation").id, to="plaintext").id == cube_id


def test_what_is_asked_out_of_an_adapter_is_scored_against_its_lineage(memos: MemOS) -> None:
    ada = memos.scope("ada")
    cube_id = ada.add("My cat is called Biscuit.").cube_id or ""
    lora = adapt(ada, [cube_id])
    with pytest.raises(GateFailed, match=r"answers that agree with the lineage 0\.000 of 1"):
        ada.transform(lora.id, to="plaintext")
    material = memos._layers.transforms.material(Principal("ada"), ada.engine, [lora.id])  # type: ignore[arg-type]
    made = Elicitation(required=0.0).propose(material)
    text = ada.get(memos._layers.transforms.commit(Principal("ada"), made)).text
    assert text.startswith("What is my cat called? ")
    ada.forget(cube_id)
    assert ada.count() == 0


def test_an_adapter_is_distilled_from_kv_by_the_memories_that_it_holds(memos: MemOS) -> None:
    ada = memos.scope("ada")
    cube_id = ada.add("My cat is called Biscuit.").cube_id or ""
    kv = ada.transform(cube_id, to="activation")
    with pytest.raises(GateFailed, match="answers 0 of 1 statements right"):  # a random model reads nothing
        ada.transform(kv.id, to="parametric")
    ada.update(cube_id, "My cat is called Crumble.")
    with pytest.raises(InvalidInput, match="has changed or is out of use"):
        ada.transform(kv.id, to="parametric")


def test_there_is_a_pathway_for_every_row_and_none_besides() -> None:
    for source, target in PATHWAYS:
        assert pathway(source, target).name == f"{source}->{target}"
    with pytest.raises(InvalidInput, match="there is no pathway"):
        pathway(MemoryType.PLAINTEXT, MemoryType.PLAINTEXT)


def test_a_pathway_refuses_to_begin_with_nothing(tiny: HFEngine) -> None:
    for source, target in PATHWAYS:
        with pytest.raises(InvalidInput, match=f"begins with {source}"):
            pathway(source, target).propose(Material(tiny, (), DictActivations()))


def test_a_meter_counts_time_and_a_proposal_records_it() -> None:
    with Meter.running() as meter:
        sum(range(100_000))
    proposal = Proposal("x->y", (), BuiltText("words"), {"steps": 3}, meter.cost(5), {"recall": 1.0})
    assert proposal.record["steps"] == 3
    assert proposal.record["bytes"] == 5
    assert proposal.cost.cpu_seconds > 0
    assert Cost().seconds == 0
