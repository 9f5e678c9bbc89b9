"""Attention over a stored prefix where it lies gives what joined keys give, and leaves everything else as it was."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kv_parts import COVERED, OTHERS, greedy, prompt_ids, state_of, stored
from transformers import AutoConfig, AutoModelForCausalLM

from memos_core.engine.kv import attention
from memos_core.engine.kv.attention import attend, attend_by_products, attend_plainly, cascade, causal_mask, fold
from memos_core.engine.kv.cache import container, snapshot
from memos_core.engine.kv.codec import KVBlob, as_token_ids
from memos_core.engine.kv.shared import FIRST_ROOM, SharedPrefixCache
from memos_core.engine.kv.twin import cascade_obstacle, probe_cascade, twin
from memos_core.errors import UnsupportedOption
from memos_core.testing.models import tiny_model

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 0.03}
"""Largest difference of outputs of size one; bfloat16 rounds at 0.004, keys, weights, two parts and their sum."""


@pytest.fixture(params=["products", "kernel"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a test with few scores, and as if they were many."""
    if request.param == "kernel":
        monkeypatch.setattr(attention, "MAX_SCORES", 0)


# --- the operation --------------------------------------------------------------------------------------------------


def one_softmax(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float) -> torch.Tensor:
    """Return causal attention of the last positions by its definition: heads repeated, one softmax, float32."""
    groups, seq, held = query.shape[1] // keys.shape[1], query.shape[2], keys.shape[2]
    keys, values = (each.float().repeat_interleave(groups, 1) for each in (keys, values))
    visible = torch.ones(seq, held, dtype=torch.bool).tril(held - seq)
    scores = (query.float() @ keys.mT * scale).masked_fill(~visible, float("-inf"))
    return scores.softmax(-1) @ values


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_the_merge_of_prefix_and_tail_is_one_softmax(dtype: torch.dtype) -> None:
    @given(
        kv_heads=st.integers(1, 3),
        groups=st.integers(1, 4),
        prefix=st.integers(1, 70),
        earlier=st.integers(0, 20),
        seq=st.integers(1, 20),
        dims=st.sampled_from([(8, 8), (32, 32), (16, 8)]),
        spread=st.sampled_from([0.1, 1.0, 4.0]),
        seed=st.integers(0, 2**16),
    )
    @settings(max_examples=150, deadline=None)
    def check(
        kv_heads: int, groups: int, prefix: int, earlier: int, seq: int, dims: tuple[int, int], spread: float, seed: int
    ) -> None:
        draw = functools.partial(torch.randn, generator=torch.Generator().manual_seed(seed))
        held, scale = earlier + seq, dims[0] ** -0.5
        query = (draw(1, kv_heads * groups, seq, dims[0]) * spread).to(dtype)
        keys = draw(1, kv_heads, prefix + held, dims[0]).to(dtype)
        values = draw(1, kv_heads, prefix + held, dims[1]).clamp(-1, 1).to(dtype)
        first, tail = ((k[:, :, :prefix], k[:, :, prefix:]) for k in (keys, values))
        got = cascade(query, (first[0], tail[0]), (first[1], tail[1]), scale)
        assert got.dtype == dtype
        assert (got.float() - one_softmax(query, keys, values, scale)).abs().max() <= TOLERANCE[dtype]

    check()


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("rows", [1, 2, 9])
def test_each_way_tells_the_output_and_the_lse_of_the_definition(
    rows: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = functools.partial(torch.randn, generator=torch.Generator().manual_seed(rows))
    query, keys, values = (draw(1, 2, n, 64).to(dtype) for n in (rows, 300, 300))
    mask = causal_mask(rows, 300, 1, query)
    expected = attend_plainly(query, keys, values, 0.125, mask)
    monkeypatch.setattr(attention, "MAX_SCORES", 0)
    for way in (attend, attend_by_products):
        got = way(query, keys, values, 0.125, mask)
        assert got.lse.dtype == torch.float32
        assert (got.lse - expected.lse).abs().max() <= TOLERANCE[dtype] / 10
        assert (got.output.float() - expected.output.float()).abs().max() <= TOLERANCE[dtype]


def test_scores_in_bfloat16_are_not_rounded_to_bfloat16() -> None:
    query, keys = (torch.randn(2, n, 128, generator=torch.Generator().manual_seed(n)).bfloat16() for n in (3, 500))
    exact = query.double() @ keys.double().mT
    rounded = (torch.bmm(query, keys.mT).double() - exact).abs().max()
    assert (attention.exact_scores(query, keys).double() - exact).abs().max() < rounded / 50


def test_queries_fold_by_the_head_of_keys_that_they_share() -> None:
    query = torch.arange(2 * 6 * 3).reshape(2, 6, 3, 1)
    folded = fold(query, 2)
    assert folded.shape == (2, 2, 9, 1)
    assert folded[0, 1, :, 0].tolist() == query[0, 3:].flatten().tolist()


# --- the cache ------------------------------------------------------------------------------------------------------


def random_blob(tokens: int = 10) -> KVBlob:
    tensors = torch.randn(4, 2, tokens, 8, generator=torch.Generator().manual_seed(0))
    full = ("full_attention", "full_attention")
    return KVBlob(as_token_ids(range(tokens)), tuple(tensors[:2]), tuple(tensors[2:]), full, "mark")


def test_a_shared_cache_copies_nothing_of_the_prefix_and_counts_its_length() -> None:
    blob = random_blob()
    cache = SharedPrefixCache(blob, 7)
    assert cache.layers[1].prefix[0].data_ptr() == blob.keys[1].data_ptr()
    assert cache.get_seq_length() == cache.get_query_offset() == 7
    assert cache.get_mask_sizes(3, 0) == (10, 0)
    cache.update(torch.ones(1, 2, 3, 8), torch.ones(1, 2, 3, 8), 0)
    assert cache.get_seq_length(0) == 10
    assert cache.get_seq_length(1) == 7


def test_a_tail_grows_by_doubling_and_keeps_what_it_holds() -> None:
    cache, expected, moves = SharedPrefixCache(random_blob(), 10), [], set()
    for step in range(4 * FIRST_ROOM):
        new = torch.full((1, 2, 1, 8), float(step))
        keys, values = cache.update(new, -new, 0)
        expected.append(float(step))
        moves.add(keys.untyped_storage().data_ptr())
    assert keys[0, 1, :, 3].tolist() == expected
    assert values[0, 0, :, 0].tolist() == [-each for each in expected]
    assert len(moves) <= 3
    keys, _ = cache.update(torch.ones(1, 2, 900, 8), torch.ones(1, 2, 900, 8), 0)
    assert keys.shape[-2] == 4 * FIRST_ROOM + 900


def test_a_shared_cache_has_no_beams_no_snapshot_and_can_be_begun_again() -> None:
    cache = SharedPrefixCache(random_blob(), 10)
    cache.update(torch.ones(1, 2, 3, 8), torch.ones(1, 2, 3, 8), 0)
    with pytest.raises(UnsupportedOption, match="beams"):
        cache.reorder_cache(torch.tensor([0]))
    assert snapshot(cache, as_token_ids(range(13)), "mark", ("full_attention",) * 2) is None
    cache.reset()
    assert cache.get_seq_length() == 10


# --- whole models ---------------------------------------------------------------------------------------------------


def shared(model: Any, blob: KVBlob, length: int) -> tuple[Any, dict[str, Any]]:
    cache = SharedPrefixCache(blob, length)
    return twin(model), {"past_key_values": cache, "shared_prefix": cache, "use_cache": True}


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("family", COVERED)
@torch.inference_mode()
def test_logits_are_those_of_the_full_prompt_whatever_the_parts(family: str) -> None:
    model, _ = tiny_model(family)
    ids = prompt_ids()
    full = model(input_ids=torch.tensor([ids])).logits[0]
    for split in (1, 7, 31, 47):
        for step in (1, 5, 48):
            other, options = shared(model, stored(model, ids[:split]), split)
            parts = [ids[start : start + step] for start in range(split, 48, step)]
            rest = torch.cat([other(input_ids=torch.tensor([part]), **options).logits[0] for part in parts])
            assert (rest - full[split:]).abs().max() <= 1e-4


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("family", COVERED)
def test_64_greedy_tokens_are_those_of_a_dynamic_cache(family: str) -> None:
    model, _ = tiny_model(family)
    ids = prompt_ids()
    for split, length in ((7, 7), (40, 40), (40, 13)):
        blob = stored(model, ids[:split])
        cache = SharedPrefixCache(blob, length)
        expected = greedy(model, ids, container(model.config, blob, length), 64)
        assert greedy(twin(model), ids, cache, 64, shared_prefix=cache) == expected


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("family", COVERED)
@torch.inference_mode()
def test_in_bfloat16_it_adds_no_more_noise_than_the_dtype(family: str) -> None:
    model, _ = tiny_model(family, initializer_range=0.05)
    ids = prompt_ids()
    exact = model(input_ids=torch.tensor([ids])).logits[0]
    model = model.to(torch.bfloat16)
    full = model(input_ids=torch.tensor([ids])).logits[0].float()
    for split in (7, 31):
        other, options = shared(model, stored(model, ids[:split]), split)
        rest = other(input_ids=torch.tensor([ids[split:]]), **options).logits[0].float()
        assert (rest - full[split:]).abs().max() <= 1.5 * (full - exact).abs().max()


def test_a_twin_shares_all_tensors_and_hooks_and_leaves_the_model_as_it_was() -> None:
    model, _ = tiny_model("qwen3")
    before = state_of(model)
    other = twin(model)
    assert other.config._attn_implementation == attention.NAME
    assert state_of(model) == before
    assert [id(p) for p in other.parameters()] == [id(p) for p in model.parameters()]
    model.model.layers[0].self_attn.q_proj = torch.nn.Identity()
    assert isinstance(other.model.layers[0].self_attn.q_proj, torch.nn.Identity)
    assert other.model.layers[0]._forward_hooks is model.model.layers[0]._forward_hooks


# --- which models ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", COVERED)
def test_a_plain_family_is_covered(family: str) -> None:
    model, _ = tiny_model(family)
    assert cascade_obstacle(model) is None
    assert probe_cascade(model) is None
    assert probe_cascade(model.to(torch.bfloat16)) is None


@pytest.mark.parametrize("family", OTHERS)
def test_a_family_with_sliding_windows_is_not(family: str) -> None:
    assert "every token" in str(cascade_obstacle(tiny_model(family)[0]))


def test_another_attention_than_sdpa_is_not() -> None:
    assert "eager" in str(cascade_obstacle(tiny_model("llama", attention="eager")[0]))


@pytest.mark.parametrize("kind", ["falcon", "stablelm", "nemotron"])
def test_a_model_whose_code_goes_other_ways_is_found_out_by_the_probe(kind: str) -> None:
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = AutoConfig.for_model(
        kind, **sizes, vocab_size=400, intermediate_size=96, bos_token_id=1, eos_token_id=2, pad_token_id=0
    )
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()
    assert cascade_obstacle(model) is None
    assert "cannot attend by cascade" in str(probe_cascade(model))


def test_a_model_that_computes_something_else_is_found_out_by_the_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = tiny_model("llama")
    monkeypatch.setattr(attention, "merge", lambda one, other: other.output)
    assert "off by" in str(probe_cascade(model))


def test_a_wrapped_or_compiled_forward_is_not_copied() -> None:
    model, _ = tiny_model("llama")
    attend_layer = model.model.layers[1].self_attn
    attend_layer.forward = functools.partial(type(attend_layer).forward, attend_layer)
    assert "replaced" in str(cascade_obstacle(model))


def test_cascade_attention_refuses_what_it_does_not_compute() -> None:
    tensors = [torch.ones(1, 1, 1, 8)] * 3
    layer = torch.nn.Identity()
    with pytest.raises(UnsupportedOption, match="hand the shared prefix on"):
        attention.cascade_attention(layer, *tensors, None)
    with pytest.raises(UnsupportedOption, match="softcap"):
        attention.cascade_attention(layer, *tensors, None, shared_prefix=object(), softcap=50.0)
    with pytest.raises(UnsupportedOption, match="mask"):
        attention.cascade_attention(layer, *tensors, torch.ones(1), shared_prefix=object())
