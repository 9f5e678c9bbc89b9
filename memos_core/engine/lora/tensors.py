"""Many small tensors out of one safetensors file, as views of one buffer.

An adapter of a model with 28 layers is some 400 tensors, and making each of them apart takes longer than reading them.
What the file says is checked as safetensors does: the tensors must fill it from end to end, each as long as its shape.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import safetensors.torch
import torch

from memos_core.engine.kv.codec import split_header

__all__ = ["load_tensors"]

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def load_tensors(data: bytes) -> dict[str, torch.Tensor]:
    """Return the tensors in ``data`` by name; those of one dtype share one buffer of their own.

    Raises:
        ValueError: It is no safetensors file, or one that is damaged.
        safetensors.SafetensorError: Likewise.
    """
    header, base = split_header(data)
    header.pop("__metadata__", None)
    kinds = {str(entry["dtype"]) for entry in header.values()}
    dtype = DTYPES.get(next(iter(kinds), ""))
    if len(kinds) != 1 or dtype is None:
        loaded: dict[str, torch.Tensor] = safetensors.torch.load(data)
        return loaded
    check(header, len(data) - base, dtype.itemsize)
    if len(data) == base:
        return {name: torch.empty(entry["shape"], dtype=dtype) for name, entry in header.items()}
    buffer = torch.frombuffer(bytearray(memoryview(data)[base:]), dtype=dtype)
    return {
        name: buffer.as_strided(shape := entry["shape"], strides(shape), entry["data_offsets"][0] // dtype.itemsize)
        for name, entry in header.items()
    }


def check(header: Mapping[str, Any], size: int, itemsize: int) -> None:
    """Raise ``ValueError`` unless the tensors fill ``size`` bytes without a gap, each as its shape says."""
    reached = 0
    for start, end, name in sorted((*entry["data_offsets"], name) for name, entry in header.items()):
        shape = header[name]["shape"]
        if any(type(length) is not int or length < 0 for length in (start, end, *shape)):
            raise ValueError(f"{name} has a malformed shape or place")
        if start != reached or end - start != math.prod(shape) * itemsize:
            raise ValueError(f"{name} does not lie where the tensor before it ends, or is not as long as its shape")
        reached = end
    if reached != size:
        raise ValueError("the tensors do not fill the file")


def strides(shape: list[int]) -> list[int]:
    """Return the strides of a contiguous tensor."""
    return [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
