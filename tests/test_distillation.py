"""Training an adapter from memories: the mechanics on tiny random models, and the whole way on the bundled reader."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_parts import cubes
from lora_parts import FAMILIES

from memos_core import HFEngine, MemoryType, MemOS, Scope
from memos_core.errors import GateFailed, InvalidInput, UnsupportedOption
from memos_core.testing import HashEmbedder
from memos_core.testing.models import DictActivations, tiny_model
from memos_core.transform import Material, Progress, pathway
from memos_core.transform.course import Sizes
from memos_core.transform.distill import Distiller, DistillSettings, Lessons
from memos_core.transform.gates import plan_of
from memos_core.transform.lessons import Lesson, Reading
from memos_core.transform.parametric import Distillation
from memos_core.transform.prefixes import Prefixes
from memos_core.transform.study import Question
from memos_core.transform.whitening import second_moments, whiteners

FEW = DistillSettings(steps=12, batch=4, check_every=4)


class DictCheckpoint:
    """A ``Checkpoint`` in memory."""

    def __init__(self) -> None:
        self.data: bytes | None = None

    def load(self) -> bytes | None:
        return self.data

    def save(self, data: bytes) -> None:
        self.data = data


def lesson(seed: int, *, start: int = 0) -> Lesson:
    """Return a lesson of random tokens."""
    random = torch.Generator().manual_seed(seed)
    prompt = tuple(torch.randint(3, 380, (8 + seed % 5,), generator=random).tolist())
    answer = tuple(torch.randint(3, 380, (3,), generator=random).tolist())
    top = torch.tensor(answer)[:, None]
    return Lesson(Question(str(seed), 0, seed), prompt, start, answer, top, torch.ones_like(top, dtype=torch.float32))


LESSONS = Lessons(own=[lesson(1), lesson(2), lesson(3, start=4)], foreign=[lesson(4, start=4)], quiet=[lesson(5)])


def learned_nothing(_: object) -> float:
    return 0.0


def trained(model: Any, settings: DistillSettings = FEW, **options: Any) -> Distiller:
    distiller = Distiller(model, settings, seed=3)
    distiller.train(LESSONS, learned=options.pop("learned", learned_nothing), **options)
    return distiller


@pytest.mark.parametrize("family", FAMILIES)
def test_lessons_are_learned_and_the_model_is_left_as_it_was(family: str) -> None:
    model, tokenizer = tiny_model(family)
    before = {name: each.clone() for name, each in model.state_dict().items()}
    reading = Reading(HFEngine.from_model(model, tokenizer).loaded)
    settings = DistillSettings(steps=60, check_every=20, patience=9, locality=0, quiet=0, whitening=0, rank=8)
    distiller = trained(model, settings, learned=lambda a: sum(reading.says(LESSONS.own, plan_of(a))) / 3)
    assert reading.says(LESSONS.own, plan_of(distiller.adapter())) == [True, True, True]
    assert not any(reading.says(LESSONS.own))
    assert all(torch.equal(before[name], each) for name, each in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_same_seed_gives_the_same_adapter() -> None:
    model, _ = tiny_model("llama")
    first, second = trained(model), trained(model)
    for name, pair in first.factors.items():
        assert torch.equal(pair.up, second.factors[name].up)
    assert any(bool(pair.up.abs().sum()) for pair in first.factors.values())


def test_an_interrupted_training_goes_on_as_if_it_had_not_been() -> None:
    model, _ = tiny_model("llama")
    whole, checkpoint = trained(model), DictCheckpoint()

    def stop(progress: Progress) -> None:
        if progress.done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(model, progress=stop, checkpoint=checkpoint)
    resumed = trained(model, checkpoint=checkpoint)
    assert resumed.steps_done == whole.steps_done == 12
    for name, pair in whole.factors.items():
        torch.testing.assert_close(pair.up, resumed.factors[name].up, atol=1e-7, rtol=1e-5)


def test_a_state_of_another_training_is_refused() -> None:
    model, _ = tiny_model("llama")
    checkpoint = DictCheckpoint()
    trained(model, checkpoint=checkpoint)
    with pytest.raises(InvalidInput, match="other settings"):
        trained(model, DistillSettings(steps=11), checkpoint=checkpoint)
    with pytest.raises(InvalidInput, match="another model"):
        trained(tiny_model("gpt_neox")[0], checkpoint=checkpoint)
    for bad in (b"", b"spoilt", (checkpoint.data or b"")[:100]):
        checkpoint.data = bad
        with pytest.raises(InvalidInput, match="no saved state"):
            trained(model, checkpoint=checkpoint)


def test_training_stops_where_nothing_improves() -> None:
    model, _ = tiny_model("llama")
    assert trained(model, DistillSettings(steps=100, check_every=2, patience=3)).steps_done == 6


def test_gradient_checkpointing_gives_the_same_adapter() -> None:
    model, _ = tiny_model("llama")
    settings = FEW.model_copy(update={"whitening": 0.1})  # of two lessons: a lower floor would magnify rounding
    plain = trained(model, settings)
    other = trained(model, settings.model_copy(update={"gradient_checkpointing": True}))
    for name, pair in plain.factors.items():
        torch.testing.assert_close(pair.up, other.factors[name].up, atol=1e-5, rtol=1e-4)
    assert not model.training


def test_a_model_in_bfloat16_gets_an_adapter_that_was_trained_in_float32() -> None:
    model, _ = tiny_model("llama")
    distiller = trained(model.to(torch.bfloat16))
    assert all(each.dtype == torch.float32 for pair in distiller.factors.values() for each in pair)
    assert all(each.dtype == torch.bfloat16 for pair in distiller.adapter().modules.values() for each in pair)
    assert any(bool(pair.up.abs().sum()) for pair in distiller.factors.values())


def test_whitened_inputs_are_part_of_the_adapter_and_foreign_directions_weigh_less() -> None:
    model, _ = tiny_model("llama")
    name = "model.layers.1.mlp.down_proj"
    moments = second_moments(model, [LESSONS.foreign[0], LESSONS.quiet[0]], [name], Prefixes(model))
    whole = second_moments(model, [LESSONS.foreign[0], LESSONS.quiet[0]], [name], None)
    torch.testing.assert_close(moments[name], whole[name], atol=1e-4, rtol=1e-4)
    matrix = whiteners(moments, 0.01)[name]
    values, vectors = torch.linalg.eigh(moments[name])
    gains = (matrix @ vectors).norm(dim=0)
    assert gains[0] > 5 * gains[-1]
    assert values[0] < values[-1]
    distiller = trained(model)
    down, _ = distiller.adapter().modules[name]
    torch.testing.assert_close(down, distiller.factors[name].down.detach() @ distiller.whiteners[name])


def test_only_named_modules_are_trained() -> None:
    model, _ = tiny_model("llama")
    distiller = Distiller(model, DistillSettings(targets=("down_proj",)))
    assert len(distiller.factors) == 2
    with pytest.raises(InvalidInput, match="no linear modules"):
        Distiller(model, DistillSettings(targets=("nothing",)))


# The whole way


@pytest.fixture(scope="module")
def reader() -> Iterator[HFEngine]:
    engine = HFEngine.from_pretrained("memos-reader")
    yield engine
    engine.close()


@pytest.fixture
def ada(tmp_path: Path, reader: HFEngine) -> Iterator[Scope]:
    with MemOS.open(tmp_path / "memory", engine=reader, embedder=HashEmbedder()) as memos:
        yield memos.scope("ada")


def test_memories_without_a_statement_stay_text_and_the_reason_is_told(ada: Scope) -> None:
    cube_id = ada.add("Hm, well, perhaps.").cube_id or ""
    with pytest.raises(GateFailed, match="no question could be made of 1 of 1 memories"):
        ada.transform(cube_id, to="parametric")
    assert ada.count(type="parametric") == 0


def test_a_model_that_does_not_read_its_memory_cannot_teach_it() -> None:
    engine = HFEngine.from_model(*tiny_model("llama"), name="tiny")
    material = Material(engine, tuple(cubes("My cat is called Biscuit.")), DictActivations())
    with pytest.raises(GateFailed, match="answers 0 of 1 statements right while it reads them"):
        Distillation(FEW).propose(material)
    engine.close()


def test_too_few_steps_fail_the_gates_and_leave_the_memory_in_text(reader: HFEngine) -> None:
    material = Material(reader, tuple(cubes("Mira's cat is called Biscuit.")), DictActivations())
    stages: list[str] = []
    settings = DistillSettings(steps=2, check_every=1, batch=2, foreign_batch=1, quiet_batch=1)
    few = Distillation(settings, sizes=Sizes(8, 8, 8, 8, 8, 8, 8))
    proposal = few.propose(
        Material(reader, material.cubes, material.activations, progress=lambda told: stages.append(told.stage))
    )
    assert not proposal.passed
    assert any(failure.startswith("recall 0.000") for failure in proposal.failures)
    assert stages[0] == "making questions"
    assert stages[-1] == "examining"
    assert proposal.target is MemoryType.PARAMETRIC
    assert proposal.parameters["templates"] == "study/2"
    assert proposal.parameters["strangers"] == "strangers/1"
    assert 0 <= proposal.fidelity["foreign memory in context"] <= 1


def test_an_engine_without_a_model_cannot_distil(reader: HFEngine) -> None:
    material = Material(object(), tuple(cubes()), DictActivations())  # type: ignore[arg-type]
    with pytest.raises(UnsupportedOption, match="needs the model itself"):
        pathway(MemoryType.PLAINTEXT, MemoryType.PARAMETRIC).propose(material)
