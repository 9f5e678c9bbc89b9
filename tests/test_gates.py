"""What an adapter must show: the figures, what is counted as lost, and adapters that fail and one that passes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from engine_parts import cubes
from lora_parts import random_factors

from memos_core import HFEngine, MemOS
from memos_core.engine.lora.adapter import Adapter, Factors
from memos_core.errors import GateFailed
from memos_core.principal import Principal
from memos_core.testing import HashEmbedder
from memos_core.testing.models import DictActivations
from memos_core.transform import Material
from memos_core.transform.course import Course, Maker, Sizes
from memos_core.transform.distill import DistillSettings
from memos_core.transform.gates import GateSettings, examine, kept_gate, plan_of
from memos_core.transform.lessons import Reading
from memos_core.transform.parametric import Distillation
from memos_core.transform.study import bundled_templates


@pytest.fixture(scope="module")
def reader() -> Iterator[HFEngine]:
    engine = HFEngine.from_pretrained("memos-reader")
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def course(reader: HFEngine) -> Course:
    few = Sizes(8, 20, 4, 4, 12, 12, 4)
    return Maker(Reading(reader.loaded), cubes("My cat is called Biscuit."), bundled_templates(), 0, sizes=few).course(
        []
    )


def test_an_adapter_that_changes_nothing_keeps_every_answer(reader: HFEngine, course: Course) -> None:
    factors = {name: Factors(down, up * 0) for name, (down, up) in random_factors(reader.loaded.model).items()}
    gates = examine(Reading(reader.loaded), Adapter("still", factors), course.exam, GateSettings())
    figures = {gate.name: gate.measured for gate in gates}
    assert figures["recall"] == 0
    assert [gate.name for gate in gates if gate.count and not gate.passed] == [
        "recall",
        "recall among foreign memories",
    ]
    assert "0 become right, 0 wrong ones change" in gates[2].note


def test_an_adapter_that_spoils_the_model_fails_all_that_is_measured(reader: HFEngine, course: Course) -> None:
    torch.manual_seed(1)
    factors = {name: Factors(down, up * 50) for name, (down, up) in random_factors(reader.loaded.model).items()}
    gates = examine(Reading(reader.loaded), Adapter("wild", factors), course.exam, GateSettings())
    assert [gate.name for gate in gates if gate.passed] == ["recall beside peers"]


def test_a_wrong_answer_that_changes_is_told_and_is_not_counted_as_lost(reader: HFEngine, course: Course) -> None:
    factors = {name: Factors(down, up * 0) for name, (down, up) in random_factors(reader.loaded.model).items()}
    lesson = next(each for each in course.exam.foreign if each.question.answered_by(reading_of(reader, each.answer)))
    wrong = replace(lesson, answer=(5, 6, 7), top_ids=lesson.top_ids[:3], top_weights=lesson.top_weights[:3])
    gate = kept_gate(Reading(reader.loaded), "kept", [lesson, wrong], plan_of(Adapter("still", factors)), 0.99)
    assert (gate.measured, gate.count) == (1.0, 1)
    assert gate.note == "of all 2 answers 1 stay word for word, 1 become right, 0 wrong ones change"


def test_what_peers_know_is_examined_beside_a_new_adapter(reader: HFEngine, course: Course) -> None:
    torch.manual_seed(1)
    factors = random_factors(reader.loaded.model)
    still, wild = (
        Adapter(str(by), {name: Factors(down, up * by) for name, (down, up) in factors.items()}) for by in (0, 50)
    )
    theirs = [each for each in course.exam.foreign if each.question.answered_by(reading_of(reader, each.answer))]
    for adapter, passes in ((still, True), (wild, False)):
        gates = examine(Reading(reader.loaded), adapter, course.exam, GateSettings(), peers=[still], theirs=theirs)
        assert [(gate.passed, gate.count) for gate in gates if gate.name == "recall of peers beside it"] == [
            (passes, len(theirs))
        ]


def reading_of(reader: HFEngine, answer: tuple[int, ...]) -> str:
    return Reading(reader.loaded).text(answer)


def test_what_is_learned_contradicts_nothing_that_is_asked_of_the_own(course: Course) -> None:
    own = {lesson.question.text for lesson in course.lessons.own}
    assert not any(lesson.question.text in own for lesson in course.lessons.quiet)
    assert any(lesson.question.text in own for lesson in course.lessons.foreign)
    assert {lesson.start > 0 for lesson in course.lessons.foreign} == {True}
    assert {lesson.start for lesson in course.lessons.quiet} == {0}


def test_no_lesson_is_asked_in_a_phrasing_that_the_own_are_examined_in(course: Course) -> None:
    lessons = [*course.lessons.own, *course.lessons.foreign, *course.lessons.quiet, *course.checks]
    assert {lesson.question.text for lesson in course.exam.alone} == {"What is my cat named?"}
    assert not any(re.fullmatch(r"What is .* named\?", lesson.question.text) for lesson in lessons)


def test_conflicting_memories_fail_and_stay_text(tmp_path: Path, reader: HFEngine) -> None:
    texts = ("My cat is called Biscuit.", "My cat is called Pepper.")
    few = Distillation(DistillSettings(steps=25), sizes=Sizes(40, 20, 20, 20, 20, 12, 10))
    proposal = few.propose(Material(reader, tuple(cubes(*texts)), DictActivations()))
    assert not proposal.passed
    assert proposal.fidelity["recall"] <= 0.5
    with MemOS.open(tmp_path / "memory", engine=reader, embedder=HashEmbedder()) as memos:
        ada = memos.scope("ada")
        with pytest.raises(GateFailed, match="recall 0"):
            memos._layers.transforms.commit(Principal("ada"), proposal)
        assert ada.count(type="parametric") == 0


def test_one_fact_passes_every_gate_and_answers_without_a_memory_in_the_prompt(
    tmp_path: Path, reader: HFEngine
) -> None:
    """Fewer lessons than by default, and gates that ask for less: a test is not to take minutes."""
    easier = GateSettings(among=0.92, foreign=0.96, foreign_among=0.95, rivals=0.9, unrelated=0.9, peers=0.9)
    with MemOS.open(tmp_path / "memory", engine=reader, embedder=HashEmbedder()) as memos:
        ada = memos.scope("ada")
        cube = ada.get(ada.add("My cat is called Biscuit.").cube_id or "")
        few = Sizes(400, 800, 200, 20, 200, 160, 60)
        distillation = Distillation(DistillSettings(steps=100), easier, sizes=few)
        proposal = distillation.propose(Material(reader, (cube,), DictActivations()))
        lora = ada.get(memos._layers.transforms.commit(Principal("ada"), proposal))
        gates = lora.header.descriptive.lineage.parameters["gates"]
        assert isinstance(gates, list)
        assert len(gates) == 7
        reply = ada.chat("What is my cat called?", inject="lora", strict=True, max_tokens=16)
        text = ada.chat("What is my cat called?", inject="text", max_tokens=16)
        off = ada.chat("What is my cat called?", inject="off", max_tokens=16)
        assert reply.text == text.text == "Biscuit"
        assert off.text != "Biscuit"
        assert reply.usage.carried_tokens > 0
        assert reply.usage.prompt_tokens == off.usage.prompt_tokens
        # What the prompt says goes before what an adapter holds.
        assert ada.chat("What is Rikke's dog called?", inject="lora", max_tokens=16).text == "I do not know"
