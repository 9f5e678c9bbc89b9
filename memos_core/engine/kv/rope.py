"""Stored keys move to another place in the prompt: their rotary embedding is turned on by the distance.

A rotary embedding turns each pair of dimensions of a key at position ``p`` by ``p * inverse_frequency``; turning it by
``delta * inverse_frequency`` more gives the key at ``p + delta`` (Su et al., arXiv 2104.09864, section 3.2). Values
carry no position. The frequencies are read off the model, and whether turning by them gives the model's own keys is
measured on a few tokens: so a scheme that only looks alike is refused, whatever its name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from memos_core.engine.kv.cache import layer_types, new_cache
from memos_core.errors import UnsupportedOption

__all__ = ["Rotation", "read_rotation", "rotate"]

SCHEMES = frozenset({"default", "linear", "llama3", "yarn"})
"""Schemes whose frequencies do not depend on the length of the prompt."""

CHECK_TOKENS = 8
CHECK_DELTA = 37
TOLERANCE = {torch.float32: 0.02, torch.float64: 0.02}
COARSE_TOLERANCE = 0.15
"""Mean deviation over mean size. A wrong pairing gives above 0.4; the noise of bfloat16 in deep models some 0.05."""


@dataclass(frozen=True, slots=True, eq=False)
class Rotation:
    """How the keys of one model turn with their position.

    Attributes:
        inverse_frequencies: For each layer ``[rotary_dim / 2]``, float32, in radians per position.
    """

    inverse_frequencies: tuple[torch.Tensor, ...]

    def shift(self, keys: Sequence[torch.Tensor], delta: int) -> tuple[torch.Tensor, ...]:
        """Return ``keys``, for each layer ``[..., tokens, head_dim]``, as they are ``delta`` positions further on."""
        pairs = zip(keys, self.inverse_frequencies, strict=True)
        return tuple(rotate(each, frequencies, delta) for each, frequencies in pairs)


def rotate(keys: torch.Tensor, inverse_frequencies: torch.Tensor, delta: int) -> torch.Tensor:
    """Return new keys, turned by ``delta`` positions.

    Computed in float32 and cast back: always start from the stored original, since repeated casts add up. The scaling
    that yarn multiplies into keys is in the stored ones already and is not applied again.

    Args:
        keys: ``[..., tokens, head_dim]``. Not changed; dimensions above the rotary ones are copied as they are.
        inverse_frequencies: ``[rotary_dim / 2]``.
        delta: Positions, may be negative.
    """
    angles = delta * inverse_frequencies.to(device=keys.device, dtype=torch.float32)
    cosine, sine = angles.cos(), angles.sin()
    half = len(angles)
    left, right = keys[..., :half].float(), keys[..., half : 2 * half].float()
    turned = torch.cat([left * cosine - right * sine, right * cosine + left * sine], dim=-1).to(keys.dtype)
    return torch.cat([turned, keys[..., 2 * half :]], dim=-1)


def read_rotation(model: Any) -> Rotation:
    """Return how keys of ``model`` turn. Computes a few tokens twice, to see that they really do.

    Raises:
        UnsupportedOption: Its scheme is none that keys can be moved under; the reason is named.
    """
    rotary = getattr(model.get_decoder(), "rotary_emb", None)
    if rotary is None:
        raise UnsupportedOption("the model has no rotary embedding of a known form, so its keys cannot be moved")
    rotation = Rotation(tuple(frequencies(rotary, layer_type) for layer_type in layer_types(model.config)))
    check(model, rotation)
    return rotation


def frequencies(rotary: Any, layer_type: str) -> torch.Tensor:
    """Return the inverse frequencies of layers of that type, float32.

    Raises:
        UnsupportedOption: They change with the length of the prompt, or are of an unknown scheme.
    """
    scheme = getattr(rotary, "rope_type", None)
    scheme = scheme.get(layer_type) if isinstance(scheme, dict) else scheme
    if scheme not in SCHEMES:
        raise UnsupportedOption(f"keys cannot be moved under the rotary scheme {scheme!r}")
    found = getattr(rotary, f"{layer_type}_inv_freq", getattr(rotary, "inv_freq", None))
    if not isinstance(found, torch.Tensor) or found.dim() != 1:
        raise UnsupportedOption(
            "the model's rotary embedding holds no inverse frequencies, so its keys cannot be moved"
        )
    return found.detach().float()


def check(model: Any, rotation: Rotation) -> None:
    """Raise ``UnsupportedOption`` unless moved keys are those that the model makes at the new place."""
    moved = rotation.shift(keys_at(model, 0), CHECK_DELTA)
    for layer, (keys, expected) in enumerate(zip(moved, keys_at(model, CHECK_DELTA), strict=True)):
        error = (keys.float() - expected.float()).abs().mean() / expected.float().abs().mean()
        if not float(error) <= TOLERANCE.get(keys.dtype, COARSE_TOLERANCE):
            raise UnsupportedOption(
                f"turning halves of a key does not give the keys of layer {layer} at another place: the model pairs "
                "dimensions in another way (interleaved, as in GPT-J) or gives this layer no rotary embedding"
            )


@torch.inference_mode()
def keys_at(model: Any, start: int) -> list[torch.Tensor]:
    """Return the keys of a few fixed tokens, the first at ``start``; for each layer ``[1, kv_heads, tokens, dim]``."""
    cache = new_cache(model.config)
    vocabulary = model.config.get_text_config(decoder=True).vocab_size
    token_ids = torch.arange(1, CHECK_TOKENS + 1, device=model.device) % vocabulary
    positions = torch.arange(start, start + CHECK_TOKENS, device=model.device)
    model(input_ids=token_ids[None], position_ids=positions[None], past_key_values=cache, use_cache=True)
    return [layer.keys for layer in cache.layers]
