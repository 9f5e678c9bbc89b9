"""How the keys and values of one layer are stored: as they are, or in eight or four bits each.

Keys have channels that are large in every token, so they are scaled per channel; values have none and are scaled per
token (KIVI, arXiv 2402.02750, section 3). The scales of keys are made anew for every ``GROUP_TOKENS`` tokens.

What is stored beside the codes are the smallest and the largest number of each group, and not a scale: both are
numbers of the tensor, so they fit the model's dtype without rounding, and they come back exactly.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

import torch

from memos_core.engine.kv.form import Codec, Form, Layout, Shape
from memos_core.engine.kv.grid import Grid

__all__ = ["CODECS", "GROUP_TOKENS", "RAW", "Codec", "Float8", "Form", "Integer", "Nibbles", "Raw"]

RAW = "raw"
GROUP_TOKENS = 64
"""Tokens that share the scales of keys. Part of the format: another number is another codec."""


class Raw(Codec):
    """Bit for bit."""

    name = RAW
    parts = ("keys", "values")
    approximate = False

    def layout(self, form: Form) -> Layout:
        return {"keys": (form.dtype, form.keys), "values": (form.dtype, form.values)}

    def pack(self, keys: torch.Tensor, values: torch.Tensor) -> dict[str, torch.Tensor]:
        # A model may use its keys as values; safetensors wants both.
        values = values.clone() if values.data_ptr() == keys.data_ptr() else values
        return {"keys": keys, "values": values}

    def unpack(self, stored: Mapping[str, torch.Tensor], form: Form) -> tuple[torch.Tensor, torch.Tensor]:
        return stored["keys"], stored["values"]


class Quantised(Codec):
    """Codes of a few bits, and for each group of numbers what the codes are relative to.

    Attributes:
        ends: Names of what is kept of a group, numbers of the model's dtype.
        dtype: Of the codes.
    """

    ends: tuple[str, ...]
    dtype: torch.dtype

    def __init__(self) -> None:
        self.parts = tuple(f"{side}.{part}" for side in ("keys", "values") for part in ("codes", *self.ends))

    @abstractmethod
    def measure(self, groups: torch.Tensor, axis: int) -> tuple[torch.Tensor, ...]:
        """Return the ends of ``groups`` along ``axis``, which is kept with length 1."""

    @abstractmethod
    def codes(self, numbers: torch.Tensor, *ends: torch.Tensor) -> torch.Tensor:
        """Return a code for each of ``numbers``; ``ends`` broadcast against them, and all are at least float32."""

    @abstractmethod
    def levels(self, codes: torch.Tensor, *ends: torch.Tensor) -> torch.Tensor:
        """Return the numbers that ``codes`` stand for, in the place of ``codes``; all are at least float32."""

    def layout(self, form: Form) -> Layout:
        heads, held, key_dim = form.keys
        groups = -(-held // GROUP_TOKENS)
        return {
            "keys.codes": (self.dtype, self.stored_shape(form.keys)),
            **{f"keys.{end}": (form.dtype, (heads, groups, key_dim)) for end in self.ends},
            "values.codes": (self.dtype, self.stored_shape(form.values)),
            **{f"values.{end}": (form.dtype, (*form.values[:2], 1)) for end in self.ends},
        }

    def pack(self, keys: torch.Tensor, values: torch.Tensor) -> dict[str, torch.Tensor]:
        groups, tokens = grouped(wide(keys)), wide(values)
        key_ends, value_ends = self.measure(groups, -2), self.measure(tokens, -1)
        key_codes = ungrouped(self.codes(groups, *key_ends), keys.shape[1])
        return {
            "keys.codes": self.store(key_codes),
            **{f"keys.{name}": end.squeeze(-2).to(keys.dtype) for name, end in zip(self.ends, key_ends, strict=True)},
            "values.codes": self.store(self.codes(tokens, *value_ends)),
            **{f"values.{name}": end.to(values.dtype) for name, end in zip(self.ends, value_ends, strict=True)},
        }

    def unpack(self, stored: Mapping[str, torch.Tensor], form: Form) -> tuple[torch.Tensor, torch.Tensor]:
        ends = [wide(stored[f"keys.{name}"]).unsqueeze(-2) for name in self.ends]
        codes = self.restore(stored["keys.codes"], form.keys).to(ends[0].dtype)
        keys = ungrouped(self.levels(grouped(codes), *ends).to(form.dtype), form.keys[1])
        ends = [wide(stored[f"values.{name}"]) for name in self.ends]
        codes = self.restore(stored["values.codes"], form.values).to(ends[0].dtype)
        return keys, self.levels(codes, *ends).to(form.dtype)

    def stored_shape(self, shape: Shape) -> Shape:
        return shape

    def store(self, codes: torch.Tensor) -> torch.Tensor:
        return codes

    def restore(self, codes: torch.Tensor, shape: Shape) -> torch.Tensor:
        """Undo ``store``, in any dtype; ``shape`` is that of the numbers."""
        return codes


class Integer(Quantised):
    """Evenly spaced levels between the smallest and the largest number of a group.

    Args:
        name: As written into blobs.
        bits: At most 8.
    """

    ends = ("low", "high")
    dtype = torch.uint8

    def __init__(self, name: str, bits: int) -> None:
        super().__init__()
        self.name = name
        self.top = (1 << bits) - 1

    def measure(self, groups: torch.Tensor, axis: int) -> tuple[torch.Tensor, ...]:
        return groups.amin(axis, keepdim=True), groups.amax(axis, keepdim=True)

    def codes(self, numbers: torch.Tensor, *ends: torch.Tensor) -> torch.Tensor:
        # Halved before the difference is taken: the distance of two large numbers may exceed the dtype.
        low, high = ends[0] / 2, ends[1] / 2
        width = high - low
        width[width == 0] = 1
        return (numbers / 2).sub_(low).div_(width).mul_(self.top).round_().clamp_(0, self.top).to(self.dtype)

    def levels(self, codes: torch.Tensor, *ends: torch.Tensor) -> torch.Tensor:
        low, high = ends
        share = codes.div_(self.top)
        # Not low + share * (high - low): this form gives both ends exactly, and no difference that may overflow.
        rest = (1 - share).mul_(low)
        return share.mul_(high).add_(rest)


class Nibbles(Integer):
    """Sixteen levels, two codes in a byte."""

    def __init__(self, name: str) -> None:
        super().__init__(name, 4)

    def stored_shape(self, shape: Shape) -> Shape:
        return *shape[:-1], (shape[-1] + 1) // 2

    def store(self, codes: torch.Tensor) -> torch.Tensor:
        return pack_nibbles(codes)

    def restore(self, codes: torch.Tensor, shape: Shape) -> torch.Tensor:
        return unpack_nibbles(codes, shape[-1])


class Float8(Quantised):
    """Eight-bit floating point (e4m3), each group scaled so that its largest magnitude is the largest of the format."""

    name = "fp8"
    ends = ("peak",)
    dtype = torch.float8_e4m3fn
    top: float = torch.finfo(torch.float8_e4m3fn).max

    def __init__(self) -> None:
        super().__init__()
        self.numbers = torch.arange(256, dtype=torch.uint8).view(self.dtype).float()

    def restore(self, codes: torch.Tensor, shape: Shape) -> torch.Tensor:
        # Five times as fast as the cast to float32 on a CPU.
        places = codes.view(torch.uint8).flatten().int()
        return self.numbers.to(codes.device).index_select(0, places).reshape(shape)

    def measure(self, groups: torch.Tensor, axis: int) -> tuple[torch.Tensor, ...]:
        return (groups.abs().amax(axis, keepdim=True),)

    def codes(self, numbers: torch.Tensor, *ends: torch.Tensor) -> torch.Tensor:
        scale = torch.where(ends[0] == 0, 1, ends[0])
        # The cast turns what is above the largest number into NaN.
        return (numbers / scale).mul_(self.top).clamp_(-self.top, self.top).to(self.dtype)

    def levels(self, codes: torch.Tensor, *ends: torch.Tensor) -> torch.Tensor:
        return codes.div_(self.top).mul_(ends[0])


def wide(tensor: torch.Tensor) -> torch.Tensor:
    """Return ``tensor`` in the dtype to compute in: float32 at least."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def grouped(tensor: torch.Tensor) -> torch.Tensor:
    """Return ``[kv_heads, held, dim]`` as ``[kv_heads, groups, GROUP_TOKENS, dim]``; filled up with the last token."""
    missing = -tensor.shape[1] % GROUP_TOKENS
    filled = torch.cat([tensor, tensor[:, -1:].expand(-1, missing, -1)], dim=1) if missing else tensor
    return filled.reshape(filled.shape[0], -1, GROUP_TOKENS, filled.shape[2])


def ungrouped(groups: torch.Tensor, held: int) -> torch.Tensor:
    """Undo ``grouped``: return ``[kv_heads, held, dim]``, contiguous."""
    return groups.flatten(1, 2)[:, :held].contiguous()


def pack_nibbles(codes: torch.Tensor) -> torch.Tensor:
    """Return codes below 16, ``[..., dim]`` uint8, two per byte: the even places in the low half."""
    even = torch.nn.functional.pad(codes, (0, codes.shape[-1] % 2))
    return even[..., ::2] | (even[..., 1::2] << 4)


def unpack_nibbles(packed: torch.Tensor, dim: int) -> torch.Tensor:
    """Return the ``[..., dim]`` codes that ``pack_nibbles`` packed."""
    return torch.stack((packed & 15, packed >> 4), dim=-1).flatten(-2)[..., :dim]


GRIDS = tuple(Grid(f"grid{bits}", bits) for bits in (10, 8, 7, 6, 5))
CODECS: dict[str, Codec] = {
    codec.name: codec for codec in (Raw(), Integer("int8", 8), Nibbles("int4"), Float8(), *GRIDS)
}
"""Every codec by its name."""
