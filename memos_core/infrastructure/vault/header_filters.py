"""Conditions on fields of the header, from the filter language of ``memos_core.filters``, as conditions on rows.

They mean in the ledger what ``Where.accepts`` means of a mapping, but that None equals a field that is not set. A
condition is either true or false: a field that is not set is in no order to anything.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Literal

from pydantic import JsonValue
from sqlalchemy import JSON, Column, ColumnElement, and_, exists, false, func, not_, or_, select, true, type_coerce

from memos_core.cube import MemoryType, Sensitivity, Trust
from memos_core.errors import InvalidInput, UnknownField
from memos_core.filters import AllOf, Compare, NoneOf, Where, parse_where
from memos_core.infrastructure.vault import schema

__all__ = ["FIELDS", "HIDDEN", "USE_FIELDS", "condition_of", "fields_in"]

Condition = ColumnElement[bool]
Kind = Literal["text", "choice", "moment", "number", "flag", "many"]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class HeaderField:
    """A field of the header as the ledger holds it.

    Attributes:
        kind: What its values are.
        expression: Of the row; for a field of many values the column of their table.
        choices: Its values, where there are only some.
    """

    kind: Kind
    expression: Any
    choices: tuple[str, ...] = ()


def in_header(*path: str) -> Any:
    return type_coerce(schema.cubes.c.header, JSON)[path]


def in_use(name: str) -> Any:
    usage = schema.usage.alias("asked_usage")  # the query may have the table itself in it
    row = select(usage.c[name]).where(usage.c.cube_id == schema.cubes.c.id).correlate(schema.cubes)
    return row.scalar_subquery()


def committed() -> Any:
    versions = schema.versions.alias("asked_version")
    own = versions.c.cube_id == schema.cubes.c.id, versions.c.version == schema.cubes.c.version
    return select(versions.c.committed).where(*own).correlate(schema.cubes).scalar_subquery()


def choice(expression: Any, values: type[StrEnum]) -> HeaderField:
    return HeaderField("choice", expression, tuple(str(value) for value in values))


COUNTERS = (
    "reads",
    "injected_text",
    "injected_kv",
    "injected_lora",
    "tokens_saved",
    "feedback",
    "contribution",
    "heat",
)

USE_FIELDS: Mapping[str, HeaderField] = {
    **{name: HeaderField("number", in_use(name)) for name in COUNTERS},
    "last_used": HeaderField("moment", in_use("last_used")),
}
"""The behavioural fields; ``heat`` as of the last use."""

FIELDS: Mapping[str, HeaderField] = {
    **{name: HeaderField("text", schema.cubes.c[name]) for name in ("id", "kind", "language", "agent", "session")},
    **{name: HeaderField("text", schema.cubes.c[name]) for name in ("speaker", "role", "ref", "uri")},
    **{name: HeaderField("moment", schema.cubes.c[name]) for name in ("at", "created", "valid_from", "valid_until")},
    "expires_at": HeaderField("moment", schema.cubes.c.expires_at),
    "updated": HeaderField("moment", committed()),
    "version": HeaderField("number", schema.cubes.c.version),
    "type": choice(schema.cubes.c.type, MemoryType),
    "title": HeaderField("text", in_header("descriptive", "title").as_string()),
    "importance": HeaderField("number", in_header("descriptive", "importance").as_float()),
    "pathway": HeaderField("text", in_header("descriptive", "lineage", "pathway").as_string()),
    "owner": HeaderField("text", in_header("governance", "owner").as_string()),
    "sensitivity": choice(in_header("governance", "sensitivity").as_string(), Sensitivity),
    "trust": choice(in_header("governance", "trust").as_string(), Trust),
    "frozen": HeaderField("flag", in_header("governance", "frozen").as_boolean()),
    "ttl_seconds": HeaderField("number", in_header("governance", "retention", "ttl_seconds").as_float()),
    "tags": HeaderField("many", schema.tags.c.tag),
    "links": HeaderField("many", schema.links.c.target),
    "relations": HeaderField("many", schema.links.c.relation),
    "sources": HeaderField("many", schema.lineage.c.source_id),
    **USE_FIELDS,
}
"""Every field that a filter may name."""

HIDDEN = frozenset(["agent", "pathway", "links", "relations", "sources", *USE_FIELDS])
"""What a grantee does not see of a memory: there these fields are not set."""

ORDER: Mapping[str, Callable[[Any, Any], Any]] = {
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
}


def condition_of(filters: Mapping[str, JsonValue], *, shared: bool = False) -> Condition:
    """Return the condition that a cube passes the filters.

    Args:
        shared: By what is granted of it.

    Raises:
        UnknownField: There is no such field; names those that there are.
        InvalidInput: An operator is unknown or not for that field, or a value is of the wrong kind.
    """
    where = parse_where(filters)
    return true() if where is None else compiled(where, shared=shared)


def fields_in(filters: Mapping[str, JsonValue]) -> set[str]:
    """Return the fields that filters name."""
    waiting: list[Where | None] = [parse_where(filters)]
    found: set[str] = set()
    while waiting:
        where = waiting.pop()
        if isinstance(where, Compare):
            found.add(where.field)
        elif where is not None:
            waiting.extend(where.conditions)
    return found


def compiled(where: Where, *, shared: bool) -> Condition:
    if not isinstance(where, Compare):
        parts = [compiled(each, shared=shared) for each in where.conditions]
        together = and_(true(), *parts) if isinstance(where, AllOf) else or_(false(), *parts)
        return not_(together) if isinstance(where, NoneOf) else together
    field = FIELDS.get(where.field)
    if field is None:
        raise UnknownField(where.field, tuple(sorted(FIELDS)))
    condition = of_many(field, where) if field.kind == "many" else of_one(field, where)
    if shared and where.field in HIDDEN:
        return true() if passes_unset(where) else false()
    return condition


def passes_unset(where: Compare) -> bool:
    """Tell whether a field that is not set meets a condition."""
    if where.operator in ("exists", "is_empty"):
        return (where.operator == "exists") is (where.value is False)
    values = where.value if isinstance(where.value, list | tuple) else [where.value]
    return where.operator in ("eq", "ne", "in", "nin") and (None in values) is (where.operator in ("eq", "in"))


def of_one(field: HeaderField, where: Compare) -> Condition:
    """Return the condition on a field that has one value or none."""
    held = field.expression
    name, value = where.operator, where.value
    if name in ("exists", "is_empty"):
        is_set: Condition = held.is_not(None)
        if name == "is_empty" and field.kind == "text":
            is_set = and_(is_set, held != "")
        return is_set if (name == "exists") is (value is not False) else not_(is_set)
    if name in ("eq", "ne", "in", "nin"):
        values = value if isinstance(value, list | tuple) else [value]
        known = [operand(field, where, each) for each in values if each is not None]
        either = and_(held.is_not(None), held.in_(known)) if known else false()
        found = or_(held.is_(None), either) if None in values else either
        return found if name in ("eq", "in") else not_(found)
    if name in ORDER and field.kind in ("text", "moment", "number"):
        ordered: Condition = ORDER[name](held, operand(field, where, value))
        return and_(held.is_not(None), ordered)
    if name in ("contains", "text_match", "any", "all") and field.kind == "text":
        parts = value if isinstance(value, list | tuple) else [value]
        within = [func.instr(held, operand(field, where, part)) > 0 for part in parts]
        together = or_(false(), *within) if name == "any" else and_(true(), *within)
        return and_(held.is_not(None), together)
    raise refused(where, field)


def of_many(field: HeaderField, where: Compare) -> Condition:
    """Return the condition on a field that has any number of values, such as tags."""
    column: Column[Any] = field.expression
    own = column.table.c.cube_id == schema.cubes.c.id
    name, value = where.operator, where.value
    if name in ("exists", "is_empty"):
        found: Condition = exists().where(own)
        return found if (name == "exists") is (value is not False) else not_(found)
    values = value if isinstance(value, list | tuple) else [value]
    known = [operand(field, where, each) for each in values if each is not None]
    if name == "all":
        return and_(true(), *(exists().where(own, column == each) for each in known))
    if name in ("eq", "in", "any", "contains", "ne", "nin"):
        either = exists().where(own, column.in_(known)) if known else false()
        found = or_(either, not_(exists().where(own))) if None in values else either
        return not_(found) if name in ("ne", "nin") else found
    raise refused(where, field)


def operand(field: HeaderField, where: Compare, value: Any) -> Any:
    """Return a value as the ledger holds it.

    Raises:
        InvalidInput: It is of the wrong kind.
    """
    if field.kind == "moment" and isinstance(value, str):
        return micros_of(where, value)
    if field.kind == "number" and isinstance(value, int | float) and not isinstance(value, bool):
        return value
    if field.kind == "flag" and isinstance(value, bool):
        return value
    if field.kind in ("text", "many") and isinstance(value, str):
        return value
    if field.kind == "choice" and value in field.choices:
        return value
    meant = {
        "moment": "a time in ISO 8601",
        "number": "a number",
        "flag": "true or false",
        "choice": f"one of {', '.join(field.choices)}",
    }.get(field.kind, "a text")
    raise InvalidInput(f"filter {where.field!r} takes {meant}, not {value!r}")


def micros_of(where: Compare, value: str) -> int:
    try:
        moment = datetime.fromisoformat(value)
    except ValueError as error:
        raise InvalidInput(f"filter {where.field!r} takes a time in ISO 8601, not {value!r}") from error
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return (aware - EPOCH) // timedelta(microseconds=1)


def refused(where: Compare, field: HeaderField) -> InvalidInput:
    return InvalidInput(f"operator {where.operator!r} is not for {where.field!r}, which holds {described(field)}")


def described(field: HeaderField) -> str:
    kinds = {"many": "any number of texts", "choice": f"one of {', '.join(field.choices)}"}
    return kinds.get(field.kind, f"a {field.kind}")
