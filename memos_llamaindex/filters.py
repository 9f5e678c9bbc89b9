"""LlamaIndex's metadata filters in the core's words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from memos_core import AllOf, AnyOf, Compare, NoneOf, Where
from memos_core.errors import MissingExtra
from memos_core.filters import Operator

try:
    from llama_index.core.vector_stores.types import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters
except ImportError as error:
    raise MissingExtra("llama-index-core", extra="llamaindex") from error

__all__ = ["as_filters", "as_where", "joined"]

OPERATORS: Mapping[FilterOperator, Operator] = {
    FilterOperator.EQ: "eq",
    FilterOperator.NE: "ne",
    FilterOperator.GT: "gt",
    FilterOperator.GTE: "gte",
    FilterOperator.LT: "lt",
    FilterOperator.LTE: "lte",
    FilterOperator.IN: "in",
    FilterOperator.NIN: "nin",
    FilterOperator.ANY: "any",
    FilterOperator.ALL: "all",
    FilterOperator.CONTAINS: "contains",
    FilterOperator.TEXT_MATCH: "text_match",
    FilterOperator.TEXT_MATCH_INSENSITIVE: "text_match_insensitive",
    FilterOperator.IS_EMPTY: "is_empty",
}

OF_LISTS = frozenset({FilterOperator.IN, FilterOperator.NIN, FilterOperator.ANY, FilterOperator.ALL})

BARE = frozenset({FilterOperator.IS_EMPTY})
"""Operators that are compared with nothing."""

NAMES: Mapping[FilterCondition, str] = {
    FilterCondition.AND: "$and",
    FilterCondition.OR: "$or",
    FilterCondition.NOT: "$nor",
}

GROUPS: Mapping[FilterCondition, type[AllOf | AnyOf | NoneOf]] = {
    FilterCondition.AND: AllOf,
    FilterCondition.OR: AnyOf,
    FilterCondition.NOT: NoneOf,
}


def as_where(filters: MetadataFilters | None) -> Where | None:
    """Return LlamaIndex's filters as a condition; None: everything passes, as with an empty list of filters."""
    if filters is None:
        return None
    parts = [part for item in filters.filters if (part := as_part(item)) is not None]
    return GROUPS[filters.condition or FilterCondition.AND](tuple(parts)) if parts else None


def as_part(item: MetadataFilter | MetadataFilters) -> Where | None:
    if isinstance(item, MetadataFilters):
        return as_where(item)
    return comparison(item)


def comparison(item: MetadataFilter) -> Compare:
    if item.operator in BARE:
        return Compare(item.key, OPERATORS[item.operator])
    value: Any = item.value
    if item.operator in OF_LISTS and not isinstance(value, list):
        value = [value]
    return Compare(item.key, OPERATORS[item.operator], value)


def as_filters(filters: MetadataFilters | None) -> dict[str, Any]:
    """Return LlamaIndex's filters as those of a search of memory, see ``Scope.search``; empty: everything passes."""
    if filters is None:
        return {}
    parts = [part for item in filters.filters if (part := as_filter(item))]
    return {NAMES[filters.condition or FilterCondition.AND]: parts} if parts else {}


def as_filter(item: MetadataFilter | MetadataFilters) -> dict[str, Any]:
    if isinstance(item, MetadataFilters):
        return as_filters(item)
    compared = comparison(item)
    return {compared.field: {f"${compared.operator}": True if item.operator in BARE else compared.value}}


def joined(*conditions: Where | None) -> Where | None:
    """Return the condition that all of these are met; None counts as met."""
    given: Sequence[Where] = [condition for condition in conditions if condition is not None]
    return None if not given else given[0] if len(given) == 1 else AllOf(tuple(given))
