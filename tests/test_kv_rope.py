"""Keys move to another place: by the definition of a rotary embedding, and as the model itself computes them there."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from memos_core.engine.kv.cache import new_cache
from memos_core.engine.kv.rope import Rotation, read_rotation, rotate
from memos_core.errors import UnsupportedOption
from memos_core.testing.models import tiny_model

FULL_GEMMA = {"layer_types": ["full_attention", "full_attention"]}
WIDE_GEMMA = {"sliding_window": 512}
BASE = {"rope_theta": 10000.0}
SCHEMES: dict[str, dict[str, Any]] = {
    "linear": {**BASE, "rope_type": "linear", "factor": 4.0},
    "llama3": {
        **BASE,
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 256,
    },
    "yarn": {**BASE, "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512},
}
CASES = [
    *((family, {}) for family in ("llama", "qwen2", "qwen3", "gpt_neox", "phi3")),
    ("phi3", {"partial_rotary_factor": 0.5}),
    ("gemma3", FULL_GEMMA),
    ("gemma3", WIDE_GEMMA),
    *(("llama", {"rope_parameters": scheme}) for scheme in SCHEMES.values()),
]


def slowly(keys: torch.Tensor, inverse_frequencies: torch.Tensor, delta: int) -> torch.Tensor:
    """Turn each pair of each key by its angle, one after the other."""
    turned = keys.clone()
    half = len(inverse_frequencies)
    for pair, frequency in enumerate(inverse_frequencies.tolist()):
        cosine, sine = math.cos(delta * frequency), math.sin(delta * frequency)
        x, y = keys[..., pair], keys[..., pair + half]
        turned[..., pair], turned[..., pair + half] = x * cosine - y * sine, x * sine + y * cosine
    return turned


@torch.inference_mode()
def keys_at(model: Any, ids: list[int], start: int) -> list[torch.Tensor]:
    cache = new_cache(model.config)
    positions = torch.arange(start, start + len(ids))[None]
    model(input_ids=torch.tensor([ids]), position_ids=positions, past_key_values=cache, use_cache=True)
    return [layer.keys for layer in cache.layers]


@given(delta=st.integers(-2000, 2000), seed=st.integers(0, 2**31), head_dim=st.sampled_from([16, 24]))
def test_moving_is_turning_each_pair_and_moving_back_undoes_it(delta: int, seed: int, head_dim: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    keys = torch.randn(2, 5, head_dim, generator=generator)
    frequencies = 10000.0 ** -(torch.arange(0, 16, 2) / 16)
    moved = rotate(keys, frequencies, delta)
    assert (moved - slowly(keys, frequencies, delta)).abs().max() <= 1e-3
    assert (rotate(moved, frequencies, -delta) - keys).abs().max() <= 1e-5


@pytest.mark.parametrize(("family", "overrides"), CASES)
def test_moved_keys_are_those_of_a_prefill_at_the_new_place(family: str, overrides: dict[str, Any]) -> None:
    model, _ = tiny_model(family, **overrides)
    ids = torch.randint(3, 390, (24,), generator=torch.Generator().manual_seed(5)).tolist()
    rotation = read_rotation(model)
    for delta in (1, 19, 300):
        moved = rotation.shift(keys_at(model, ids, 40), delta)
        for keys, expected in zip(moved, keys_at(model, ids, 40 + delta), strict=True):
            assert (keys - expected).abs().max() <= 1e-3


def test_each_layer_type_of_gemma_turns_at_its_own_rate() -> None:
    model, _ = tiny_model("gemma3", **WIDE_GEMMA)
    local, everywhere = read_rotation(model).inverse_frequencies
    assert not torch.equal(local, everywhere)


def test_stored_keys_are_not_changed_and_keep_their_dtype() -> None:
    keys = torch.randn(2, 5, 16).bfloat16()
    before = keys.clone()
    moved = Rotation((torch.ones(8),)).shift([keys], 3)[0]
    assert moved.dtype == torch.bfloat16
    assert torch.equal(keys, before)


def test_dynamic_ntk_and_longrope_are_refused_by_name() -> None:
    dynamic, _ = tiny_model("llama", rope_parameters={**BASE, "rope_type": "dynamic", "factor": 2.0})
    factors = {"short_factor": [1.0] * 16, "long_factor": [1.0] * 16, "original_max_position_embeddings": 1024}
    longrope, _ = tiny_model(
        "phi3", rope_parameters={**BASE, "rope_type": "longrope", **factors}, original_max_position_embeddings=1024
    )
    for model, name in ((dynamic, "dynamic"), (longrope, "longrope")):
        with pytest.raises(UnsupportedOption, match=name):
            read_rotation(model)


def test_interleaved_pairs_are_found_out() -> None:
    from transformers import AutoModelForCausalLM, CohereConfig

    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(CohereConfig(**sizes, vocab_size=400, initializer_range=0.2)).eval()
    with pytest.raises(UnsupportedOption, match="interleaved"):
        read_rotation(model)


def test_learned_positions_are_refused() -> None:
    from transformers import AutoModelForCausalLM, GPT2Config

    model = AutoModelForCausalLM.from_config(GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=400)).eval()
    with pytest.raises(UnsupportedOption, match="no rotary embedding"):
        read_rotation(model)
