"""Keys and values on a grid: one step for a whole layer, and for each channel as many bits as its range needs.

An attention score is a sum over channels, so what counts is the absolute error of a key, in whichever channel it is. A
codec with eight bits for each channel gives a channel that moves little the same number of levels as one that moves
much, and bits to channels that do not move at all. Here the step is the same in all channels of a layer and the number
of bits follows: the least error for a number of bits on the whole (reverse water-filling; Cover and Thomas, Elements of
Information Theory, section 10.3.3). Every number becomes a multiple of the step and comes back within half a step of
what it was. Steps are powers of the eighth root of two and grids begin at zero, so numbers that were on a grid before,
as those of a shorter chain, mostly stay where they are.

What a group of tokens holds of one channel is stored as its smallest multiple and codes above that, as integers are in
column stores ("frame of reference"). A code of ``width`` bits lies in up to four planes of 8, 4, 2 and 1 bits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from memos_core.engine.kv.form import Codec, Form, Layout, Shape

__all__ = ["GROUP", "MAX_WIDTH", "Grid"]

GROUP = 64
"""About how many tokens share a smallest multiple and a width. Part of the format: another number is another codec."""

PLANES = (8, 4, 2, 1)
MAX_WIDTH = sum(PLANES)
STEPS_PER_DOUBLING = 8
SPREAD = {
    plane: ((torch.arange(256)[:, None] >> torch.arange(0, 8, plane)) & ((1 << plane) - 1)).to(torch.int16).view(whole)
    for plane, whole in ((4, torch.int32), (2, torch.int64), (1, torch.int64))
}
"""Of each plane below 8 bits the codes that a byte holds, for every byte, several in one integer: they are looked up,
in a third to a fifth of the time that shifting takes."""
SAFE = 1e-30, 1e30
"""Between these, float32 multiplies without loss."""


class Grid(Codec):
    """Even steps; the step is the smallest with which a layer's codes take ``bits`` bits a number on average.

    Args:
        name: As written into blobs.
        bits: On average over the channels of a layer, for keys and for values each.
    """

    def __init__(self, name: str, bits: int) -> None:
        self.name = name
        self.bits = bits
        inner = ("step", "base", "widths", *(f"plane{plane}" for plane in PLANES))
        self.parts = tuple(f"{side}.{part}" for side in ("keys", "values") for part in inner)

    def layout(self, form: Form) -> Layout:
        """Return dtype and shape of the parts that do not depend on the numbers in them."""
        return {
            f"{side}.{part}": laid_out
            for side, shape in (("keys", form.keys), ("values", form.values))
            for part, laid_out in (
                ("step", (torch.float64, (1,))),
                ("widths", (torch.uint8, columns(shape))),
            )
        }

    def misfit(self, stored: Mapping[str, torch.Tensor], form: Form) -> str | None:
        found = super().misfit(stored, form)
        for side, shape in (("keys", form.keys), ("values", form.values)):
            if found is not None:
                return found
            found = side_misfit(stored, side, shape)
        return found

    def pack(self, keys: torch.Tensor, values: torch.Tensor) -> dict[str, torch.Tensor]:
        both = (("keys", keys), ("values", values))
        return {f"{side}.{part}": tensor for side, numbers in both for part, tensor in self.side(numbers).items()}

    def side(self, numbers: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the parts of ``numbers``, ``[kv_heads, held, dim]``."""
        groups = grouped(numbers).double()
        step = self.step(groups.amin(-1), groups.amax(-1))
        multiples = (groups / step).round_().int()
        base = multiples.amin(-1)
        codes = multiples.sub_(base[..., None])
        widths = bit_length(codes.amax(-1))
        small = int(base.min()) >= -(2**15) and int(base.max()) < 2**15
        planes = {f"plane{plane}": fold(codes, widths, plane) for plane in PLANES}
        kept = {"base": base.to(torch.int16) if small else base, "widths": widths, **planes}
        return {"step": torch.tensor([step], dtype=torch.float64), **kept}

    def step(self, low: torch.Tensor, high: torch.Tensor) -> float:
        """Return the smallest step that keeps within the bits, for columns from ``low`` to ``high``."""
        largest = max(float(low.abs().max()), float(high.abs().max()))
        if largest == 0:
            return 1.0
        coarse = math.ceil(STEPS_PER_DOUBLING * math.log2(largest)) + STEPS_PER_DOUBLING
        fine = coarse - 30 * STEPS_PER_DOUBLING  # a finer one has multiples that are too large
        while coarse - fine > 1:
            middle = (coarse + fine) // 2
            coarse, fine = (middle, fine) if self.fits(low, high, step_of(middle)) else (coarse, middle)
        return step_of(coarse)

    def fits(self, low: torch.Tensor, high: torch.Tensor, step: float) -> bool:
        """Tell whether the codes of such columns have no more than the bits on average, and none more than 15."""
        widths = bit_length((high / step).round() - (low / step).round())
        return int(widths.max()) <= MAX_WIDTH and float(widths.double().mean()) <= self.bits

    def unpack(self, stored: Mapping[str, torch.Tensor], form: Form) -> tuple[torch.Tensor, torch.Tensor]:
        keys = back(stored, "keys", form.keys, form.dtype)
        return keys, back(stored, "values", form.values, form.dtype)


