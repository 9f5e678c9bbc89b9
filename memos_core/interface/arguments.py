"""Arguments as callers give them, as the types that the layers use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

from pydantic import JsonValue, ValidationError

from memos_core.clock import as_utc
from memos_core.cube import MemoryType, State
from memos_core.errors import InvalidInput
from memos_core.infrastructure.vault.header_filters import USE_FIELDS, fields_in
from memos_core.interface.reader import Reader
from memos_core.operation.lifecycle import MemLifecycle
from memos_core.records import MemoryCall

__all__ = ["TypeName", "header_filters", "memory_call", "memory_state", "memory_types"]

READ = ("entities", "speakers", "times", "events", "intent")
"""What a reader adds to a call; the rest is the caller's."""

TypeName = Literal["plaintext", "activation", "parametric", "any"]


def memory_call(reader: Reader, now: datetime, *, query: str, **fields: Any) -> MemoryCall:
    """Return the call of these fields, with what ``reader`` finds in the query.

    Who asks for what was said ``before`` a moment asks as of that moment: its "last week" is the one before that.

    Raises:
        InvalidInput: One is out of range.
    """
    before = fields.get("before")
    now = min(now, as_utc(before)) if isinstance(before, datetime) else now
    try:
        read = reader.read(query, now=now) if isinstance(query, str) and query.strip() else None
        found = {} if read is None else {name: getattr(read, name) for name in READ}
        return MemoryCall(query=query, **{**found, **fields})
    except ValidationError as error:
        raise InvalidInput(f"{error.errors()[0]['loc'][0]}: {error.errors()[0]['msg']}") from error


def header_filters(filters: Mapping[str, Any] | None, lifecycle: MemLifecycle) -> dict[str, JsonValue]:
    """Return filters as JSON values, after writing what is counted where they ask for counts."""
    where = as_json_filters(filters)
    if where and not USE_FIELDS.keys().isdisjoint(fields_in(where)):
        lifecycle.flush()
    return where


def as_json_filters(filters: Mapping[str, Any] | None) -> dict[str, JsonValue]:
    """Return filters as JSON values: moments in ISO 8601, other sequences as lists."""
    return {str(name): as_json(value) for name, value in (filters or {}).items()}


def as_json(value: Any) -> JsonValue:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return as_json_filters(value)
    if isinstance(value, Sequence | set | frozenset) and not isinstance(value, str | bytes):
        return [as_json(part) for part in value]
    return value  # type: ignore[no-any-return]  # what is no JSON value is refused where it is used


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
