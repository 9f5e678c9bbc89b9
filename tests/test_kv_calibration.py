"""The quality gate: what approximate KV costs is measured on the model itself, once, and the same each time."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest
import torch

from memos_core.engine.compose import ComposePolicy, Composer
from memos_core.engine.kv.assembly import Method
from memos_core.engine.kv.calibration import PROBES_V1, Calibration, calibrate, fact_block
from memos_core.engine.kv.rope import read_rotation
from memos_core.engine.loading import LoadedModel, MemorySource
from memos_core.errors import UnsupportedOption
from memos_core.testing.models import tiny_model

FAMILIES = ["llama", "qwen2", "qwen3", "gpt_neox", "phi3"]
METHODS = Method("shift"), Method("blend", 0.15, 1), Method("blend", 0.5, 1), Method("blend", 1.0, 1)


@torch.inference_mode()
def finish(work: Generator[Any, None, Any]) -> Any:
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value


def loaded(family: str = "llama", **overrides: Any) -> LoadedModel:
    return LoadedModel(MemorySource(*tiny_model(family, **overrides), family))


def measure(model: LoadedModel) -> Calibration:
    found: Calibration = finish(calibrate(model, "mark", read_rotation(model.model), METHODS))
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_figures_get_better_with_the_share_computed_anew(family: str) -> None:
    shift, little, half, everything = measure(loaded(family, num_hidden_layers=4)).figures
    assert shift.prompts == sum(len(questions) for _, questions in PROBES_V1.probes)
    assert shift.divergence > half.divergence > everything.divergence
    assert little.divergence > everything.divergence
    assert everything.divergence <= 1e-6
    assert everything.agreement == 1.0


def test_the_same_model_gives_the_same_figures() -> None:
    assert measure(loaded()) == measure(loaded())


def test_a_context_too_small_for_the_probes_is_refused() -> None:
    with pytest.raises(UnsupportedOption, match="too small"):
        measure(loaded(max_position_embeddings=128))


def test_a_template_that_changes_the_block_is_refused() -> None:
    model, tokenizer = tiny_model()
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] | upper }}\n{% endfor %}"
    with pytest.raises(UnsupportedOption, match="differently"):
        measure(LoadedModel(MemorySource(model, tokenizer, "upper")))


def test_it_is_measured_once_for_each_fingerprint() -> None:
    model = loaded()
    runs = []

    def run(work: Generator[Any, None, Any]) -> Any:
        runs.append(work)
        return finish(work)

    composer = Composer(ComposePolicy("auto"))
    first = composer.verdict(model, run, model.fingerprint)
    assert composer.verdict(model, run, model.fingerprint) is first
    assert len(runs) == 1
    with torch.no_grad():
        next(model.model.parameters()).mul_(1.5)
    composer.verdict(model, run, model.fingerprint)
    assert len(runs) == 2


def test_random_weights_pass_no_default_limit() -> None:
    model = loaded(num_hidden_layers=4)
    verdict = Composer(ComposePolicy("auto")).verdict(model, finish, model.fingerprint)
    assert verdict.method is None
    assert "gave way to exact" in verdict.note


def test_flash_attention_is_refused_by_name() -> None:
    model = loaded()
    model.model.config._attn_implementation_internal = "flash_attention_2"
    verdict = Composer(ComposePolicy("shift")).verdict(model, finish, "mark")
    assert "flash_attention_2 takes no mask" in verdict.note


def test_the_check_layer_lies_a_quarter_of_the_way_up_and_never_above_the_last() -> None:
    policy = ComposePolicy("blend")
    assert [policy.methods(layers)[0].check_layer for layers in (1, 2, 4, 28)] == [0, 1, 1, 7]


def test_probe_blocks_are_rendered_as_memories_are() -> None:
    block = fact_block(["One.", "Two."])
    assert block.text.endswith("instructions.\n- One.\n- Two.")
    assert [block.text[start:end] for start, end in zip(block.starts, block.ends, strict=True)] == ["- One.", "- Two."]
