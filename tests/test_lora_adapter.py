"""Adapters as files and in the bank: PEFT's own format in and out, and nothing else gets in."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from lora_parts import payload, random_adapter, random_factors

from memos_core.engine.lora.adapter import Factors, check_fit, decode, encode, parse_config, peft_config
from memos_core.engine.lora.bank import AdapterBank
from memos_core.engine.lora.plan import LoRAPlan, Use, hooked
from memos_core.errors import AdapterMismatch, BlobDamaged, InvalidInput
from memos_core.testing.models import tiny_model

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
"""PEFT 0.21 asks transformers 5.23 for a name that it deprecates."""

IDS = torch.randint(3, 380, (1, 12), generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model("qwen3")[0]


@torch.inference_mode()
def ours(model: Any, adapter: Any) -> torch.Tensor:
    plan = LoRAPlan([[Use(adapter)]])
    with hooked(model, plan), plan.at(0, IDS.shape[1]):
        found: torch.Tensor = model(input_ids=IDS).logits
    return found


@pytest.mark.parametrize(
    "more", [{}, {"use_rslora": True}, {"alpha_pattern": {"q_proj": 3}, "rank_pattern": {"v_proj": 6}}]
)
def test_an_adapter_that_peft_saved_is_applied_as_peft_does(model: Any, tmp_path: Path, more: dict[str, Any]) -> None:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=4, lora_alpha=10, target_modules=["q_proj", "v_proj", "down_proj"], task_type="CAUSAL_LM", **more
    )
    wrapped = get_peft_model(copy.deepcopy(model), config).eval()
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    wrapped.save_pretrained(tmp_path)
    data = (tmp_path / "adapter_model.safetensors").read_bytes()
    settings = parse_config((tmp_path / "adapter_config.json").read_bytes())
    with torch.inference_mode():
        expected = wrapped(input_ids=IDS).logits
    torch.testing.assert_close(ours(model, decode(data, payload(data, settings))), expected, atol=1e-5, rtol=1e-5)


def test_ours_loads_in_plain_peft(model: Any, tmp_path: Path) -> None:
    import json

    from peft import PeftModel

    factors = random_factors(model)
    (tmp_path / "adapter_model.safetensors").write_bytes(encode(factors))
    settings = peft_config(4, list(factors), "tiny")
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    wrapped = PeftModel.from_pretrained(copy.deepcopy(model), tmp_path).eval()
    data = encode(factors)
    with torch.inference_mode():
        expected = wrapped(input_ids=IDS).logits
    torch.testing.assert_close(ours(model, decode(data, payload(data, settings))), expected, atol=1e-5, rtol=1e-5)


def test_equal_adapters_have_equal_bytes(model: Any) -> None:
    factors = random_factors(model)
    assert encode(factors) == encode(dict(reversed(factors.items())))


@pytest.mark.parametrize(
    ("field", "value"),
    [("use_dora", True), ("bias", "all"), ("modules_to_save", ["lm_head"]), ("peft_type", "IA3"), ("r", 0), ("r", "8")],
)
def test_what_is_more_than_plain_lora_is_refused(model: Any, field: str, value: Any) -> None:
    import json

    settings = {**peft_config(4, ["q_proj"], "tiny"), field: value}
    with pytest.raises(InvalidInput, match="adapter"):
        parse_config(json.dumps(settings))


@pytest.mark.parametrize("text", ["", "[]", "{", '{"peft_type": "LORA"}'])
def test_a_configuration_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_config(text)


def test_damaged_files_are_refused(model: Any) -> None:
    factors = random_factors(model)
    data, settings = encode(factors), peft_config(4, list(factors), "tiny")
    tensors = safetensors.torch.load(data)
    key = next(name for name in tensors if name.endswith("lora_B.weight"))
    halved = {name: each for name, each in tensors.items() if name != key}
    narrow = {**tensors, key: tensors[key][:, :1].contiguous()}
    foreign = {**tensors, "base_model.model.lm_head.weight": torch.zeros(2)}
    whole = {name: each.to(torch.int32) for name, each in tensors.items()}
    for bad in (
        b"",
        data[: len(data) // 2],
        b"\0" * 64,
        *map(safetensors.torch.save, (halved, narrow, foreign, whole, {})),
    ):
        with pytest.raises(BlobDamaged):
            decode(bad, payload(data, settings))


def test_an_adapter_of_another_shape_does_not_fit(model: Any) -> None:
    factors = random_factors(model)
    check_fit(factors, model, "a")
    with pytest.raises(AdapterMismatch, match="does not have"):
        check_fit(factors, tiny_model("gpt_neox")[0], "a")
    name, pair = next(iter(factors.items()))
    with pytest.raises(AdapterMismatch, match="do not fit"):
        check_fit({name: Factors(pair.down[:, 1:], pair.up)}, model, "a")


def test_the_bank_lets_the_least_recently_used_go(model: Any) -> None:
    adapters = [random_adapter(model, seed=seed) for seed in range(3)]
    bank = AdapterBank(2 * adapters[0].size_bytes)
    made: list[int] = []

    def get(index: int, owner: str = "ada") -> Any:
        def make() -> Any:
            made.append(index)
            return adapters[index]

        return bank.get(owner, f"c{index}", adapters[index].digest, make)

    assert get(0) is get(0) is adapters[0]
    get(1), get(0), get(2), get(0)
    assert made == [0, 1, 2]
    get(1)
    assert made == [0, 1, 2, 1]
    get(1, "ben")
    assert made == [0, 1, 2, 1, 1]
    bank.drop("ben")
    bank.drop("ada", ["c1"])
    assert bank.loaded_bytes <= adapters[0].size_bytes
    bank.drop("ada")
    assert bank.loaded_bytes == 0


def test_the_bank_makes_anew_what_has_other_content_and_keeps_nothing_too_large(model: Any) -> None:
    first, second = random_adapter(model, seed=0), random_adapter(model, seed=1)
    bank = AdapterBank(first.size_bytes)
    assert bank.get("ada", "c", first.digest, lambda: first) is first
    assert bank.get("ada", "c", second.digest, lambda: second) is second
    assert bank.loaded_bytes == second.size_bytes
    small = AdapterBank(10)
    assert small.get("ada", "c", first.digest, lambda: first) is first
    assert small.loaded_bytes == 0
