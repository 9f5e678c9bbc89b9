"""Keys and values of the memory prefixes of lessons, computed once by the base model and shared by all that read them.

An adapter of the scope ``tail`` acts behind the prefix only, so while it learns, and while it is examined, the prefix
is a constant: no gradient flows into it, and a step costs what its questions and answers cost.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import pad
from transformers import DynamicCache

from memos_core.engine.kv.cache import FULL, layer_types, new_cache, refusal, unwindowed

__all__ = ["Past", "Prefixes", "divisible"]

MAX_BYTES = 256 * 2**20
ROWS = 16
"""Prefixes that are computed at a time."""

Ids = tuple[int, ...]
Layers = tuple[tuple[torch.Tensor, torch.Tensor], ...]
"""Keys and values of each layer, both ``[kv_heads, tokens, head_dim]``."""


def divisible(config: Any) -> bool:
    """Tell whether a model may be given the keys and values of a prefix of any length, padded on the left."""
    return refusal(config) is None and set(layer_types(config)) == {FULL}


@dataclass(frozen=True, slots=True)
class Past:
    """The prefixes of a batch.

    Attributes:
        keys: For each layer ``[batch, kv_heads, longest prefix, head_dim]``, padded on the left.
        values: Likewise.
        mask: 1 where there is a token, ``[batch, longest prefix]``.
        starts: Length of each prefix, ``[batch]``.
    """

    keys: tuple[torch.Tensor, ...]
    values: tuple[torch.Tensor, ...]
    mask: torch.Tensor
    starts: torch.Tensor

    def cache(self, config: Any) -> DynamicCache:
        """Return a container of its own for one forward pass; the tensors are shared and never written to."""
        return unwindowed(config, self.keys, self.values) if self.keys else new_cache(config)


class Prefixes:
    """Computes prefixes and keeps those that were used last. Not thread-safe.

    Args:
        model: A causal language model with full attention in all layers (``divisible``).
        max_bytes: Most that is kept.
    """

    def __init__(self, model: Any, max_bytes: int = MAX_BYTES) -> None:
        self.model = model
        self.max_bytes = max_bytes
        self.kept: OrderedDict[Ids, Layers] = OrderedDict()
        self.bytes = 0

    def past(self, prefixes: Sequence[Ids]) -> Past:
        """Return the prefixes of a batch, one for each row; an empty one is none."""
        device = self.model.device
        self.compute(prefixes)
        starts = torch.tensor([len(each) for each in prefixes], device=device)
        width = int(starts.max())
        mask = (torch.arange(width, device=device)[None] >= width - starts[:, None]).long()
        layers = [self.kept[each] if each else None for each in prefixes]
        like = next((each for each in layers if each), None)
        if like is None:
            return Past((), (), mask, starts)
        rows = [each or tuple((keys[:, :0], values[:, :0]) for keys, values in like) for each in layers]
        parts = [
            tuple(
                torch.stack([pad(row[layer][part], (0, 0, width - row[layer][part].shape[1], 0)) for row in rows])
                for layer in range(len(like))
            )
            for part in (0, 1)
        ]
        self.trim(set(prefixes))
        return Past(parts[0], parts[1], mask, starts)

    def compute(self, prefixes: Iterable[Ids]) -> None:
        """Compute those that are not kept, and remember that all of them were used."""
        wanted = dict.fromkeys(each for each in prefixes if each)
        for each in wanted:
            if each in self.kept:
                self.kept.move_to_end(each)
        missing = sorted((each for each in wanted if each not in self.kept), key=len)
        # What inference mode makes could not be trained behind.
        with torch.inference_mode(mode=False), torch.no_grad():
            for first in range(0, len(missing), ROWS):
                self.compute_part(missing[first : first + ROWS])

    def compute_part(self, part: Sequence[Ids]) -> None:
        """Compute prefixes as one batch, the longest last, padded on the right."""
        ids, mask = (torch.zeros(len(part), len(part[-1]), dtype=torch.long) for _ in range(2))
        for row, each in enumerate(part):
            ids[row, : len(each)] = torch.tensor(each)
            mask[row, : len(each)] = 1
        cache = new_cache(self.model.config)
        device = self.model.device
        # The head is not needed, and its logits would be the largest tensor of all.
        self.model.base_model(input_ids=ids.to(device), attention_mask=mask.to(device), past_key_values=cache)
        for row, each in enumerate(part):
            found = ((layer.keys[row], layer.values[row]) for layer in cache.layers)
            self.keep(each, tuple((k[:, : len(each)].clone(), v[:, : len(each)].clone()) for k, v in found))

    def keep(self, prefix: Ids, layers: Layers) -> None:
        self.kept[prefix] = layers
        self.bytes += size(layers)

    def trim(self, needed: set[Ids]) -> None:
        """Give up what was not used for longest, but for what a batch needs now."""
        for each in [*self.kept]:
            if self.bytes <= self.max_bytes:
                return
            if each not in needed:
                self.bytes -= size(self.kept.pop(each))


def size(layers: Layers) -> int:
    return sum(tensor.numel() * tensor.element_size() for pair in layers for tensor in pair)
