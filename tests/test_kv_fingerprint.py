"""Any difference in what KV depends on is another fingerprint, and nothing else is."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from memos_core.engine import HFEngine
from memos_core.testing.models import CHAT_TEMPLATE, tiny_model, tiny_tokenizer


def mark(model: Any, tokenizer: Any) -> str:
    return HFEngine.from_model(model, tokenizer).fingerprint


@pytest.fixture(scope="module")
def reference() -> str:
    return mark(*tiny_model("llama"))


def test_the_same_model_made_again_has_the_same_fingerprint(reference: str) -> None:
    assert mark(*tiny_model("llama")) == reference


def one_weight(model: Any) -> None:
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[0, 0] += 1e-6


@pytest.mark.parametrize(
    "overrides",
    [
        {"seed": 1},
        {"attention": "eager"},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 20000.0}},
        {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}},
        {"rms_norm_eps": 1e-5},
        {"max_position_embeddings": 1024},
    ],
    ids=str,
)
def test_another_model_or_configuration_is_another_fingerprint(reference: str, overrides: dict[str, Any]) -> None:
    assert mark(*tiny_model("llama", **overrides)) != reference


def test_one_weight_changed_by_a_millionth_is_another_fingerprint(reference: str) -> None:
    model, tokenizer = tiny_model("llama")
    one_weight(model)
    assert mark(model, tokenizer) != reference


def test_weights_changed_while_an_engine_holds_them_are_noticed(reference: str) -> None:
    model, tokenizer = tiny_model("llama")
    engine = HFEngine.from_model(model, tokenizer)
    assert engine.fingerprint == reference
    one_weight(model)
    assert engine.fingerprint != reference


def test_another_dtype_is_another_fingerprint(reference: str) -> None:
    model, tokenizer = tiny_model("llama")
    assert mark(model.to(torch.bfloat16), tokenizer) != reference


@pytest.mark.parametrize(
    "tokenizer",
    [tiny_tokenizer(380), tiny_tokenizer(chat_template=CHAT_TEMPLATE + " "), tiny_tokenizer(chat_template=None)],
)
def test_another_tokenizer_or_template_is_another_fingerprint(reference: str, tokenizer: Any) -> None:
    model, _ = tiny_model("llama")
    assert mark(model, tokenizer) != reference


def test_an_added_token_is_another_fingerprint(reference: str) -> None:
    model, tokenizer = tiny_model("llama")
    tokenizer.add_tokens(["<extra>"])
    assert mark(model, tokenizer) != reference


def test_padding_and_truncation_of_the_tokenizer_do_not_count(reference: str) -> None:
    model, tokenizer = tiny_model("llama")
    tokenizer(["a", "a longer text"], padding=True, truncation=True, max_length=3)
    assert mark(model, tokenizer) == reference


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    model, tokenizer = tiny_model("llama")
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def test_a_folder_that_was_moved_keeps_its_fingerprint(folder: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(folder, tmp_path / "copy")
    assert HFEngine.from_pretrained(copied).fingerprint == HFEngine.from_pretrained(folder).fingerprint


def flip_last_byte(path: Path) -> None:
    data = bytearray((path / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (path / "model.safetensors").write_bytes(data)


def change_template(path: Path) -> None:
    (path / "chat_template.jinja").write_text(CHAT_TEMPLATE.replace("\n", "\n\n", 1), encoding="utf-8")


def change_config(path: Path) -> None:
    text = (path / "config.json").read_text(encoding="utf-8")
    (path / "config.json").write_text(text.replace('"rope_theta": 10000.0', '"rope_theta": 10001.0'), encoding="utf-8")


@pytest.mark.parametrize("change", [flip_last_byte, change_template, change_config])
def test_a_changed_file_is_another_fingerprint(folder: Path, tmp_path: Path, change: Callable[[Path], None]) -> None:
    copied = shutil.copytree(folder, tmp_path / "copy")
    before = copy.copy(HFEngine.from_pretrained(folder).fingerprint)
    change(copied)
    assert HFEngine.from_pretrained(copied).fingerprint != before


def test_dtype_and_attention_of_a_folder_count(folder: Path) -> None:
    marks = {
        HFEngine.from_pretrained(folder, dtype=dtype, attn_implementation=attention).fingerprint
        for dtype in ("float32", "bfloat16")
        for attention in ("sdpa", "eager")
    }
    assert len(marks) == 4
