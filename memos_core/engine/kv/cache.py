"""Stored KV in a request: fresh containers that share tensors, and snapshots of a cache.

``DynamicLayer.update`` concatenates into new tensors, so what a container was filled with is never written to; only the
container changes, and every request gets its own. What a model family needs is read off its configuration and the
cache that transformers makes from it, not off a list of names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer, get_layer_types_and_kwargs

from memos_core.engine.kv.codec import KVBlob, TokenIds, as_token_ids

__all__ = [
    "Layout",
    "container",
    "layer_types",
    "misfit",
    "narrowest_window",
    "new_cache",
    "probe_layout",
    "refusal",
    "snapshot",
    "unwindowed",
]

FULL = "full_attention"
SLIDING = "sliding_attention"
CHANGING_ROPE = {
    "dynamic": "its rotary embedding (dynamic NTK) changes with the length of the prompt, so keys of a prefix do too",
    "longrope": "its rotary embedding (longrope) switches factors with the length of the prompt",
}


def refusal(config: Any) -> str | None:
    """Return why KV of a model with this configuration cannot be stored and reused, or None if it can."""
    if getattr(config, "is_encoder_decoder", False):
        return "it is an encoder-decoder model: memory would enter the encoder, which keeps no KV cache"
    text = config.get_text_config(decoder=True)
    for kind in rope_types(text):
        if kind in CHANGING_ROPE:
            return CHANGING_ROPE[kind]
    foreign = sorted(set(layer_types(config)) - {FULL, SLIDING})
    if foreign:
        return f"it has layers of type {', '.join(foreign)}; only full and sliding attention keep their keys and values"
    plain = all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in new_cache(config).layers)
    return None if plain else "its cache keeps more than keys and values"


def rope_types(text_config: Any) -> set[str]:
    """Return the names of the rotary schemes in use; a model may have one for each layer type."""
    found = set()
    for field in ("rope_parameters", "rope_scaling"):
        parameters = getattr(text_config, field, None) or {}
        nested = [value for value in parameters.values() if isinstance(value, dict)]
        found |= {str(each.get("rope_type", each.get("type", "default"))) for each in (nested or [parameters])}
    return found


def layer_types(config: Any) -> tuple[str, ...]:
    """Return the type of each layer, as transformers names it."""
    types, _ = get_layer_types_and_kwargs(config.get_text_config(decoder=True))
    return tuple(types)


def new_cache(config: Any) -> DynamicCache:
    """Return an empty cache for a model with this configuration."""
    return DynamicCache(config=config)


def narrowest_window(config: Any) -> int | None:
    """Return the smallest sliding window among the layers, in tokens; None where all see everything."""
    layers = new_cache(config).layers
    return min((layer.sliding_window for layer in layers if isinstance(layer, DynamicSlidingWindowLayer)), default=None)


def container(config: Any, blob: KVBlob, length: int) -> DynamicCache:
    """Return a new cache that holds the first ``length`` tokens of ``blob``, sharing its tensors.

    Args:
        length: Positions to take over. A blob that outgrew a sliding window can only be taken as a whole, since the
            window of a shorter prefix is no longer there.

    Raises:
        ValueError: The blob cannot be shortened so.
    """
    cache = new_cache(config)
    for layer, keys, values in zip(cache.layers, blob.keys, blob.values, strict=True):
        if length < blob.tokens and keys.shape[1] < blob.tokens:
            raise ValueError(f"a sliding window keeps no prefix of {length} out of {blob.tokens} tokens")
        shared = min(length, keys.shape[1])
        layer.lazy_initialization(keys[None], values[None])
        layer.keys, layer.values = keys[None, :, :shared], values[None, :, :shared]
        if isinstance(layer, DynamicSlidingWindowLayer):
            layer.cumulative_length = length
    return cache


def unwindowed(config: Any, keys: Sequence[torch.Tensor], values: Sequence[torch.Tensor]) -> DynamicCache:
    """Return a new cache of a model without sliding windows, sharing these tensors.

    Args:
        keys: For each layer ``[1, kv_heads, tokens, head_dim]``.
        values: Likewise.
    """
    cache = new_cache(config)
    for layer, layer_keys, layer_values in zip(cache.layers, keys, values, strict=True):
        layer.lazy_initialization(layer_keys, layer_values)
        layer.keys, layer.values = layer_keys, layer_values
    return cache


def snapshot(cache: DynamicCache, token_ids: TokenIds, fingerprint: str, types: tuple[str, ...]) -> KVBlob | None:
    """Return what ``cache`` holds now, for exactly ``token_ids``; None if its layers hold anything else.

    The tensors are shared with the cache, which replaces and never changes them.
    """
    keys, values = [], []
    for layer in cache.layers:
        if not isinstance(layer, DynamicLayer) or layer.keys is None or layer.get_seq_length() != len(token_ids):
            return None
        keys.append(own(layer.keys[0]))
        values.append(own(layer.values[0]))
    return KVBlob(token_ids, tuple(keys), tuple(values), types, fingerprint)


def own(tensor: torch.Tensor) -> torch.Tensor:
    """Return ``tensor``, copied if it is a small part of a larger storage that it would keep alive."""
    whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    return tensor if whole else tensor.clone()


@dataclass(frozen=True, slots=True)
class Layout:
    """What one layer of a model keeps for each token.

    Attributes:
        kv_heads: Heads of keys and values.
        key_dim: Length of a key.
        value_dim: Length of a value.
        window: Sliding window in tokens; None: everything is kept.
    """

    kv_heads: int
    key_dim: int
    value_dim: int
    dtype: torch.dtype
    window: int | None

    def fits(self, keys: torch.Tensor, values: torch.Tensor, tokens: int) -> bool:
        """Tell whether these are the ``keys`` and ``values`` that this layer keeps of ``tokens`` tokens."""
        held = tokens if self.window is None else min(tokens, self.window - 1)
        shapes_fit = tuple(keys.shape) == (self.kv_heads, held, self.key_dim) and tuple(values.shape) == (
            self.kv_heads,
            held,
            self.value_dim,
        )
        return shapes_fit and keys.dtype == values.dtype == self.dtype


@torch.inference_mode()
def probe_layout(model: Any) -> tuple[Layout, ...] | None:
    """Return what each layer of ``model`` keeps, found by computing one token; None if it keeps anything else."""
    cache = new_cache(model.config)
    model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=model.device), past_key_values=cache, use_cache=True)
    blob = snapshot(cache, as_token_ids([0]), "", layer_types(model.config))
    if blob is None:
        return None
    windows = [layer.sliding_window if isinstance(layer, DynamicSlidingWindowLayer) else None for layer in cache.layers]
    return tuple(
        Layout(keys.shape[0], keys.shape[2], values.shape[2], keys.dtype, window)
        for keys, values, window in zip(blob.keys, blob.values, windows, strict=True)
    )


def misfit(blob: KVBlob, layout: tuple[Layout, ...], types: tuple[str, ...]) -> str | None:
    """Return why ``blob`` is not what a model with this layout makes, or None if it is."""
    if blob.layer_types != types or len(blob.keys) != len(layout):
        return "its layers are of other types than the model's"
    for index, (layer, keys, values) in enumerate(zip(layout, blob.keys, blob.values, strict=True)):
        if not layer.fits(keys, values, blob.tokens):
            return f"layer {index} has keys of {tuple(keys.shape)} {keys.dtype}, which this model does not make"
    return None
