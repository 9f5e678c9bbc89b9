"""What a codec of stored KV is: the contract, and what it has to know of a layer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

__all__ = ["Codec", "Form", "Layout", "Shape"]

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

    def misfit(self, stored: Mapping[str, torch.Tensor], form: Form) -> str | None:
        """Return why ``stored`` is not what a layer of that form is stored as, or None if it is."""
        for part, laid_out in self.layout(form).items():
            if (stored[part].dtype, tuple(stored[part].shape)) != laid_out:
                return f"{part} has another dtype or shape than recorded"
        return None

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
