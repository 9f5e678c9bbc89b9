"""Items: JSON values under keys, and what can be asked of them.

An item lies at a ``path``, a tuple of names from the outside in such as ``("users", "ada", "preferences")``, under a
``key``. It is a MemCube like any other memory; this module holds how callers see it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from memos_core.errors import InvalidInput

__all__ = [
    "WHOLE",
    "DeleteItem",
    "FindItems",
    "FoundItem",
    "GetItem",
    "Item",
    "ItemAddress",
    "ItemOperation",
    "ListPaths",
    "PathPattern",
    "PutItem",
    "decoded_value",
    "encoded_value",
    "texts_at",
]


class ItemAddress(BaseModel):
    """Where an item lies: a cube whose text is a JSON value that is kept under a key (``Scope.items``).

    Attributes:
        path: Where it is, from the outside in.
        key: Its name there; one live item of a scope has it.
        fields: Which of its fields are searched by meaning; empty: none.
        oldest: The first version that is kept.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: tuple[str, ...]
    key: str
    fields: tuple[str, ...] = ()
    oldest: int = Field(default=1, ge=1)


WHOLE = "$"
"""The field that stands for a value as a whole."""


@dataclass(frozen=True, slots=True)
class Item:
    """A value and where it lies.

    Attributes:
        path: Where it lies, from the outside in.
        key: Its name there.
        value: The value; a copy of the caller's own.
        created: When it was put first.
        updated: When it was put last.
        expires_at: When it ceases to be, if it does.
        cube_id: The memory that holds it, for ``Scope.get``, ``forget`` and ``chat(memory_ids=...)``.
        version: How often it was put.
    """

    path: tuple[str, ...]
    key: str
    value: JsonValue
    created: datetime
    updated: datetime
    expires_at: datetime | None
    cube_id: str
    version: int


@dataclass(frozen=True, slots=True)
class FoundItem:
    """An item that a search found. ``score`` is a cosine similarity; None where nothing was compared."""

    item: Item
    score: float | None = None


@dataclass(frozen=True, slots=True)
class GetItem:
    """Asks for one item. ``refresh``: its time to live begins anew."""

    path: tuple[str, ...]
    key: str
    refresh: bool = False


@dataclass(frozen=True, slots=True)
class PutItem:
    """Asks to keep a value under a key.

    Attributes:
        ttl_seconds: Seconds after which it expires, counted from the last put or refreshing read; None: it stays.
        fields: What of it is searched by meaning; None: what the index says; empty: nothing.
    """

    path: tuple[str, ...]
    key: str
    value: JsonValue
    ttl_seconds: float | None = None
    fields: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class DeleteItem:
    """Asks to let go of an item, with all its versions; no harm if there is none."""

    path: tuple[str, ...]
    key: str


@dataclass(frozen=True, slots=True)
class FindItems:
    """Asks for the items at and below a path.

    Attributes:
        path: Segments that the path of each begins with; empty: all.
        query: What they are to be about; None: in the order in which they were first put.
        filter: What their values must hold, as described at ``memos_core.operation.items.filters.matches``.
        limit: Most items; None: all.
        offset: How many to leave out at the beginning.
        refresh: The time to live of those returned begins anew.
    """

    path: tuple[str, ...] = ()
    query: str | None = None
    filter: Mapping[str, Any] | None = None
    limit: int | None = 10
    offset: int = 0
    refresh: bool = False


@dataclass(frozen=True, slots=True)
class PathPattern:
    """A beginning (``prefix``) or an end (``suffix``) that a path must have; ``*`` stands for any one segment."""

    where: Literal["prefix", "suffix"]
    path: tuple[str, ...]

    def fits(self, path: Sequence[str]) -> bool:
        """Tell whether ``path`` has it."""
        if len(path) < len(self.path):
            return False
        part = path[: len(self.path)] if self.where == "prefix" else path[len(path) - len(self.path) :]
        return all(wanted in ("*", segment) for wanted, segment in zip(self.path, part, strict=True))


@dataclass(frozen=True, slots=True)
class ListPaths:
    """Asks for the paths at which items lie, in order, each once.

    Attributes:
        patterns: What each must match.
        max_depth: Cut longer ones to so many segments.
        limit: Most paths.
        offset: How many to leave out at the beginning.
    """

    patterns: tuple[PathPattern, ...] = field(default=())
    max_depth: int | None = None
    limit: int = 100
    offset: int = 0


ItemOperation = GetItem | PutItem | DeleteItem | FindItems | ListPaths


def encoded_value(value: object) -> str:
    """Return ``value`` as JSON; its objects keep the order of their keys.

    Raises:
        InvalidInput: JSON has no such value: a key that is no text, NaN, bytes, an object of a class, a lone surrogate.
    """
    try:
        check_keys(value)
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInput(f"an item's value must be JSON: {error}") from error
    return text


def decoded_value(text: str) -> JsonValue:
    """Return the value that ``encoded_value`` wrote."""
    value: JsonValue = json.loads(text)
    return value


def check_keys(value: object) -> None:
    # json.dumps turns numbers that are keys into texts; they would come back as something else.
    if isinstance(value, Mapping):
        wrong = [key for key in value if not isinstance(key, str)]
        if wrong:
            raise TypeError(f"keys must be str, not {type(wrong[0]).__name__}")
        value = value.values()
    elif not isinstance(value, list | tuple):
        return
    for part in value:
        if isinstance(part, Mapping | list | tuple):
            check_keys(part)


STEP = re.compile(r"\[(?P<index>\*|-?\d+)\]|\{(?P<several>[^{}]*)\}|(?P<name>[^.\[\]{}]+)")


def texts_at(value: JsonValue, where: str) -> list[str]:
    """Return the texts that lie at ``where`` in a value, for a search by meaning.

    ``title``, ``author.name``, ``tags[0]``, ``tags[-1]``, ``chapters[*].title`` (each alone), ``*.title`` (of every
    member), ``{title,body}`` (several names), ``$`` (the whole, as JSON). What is not there gives nothing.

    Raises:
        InvalidInput: ``where`` is malformed.
    """
    if where in ("", WHOLE):
        return [as_text(value)]
    return [as_text(found) for found in reached([value], steps_of(where)) if found is not None]


def steps_of(where: str) -> list[re.Match[str]]:
    steps, at = [], 0
    while at < len(where):
        step = STEP.match(where, at)
        if step is None:
            raise InvalidInput(f"malformed field {where!r} at character {at}")
        steps.append(step)
        at = step.end() + (where[step.end() : step.end() + 1] == ".")
    return steps


def reached(values: Sequence[JsonValue], steps: Sequence[re.Match[str]]) -> list[JsonValue]:
    for step in steps:
        values = [found for value in values for found in taken(value, step)]
    return list(values)


def taken(value: JsonValue, step: re.Match[str]) -> Iterator[JsonValue]:
    """Yield what one step from ``value`` leads to."""
    name, index, several = step["name"], step["index"], step["several"]
    if several is not None:
        for part in several.split(","):
            yield from reached([value], steps_of(part.strip()))
    elif index is not None:
        if isinstance(value, list):
            yield from value if index == "*" else value[int(index) :][:1] if in_reach(value, int(index)) else []
    elif name == "*":
        yield from value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    elif isinstance(value, dict) and name in value:
        yield value[name]


def in_reach(value: Sequence[JsonValue], index: int) -> bool:
    return -len(value) <= index < len(value)


def as_text(value: JsonValue) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value, sort_keys=True, ensure_ascii=False) if isinstance(value, list | dict) else str(value)
