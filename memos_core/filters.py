"""Conditions on the metadata of documents.

    where = AllOf((Compare("year", "gte", 2020), AnyOf((Compare("lang", "eq", "en"), Compare("lang", "is_empty")))))
    where = parse_where({"year": {"$gte": 2020}, "$or": [{"lang": "en"}, {"lang": {"$is_empty": True}}]})

Both say the same. A field that is absent or null meets ``ne``, ``nin`` and ``is_empty`` and nothing else. Values of
different kinds are different and in no order: ``"a" > 3`` is not met, and is no error.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from pydantic import JsonValue

from memos_core.errors import InvalidInput

__all__ = ["AllOf", "AnyOf", "Compare", "NoneOf", "Operator", "Where", "parse_where"]

Operator = Literal[
    "eq",
    "ne",
    "gt",
    "gte",
    "lt",
    "lte",
    "in",
    "nin",
    "any",
    "all",
    "contains",
    "text_match",
    "text_match_insensitive",
    "is_empty",
    "exists",
]

MAX_DEPTH = 64
"""Conditions may nest this deep."""

EMPTY: tuple[Any, ...] = (None, "", [])


@dataclass(frozen=True, slots=True)
class Compare:
    """One field against one value.

    Attributes:
        field: Key in the metadata.
        operator: ``eq`` ``ne`` ``gt`` ``gte`` ``lt`` ``lte``; ``in`` and ``nin``: the field is (not) one of a list;
            ``any`` and ``all``: the field, a list or a text, holds any (all) of a list; ``contains``: it holds this;
            ``text_match``, also ``_insensitive``: this text is part of it; ``is_empty``: absent, null, ``""``, ``[]``;
            ``exists``: neither absent nor null.
        value: What it is compared with.

    Raises:
        InvalidInput: The operator is unknown, or needs a list and the value is none.
    """

    field: str
    operator: Operator
    value: JsonValue = None

    def __post_init__(self) -> None:
        if self.operator not in get_args(Operator):
            raise InvalidInput(f"unknown operator {self.operator!r}; known are {', '.join(get_args(Operator))}")
        if self.operator in LISTS and not isinstance(self.value, list | tuple):
            raise InvalidInput(f"operator {self.operator!r} on {self.field!r} takes a list, not {self.value!r}")

    def accepts(self, metadata: Mapping[str, Any]) -> bool:
        """Tell whether ``metadata`` meets the condition."""
        held = metadata.get(self.field)
        if self.operator == "is_empty":
            return (held in EMPTY) is (self.value is not False)
        if self.operator == "exists":
            return (held is not None) is (self.value is not False)
        if held is None:
            return self.operator in ("ne", "nin")
        return CHECKS[self.operator](held, self.value)


@dataclass(frozen=True, slots=True)
class AllOf:
    """Every one of the conditions is met; with no conditions always."""

    conditions: tuple[Where, ...]

    def accepts(self, metadata: Mapping[str, Any]) -> bool:
        return all(condition.accepts(metadata) for condition in self.conditions)


@dataclass(frozen=True, slots=True)
class AnyOf:
    """At least one of the conditions is met; with no conditions never."""

    conditions: tuple[Where, ...]

    def accepts(self, metadata: Mapping[str, Any]) -> bool:
        return any(condition.accepts(metadata) for condition in self.conditions)


@dataclass(frozen=True, slots=True)
class NoneOf:
    """None of the conditions is met."""

    conditions: tuple[Where, ...]

    def accepts(self, metadata: Mapping[str, Any]) -> bool:
        return not any(condition.accepts(metadata) for condition in self.conditions)


Where = Compare | AllOf | AnyOf | NoneOf


def ordered(compare: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    def check(held: Any, value: Any) -> bool:
        texts = isinstance(held, str) and isinstance(value, str)
        numbers = isinstance(held, int | float) and isinstance(value, int | float)
        return (texts or numbers) and compare(held, value)

    return check


def holds(held: Any, value: Any) -> bool:
    """Tell whether a list holds ``value``, or a text holds it as a part."""
    if isinstance(held, str):
        return isinstance(value, str) and value in held
    return isinstance(held, list) and value in held


def text_match(held: Any, value: Any) -> bool:
    return isinstance(held, str) and isinstance(value, str) and value in held


def text_match_insensitive(held: Any, value: Any) -> bool:
    return isinstance(held, str) and isinstance(value, str) and value.lower() in held.lower()


CHECKS: Mapping[str, Callable[[Any, Any], bool]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "gt": ordered(operator.gt),
    "gte": ordered(operator.ge),
    "lt": ordered(operator.lt),
    "lte": ordered(operator.le),
    "in": lambda held, value: held in value,
    "nin": lambda held, value: held not in value,
    "any": lambda held, value: any(holds(held, item) for item in value),
    "all": lambda held, value: all(holds(held, item) for item in value),
    "contains": holds,
    "text_match": text_match,
    "text_match_insensitive": text_match_insensitive,
}

LISTS = frozenset({"in", "nin", "any", "all"})

GROUPS: Mapping[str, type[AllOf | AnyOf | NoneOf]] = {"$and": AllOf, "$or": AnyOf, "$nor": NoneOf, "$not": NoneOf}


def parse_where(where: Where | Mapping[str, Any] | None, depth: int = 0) -> Where | None:
    """Return the condition that a mapping stands for; a condition is returned as it is.

    ``{"a": 1}`` is equality, ``{"a": [1, 2]}`` any of the list, ``{"a": {"$gt": 1, "$lt": 5}}`` all of the operators;
    ``$and``, ``$or`` and ``$nor`` take lists of mappings, ``$not`` a mapping or such a list. Several keys: all of them.

    Raises:
        InvalidInput: An operator is unknown, or the mapping is malformed or nested deeper than 64 levels.
    """
    if where is None or isinstance(where, Compare | AllOf | AnyOf | NoneOf):
        return where
    if not isinstance(where, Mapping):
        raise InvalidInput(f"a filter is a mapping, not a {type(where).__name__}")
    if depth > MAX_DEPTH:
        raise InvalidInput(f"a filter may nest {MAX_DEPTH} levels deep")
    parts = [part for key, value in where.items() for part in parsed(key, value, depth)]
    return parts[0] if len(parts) == 1 else AllOf(tuple(parts))


def parsed(key: Any, value: Any, depth: int) -> list[Where]:
    """Return what one entry of a mapping stands for."""
    if not isinstance(key, str):
        raise InvalidInput(f"a filter names fields by text, not by {key!r}")
    if key in GROUPS:
        return [GROUPS[key](tuple(inner(key, value, depth)))]
    if key.startswith("$"):
        raise InvalidInput(f"unknown group {key!r}; known are {', '.join(GROUPS)}")
    if isinstance(value, Mapping):
        return [comparison(key, name, operand) for name, operand in value.items()]
    return [Compare(key, "in", list(value)) if isinstance(value, list | tuple) else Compare(key, "eq", value)]


def inner(key: str, value: Any, depth: int) -> list[Where]:
    members: Sequence[Any] = [value] if key == "$not" and isinstance(value, Mapping) else value
    if not isinstance(members, list | tuple):
        raise InvalidInput(f"{key} takes a list of filters, not {value!r}")
    parts = [parse_where(member, depth + 1) for member in members]
    return [part for part in parts if part is not None]


def comparison(field: str, name: Any, operand: Any) -> Compare:
    if not isinstance(name, str) or not name.startswith("$"):
        raise InvalidInput(f"the filter on {field!r} names an operator such as $eq or $gt, not {name!r}")
    return Compare(field, name[1:], operand)  # type: ignore[arg-type]  # Compare checks the name