def back(stored: Mapping[str, torch.Tensor], side: str, shape: Shape, dtype: torch.dtype) -> torch.Tensor:
    """Return the numbers of one side, ``[kv_heads, held, dim]``, contiguous."""
    base, widths = stored[f"{side}.base"], stored[f"{side}.widths"].int()
    step = float(stored[f"{side}.step"])
    codes = torch.zeros(*columns(shape), group_length(shape[1]), dtype=torch.int16)
    for plane in PLANES:
        chosen = widths & plane != 0
        if bool(chosen.any()):
            shift = (widths[chosen] & -2 * plane).to(torch.int16)[:, None]
            codes[chosen] |= unfold(stored[f"{side}.plane{plane}"], plane, codes.shape[-1]) << shift
    plain = dtype != torch.float64 and SAFE[0] < step < SAFE[1]
    numbers = codes.to(torch.float32 if plain else torch.float64)
    numbers = numbers.add_(base[..., None]).mul_(step)
    top = torch.finfo(dtype).max
    if step * (float(base.int().abs().max()) + 2**MAX_WIDTH) > top:
        numbers = numbers.clamp_(-top, top)  # the multiple nearest to the largest number may lie above it
    return numbers.to(dtype).transpose(2, 3).flatten(1, 2)[:, : shape[1]].contiguous()


def step_of(place: int) -> float:
    """Return the step at that place of the ladder of steps."""
    return float(2.0 ** (place / STEPS_PER_DOUBLING))


def group_length(held: int) -> int:
    """Return the tokens of a group: about ``GROUP``, a multiple of 8, so that few places stay empty."""
    groups = max(1, round(held / GROUP))
    return -(-held // groups // 8) * 8


def columns(shape: Shape) -> Shape:
    """Return ``(kv_heads, groups, dim)`` for numbers of ``shape``."""
    return shape[0], -(-shape[1] // group_length(shape[1])), shape[2]


def grouped(numbers: torch.Tensor) -> torch.Tensor:
    """Return ``[kv_heads, held, dim]`` as ``[kv_heads, groups, dim, group]``; filled up with the last token."""
    length = group_length(numbers.shape[1])
    missing = -numbers.shape[1] % length
    filled = torch.cat([numbers, numbers[:, -1:].expand(-1, missing, -1)], dim=1) if missing else numbers
    return filled.reshape(filled.shape[0], -1, length, filled.shape[2]).transpose(2, 3)


def bit_length(numbers: torch.Tensor) -> torch.Tensor:
    """Return how many bits each of ``numbers``, not negative, takes; uint8."""
    return torch.frexp(numbers.double()).exponent.to(torch.uint8)


def fold(codes: torch.Tensor, widths: torch.Tensor, plane: int) -> torch.Tensor:
    """Return the bits of one plane, of the columns that have it, packed; uint8 ``[bytes]``.

    Args:
        codes: ``[..., group]``, int32.
        widths: ``[...]``; a column has the plane if its width has that bit, above the planes of larger bits.
    """
    chosen = widths.int() & plane != 0
    shift = (widths[chosen].int() & -2 * plane)[:, None]
    bits = (codes[chosen] >> shift) & ((1 << plane) - 1)
    places = torch.arange(0, 8, plane, dtype=torch.int32)
    return (bits.reshape(-1, len(places)) << places).sum(-1).to(torch.uint8)


def unfold(packed: torch.Tensor, plane: int, group: int) -> torch.Tensor:
    """Return what ``fold`` packed, ``[columns, group]``, int16."""
    if plane == 8:
        return packed.to(torch.int16).reshape(-1, group)
    return SPREAD[plane].index_select(0, packed.int()).view(torch.int16).reshape(-1, group)


def side_misfit(stored: Mapping[str, torch.Tensor], side: str, shape: Shape) -> str | None:
    """Return why the parts of one side do not belong to its widths and shape, or None if they do."""
    base, widths, step = stored[f"{side}.base"], stored[f"{side}.widths"].int(), float(stored[f"{side}.step"])
    if int(widths.max()) > MAX_WIDTH or not 0 < step < float("inf"):
        return f"{side} have codes of more than {MAX_WIDTH} bits, or no step"
    if base.dtype not in (torch.int16, torch.int32) or tuple(base.shape) != columns(shape):
        return f"{side}.base has another dtype or shape than recorded"
    for plane in PLANES:
        size = int((widths & plane != 0).sum()) * group_length(shape[1]) * plane // 8
        tensor = stored[f"{side}.plane{plane}"]
        if (tensor.dtype, tuple(tensor.shape)) != (torch.uint8, (size,)):
            return f"{side}.plane{plane} has another dtype or shape than its widths ask for"
    return None
