"""Attention over a shared prefix and a private tail, without joining their keys.

A softmax over two sets of keys is the two softmaxes, each weighted by its share of the sum of exponentials; so each set
is attended to where it lies, and the outputs are merged by their log-sum-exp. Sources: Hydragen (arXiv 2402.05099,
section 3.1) and the cascade of FlashInfer (arXiv 2501.01005, section 3.1).

The prefix is visible to every query and the tail causally, so no mask ever spans the prefix. Query heads that share
a head of keys become further rows of queries of that head, which repeats no keys and spares the kernels' slow ways for
grouped queries.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from transformers import AttentionInterface

from memos_core.errors import UnsupportedOption

__all__ = [
    "NAME",
    "Partial",
    "attend",
    "attend_by_products",
    "attend_plainly",
    "cascade",
    "cascade_attention",
    "merge",
    "register",
]

NAME = "memos_cascade"
"""Under which transformers knows ``cascade_attention``, once ``register`` was called."""

FOREIGN = ("softcap", "s_aux", "position_bias", "sliding_window")
"""Arguments by which models ask for more than plain softmax attention over all positions."""

MAX_SCORES = 2**20
WIDE = 128
"""Where plain products beat the CPU's flash kernel: few scores in all, of long keys in bfloat16. Elsewhere the kernel
takes half to nine tenths of their time, as measured on one core with AVX512 for 2 to 128 rows and 145 to 4000 keys."""

aten = torch.ops.aten


Pair = tuple[torch.Tensor, torch.Tensor]
"""Keys and values."""


class Partial(NamedTuple):
    """Attention over some of the keys.

    Attributes:
        output: ``[batch, kv_heads, rows, value_dim]``.
        lse: Natural logarithm of the sum of exponentials of the scores, ``[batch, kv_heads, rows]``, float32.
    """

    output: torch.Tensor
    lse: torch.Tensor


def attend_plainly(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float, mask: torch.Tensor | None = None
) -> Partial:
    """Return attention as its definition says, in float32. Slow; on every device, for every shape.

    Args:
        query: ``[batch, kv_heads, rows, key_dim]``.
        keys: ``[batch, kv_heads, seq, key_dim]``.
        values: ``[batch, kv_heads, seq, value_dim]``.
        scale: Factor of the scores.
        mask: Added to the scores, ``[rows, seq]``; each row sees at least one key.
    """
    scores = query.float() @ keys.float().transpose(-1, -2) * scale
    if mask is not None:
        scores = scores + mask.float()
    lse = scores.logsumexp(-1)
    output = (scores - lse[..., None]).exp() @ values.float()
    return Partial(output.to(query.dtype), lse)


def attend(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float, mask: torch.Tensor | None = None
) -> Partial:
    """Return what ``attend_plainly`` does, in the way that is fastest on the device."""
    same_dims = keys.shape[-1] == values.shape[-1]
    if query.device.type == "cpu":
        few = query.shape[:-1].numel() * keys.shape[-2] <= MAX_SCORES
        if few and query.dtype == torch.bfloat16 and keys.shape[-1] >= WIDE:
            return attend_by_products(query, keys, values, scale, mask)
        if same_dims:
            kernel = aten._scaled_dot_product_flash_attention_for_cpu
            return Partial(*kernel(query, keys, values, attn_mask=mask, scale=scale))
    # The CUDA kernel wants masks and heads in multiples of eight; the masks of a tail are not, and are small.
    if query.device.type == "cuda" and same_dims and mask is None and keys.shape[-1] % 8 == 0:
        output, lse, *_ = aten._scaled_dot_product_efficient_attention(query, keys, values, None, True, scale=scale)
        return Partial(output, lse[..., : query.shape[-2]])  # rows are padded to the kernel's block
    return attend_plainly(query, keys, values, scale, mask)


def attend_by_products(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float, mask: torch.Tensor | None = None
) -> Partial:
    """Return what ``attend_plainly`` does, by products in the dtype of the keys. Holds a score for each row and key.

    For one row, long keys and thousands of them this takes half the time of the CPU's flash kernel in bfloat16.
    """
    batch, kv_heads, rows, _ = query.shape
    scores = exact_scores(query.flatten(0, 1), keys.flatten(0, 1)).mul_(scale)
    if mask is not None:
        scores += mask
    lse = scores.logsumexp(-1)
    weights = scores.sub_(lse[..., None]).exp_().to(values.dtype)
    output = torch.bmm(weights, values.flatten(0, 1))
    return Partial(output.view(batch, kv_heads, rows, -1), lse.view(batch, kv_heads, rows))


def exact_scores(query: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """Return ``query @ keys.T`` in float32, ``[heads, rows, seq]``; close to exact in bfloat16 too.

    The product is rounded to the dtype of its factors, and 8 bits are too few for what is to be exponentiated. Computed
    again less the first result, which is added before rounding, it gives what rounding took; both have 16 bits.
    """
    product = torch.bmm(query, keys.mT)
    if product.dtype == torch.float32:
        return product
    lost = torch.baddbmm(product, query, keys.mT, beta=-1)
    return product.float().add_(lost)


def merge(one: Partial, other: Partial) -> torch.Tensor:
    """Return attention over the keys of both, ``[batch, kv_heads, rows, value_dim]`` in the dtype of ``one``."""
    share = torch.sigmoid(one.lse - other.lse)[..., None]
    return torch.lerp(other.output.float(), one.output.float(), share).to(one.output.dtype)


def fold(query: torch.Tensor, kv_heads: int) -> torch.Tensor:
    """Return ``[batch, heads, seq, key_dim]`` as ``[batch, kv_heads, groups * seq, key_dim]``."""
    batch, heads, seq, key_dim = query.shape
    return query.reshape(batch, kv_heads, heads // kv_heads * seq, key_dim)


def causal_mask(seq: int, held: int, groups: int, like: torch.Tensor) -> torch.Tensor | None:
    """Return what hides later positions from folded queries, ``[groups * seq, held]``; None where none are later.

    Args:
        seq: Queries, which are the last of the ``held`` positions.
        like: The mask has its dtype and device.
    """
    if seq == 1:
        return None
    mask = torch.full((seq, held), float("-inf"), dtype=like.dtype, device=like.device)
    return mask.triu_(held - seq + 1).repeat(groups, 1)


def cascade(query: torch.Tensor, prefix: Pair, tail: Pair, scale: float) -> torch.Tensor:
    """Return attention of the last positions over the whole of ``prefix`` and, causally, over ``tail``.

    Args:
        query: ``[batch, heads, seq, key_dim]``; ``seq`` is at most the length of the tail.
        prefix: ``[batch, kv_heads, positions, dim]``; only read.
        tail: Likewise; it ends with the positions of the queries.

    Returns:
        ``[batch, heads, seq, value_dim]``.
    """
    batch, heads, seq, _ = query.shape
    kv_heads, held = tail[0].shape[1:3]
    rows = fold(query, kv_heads)
    mask = causal_mask(seq, held, heads // kv_heads, query)
    own = attend(rows, *tail, scale, mask)
    # The CPU's kernel divides by the number of keys, and nobody could catch that.
    merged = merge(attend(rows, *prefix, scale), own) if prefix[0].shape[-2] else own.output
    return merged.reshape(batch, heads, seq, merged.shape[-1])


def cascade_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    shared_prefix: Any = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend in a layer of a transformers model whose cache is a ``SharedPrefixCache`` or a ``RaggedCache``.

    Args:
        module: The attention layer; ``layer_idx`` finds the layer of the cache, which attends.
        query: ``[batch, heads, seq, key_dim]``.
        key: The tail's, ``[batch, kv_heads, held, key_dim]``, as ``SharedPrefixLayer.update`` returned them.
        value: Likewise.
        attention_mask: None, since transformers makes no mask for implementations without a mask function.
        shared_prefix: The cache, given to the model's ``forward`` under this name.

    Returns:
        ``[batch, seq, heads, value_dim]``, and no weights.

    Raises:
        UnsupportedOption: The layer needs more than this, or its model did not hand ``shared_prefix`` on.
    """
    if shared_prefix is None:
        raise UnsupportedOption("the model did not hand the shared prefix on to its layers")
    foreign = [name for name in FOREIGN if kwargs.get(name) is not None]
    if attention_mask is not None or dropout or foreign:
        raise UnsupportedOption(f"cascade attention has no {', '.join(foreign) or 'mask and no dropout'}")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    layer = shared_prefix.layers[module.layer_idx]
    output = layer.attend(query, (key, value), scale)
    return output.transpose(1, 2).contiguous(), None


def register() -> None:
    """Tell transformers of ``cascade_attention``. Idempotent; no model uses it unless its configuration names it."""
    AttentionInterface.register(NAME, cascade_attention)
