"""Stored KV gives what the full prompt gives: every family, attention implementation and split point."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from kv_parts import greedy, prompt_ids, stored
from transformers import AutoConfig

from memos_core.engine.kv.cache import container, layer_types, misfit, new_cache, probe_layout, refusal, snapshot
from memos_core.engine.kv.codec import KVBlob, as_token_ids, decode, encode
from memos_core.testing.models import FAMILIES, payload_of, tiny_model

SPLITS = (1, 7, 15, 16, 17, 31, 47)
"""Around the sliding window of 16, the ends and odd places."""


def divergence(logits: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the largest Kullback-Leibler divergence at any position; both ``[positions, vocabulary]``."""
    pair = logits.log_softmax(-1), expected.log_softmax(-1)
    return float(torch.nn.functional.kl_div(*pair, log_target=True, reduction="none").sum(-1).max())


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_after_a_stored_prefix_are_those_of_the_full_prompt(family: str, attention: str) -> None:
    model, _ = tiny_model(family, attention=attention)
    ids = prompt_ids()
    with torch.inference_mode():
        full = model(input_ids=torch.tensor([ids])).logits[0]
    for split in SPLITS:
        cache = container(model.config, stored(model, ids[:split]), split)
        with torch.inference_mode():
            rest = model(input_ids=torch.tensor([ids[split:]]), past_key_values=cache).logits[0]
        assert (rest - full[split:]).abs().max() <= 1e-4
        assert divergence(rest, full[split:]) <= 1e-6


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_64_greedy_tokens_are_the_same(family: str, attention: str) -> None:
    model, _ = tiny_model(family, attention=attention)
    ids = prompt_ids()
    expected = greedy(model, ids, new_cache(model.config), 64)
    for split in (7, 31):
        assert greedy(model, ids, container(model.config, stored(model, ids[:split]), split), 64) == expected


@pytest.mark.parametrize("family", FAMILIES)
@torch.inference_mode()
def test_in_bfloat16_a_stored_prefix_adds_no_more_noise_than_the_dtype(family: str) -> None:
    model, _ = tiny_model(family, initializer_range=0.05)
    ids = prompt_ids()
    exact = model(input_ids=torch.tensor([ids])).logits[0]
    model = model.to(torch.bfloat16)
    full = model(input_ids=torch.tensor([ids])).logits[0].float()
    for split in (7, 16, 31):
        cache = container(model.config, stored(model, ids[:split]), split)
        rest = model(input_ids=torch.tensor([ids[split:]]), past_key_values=cache).logits[0].float()
        assert (rest - full[split:]).abs().max() <= (full - exact).abs().max()
        assert divergence(rest, full[split:]) <= 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_a_blob_survives_its_bytes_bit_for_bit(family: str) -> None:
    model, _ = tiny_model(family)
    model = model.to(torch.bfloat16)
    cache = new_cache(model.config)
    ids = prompt_ids()
    with torch.inference_mode():
        model(input_ids=torch.tensor([ids]), past_key_values=cache)
    blob = snapshot(cache, as_token_ids(ids), "mark", layer_types(model.config))
    assert blob is not None
    data = encode(blob)
    again = decode(data, payload_of(blob, data))
    assert again.token_ids.tolist() == ids
    for one, other in zip((*blob.keys, *blob.values), (*again.keys, *again.values), strict=True):
        assert one.dtype == other.dtype == torch.bfloat16
        assert torch.equal(one, other)


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "qwen3"])
def test_a_full_attention_prefix_can_be_shortened_to_any_length(family: str) -> None:
    model, _ = tiny_model(family)
    ids = prompt_ids()
    blob = stored(model, ids[:40])
    expected = greedy(model, ids, new_cache(model.config), 16)
    for length in (1, 13, 39, 40):
        cache = container(model.config, blob, length)
        assert cache.get_seq_length() == length
        assert greedy(model, ids, cache, 16) == expected


@pytest.mark.parametrize("family", ["mistral", "gemma3"])
def test_a_sliding_prefix_is_shortened_only_while_it_is_whole(family: str) -> None:
    model, _ = tiny_model(family)
    ids = prompt_ids()
    expected = greedy(model, ids, new_cache(model.config), 16)
    assert greedy(model, ids, container(model.config, stored(model, ids[:15]), 9), 16) == expected
    with pytest.raises(ValueError, match="sliding window"):
        container(model.config, stored(model, ids[:16]), 9)


def test_eight_threads_on_one_blob_give_the_serial_result_and_leave_it_unchanged() -> None:
    for family in ("llama", "mistral"):
        model, _ = tiny_model(family)
        ids = prompt_ids()
        blob = stored(model, ids[:30])
        before = [tensor.clone() for tensor in (*blob.keys, *blob.values)]
        expected = greedy(model, ids, new_cache(model.config), 12)
        results: list[list[int]] = []

        def work(model: Any = model, blob: KVBlob = blob, results: list[list[int]] = results) -> None:
            for _ in range(4):
                results.append(greedy(model, prompt_ids(), container(model.config, blob, 30), 12))

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert results == [expected] * 32
        assert all(torch.equal(a, b) for a, b in zip(before, (*blob.keys, *blob.values), strict=True))


def test_a_container_is_new_each_time_and_shares_its_tensors() -> None:
    model, _ = tiny_model("llama")
    blob = stored(model, prompt_ids()[:20])
    first, second = container(model.config, blob, 20), container(model.config, blob, 20)
    assert first is not second
    assert first.layers[0] is not second.layers[0]
    assert first.layers[0].keys.data_ptr() == second.layers[0].keys.data_ptr() == blob.keys[0].data_ptr()


def test_a_blob_of_another_model_does_not_fit() -> None:
    small, _ = tiny_model("llama")
    large, _ = tiny_model("llama", hidden_size=128, num_attention_heads=4, num_key_value_heads=2)
    layout = probe_layout(large)
    assert layout is not None
    reason = misfit(stored(small, prompt_ids()[:20]), layout, layer_types(large.config))
    assert reason is not None
    assert "does not make" in reason


@pytest.mark.parametrize(
    ("kind", "fields", "words"),
    [
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}}, "dynamic NTK"),
        ("mamba", {}, "mamba|linear|keys and values"),
        ("qwen3_next", {"num_hidden_layers": 4}, "linear_attention"),
        ("t5", {}, "encoder-decoder"),
    ],
)
def test_a_family_whose_kv_cannot_be_reused_is_refused_with_the_reason(
    kind: str, fields: dict[str, Any], words: str
) -> None:
    reason = refusal(AutoConfig.for_model(kind, **fields))
    assert reason is not None
    assert any(word in reason for word in words.split("|"))


def test_longrope_is_refused() -> None:
    factors = [1.0] * 16
    rope = {"rope_type": "longrope", "short_factor": factors, "long_factor": factors, "rope_theta": 10000.0}
    config = AutoConfig.for_model(
        "phi3",
        hidden_size=64,
        num_attention_heads=2,
        num_key_value_heads=1,
        rope_parameters={**rope, "original_max_position_embeddings": 1024},
        max_position_embeddings=2048,
        original_max_position_embeddings=1024,
        pad_token_id=0,
    )
    assert "longrope" in str(refusal(config))
