"""Starts a GPT-NeoX reader from a trained Llama reader: what both have is copied, what differs begins anew."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import GPTNeoXForCausalLM


@torch.no_grad()
def take_over(model: GPTNeoXForCausalLM, checkpoint: Path) -> None:
    """Copies embeddings, output matrix, attention and norms of a Llama checkpoint of the same width and depth.

    A layer of GPT-NeoX subtracts the mean in its norms, has biases, and computes its feed-forward part beside the
    attention instead of after it. So the copy answers nothing yet, but attention starts out knowing where to look,
    which is what takes longest to learn. The feed-forward parts start from small random weights.

    Args:
        model: Fresh model; its rotary positions must cover the whole head, as Llama's do.
        checkpoint: Folder of a checkpoint of the Llama run.
    """
    tensors = load_file(checkpoint / "state.safetensors")

    def of(name: str) -> Tensor:
        return tensors[f"model.{name}"]

    core, heads = model.gpt_neox, model.config.num_attention_heads
    model.get_input_embeddings().weight.copy_(of("model.embed_tokens.weight"))
    model.get_output_embeddings().weight.copy_(of("lm_head.weight"))
    core.final_layer_norm.weight.copy_(of("model.norm.weight"))
    for place, layer in enumerate(core.layers):
        source = f"model.layers.{place}"
        three = [of(f"{source}.self_attn.{part}_proj.weight") for part in "qkv"]
        size = three[0].shape[0] // heads
        joined = torch.stack([part.view(heads, size, -1) for part in three], dim=1)
        layer.attention.query_key_value.weight.copy_(joined.reshape(-1, three[0].shape[1]))
        layer.attention.dense.weight.copy_(of(f"{source}.self_attn.o_proj.weight"))
        layer.input_layernorm.weight.copy_(of(f"{source}.input_layernorm.weight"))
        layer.post_attention_layernorm.weight.copy_(of(f"{source}.post_attention_layernorm.weight"))
        layer.mlp.dense_4h_to_h.weight.mul_(0.2)
