"""A batch of requests whose memories differ gives each what it would have got alone."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kv_parts import prompt_ids, stored
from transformers import DynamicCache

from memos_core.engine.kv.attention import attend_plainly, fold
from memos_core.engine.kv.ragged import RaggedCache, groups, probe_batch, ragged_attention, step
from memos_core.engine.kv.shared import SharedPrefixCache, SharedPrefixLayer
from memos_core.engine.kv.twin import feed, twin
from memos_core.errors import UnsupportedOption
from memos_core.testing.models import tiny_model

FAMILIES = ["llama", "qwen2", "qwen3", "gpt_neox", "phi3"]


def begun(model: Any, prefix: int, more: list[int]) -> SharedPrefixCache:
    """Return a cache that shares ``prefix`` tokens of a stored chain and went on by ``more``."""
    cache = SharedPrefixCache(stored(model, prompt_ids()), prefix)
    if more:
        feed(twin(model), more, past_key_values=cache, shared_prefix=cache)
    return cache


@pytest.mark.parametrize("family", FAMILIES)
@torch.inference_mode()
def test_a_row_of_a_batch_gets_what_it_gets_alone(family: str) -> None:
    model, _ = tiny_model(family)
    rows = [(12, [3]), (5, [8, 9, 7]), (20, []), (12, [4, 4])]
    alone = [begun(model, *row) for row in rows]
    batched = [begun(model, *row) for row in rows]
    tokens = [5, 6, 7, 8]
    for _ in range(12):
        expected = torch.stack(
            [
                feed(twin(model), [token], past_key_values=cache, shared_prefix=cache)[-1]
                for token, cache in zip(tokens, alone, strict=True)
            ]
        )
        got = step(twin(model), batched, tokens)
        assert (got - expected).abs().max() <= 1e-4
        tokens = expected.argmax(-1).tolist()
        assert got.argmax(-1).tolist() == tokens


@torch.inference_mode()
def test_a_request_without_memory_joins_with_the_cache_that_it_has() -> None:
    model, _ = tiny_model("llama")
    plain = DynamicCache(config=model.config)
    feed(model, [5, 6, 7, 8], past_key_values=plain)
    expected = feed(model, [9], past_key_values=copy.deepcopy(plain))[-1]
    joined = SharedPrefixCache.after(plain)
    assert joined.layers[0].prefix[0].data_ptr() == plain.layers[0].keys.data_ptr()
    got = step(twin(model), [joined, begun(model, 7, [3])], [9, 4])
    assert (got[0] - expected).abs().max() <= 1e-4


def layer(prefix: torch.Tensor, length: int, tail: torch.Tensor) -> SharedPrefixLayer:
    made = SharedPrefixLayer(prefix[:, :, :length], prefix[:, :, :length])
    made.update(tail, tail)
    return made


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 9), st.integers(1, 5)), min_size=1, max_size=6),
    st.sampled_from([(1, 1), (2, 1), (2, 3)]),
)
def test_attention_of_any_mix_of_rows_is_that_of_the_definition(
    mix: list[tuple[int, int, int]], heads: tuple[int, int]
) -> None:
    kv_heads, per_head = heads
    draw = torch.Generator().manual_seed(len(mix))
    chains = torch.randn(2, 1, kv_heads, 9, 8, generator=draw)
    tails = [torch.randn(1, kv_heads, held, 8, generator=draw) for _, _, held in mix]
    rows = [layer(chains[chain], length, tail) for (chain, length, _), tail in zip(mix, tails, strict=True)]
    query = torch.randn(len(mix), kv_heads * per_head, 1, 8, generator=draw)
    got = ragged_attention(query, rows, 0.3)
    for number, ((chain, length, _), tail) in enumerate(zip(mix, tails, strict=True)):
        keys = torch.cat([chains[chain][:, :, :length], tail], dim=2)
        expected = attend_plainly(fold(query[number][None], kv_heads), keys, keys, 0.3).output
        assert torch.allclose(got[number].flatten(), expected.flatten(), atol=1e-5)


def test_rows_on_one_prefix_are_attended_to_together() -> None:
    chain, tail = torch.randn(1, 1, 9, 8), torch.randn(1, 1, 2, 8)
    rows = [layer(chain, length, tail) for length in (4, 9, 4, 0, 4)]
    assert groups(rows) == [[0, 2, 4], [1]]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_probe_passes_what_the_tests_pass(family: str) -> None:
    assert probe_batch(tiny_model(family)[0]) is None


def test_a_model_that_ignores_positions_is_found_out() -> None:
    model, _ = tiny_model("llama")
    inner = model.model.forward

    def without_positions(*args: Any, position_ids: Any = None, **kwargs: Any) -> Any:
        return inner(*args, **kwargs)

    model.model.forward = without_positions
    assert "off by" in (probe_batch(model) or "")


def test_a_batch_is_for_one_step_and_owns_nothing() -> None:
    blob = stored(tiny_model("llama")[0], prompt_ids())
    cache = RaggedCache([SharedPrefixCache(blob, 3), SharedPrefixCache(blob, 9)])
    assert cache.get_seq_length() == 9
    with pytest.raises(UnsupportedOption):
        cache.layers[0].reset()
    with pytest.raises(UnsupportedOption):
        cache.reorder_cache(torch.tensor([0]))
