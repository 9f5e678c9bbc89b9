"""Forward pass of the training: the notes once, then every question as if it were the only one.

Computes what the Llama model of transformers computes, with two attention calls a layer instead of one with a full
mask, which saves about half of the attention on long notes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, apply_rotary_pos_emb

from .batches import Looks


def _attend(
    layer: LlamaDecoderLayer,
    hidden: Tensor,
    turn: tuple[Tensor, Tensor],
    *,
    split: int,
    mask: Tensor,
    keep: list[Tensor],
) -> Tensor:
    """Applies the attention of one layer; leaves its queries and keys in ``keep``."""
    inner = layer.self_attn
    batch, width, _ = hidden.shape
    shape = (batch, width, -1, inner.head_dim)
    query = inner.q_proj(hidden).view(shape).transpose(1, 2)
    key = inner.k_proj(hidden).view(shape).transpose(1, 2)
    value = inner.v_proj(hidden).view(shape).transpose(1, 2)
    query, key = apply_rotary_pos_emb(query, key, *turn)
    keep[:] = [query, key]
    parts = []
    if split:
        parts.append(
            scaled_dot_product_attention(query[:, :, :split], key[:, :, :split], value[:, :, :split], is_causal=True)
        )
    if split < width:
        parts.append(scaled_dot_product_attention(query[:, :, split:], key, value, attn_mask=mask))
    return inner.o_proj(torch.cat(parts, dim=2).transpose(1, 2).reshape(batch, width, -1))


def hidden_states(
    model: LlamaForCausalLM,
    ids: Tensor,
    positions: Tensor,
    *,
    split: int,
    mask: Tensor,
    seen: dict[int, list[Tensor]] | None = None,
) -> Tensor:
    """Computes the last hidden states.

    Args:
        model: The model.
        ids: Token ids, the first ``split`` columns attending causally among themselves.
        positions: Position ids.
        split: Number of columns of the shared part.
        mask: Boolean mask of the remaining columns over all columns.
        seen: Takes the queries and keys, ``[batch, heads, width, head_dim]``, of the layers that it has as keys.

    Returns:
        Hidden states after the last norm.
    """
    core = model.model
    hidden = core.embed_tokens(ids)
    turn = core.rotary_emb(hidden, positions)
    for place, layer in enumerate(core.layers):
        keep = seen[place] if seen and place in seen else []
        hidden = hidden + _attend(layer, layer.input_layernorm(hidden), turn, split=split, mask=mask, keep=keep)
        hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
    return core.norm(hidden)


def look_loss(query: Tensor, key: Tensor, looks: Looks, allowed: Tensor) -> Tensor:
    """Mean of minus the logarithm of the attention that falls on the targets.

    Args:
        query: Queries of one head, ``[batch, width, head_dim]``, rotated.
        key: Keys of the head, likewise.
        looks: Where attention should go.
        allowed: Columns that each look may see, ``[looks, width]``.
    """
    asking = query[looks.rows, looks.columns]
    scores = torch.einsum("ld,lwd->lw", asking, key[looks.rows]) * key.shape[-1] ** -0.5
    scores = scores.masked_fill(~allowed, float("-inf"))
    wanted = scores.masked_fill(~looks.targets, float("-inf"))
    return (scores.logsumexp(-1) - wanted.logsumexp(-1)).mean()
