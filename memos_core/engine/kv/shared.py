"""The cache of a request that reads a stored prefix where it lies and keeps what it adds in buffers of its own."""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

from memos_core.engine.kv.attention import Pair, cascade
from memos_core.engine.kv.codec import KVBlob
from memos_core.errors import UnsupportedOption

__all__ = ["SharedPrefixCache", "SharedPrefixLayer"]

FIRST_ROOM = 128
"""Positions that a tail has room for at least; it doubles when full, so a token costs one copy on average."""


class SharedPrefixLayer(CacheLayerMixin):  # type: ignore[misc]  # transformers is untyped here
    """One layer: a prefix that is only read, and the tail of this request.

    ``keys`` and ``values`` are the tail's buffers, ``[batch, kv_heads, room, dim]``, of which ``held`` positions count.
    ``update`` returns the tail alone: only ``cascade_attention`` may attend to it.

    Attributes:
        prefix: Keys and values, ``[1, kv_heads, positions, dim]``; shared with other requests.
        held: Positions in the tail.
    """

    is_sliding = False

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()
        self.prefix = keys, values
        self.held = 0

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        room = max(FIRST_ROOM, key_states.shape[-2])
        self.keys, self.values = empty(key_states, room), empty(value_states, room)
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append to the tail, both ``[1, kv_heads, seq, dim]``, and return views of the whole tail."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, end = self.held, self.held + key_states.shape[-2]
        if end > self.keys.shape[-2]:
            room = max(end, 2 * self.keys.shape[-2])
            self.keys, self.values = (enlarged(buffer, start, room) for buffer in (self.keys, self.values))
        self.keys[:, :, start:end] = key_states
        self.values[:, :, start:end] = value_states
        self.held = end
        return self.tail

    @property
    def tail(self) -> Pair:
        """Keys and values of this request, ``[1, kv_heads, held, dim]``; views."""
        return self.keys[:, :, : self.held], self.values[:, :, : self.held]

    def attend(self, query: torch.Tensor, tail: Pair, scale: float) -> torch.Tensor:
        """Return the attention of the last positions, ``[1, heads, seq, value_dim]``, over prefix and ``tail``."""
        return cascade(query, self.prefix, tail, scale)

    def get_seq_length(self) -> int:
        return int(self.prefix[0].shape[-2]) + self.held

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_max_length(self) -> int:
        return -1

    def reset(self) -> None:
        """Forget the tail."""
        self.held = 0

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        raise UnsupportedOption("a cache that shares its prefix holds one sequence; it has no beams to reorder")


class SharedPrefixCache(Cache):  # type: ignore[misc]  # transformers is untyped here
    """A transformers cache that begins with the first ``length`` tokens of ``blob``, whose tensors it never writes to.

    Making one copies nothing. It serves one request, on one thread at a time, of a full-attention model, which needs it
    twice: as ``past_key_values`` and as ``shared_prefix``.
    """

    def __init__(self, blob: KVBlob, length: int) -> None:
        pairs = zip(blob.keys, blob.values, strict=True)
        super().__init__(layers=[SharedPrefixLayer(k[None, :, :length], v[None, :, :length]) for k, v in pairs])

    @classmethod
    def after(cls, cache: Cache) -> SharedPrefixCache:
        """Return a cache whose prefix is all that ``cache`` holds, for one that full-attention layers alone fill.

        Nothing is copied, and ``cache`` must not be used any more.
        """
        made = cls.__new__(cls)
        Cache.__init__(made, layers=[SharedPrefixLayer(layer.keys, layer.values) for layer in cache.layers])
        return made

    def crop_to(self, length: int) -> None:
        """Forget the tail's positions from ``length`` on, which is at least the length of the prefix."""
        for layer in self.layers:
            layer.held = min(layer.held, length - int(layer.prefix[0].shape[-2]))


def empty(like: torch.Tensor, room: int) -> torch.Tensor:
    batch, heads, _, dim = like.shape
    return like.new_empty(batch, heads, room, dim)


def enlarged(buffer: torch.Tensor, held: int, room: int) -> torch.Tensor:
    larger = empty(buffer, room)
    larger[:, :, :held] = buffer[:, :, :held]
    return larger
