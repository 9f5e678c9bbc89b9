"""The quality gate: what approximate KV costs is measured on the model itself, once, and the same each time."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import torch
from kv_parts import ONE_BLOCK

from memos_core.engine import HFEngine
from memos_core.engine.compose import ComposePolicy, Composer
from memos_core.engine.kv.assembly import Method
from memos_core.engine.kv.calibration import Answers, Calibration, Figures, calibrate, fact_block
from memos_core.engine.kv.calibrations import CalibrationFolder
from memos_core.engine.kv.probes import PROBES_V2, ProbeSet
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
    found: Calibration = finish(calibrate(model, "mark", read_rotation(model.model), METHODS, ONE_BLOCK))
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_figures_get_better_with_the_share_computed_anew(family: str) -> None:
    shift, little, half, everything = measure(loaded(family, num_hidden_layers=4)).figures
    assert shift.prompts == 2
    assert shift.divergence > half.divergence > everything.divergence
    assert little.divergence > everything.divergence
    assert everything.divergence <= 1e-6
    assert everything.agreement == 1.0
    assert [(each.kind, each.same) for each in everything.answers] == [("self-contained", 1), ("cross", 1)]


def test_the_same_model_gives_the_same_figures() -> None:
    assert measure(loaded()) == measure(loaded())


def test_a_context_too_small_for_the_probes_is_refused() -> None:
    with pytest.raises(UnsupportedOption, match="too small"):
        measure(loaded(max_position_embeddings=96))


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

    composer = Composer(ComposePolicy("auto", probes=ONE_BLOCK))
    first = composer.verdict(model, run, model.fingerprint)
    assert composer.verdict(model, run, model.fingerprint) is first
    assert len(runs) == 1
    with torch.no_grad():
        next(model.model.parameters()).mul_(1.5)
    composer.verdict(model, run, model.fingerprint)
    assert len(runs) == 2


def test_random_weights_pass_no_default_limit() -> None:
    model = loaded(num_hidden_layers=4)
    verdict = Composer(ComposePolicy("auto", probes=ONE_BLOCK)).verdict(model, finish, model.fingerprint)
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


def figures(*answers: Answers, divergence: float = 0.2) -> Figures:
    return Figures(Method("shift"), divergence, 1.0, answers)


def test_answers_kept_decide_and_not_how_far_the_distribution_moves() -> None:
    policy = ComposePolicy("shift")
    assert policy.passes(figures(Answers("self-contained", 48, 40, 46, 46), Answers("cross", 24, 3, 20, 19)))
    assert not policy.passes(figures(Answers("self-contained", 48, 47, 46, 45), Answers("cross", 24, 24, 20, 20)))
    assert not policy.passes(figures(Answers("self-contained", 48, 48, 46, 46), Answers("cross", 24, 24, 20, 18)))


def test_a_bound_of_the_divergence_decides_too_where_one_is_set() -> None:
    kept = figures(Answers("self-contained", 48, 48, 46, 46))
    assert ComposePolicy("shift", max_divergence=0.3).passes(kept)
    assert not ComposePolicy("shift", max_divergence=0.1).passes(kept)


def test_a_model_that_answers_little_right_must_say_the_same_and_stay_near() -> None:
    policy = ComposePolicy("shift")
    assert not policy.passes(figures(Answers("self-contained", 48, 48, 7, 7), divergence=0.06))
    assert policy.passes(figures(Answers("self-contained", 48, 48, 7, 7), divergence=0.04))
    assert not policy.passes(figures(Answers("self-contained", 48, 47, 7, 7), divergence=0.04))


def test_figures_are_kept_in_a_folder_and_a_damaged_file_is_measured_anew(tmp_path: Path) -> None:
    model, runs = loaded(), []

    def run(work: Generator[Any, None, Any]) -> Any:
        runs.append(work.__name__)
        return finish(work)

    policy = ComposePolicy("auto", probes=ONE_BLOCK, folder=tmp_path / "figures")
    notes = [Composer(policy).verdict(model, run, model.fingerprint).note for _ in range(2)]
    assert runs == ["measured", "rotated"]
    [file] = (tmp_path / "figures").iterdir()
    file.write_bytes(file.read_bytes()[:-20])
    notes.append(Composer(policy).verdict(model, run, model.fingerprint).note)
    assert runs[2:] == ["measured"]
    assert len(set(notes)) == 1
    assert CalibrationFolder(tmp_path / "figures").read("other", "one block", policy.methods(2)) is None


def test_figures_that_cannot_be_kept_hold_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    model = loaded()
    policy = ComposePolicy("shift", probes=ONE_BLOCK, folder=tmp_path / "file" / "figures")
    with pytest.warns(RuntimeWarning, match="could not be kept"):
        assert "gave way to exact" in Composer(policy).verdict(model, finish, model.fingerprint).note


def test_the_probes_ask_of_one_memory_and_of_two() -> None:
    kinds = [each.kind for block in PROBES_V2.blocks for each in block.probes]
    assert (kinds.count("self-contained"), kinds.count("cross")) == (48, 24)
    for block in PROBES_V2.blocks:
        for probe in block.probes:
            assert sum(probe.answer in fact for fact in block.facts) == 1
        assert len(set(block.facts)) == len(block.facts)


def test_the_bundled_reader_keeps_its_answers() -> None:
    engine = HFEngine.from_pretrained("memos-reader", device="cpu")
    found = engine.calibrate(ComposePolicy("shift", probes=ProbeSet("few", PROBES_V2.blocks[:2])))
    engine.close()
    [direct, _] = found.figures[0].answers
    assert direct.right_in_full >= 7
    assert direct.kept == direct.right_in_full
