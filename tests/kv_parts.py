"""Parts that the tests of stored KV share: token ids, their KV and greedy decoding, without an engine."""

from __future__ import annotations

from typing import Any

import torch

from memos_core.engine.kv.cache import layer_types, new_cache, snapshot
from memos_core.engine.kv.codec import KVBlob, as_token_ids, decode, encode
from memos_core.engine.kv.probes import Block, Probe, ProbeSet
from memos_core.testing.models import payload_of

LENGTH = 48
ONE_BLOCK = ProbeSet(
    "one block",
    (
        Block(
            ("My cat is called Biscuit.", "Ada lives in Lisbon, near the harbour.", "Ben is a baker."),
            (Probe("What is my cat called?", "Biscuit"), Probe("Where does the baker live?", "Lisbon", "cross")),
        ),
    ),
)
"""Two questions: enough where figures decide nothing."""
COVERED = ("llama", "qwen2", "qwen3", "gpt_neox", "phi3")
"""Families that attend to a stored prefix where it lies."""
OTHERS = ("mistral", "gemma3")


def prompt_ids(length: int = LENGTH) -> list[int]:
    return torch.randint(3, 390, (length,), generator=torch.Generator().manual_seed(5)).tolist()


@torch.inference_mode()
def stored(model: Any, ids: list[int]) -> KVBlob:
    """Return the KV of ``ids`` as it comes back from its bytes."""
    cache = new_cache(model.config)
    model(input_ids=torch.tensor([ids]), past_key_values=cache, use_cache=True)
    blob = snapshot(cache, as_token_ids(ids), "mark", layer_types(model.config))
    assert blob is not None
    data = encode(blob)
    return decode(data, payload_of(blob, data))


@torch.inference_mode()
def greedy(model: Any, ids: list[int], cache: Any, count: int, **options: Any) -> list[int]:
    """Return ``count`` greedy tokens after ``ids``, of which ``cache`` holds a prefix."""
    options |= {"past_key_values": cache, "use_cache": True}
    output = model(input_ids=torch.tensor([ids[cache.get_seq_length() :]]), **options)
    tokens: list[int] = []
    while True:
        tokens.append(int(output.logits[0, -1].argmax()))
        if len(tokens) == count:
            return tokens
        output = model(input_ids=torch.tensor([tokens[-1:]]), **options)


def state_of(model: Any) -> tuple[Any, ...]:
    """Return what a user could see of a change to his model, besides its weights."""
    modules = [(id(each), id(vars(each).get("config")), len(each._forward_hooks)) for each in model.modules()]
    return model.config.to_json_string(use_diff=False), model.config._attn_implementation, modules
