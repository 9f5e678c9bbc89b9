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


def _attend(layer: LlamaDecoderLayer, hidden: Tensor, turn: tuple[Tensor, Tensor], split: int, mask: Tensor) -> Tensor:
    """Applies the attention of one layer."""
    inner = layer.self_attn
    batch, width, _ = hidden.shape
    shape = (batch, width, -1, inner.head_dim)
    query = inner.q_proj(hidden).view(shape).transpose(1, 2)
    key = inner.k_proj(hidden).view(shape).transpose(1, 2)
    value = inner.v_proj(hidden).view(shape).transpose(1, 2)
    query, key = apply_rotary_pos_emb(query, key, *turn)
    parts = []
    if split:
        parts.append(
            scaled_dot_product_attention(query[:, :, :split], key[:, :, :split], value[:, :, :split], is_causal=True)
        )
    if split < width:
        parts.append(scaled_dot_product_attention(query[:, :, split:], key, value, attn_mask=mask))
    return inner.o_proj(torch.cat(parts, dim=2).transpose(1, 2).reshape(batch, width, -1))


def hidden_states(model: LlamaForCausalLM, ids: Tensor, positions: Tensor, split: int, mask: Tensor) -> Tensor:
    """Computes the last hidden states.

    Args:
        model: The model.
        ids: Token ids, the first ``split`` columns attending causally among themselves.
        positions: Position ids.
        split: Number of columns of the shared part.
        mask: Boolean mask of the remaining columns over all columns.

    Returns:
        Hidden states after the last norm.
    """
    core = model.model
    hidden = core.embed_tokens(ids)
    turn = core.rotary_emb(hidden, positions)
    for layer in core.layers:
        hidden = hidden + _attend(layer, layer.input_layernorm(hidden), turn, split, mask)
        hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
    return core.norm(hidden)
