"""The tensors of a safetensors file as views of its bytes, without a copy of any of them.

What the file says is checked as safetensors does: the tensors must fill it from end to end, each as long as its shape.
One buffer for each dtype also saves time where tensors are small and many, as the 400 of an adapter for 28 layers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import torch

__all__ = ["load_tensors", "split_header"]

MAX_HEADER_BYTES = 16 * 2**20

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def load_tensors(data: bytes | bytearray) -> dict[str, torch.Tensor]:
    """Return the tensors in ``data`` by name.

    Of a ``bytearray`` they are views, so it must not be written to any more; ``bytes``, which may belong to others too,
    are copied once as a whole.

    Raises:
        KeyError, TypeError, ValueError: It is no safetensors file, or one that is damaged.
    """
    header, base = split_header(data)
    header.pop("__metadata__", None)
    sizes = {name: DTYPES[entry["dtype"]].itemsize for name, entry in header.items()}
    check(header, len(data) - base, sizes)
    if len(data) == base:
        return {name: torch.empty(entry["shape"], dtype=DTYPES[entry["dtype"]]) for name, entry in header.items()}
    whole = torch.frombuffer(data if isinstance(data, bytearray) else bytearray(data), dtype=torch.uint8)[base:]
    return {name: view(whole, DTYPES[entry["dtype"]], entry) for name, entry in header.items()}


def view(whole: torch.Tensor, dtype: torch.dtype, entry: Mapping[str, Any]) -> torch.Tensor:
    """Return the tensor that ``entry`` describes, in the storage of ``whole``, uint8 ``[bytes]``."""
    start, end = entry["data_offsets"]
    part = whole[start:end]
    aligned = part.storage_offset() % dtype.itemsize == 0  # always so in what safetensors itself has written
    return (part if aligned else part.clone()).view(dtype).view(entry["shape"])


def split_header(data: bytes | bytearray) -> tuple[dict[str, Any], int]:
    """Return the JSON header of a safetensors file and the offset at which its tensors begin.

    Raises:
        ValueError: There is none.
    """
    length = int.from_bytes(data[:8], "little")
    if not 2 <= length <= min(MAX_HEADER_BYTES, len(data) - 8):
        raise ValueError("the header does not fit the file")
    header = json.loads(data[8 : 8 + length].decode("utf-8"))
    if not isinstance(header, dict):
        raise ValueError("the header is no JSON object")
    return header, 8 + length


def check(header: Mapping[str, Any], size: int, itemsizes: Mapping[str, int]) -> None:
    """Raise ``ValueError`` unless the tensors fill ``size`` bytes without a gap, each as its shape says."""
    reached = 0
    for start, end, name in sorted((*entry["data_offsets"], name) for name, entry in header.items()):
        shape = header[name]["shape"]
        if any(type(length) is not int or length < 0 for length in (start, end, *shape)):
            raise ValueError(f"{name} has a malformed shape or place")
        if start != reached or end - start != math.prod(shape) * itemsizes[name]:
            raise ValueError(f"{name} does not lie where the tensor before it ends, or is not as long as its shape")
        reached = end
    if reached != size:
        raise ValueError("the tensors do not fill the file")
