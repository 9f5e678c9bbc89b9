"""Computing single tokens anew inside KV that was put together: the caches for it, and the choice of the tokens.

After CacheBlend (Yao et al., arXiv 2405.16444, section 4): all tokens run through the first layers; those whose values
differ most from the stored ones are computed anew in the layers above, each seeing every earlier token. The model runs
as it is: the caches alone decide where its keys and values go.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from memos_core.engine.kv.cache import new_cache, unwindowed

__all__ = ["MASKED_ATTENTION", "ScatterCache", "choose", "probe", "recompute"]

MASKED_ATTENTION = frozenset({"sdpa", "eager"})
"""Attention implementations that take a mask for each single token."""

PART_TOKENS = 512
"""Positions computed between two yields."""


class ScatterLayer(DynamicLayer):  # type: ignore[misc]
    """A layer that holds all positions already; fresh keys and values replace those at ``positions``."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self.keys, self.values = keys, values
        self.positions = torch.empty(0, dtype=torch.long)
        self.stop = 0

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self.keys.index_copy_(2, self.positions, key_states)
        self.values.index_copy_(2, self.positions, value_states)
        return self.keys[:, :, : self.stop], self.values[:, :, : self.stop]


class ScatterCache(DynamicCache):  # type: ignore[misc]
    """KV of a whole prompt prefix in which single positions can be computed anew.

    Args:
        keys: For each layer ``[1, kv_heads, tokens, head_dim]``. Owned by the cache and written to.
        values: Likewise.
    """

    def __init__(self, keys: Sequence[torch.Tensor], values: Sequence[torch.Tensor]) -> None:
        super().__init__()
        self.layer_class_to_replicate = None
        self.layers = [ScatterLayer(*pair) for pair in zip(keys, values, strict=True)]

    def aim(self, positions: torch.Tensor) -> int:
        """Make the next forward write to ``positions``, ascending; return how many positions it will attend to."""
        stop = int(positions[-1]) + 1
        for layer in self.layers:
            layer.positions, layer.stop = positions, stop
        return stop

    def plain(self, config: Any) -> DynamicCache:
        """Return a cache that goes on growing at the end, and shares the tensors as they are now."""
        return unwindowed(config, [layer.keys for layer in self.layers], [layer.values for layer in self.layers])


def recompute(
    model: Any, cache: ScatterCache, token_ids: torch.Tensor, positions: torch.Tensor
) -> Generator[str, None, None]:
    """Compute the tokens at ``positions`` anew, in parts, with an empty yield after each.

    Args:
        token_ids: ``[tokens]``, of the whole prefix.
        positions: ``[chosen]``, ascending. Each sees all tokens before it, stored or fresh.
    """
    for part in torch.split(positions, PART_TOKENS):
        stop = cache.aim(part)
        hidden = torch.arange(stop, device=part.device)[None] > part[:, None]
        # Additive and not boolean: sdpa takes both, eager only adds.
        mask = torch.zeros(hidden.shape, dtype=model.dtype, device=part.device)
        mask = mask.masked_fill(hidden, torch.finfo(model.dtype).min)[None, None]
        model.get_decoder()(
            input_ids=token_ids[part][None],
            position_ids=part[None],
            attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
        )
        yield ""


class Probed(Exception):
    """Not an error: ends a forward after the layer that was asked for."""


class LastLayer(DynamicLayer):  # type: ignore[misc]
    """A layer that keeps what it is given and ends the forward there."""

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        super().update(key_states, value_states)
        raise Probed


def probe(
    model: Any, cache: ScatterCache, token_ids: torch.Tensor, start: int, check_layer: int
) -> Generator[str, None, torch.Tensor]:
    """Compute all tokens from ``start`` in the layers up to ``check_layer``, and put them into ``cache``.

    Yields after each part.

    Returns:
        ``[tokens - start]``: squared deviation of the values at the check layer from those that ``cache`` held.
    """
    partial = new_cache(model.config)
    partial.layers[check_layer] = LastLayer()
    for layer, held in zip(partial.layers[: check_layer + 1], cache.layers, strict=False):
        layer.lazy_initialization(held.keys, held.values)
        layer.keys, layer.values = held.keys[:, :, :start], held.values[:, :, :start]
    for part in torch.split(token_ids[start:], PART_TOKENS):
        try:
            model.get_decoder()(input_ids=part[None], past_key_values=partial, use_cache=True)
        except Probed:
            yield ""
    stored = cache.layers[check_layer].values[:, :, start:].float()
    fresh_values: torch.Tensor = partial.layers[check_layer].values[:, :, start:].float()
    deviation = (fresh_values - stored).square().sum(dim=(0, 1, 3))
    for layer, fresh in zip(cache.layers, partial.layers[: check_layer + 1], strict=False):
        layer.keys[:, :, start:], layer.values[:, :, start:] = fresh.keys[:, :, start:], fresh.values[:, :, start:]
    return deviation


def choose(deviation: torch.Tensor, positions: torch.Tensor, ratio: float) -> torch.Tensor:
    """Return the share ``ratio`` of ``positions``, rounded up, that deviate most; ``[chosen]``.

    Args:
        deviation: ``[positions]``.
        positions: ``[positions]``.
    """
    count = math.ceil(ratio * len(positions))
    return positions[deviation.topk(count).indices]
