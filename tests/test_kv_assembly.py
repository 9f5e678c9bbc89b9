"""KV of memories stored alone becomes one prefix: what is exact, what is approximate, and how blending narrows it."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest
import torch

from memos_core.engine.kv.assembly import Chunk, Method, Recipe, assemble
from memos_core.engine.kv.cache import layer_types, new_cache, snapshot
from memos_core.engine.kv.codec import KVBlob, as_token_ids
from memos_core.engine.kv.rope import read_rotation
from memos_core.testing.models import tiny_model

FAMILIES = ["llama", "qwen2", "qwen3", "gpt_neox", "phi3"]
HEAD, QUESTION = list(range(5, 13)), list(range(200, 212))
MEMORIES = [list(range(20 + 30 * index, 38 + 30 * index)) for index in range(4)]
SEPARATOR = [3]
DEEP = {"num_hidden_layers": 4}


def finish(work: Generator[Any, None, Any]) -> Any:
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value


@torch.inference_mode()
def stored(model: Any, ids: list[int]) -> KVBlob:
    cache = new_cache(model.config)
    model(input_ids=torch.tensor([ids]), past_key_values=cache, use_cache=True)
    blob = snapshot(cache, as_token_ids(ids), "mark", layer_types(model.config))
    assert blob is not None
    return blob


def prompt() -> list[int]:
    """Return the head and all memories, each but the first behind a separator that no chain has."""
    ids = HEAD + MEMORIES[0]
    for memory in MEMORIES[1:]:
        ids = ids + SEPARATOR + memory
    return ids


def recipe(model: Any, method: Method, leave_out: int | None = None) -> Recipe:
    """Return the first memory as prefix and the others as chunks, except one that is to be computed."""
    chunks, place = [], len(HEAD + MEMORIES[0])
    for index, memory in enumerate(MEMORIES[1:], 1):
        place += len(SEPARATOR)
        if index != leave_out:
            chunks.append(Chunk(f"kv-{index}", stored(model, HEAD + memory), len(HEAD), place, len(memory)))
        place += len(memory)
    first = HEAD + MEMORIES[0]
    return Recipe(stored(model, first), len(first), tuple(chunks), method, read_rotation(model))


@torch.inference_mode()
def logits(model: Any, method: Method | None, leave_out: int | None = None) -> torch.Tensor:
    """Return the logits of the question after the memories, ``[question, vocabulary]``; None: computed in full."""
    ids = prompt()
    if method is None:
        return model(input_ids=torch.tensor([ids + QUESTION])).logits[0, -len(QUESTION) :]
    made = recipe(model, method, leave_out)
    cache = finish(assemble(model, made, ids))
    assert cache.get_seq_length() == made.tokens
    rest = (ids + QUESTION)[made.tokens :]
    return model(input_ids=torch.tensor([rest]), past_key_values=cache).logits[0, -len(QUESTION) :]


def divergence(found: torch.Tensor, expected: torch.Tensor) -> float:
    pair = found.log_softmax(-1), expected.log_softmax(-1)
    return float(torch.nn.functional.kl_div(*pair, log_target=True, reduction="batchmean"))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_blending_every_token_is_a_full_prefill(family: str, attention: str) -> None:
    model, _ = tiny_model(family, attention=attention, **DEEP)
    found = logits(model, Method("blend", 1.0, 1))
    assert (found - logits(model, None)).abs().max() <= 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_the_more_is_blended_the_nearer_it_comes(family: str) -> None:
    model, _ = tiny_model(family, **DEEP)
    expected = logits(model, None)
    shifted = divergence(logits(model, Method("shift")), expected)
    found = [divergence(logits(model, Method("blend", ratio, 1)), expected) for ratio in (0.0, 0.3, 0.6, 1.0)]
    assert shifted > 1e-3
    assert found[-1] <= 1e-6
    assert all(later < earlier for earlier, later in zip(found, found[1:], strict=False))


def test_a_memory_without_a_chain_is_computed_in_its_place() -> None:
    model, _ = tiny_model("llama", **DEEP)
    expected = logits(model, None)
    assert (logits(model, Method("blend", 1.0, 1), leave_out=2) - expected).abs().max() <= 1e-4


def test_tokens_that_no_chain_covers_see_what_stands_before_them() -> None:
    """With one layer, keys and values depend on nothing before them, so moved ones are exact."""
    model, _ = tiny_model("llama", num_hidden_layers=1)
    for leave_out in (None, 1, 2):
        assert (logits(model, Method("shift"), leave_out) - logits(model, None)).abs().max() <= 1e-4


def test_chains_are_not_written_to() -> None:
    model, _ = tiny_model("qwen3")
    made = recipe(model, Method("blend", 0.5, 1))
    blobs = [made.prefix, *(chunk.blob for chunk in made.chunks)]
    before = [[tensor.clone() for tensor in (*blob.keys, *blob.values)] for blob in blobs]
    with torch.inference_mode():
        finish(assemble(model, made, prompt()))
    for blob, tensors in zip(blobs, before, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(tensors, (*blob.keys, *blob.values), strict=True))


def test_in_bfloat16_blending_everything_adds_no_more_noise_than_the_dtype() -> None:
    model, _ = tiny_model("llama", initializer_range=0.05, **DEEP)
    exact = logits(model, None)
    model = model.to(torch.bfloat16)
    full = logits(model, None).float()
    blended = logits(model, Method("blend", 1.0, 1)).float()
    assert (blended - full).abs().max() <= (full - exact).abs().max()


def test_long_prefixes_are_computed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memos_core.engine.kv.blend.PART_TOKENS", 7)
    model, _ = tiny_model("llama", **DEEP)
    assert (logits(model, Method("blend", 1.0, 1)) - logits(model, None)).abs().max() <= 1e-4


def test_the_kept_tokens_are_those_of_chunks_that_are_not_computed_anew() -> None:
    model, _ = tiny_model("llama")
    assert recipe(model, Method("shift")).kept == 54
    assert recipe(model, Method("blend", 0.15, 1)).kept == 54 - 9
