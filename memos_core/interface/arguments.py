"""Arguments as callers give them, as the types that the layers use."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ValidationError

from memos_core.cube import MemoryType, State
from memos_core.errors import InvalidInput
from memos_core.records import MemoryCall

__all__ = ["TypeName", "memory_call", "memory_state", "memory_types"]

TypeName = Literal["plaintext", "activation", "parametric", "any"]


def memory_call(**fields: Any) -> MemoryCall:
    """Return the call of these fields.

    Raises:
        InvalidInput: One is out of range.
    """
    try:
        return MemoryCall(**fields)
    except ValidationError as error:
        raise InvalidInput(f"{error.errors()[0]['loc'][0]}: {error.errors()[0]['msg']}") from error


def memory_types(name: str) -> tuple[MemoryType, ...] | None:
    """Return the types that a name stands for; None: all.

    Raises:
        InvalidInput: There is no such type.
    """
    if name == "any":
        return None
    if name not in set(MemoryType):
        raise InvalidInput(f"type must be any, {', '.join(MemoryType)}; not {name!r}")
    return (MemoryType(name),)


def memory_state(name: State | str) -> State:
    """Return the state of that name.

    Raises:
        InvalidInput: There is no such state.
    """
    if name not in set(State):
        raise InvalidInput(f"state must be {', '.join(State)}; not {name!r}")
    return State(name)
