"""Families that nothing here was written for: stored KV gives what the full prompt gives, or is refused by name."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers
from engine_parts import ask, cubes
from kv_parts import greedy, prompt_ids, stored
from lora_parts import DictBlobs
from test_kv_exactness import divergence

from memos_core.engine import HFEngine
from memos_core.engine.kv.cache import container, new_cache
from memos_core.engine.kv.twin import probe_cache
from memos_core.errors import MemosError
from memos_core.records import Placement
from memos_core.testing.models import FAMILIES, SIZES, DictActivations, tiny_tokenizer

OLD = {"n_embd": 64, "n_layer": 2, "n_head": 2}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
LATENT = {
    "kv_lora_rank": 16, "q_lora_rank": 24, "qk_rope_head_dim": 16, "qk_nope_head_dim": 16, "v_head_dim": 16,
    "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "moe_intermediate_size": 32,
    "first_k_dense_replace": 1, "num_key_value_heads": 2,
}  # fmt: skip
PER_LAYER = {
    "head_dim": 32, "sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"],
    "hidden_size_per_layer_input": 16, "vocab_size_per_layer_input": 400, "num_kv_shared_layers": 0, "laurel_rank": 8,
    "intermediate_size": [96, 64], "activation_sparsity_pattern": [0.0, 0.0],
}  # fmt: skip
BOTH_SIDES = {
    "d_model": 64, "encoder_layers": 1, "decoder_layers": 2, "encoder_ffn_dim": 96, "decoder_ffn_dim": 96,
    "encoder_attention_heads": 2, "decoder_attention_heads": 2,
}  # fmt: skip
OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "olmo2": ("Olmo2Config", {}),
    "olmo3": ("Olmo3Config", {"sliding_window": 16}),
    "granite": ("GraniteConfig", {}),
    "stablelm": ("StableLmConfig", {}),
    "cohere2": ("Cohere2Config", {"sliding_window": 16}),
    "smollm3": ("SmolLM3Config", {}),
    "qwen3_moe": ("Qwen3MoeConfig", {**EXPERTS, "head_dim": 32}),
    "falcon": ("FalconConfig", {"num_key_value_heads": None}),
    "falcon with alibi": ("FalconConfig", {"alibi": True, "num_key_value_heads": None}),
    "gpt2": ("GPT2Config", {**OLD, "n_positions": 2048}),
    "bloom": ("BloomConfig", {"n_layer": 2, "n_head": 2}),
    "deepseek_v3": ("DeepseekV3Config", LATENT),
    "exaone4": ("Exaone4Config", {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]}),
    "glm4": ("Glm4Config", {"head_dim": 32, "pad_token_id": 0}),
    "gemma2": ("Gemma2Config", {"head_dim": 32, "sliding_window": 16}),
    "gptj": ("GPTJConfig", {**OLD, "rotary_dim": 16}),
    "gemma3n": ("Gemma3nTextConfig", PER_LAYER),
    "bart": ("BartConfig", {**BOTH_SIDES, "is_decoder": True}),
}
REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "mamba": ("MambaConfig", {"state_size": 8}, "linear_attention"),
    "jamba": (
        "JambaConfig",
        {"num_experts": 2, "attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 8},
        "linear_attention",
    ),
    "llama4": (
        "Llama4TextConfig",
        {"num_local_experts": 2, "intermediate_size_mlp": 64, "attention_chunk_size": 32, "head_dim": 32},
        "chunked_attention",
    ),
    "lfm2": ("Lfm2Config", {"layer_types": ["conv", "full_attention"]}, "type conv"),
    "cpmant": ("CpmAntConfig", {"dim_head": 32, "dim_ff": 96, "prompt_length": 4}, "its own cache"),
}


def make(kind: str, fields: dict[str, Any], attention: str | None = None) -> tuple[Any, Any]:
    """Return a random model in float32, and its tokenizer."""
    tokenizer = tiny_tokenizer()
    common = {**SIZES, "vocab_size": len(tokenizer), "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, **fields}
    config = getattr(transformers, kind)(**{name: value for name, value in common.items() if value is not None})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(
            config, dtype=torch.float32, attn_implementation=attention
        )
    return model.eval(), tokenizer


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", OTHERS)
@torch.inference_mode()
def test_logits_and_tokens_after_a_stored_prefix_are_those_of_the_full_prompt(family: str, attention: str) -> None:
    try:
        model, _ = make(*OTHERS[family], attention)
    except ValueError as error:
        assert "does not support" in str(error)  # noqa: PT017 - some families have one implementation only
        pytest.skip(f"{family} has no {attention}")
    ids = prompt_ids()
    full = model(input_ids=torch.tensor([ids])).logits[0]
    expected = greedy(model, ids, new_cache(model.config), 24)
    for split in (1, 15, 17, 47):
        blob = stored(model, ids[:split])
        rest = model(input_ids=torch.tensor([ids[split:]]), past_key_values=container(model.config, blob, split))
        assert (rest.logits[0] - full[split:]).abs().max() <= 1e-4
        assert greedy(model, ids, container(model.config, blob, split), 24) == expected


@pytest.mark.parametrize("family", OTHERS)
@torch.inference_mode()
def test_in_bfloat16_a_stored_prefix_adds_no_more_noise_than_the_dtype(family: str) -> None:
    kind, fields = OTHERS[family]
    model, _ = make(kind, {**fields, "initializer_range": 0.05})
    ids = prompt_ids()
    exact = model(input_ids=torch.tensor([ids])).logits[0]
    model = model.to(torch.bfloat16)
    full = model(input_ids=torch.tensor([ids])).logits[0].float()
    for split in (7, 31):
        cache = container(model.config, stored(model, ids[:split]), split)
        rest = model(input_ids=torch.tensor([ids[split:]]), past_key_values=cache).logits[0].float()
        assert (rest - full[split:]).abs().max() <= max(1e-3, float((full - exact).abs().max()))
        assert divergence(rest, full[split:]) <= 1e-3


@pytest.mark.parametrize("family", OTHERS)
def test_an_engine_answers_from_stored_kv_as_from_text(family: str) -> None:
    runner = HFEngine.from_model(*make(*OTHERS[family]), name=family)
    memories, store = cubes(), DictActivations()
    text = runner.generate(ask("text", memories))
    built, served = (runner.generate(ask("kv", memories, store=store)) for _ in range(2))
    runner.close()
    assert text.text == built.text == served.text
    assert served.usage.memory_tokens > 0


@pytest.mark.parametrize("family", [*OTHERS, "mamba", "cpmant"])
def test_behind_the_memory_an_adapter_says_the_same_with_kv_as_with_text_or_is_refused(family: str) -> None:
    model, tokenizer = make(*(OTHERS[family] if family in OTHERS else REFUSED[family][:2]))
    runner, blobs, store = HFEngine.from_model(model, tokenizer, name=family), DictBlobs(), DictActivations()
    memories = cubes()
    try:
        chosen = (blobs.offer(model, runner.base_fingerprint, named=True),)
        text, *kv = (
            runner.generate(replace(ask(inject, memories, store=store), adapters=chosen, blobs=blobs)).text
            for inject in ("text", "kv", "kv")
        )
    except MemosError:
        assert family in {"gpt2", "cpmant"}  # without linear modules; with positions of its own
    else:
        assert kv == [text, text]
    runner.close()


@pytest.mark.parametrize("family", REFUSED)
def test_a_family_that_keeps_more_than_keys_and_values_is_refused_by_name_and_reads_text(family: str) -> None:
    kind, fields, words = REFUSED[family]
    runner = HFEngine.from_model(*make(kind, fields), name=family)
    memories, store = cubes(), DictActivations()
    text = runner.generate(ask("text", memories))
    asked = runner.generate(ask("kv", memories, store=store))
    runner.close()
    assert asked.text == text.text
    assert {memory.placed for memory in asked.plan.memories} == {Placement.TEXT}
    assert words in asked.plan.memories[0].reason
    assert not store.published


def with_forward(model: Any, change: Callable[[Any, dict[str, Any]], Any]) -> Any:
    """Return ``model`` with arguments of its decoder changed by ``change``."""
    inner = model.model.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        return inner(*args, **change(model, kwargs))

    model.model.forward = forward
    return model


FAULTS: dict[str, Callable[[Any, dict[str, Any]], Any]] = {
    "does not look at its cache": lambda _, given: {**given, "past_key_values": None},
    "begins to count anew": lambda _, given: {
        **given, "position_ids": torch.arange(given["input_ids"].shape[1])[None],
    },
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_model_that_goes_on_wrongly_from_its_cache_is_found_out_and_answers_from_all_tokens(fault: str) -> None:
    sound, tokenizer = make("LlamaConfig", {})
    memories = cubes()
    expected = HFEngine.from_model(sound, tokenizer).generate(ask("text", memories)).text
    runner = HFEngine.from_model(with_forward(make("LlamaConfig", {})[0], FAULTS[fault]), tokenizer)
    reply = runner.generate(ask("kv", memories, store=DictActivations()))
    runner.close()
    assert reply.text == expected
    assert {memory.placed for memory in reply.plan.memories} == {Placement.TEXT}
    assert re.search("off by|does not hold the keys and values", reply.plan.memories[0].reason)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_the_tests_pass_goes_on_from_its_cache(family: str, dtype: torch.dtype) -> None:
    assert probe_cache(make(*FAMILIES[family])[0].to(dtype)) is None


def test_none_of_these_was_in_the_list_of_families() -> None:
    assert not FAMILIES.keys() & {*OTHERS, *REFUSED}
