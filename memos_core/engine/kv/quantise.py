"""How the keys and values of one layer are stored: as they are, or in eight or four bits each.

Keys have channels that are large in every token, so they are scaled per channel; values have none and are scaled per
token (KIVI, arXiv 2402.02750, section 3). The scales of keys are made anew for every ``GROUP_TOKENS`` tokens.

What is stored beside the codes are the smallest and the largest number of each group, and not a scale: both are
numbers of the tensor, so they fit the model's dtype without rounding, and quantising twice changes nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

__all__ = ["CODECS", "GROUP_TOKENS", "RAW", "Codec", "Float8", "Form", "Integer", "Raw"]

RAW = "raw"
GROUP_TOKENS = 64
"""Tokens that share the scales of keys. Part of the format: another number is another codec."""

Shape = tuple[int, ...]
Layout = dict[str, tuple[torch.dtype, Shape]]
"""Name of a stored tensor to its dtype and shape."""

DTYPES = {
    str(dtype).removeprefix("torch."): dtype for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64)
}


@dataclass(frozen=True, slots=True)
class Form:
    """What one layer's keys and values are in the model.

    Attributes:
        dtype: Of both.
        keys: ``(kv_heads, held, key_dim)``.
        values: ``(kv_heads, held, value_dim)``.
    """

    dtype: torch.dtype
    keys: Shape
    values: Shape

    @classmethod
    def of(cls, keys: torch.Tensor, values: torch.Tensor) -> Form:
        return cls(keys.dtype, tuple(keys.shape), tuple(values.shape))

    def to_record(self) -> dict[str, Any]:
        """Return the form as JSON."""
        return {"dtype": str(self.dtype).removeprefix("torch."), "keys": list(self.keys), "values": list(self.values)}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Form:
        """Return the form that ``to_record`` wrote. Raises ``ValueError`` or ``KeyError`` for anything else."""
        keys, values = tuple(record["keys"]), tuple(record["values"])
        sound = all(len(shape) == 3 and all(type(n) is int and n > 0 for n in shape) for shape in (keys, values))
        if not sound or record["dtype"] not in DTYPES:
            raise ValueError("the form of a layer is malformed")
        return cls(DTYPES[record["dtype"]], keys, values)


class Codec(ABC):
    """Turns one layer's keys and values into tensors to store, and back. Stateless.

    Attributes:
        name: As written into blobs.
        parts: Names of the tensors that it stores for a layer.
        approximate: Whether what comes back may differ from what was given.
    """

    name: str
    parts: tuple[str, ...]
    approximate: bool = True

    @abstractmethod
    def layout(self, form: Form) -> Layout:
        """Return dtype and shape of each part of a layer of that form."""

    @abstractmethod
    def pack(self, keys: torch.Tensor, values: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the tensors to store, on the device of ``keys``, never aliasing each other.

        Args:
            keys: ``[kv_heads, held, key_dim]``, finite.
            values: ``[kv_heads, held, value_dim]``, finite.
        """

    @abstractmethod
    def unpack(self, stored: Mapping[str, torch.Tensor], form: Form) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys and values in the model's dtype. ``stored`` has the layout for ``form``."""


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


