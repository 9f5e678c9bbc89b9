"""Models from folders: lazily, shared, and with an error that helps where there is none."""

from __future__ import annotations

import gc
import shutil
from pathlib import Path

import pytest
import torch
from engine_parts import ask, cubes

from memos_core.engine import HFEngine
from memos_core.errors import InvalidInput, ModelNotFound
from memos_core.records import Placement
from memos_core.testing.models import DictActivations, tiny_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    model, tokenizer = tiny_model("qwen3")
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def test_a_folder_answers_as_the_model_in_memory(folder: Path) -> None:
    memories, store = cubes(), DictActivations()
    here = HFEngine.from_model(*tiny_model("qwen3")).generate(ask("text", memories))
    there = HFEngine.from_pretrained(folder, device="cpu")
    assert there.generate(ask("kv", memories, store=store)).text == here.text
    assert there.generate(ask("kv", memories, store=store)).usage.memory_tokens > 0


def test_nothing_is_loaded_before_it_is_needed(folder: Path) -> None:
    gc.collect()  # an engine of another test, whose weights this one would share
    engine = HFEngine.from_pretrained(folder)
    capabilities = engine.capabilities
    assert capabilities.context_window == 2048
    assert capabilities.placements == set(Placement)
    assert engine.count_tokens("My cat is called Biscuit.") > 3
    assert "model" not in engine._loaded._parts


def test_engines_of_one_model_share_weights_as_long_as_one_lives(folder: Path) -> None:
    first, second = HFEngine.from_pretrained(folder), HFEngine.from_pretrained(str(folder))
    assert first._loaded is second._loaded
    assert HFEngine.from_pretrained(folder, dtype="bfloat16")._loaded is not first._loaded
    assert HFEngine.from_pretrained(folder, dtype="torch.bfloat16").fingerprint
    identity = id(first._loaded.model)
    assert id(second._loaded.model) == identity
    del first, second
    gc.collect()
    assert "model" not in HFEngine.from_pretrained(folder)._loaded._parts


def test_the_dtype_is_the_one_of_the_configuration_unless_given(folder: Path, tmp_path: Path) -> None:
    model, tokenizer = tiny_model("llama")
    model.to(torch.bfloat16).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert HFEngine.from_pretrained(folder)._loaded.model.dtype is torch.float32
    assert HFEngine.from_pretrained(tmp_path)._loaded.model.dtype is torch.bfloat16
    assert HFEngine.from_pretrained(tmp_path, dtype="float32")._loaded.model.dtype is torch.float32
    with pytest.raises(InvalidInput, match="bfloat61"):
        HFEngine.from_pretrained(tmp_path, dtype="bfloat61")


def test_bfloat16_text_and_kv_run_through(tmp_path: Path) -> None:
    model, tokenizer = tiny_model("llama")
    engine = HFEngine.from_model(model.to(torch.bfloat16), tokenizer)
    memories, store = cubes(), DictActivations()
    engine.generate(ask("kv", memories, store=store))
    assert engine.generate(ask("kv", memories, store=store)).usage.memory_tokens > 0


@pytest.mark.parametrize("location", ["./nowhere", "/no/such/folder", "~/no-such-model", "a/b/c", "..\\models"])
def test_a_path_to_nothing_is_refused_at_once(location: str) -> None:
    with pytest.raises(ModelNotFound, match=r"config\.json"):
        HFEngine.from_pretrained(location)


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound):
        HFEngine.from_pretrained(tmp_path)


def test_a_hub_id_that_cannot_be_had_is_refused_at_first_use() -> None:
    engine = HFEngine.from_pretrained("nobody/no-such-model")
    with pytest.raises(ModelNotFound, match="nobody/no-such-model"):
        engine.generate(ask("text", cubes()))
    with pytest.raises(ModelNotFound):
        _ = engine.capabilities


@pytest.mark.parametrize("damage", ["weights_gone", "weights_cut", "config_broken", "tokenizer_gone"])
def test_a_damaged_folder_is_a_typed_error(folder: Path, tmp_path: Path, damage: str) -> None:
    copied = shutil.copytree(folder, tmp_path / "copy")
    weights = copied / "model.safetensors"
    if damage == "weights_gone":
        weights.unlink()
    elif damage == "weights_cut":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif damage == "config_broken":
        (copied / "config.json").write_text('{"model_type": "nothing-known"}', encoding="utf-8")
    else:
        for path in copied.glob("*token*"):
            path.unlink()
    with pytest.raises(ModelNotFound, match="cannot be loaded"):
        HFEngine.from_pretrained(copied).generate(ask("text", cubes()))
