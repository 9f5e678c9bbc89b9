"""One step of several sequences at once, each with a cache of its own length, none of them padded or copied.

All that a layer does besides attention is the same for every position, so the sequences' newest tokens go through it
as one batch; attention is taken row by row, over each row's own keys where they lie. Rows that read the same stored
prefix attend to it together, so a batch on one memory holds and reads one copy of it (Hydragen, arXiv 2402.05099,
section 3.1). Left padding, the usual way, would move every row's positions and compute over padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

from memos_core.engine.kv.attention import Pair, Partial, attend, fold, merge
from memos_core.engine.kv.cache import new_cache
from memos_core.engine.kv.shared import SharedPrefixCache, SharedPrefixLayer
from memos_core.engine.kv.twin import CODE_ERRORS, PREFIX, difference, feed, twin
from memos_core.errors import UnsupportedOption

__all__ = ["RaggedCache", "RaggedLayer", "probe_batch", "ragged_attention", "step"]

LENGTHS = (3, 7, 5)
NEXT = (4, 8, 6)
"""Lengths of the rows of the probe, and the token that each goes on with."""


class RaggedLayer(CacheLayerMixin):  # type: ignore[misc]  # transformers is untyped here
    """One layer of several caches.

    ``update`` gives each row its own token and returns what it was given: only ``ragged_attention`` may attend to it.

    Attributes:
        rows: The layer of each row's own cache.
    """

    is_sliding = False

    def __init__(self, rows: Sequence[SharedPrefixLayer]) -> None:
        super().__init__()
        self.rows = tuple(rows)

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Nothing to do: the rows make their own buffers."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append one position to each row's tail, both ``[batch, kv_heads, 1, dim]``."""
        for row, keys, values in zip(self.rows, key_states, value_states, strict=True):
            row.update(keys[None], values[None])
        return key_states, value_states

    def attend(self, query: torch.Tensor, tail: Pair, scale: float) -> torch.Tensor:
        """Return the attention of each row's newest position, ``[batch, heads, 1, value_dim]``."""
        return ragged_attention(query, self.rows, scale)

    def get_seq_length(self) -> int:
        return max(row.get_seq_length() for row in self.rows)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_max_length(self) -> int:
        return -1

    def reset(self) -> None:
        raise UnsupportedOption("the rows of a batch belong to their own requests")

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        raise UnsupportedOption("the rows of a batch belong to their own requests")


class RaggedCache(Cache):  # type: ignore[misc]  # transformers is untyped here
    """The caches of several requests for one step. Making one copies nothing; the rows' caches grow by a token each."""

    def __init__(self, caches: Sequence[SharedPrefixCache]) -> None:
        super().__init__(layers=[RaggedLayer(rows) for rows in zip(*(c.layers for c in caches), strict=True)])


def ragged_attention(query: torch.Tensor, rows: Sequence[SharedPrefixLayer], scale: float) -> torch.Tensor:
    """Return the attention of each row's newest position over its own prefix and tail.

    Args:
        query: ``[batch, heads, 1, key_dim]``.
        rows: The layer of each row's cache, which holds the newest position already.
        scale: Factor of the scores.

    Returns:
        ``[batch, heads, 1, value_dim]``.
    """
    kv_heads = rows[0].keys.shape[1]
    tails = [attend(fold(one[None], kv_heads), *row.tail, scale) for one, row in zip(query, rows, strict=True)]
    merged: list[torch.Tensor] = [tail.output for tail in tails]
    for members in groups(rows):
        # The rows of a group become further rows of queries of the one prefix that they read.
        queries = torch.cat([fold(query[number][None], kv_heads) for number in members], dim=2)
        whole = attend(queries, *rows[members[0]].prefix, scale)
        parts = zip(whole.output.chunk(len(members), 2), whole.lse.chunk(len(members), 2), strict=True)
        for number, part in zip(members, parts, strict=True):
            merged[number] = merge(Partial(*part), tails[number])
    return torch.cat([part.reshape(1, query.shape[1], 1, -1) for part in merged])


def groups(rows: Sequence[SharedPrefixLayer]) -> list[list[int]]:
    """Return the numbers of the rows that read one and the same prefix, together; rows without one are left out."""
    found: dict[tuple[int, int], list[int]] = {}
    for number, row in enumerate(rows):
        keys = row.prefix[0]
        if keys.shape[-2]:
            found.setdefault((keys.data_ptr(), keys.shape[-2]), []).append(number)
    return list(found.values())


def step(model: Any, caches: Sequence[SharedPrefixCache], token_ids: Sequence[int]) -> torch.Tensor:
    """Feed one token to each of several sequences and return the logits, ``[batch, vocabulary]``.

    Args:
        model: A twin that attends by ``cascade_attention``.
        caches: One for each sequence; they grow by a position.
        token_ids: The newest token of each.
    """
    cache = RaggedCache(caches)
    device = model.device
    positions = torch.tensor([[each.get_seq_length()] for each in caches], device=device)
    ids = torch.tensor([[token] for token in token_ids], device=device)
    output = model(input_ids=ids, position_ids=positions, past_key_values=cache, use_cache=True, shared_prefix=cache)
    logits: torch.Tensor = output.logits[:, -1]
    return logits


@torch.inference_mode()
def probe_batch(model: Any) -> str | None:
    """Return why rows of different lengths cannot be computed together by ``model``, or None if each gets what it gets
    alone, found by computing a few tokens. The model must be able to attend by cascade.

    Whether a model takes positions as they are given is written in its code.
    """
    other = twin(model)
    begun = [[begin(model, other, length) for length in LENGTHS] for _ in range(2)]
    try:
        got = step(other, begun[0], NEXT)
    except CODE_ERRORS as error:
        return f"it cannot compute rows of different lengths together: {error}"
    alone = [
        feed(other, [token], past_key_values=cache, shared_prefix=cache)
        for token, cache in zip(NEXT, begun[1], strict=True)
    ]
    return difference(got, torch.cat(alone))


def begin(model: Any, other: Any, length: int) -> SharedPrefixCache:
    """Return a cache whose prefix is the first ``length`` tokens of the probe, and whose tail is one more."""
    plain = new_cache(model.config)
    feed(model, PREFIX[:length], past_key_values=plain)
    cache = SharedPrefixCache.after(plain)
    feed(other, NEXT[:1], past_key_values=cache, shared_prefix=cache)
    return cache