class Integer(Codec):
    """Evenly spaced levels between the smallest and the largest number of a group.

    Args:
        name: As written into blobs.
        bits: 8, or 4 with two codes per byte.
    """

    parts = ("keys.codes", "keys.low", "keys.high", "values.codes", "values.low", "values.high")

    def __init__(self, name: str, bits: int) -> None:
        self.name = name
        self.bits = bits
        self.top = 2**bits - 1

    def layout(self, form: Form) -> Layout:
        sides = (("keys", form.keys, channel_bounds(form.keys)), ("values", form.values, token_bounds(form.values)))
        found: Layout = {}
        for side, shape, bounds in sides:
            found[f"{side}.codes"] = torch.uint8, shape if self.bits == 8 else packed_shape(shape)
            found[f"{side}.low"] = found[f"{side}.high"] = form.dtype, bounds
        return found

    def pack(self, keys: torch.Tensor, values: torch.Tensor) -> dict[str, torch.Tensor]:
        stored = {}
        for side, groups, tensor in (("keys", grouped(wide(keys)), keys), ("values", wide(values), values)):
            axis = -2 if side == "keys" else -1
            low, high = groups.amin(axis, keepdim=True), groups.amax(axis, keepdim=True)
            codes = self.codes(groups, low, high)
            codes = ungrouped(codes, keys.shape[1]) if side == "keys" else codes
            stored[f"{side}.codes"] = codes if self.bits == 8 else pack_nibbles(codes)
            for bound, numbers in (("low", low), ("high", high)):
                stored[f"{side}.{bound}"] = (numbers.squeeze(-2) if side == "keys" else numbers).to(tensor.dtype)
        return stored

    def unpack(self, stored: Mapping[str, torch.Tensor], form: Form) -> tuple[torch.Tensor, torch.Tensor]:
        codes = self.whole(stored["keys.codes"], form.keys)
        low, high = (stored[f"keys.{bound}"].unsqueeze(-2) for bound in ("low", "high"))
        keys = ungrouped(self.levels(grouped(codes), low, high), form.keys[1])
        codes = self.whole(stored["values.codes"], form.values)
        return keys, self.levels(codes, stored["values.low"], stored["values.high"])

    def codes(self, tensor: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
        # Halved before the difference is taken: the distance of two large numbers may exceed the dtype.
        width = high / 2 - low / 2
        width[width == 0] = 1
        return (tensor / 2).sub_(low / 2).div_(width).mul_(self.top).round_().clamp_(0, self.top).to(torch.uint8)

    def levels(self, codes: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
        share = codes.to(wide(low).dtype).div_(self.top)
        # Not low + share * (high - low): this form gives both ends exactly, and no difference that may overflow.
        return (share * wide(high)).add_((1 - share).mul_(wide(low))).to(low.dtype)

    def whole(self, codes: torch.Tensor, shape: Shape) -> torch.Tensor:
        return codes if self.bits == 8 else unpack_nibbles(codes, shape[-1])


class Float8(Codec):
    """Eight-bit floating point (e4m3), each group scaled so that its largest magnitude is the largest of the format."""

    name = "fp8"
    parts = ("keys.codes", "keys.peak", "values.codes", "values.peak")
    top = torch.finfo(torch.float8_e4m3fn).max

    def layout(self, form: Form) -> Layout:
        sides = (("keys", form.keys, channel_bounds(form.keys)), ("values", form.values, token_bounds(form.values)))
        found: Layout = {}
        for side, shape, bounds in sides:
            found[f"{side}.codes"], found[f"{side}.peak"] = (torch.float8_e4m3fn, shape), (form.dtype, bounds)
        return found

    def pack(self, keys: torch.Tensor, values: torch.Tensor) -> dict[str, torch.Tensor]:
        groups = grouped(wide(keys))
        peak = groups.abs().amax(-2)
        codes = ungrouped(self.codes(groups, peak.unsqueeze(-2)), keys.shape[1])
        stored = {"keys.codes": codes, "keys.peak": peak.to(keys.dtype)}
        peak = wide(values).abs().amax(-1, keepdim=True)
        return {**stored, "values.codes": self.codes(wide(values), peak), "values.peak": peak.to(values.dtype)}

    def unpack(self, stored: Mapping[str, torch.Tensor], form: Form) -> tuple[torch.Tensor, torch.Tensor]:
        # Floats before they are grouped: the operations on eight-bit ones are few.
        codes = grouped(wide(stored["keys.codes"]))
        keys = ungrouped(self.levels(codes, stored["keys.peak"].unsqueeze(-2)), form.keys[1])
        return keys, self.levels(wide(stored["values.codes"]), stored["values.peak"])

    def codes(self, tensor: torch.Tensor, peak: torch.Tensor) -> torch.Tensor:
        scale = torch.where(peak == 0, 1, peak)
        # The cast turns what is above the largest number into NaN.
        return (tensor / scale).mul_(self.top).clamp_(-self.top, self.top).to(torch.float8_e4m3fn)

    def levels(self, codes: torch.Tensor, peak: torch.Tensor) -> torch.Tensor:
        return (codes / self.top).to(wide(peak).dtype).mul_(wide(peak)).to(peak.dtype)


def wide(tensor: torch.Tensor) -> torch.Tensor:
    """Return ``tensor`` in the dtype to compute in: float32 at least."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def channel_bounds(shape: Shape) -> Shape:
    return shape[0], -(-shape[1] // GROUP_TOKENS), shape[2]


def token_bounds(shape: Shape) -> Shape:
    return shape[0], shape[1], 1


def packed_shape(shape: Shape) -> Shape:
    return *shape[:-1], (shape[-1] + 1) // 2


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


CODECS: dict[str, Codec] = {codec.name: codec for codec in (Raw(), Integer("int8", 8), Integer("int4", 4), Float8())}
"""Every codec by its name."""
