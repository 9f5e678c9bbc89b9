"""Documents chosen by their metadata or ids, without reading the headers of all of them.

Each field of a document's metadata stands in ``document_fields`` as texts whose order is that of its values. Like any
index it proposes: long texts are cut, numbers are floats, and what lies deeper is not looked into. So it names every
document that a condition accepts, and may name others; ``Where.accepts`` on the header decides.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import JsonValue
from sqlalchemy import ColumnElement, and_, false, or_, select

from memos_core.filters import AllOf, AnyOf, Compare, Where
from memos_core.infrastructure.vault import schema

__all__ = ["Selection", "field_values", "narrowed"]

Condition = ColumnElement[bool]

LONGEST = 64
"""Characters of a text, or of a field's name, that are kept."""

MOST = 64
"""Elements of a list that are kept; a longer one says only that it is a list."""

NUMBER, TEXT, ELEMENT, OTHER = "n", "t", "e", "?"
"""What a value begins with: a number, a text, an element of a list; and what only the header tells."""

LARGEST = 500
"""Values and groups of a condition that is compiled: SQLite nests expressions a thousand deep."""

SIGN = 1 << 63


@dataclass(frozen=True, slots=True)
class Selection:
    """Which documents of a collection are asked for.

    Attributes:
        where: What their metadata meets; None: anything.
        ids: The ids that they have; None: any.
    """

    where: Where | None
    ids: frozenset[str] | None = None

    def accepts(self, document_id: str, metadata: Mapping[str, JsonValue]) -> bool:
        """Tell by id and metadata whether a document is asked for."""
        return (self.ids is None or document_id in self.ids) and (self.where is None or self.where.accepts(metadata))


# What is kept


def field_values(metadata: Mapping[str, JsonValue]) -> Iterator[tuple[str, str]]:
    """Yield the fields of a document's metadata with what is kept of their values; null is like absent."""
    found = {(field[:LONGEST], value) for field, held in metadata.items() if held is not None for value in kept(held)}
    yield from sorted(found)


def kept(held: JsonValue) -> Iterator[str]:
    yield encoded(held)
    if isinstance(held, list):
        yield from (ELEMENT + (OTHER if len(held) > MOST else encoded(element)) for element in held)


def encoded(value: Any) -> str:
    """Return a value as it is kept: equal ones give equal texts, a greater number or text never gives a smaller one."""
    if isinstance(value, str):
        return TEXT + value[:LONGEST]
    return NUMBER + number(value) if isinstance(value, int | float) else OTHER


def number(value: float) -> str:
    """Return a number as text; of negative ones all bits are turned, so that the order of texts is that of numbers."""
    try:
        exact = float(value)
    except OverflowError:  # an integer of more than 300 digits
        exact = float("inf") if value > 0 else float("-inf")
    (bits,) = struct.unpack(">Q", struct.pack(">d", exact + 0.0))  # the sum makes -0.0 the 0.0 that it equals
    return f"{bits ^ (2 * SIGN - 1) if bits & SIGN else bits | SIGN:016x}"


# What is asked


def narrowed(collection: str, where: Where) -> Condition | None:
    """Return a condition that holds of every document of a collection that meets ``where``, and of few others.

    None: there is none, or it would be too long; the metadata of all has to be looked at.
    """
    return compiled(collection, where) if size(where) <= LARGEST else None


def size(where: Where) -> int:
    if isinstance(where, Compare):
        return len(where.value) if isinstance(where.value, list | tuple) else 1
    return 1 + sum(size(each) for each in where.conditions)


def compiled(collection: str, where: Where) -> Condition | None:
    if isinstance(where, Compare):
        return of_one(collection, where)
    parts = [compiled(collection, each) for each in where.conditions]
    known = [part for part in parts if part is not None]
    if isinstance(where, AllOf):
        return and_(*known) if known else None
    if isinstance(where, AnyOf) and len(known) == len(parts):
        return or_(false(), *known)
    return None  # of NoneOf: a document that stands for too much would be left out


def of_one(collection: str, where: Compare) -> Condition | None:
    name, value = where.operator, where.value
    if name in ("any", "all") and isinstance(value, list | tuple):
        parts = tuple(Compare(where.field, "contains", each) for each in value)
        return compiled(collection, AnyOf(parts) if name == "any" else AllOf(parts))
    values = of_values(name, value)
    if values is None:
        return None
    held = schema.document_fields.c
    own = held.collection == collection, held.field == where.field[:LONGEST], values
    return schema.cubes.c.id.in_(select(held.cube_id).where(*own))


def of_values(name: str, value: Any) -> Condition | None:
    """Return the condition on what is kept of a field that meets a comparison; None: what is kept does not tell."""
    held, among = schema.document_fields.c.value, list(value) if name == "in" else [value]
    if name in ("exists", "is_empty"):
        return held >= "" if (name == "exists") is (value is not False) else None
    if not all(each is None or isinstance(each, str | int | float | list | tuple | dict) for each in among):
        return None  # a Decimal equals an int, and who knows what else
    if name in ("eq", "in"):
        return held.in_([encoded(each) for each in among])
    if name in ("gt", "gte", "lt", "lte") and isinstance(value, str | int | float):
        above, kind = name in ("gt", "gte"), TEXT if isinstance(value, str) else NUMBER
        return and_(held >= encoded(value), held < after(kind)) if above else held.between(kind, encoded(value))
    if name == "contains":
        element = held.in_([ELEMENT + encoded(value), ELEMENT + OTHER])
        return or_(element, within_texts()) if isinstance(value, str) else element
    return within_texts() if name in ("text_match", "text_match_insensitive") else None


def within_texts() -> Condition:
    held = schema.document_fields.c.value
    return and_(held >= TEXT, held < after(TEXT))


def after(kind: str) -> str:
    """Return the least text that is greater than whatever begins with ``kind``."""
    return chr(ord(kind) + 1)
