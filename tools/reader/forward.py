"""Forward pass of the training: the notes once, then every question as if it were the only one.

Computes what the Llama and GPT-NeoX models of transformers compute, with two attention calls a layer instead of one
with a full mask, which saves about half of the attention on long notes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import PreTrainedModel
from transformers.models.gpt_neox.modeling_gpt_neox import apply_rotary_pos_emb

from .batches import Looks

Heads = tuple[Tensor, Tensor, Tensor]


def _llama_heads(layer: Any, hidden: Tensor) -> Heads:
    """Projects to queries, keys and values, ``[batch, heads, width, head_dim]``."""
    inner = layer.self_attn
    shape = (*hidden.shape[:2], -1, inner.head_dim)
    made = [project(hidden).view(shape).transpose(1, 2) for project in (inner.q_proj, inner.k_proj, inner.v_proj)]
    return made[0], made[1], made[2]


def _neox_heads(layer: Any, hidden: Tensor) -> Heads:
    """Projects likewise; one matrix holds the three of each head."""
    inner = layer.attention
    made = inner.query_key_value(hidden).view(*hidden.shape[:2], -1, 3 * inner.head_size).transpose(1, 2)
    query, key, value = made.chunk(3, dim=-1)
    return query, key, value


def _llama_layer(layer: Any, hidden: Tensor, attend: Callable[[Heads], Tensor]) -> Tensor:
    """Applies one layer: attention, then the feed-forward part."""
    hidden = hidden + layer.self_attn.o_proj(attend(_llama_heads(layer, layer.input_layernorm(hidden))))
    return hidden + layer.mlp(layer.post_attention_layernorm(hidden))


def _neox_layer(layer: Any, hidden: Tensor, attend: Callable[[Heads], Tensor]) -> Tensor:
    """Applies one layer: attention and the feed-forward part side by side."""
    attended = layer.attention.dense(attend(_neox_heads(layer, layer.input_layernorm(hidden))))
    return hidden + attended + layer.mlp(layer.post_attention_layernorm(hidden))


LAYERS = {"llama": _llama_layer, "gpt_neox": _neox_layer}


def last_norm(model: PreTrainedModel) -> nn.Module:
    """The norm before the output matrix."""
    core = model.base_model
    return core.norm if model.config.model_type == "llama" else core.final_layer_norm


def hidden_states(
    model: PreTrainedModel,
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
    core = model.base_model
    hidden = model.get_input_embeddings()(ids)
    turn = core.rotary_emb(hidden, positions)
    apply = LAYERS[model.config.model_type]
    for place, layer in enumerate(core.layers):
        keep = seen.get(place) if seen else None

        def attend(heads: Heads, keep: list[Tensor] | None = keep) -> Tensor:
            query, key = apply_rotary_pos_emb(heads[0], heads[1], *turn)
            if keep is not None:
                keep[:] = [query, key]
            return _attention(query, key, heads[2], split=split, mask=mask)

        hidden = apply(layer, hidden, attend)
    return last_norm(model)(hidden)


def _attention(query: Tensor, key: Tensor, value: Tensor, *, split: int, mask: Tensor) -> Tensor:
    """Attends, ``[batch, width, heads * head_dim]``."""
    batch, _, width, _ = query.shape
    parts = []
    if split:
        notes = (part[:, :, :split] for part in (query, key, value))
        parts.append(scaled_dot_product_attention(*notes, is_causal=True))
    if split < width:
        parts.append(scaled_dot_product_attention(query[:, :, split:], key, value, attn_mask=mask))
    return torch.cat(parts, dim=2).transpose(1, 2).reshape(batch, width, -1)


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
