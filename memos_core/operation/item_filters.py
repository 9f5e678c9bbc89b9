"""Whether the value of an item holds what a filter asks for."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

from memos_core.errors import InvalidInput

__all__ = ["check_filter", "matches"]

COMPARISONS: Mapping[str, Callable[[Any, Any], bool]] = {
    "$gt": operator.gt,
    "$gte": operator.ge,
    "$lt": operator.lt,
    "$lte": operator.le,
}

MISSING: Any = object()


def matches(value: Any, wanted: Mapping[str, Any]) -> bool:
    """Tell whether each field that ``wanted`` names is as it says.

    A plain value means equal; a mapping without operators is compared member by member, a list element by element.
    Operators, of which several may stand together: ``$eq``, ``$ne``; ``$gt``, ``$gte``, ``$lt``, ``$lte`` between two
    numbers (also written as texts) or else two texts; ``$in``, ``$nin`` with a list; ``$exists`` with true or false.
    A field that is missing equals None, and is neither greater nor less than anything.
    """
    return isinstance(value, Mapping) and all(
        fits(value.get(name, MISSING), expected) for name, expected in wanted.items()
    )


def fits(value: Any, expected: Any) -> bool:
    if isinstance(expected, Mapping):
        if any(str(name).startswith("$") for name in expected):
            return all(applies(value, name, operand) for name, operand in expected.items())
        return matches(value, expected)
    if isinstance(expected, list | tuple):
        alike = isinstance(value, list | tuple) and len(value) == len(expected)
        return alike and all(fits(*pair) for pair in zip(value, expected, strict=True))
    return bool(present(value) == expected)


def applies(value: Any, name: str, operand: Any) -> bool:
    if name in COMPARISONS:
        return compares(value, operand, COMPARISONS[name])
    if name in ("$eq", "$ne"):
        return fits(value, operand) is (name == "$eq")
    if name in ("$in", "$nin"):
        return any(fits(value, one) for one in operand) is (name == "$in")
    return (value is not MISSING) is bool(operand)


def present(value: Any) -> Any:
    return None if value is MISSING else value


def compares(value: Any, operand: Any, comparison: Callable[[Any, Any], bool]) -> bool:
    numbers = (as_number(value), as_number(operand))
    if None not in numbers:
        return comparison(*numbers)
    return isinstance(value, str) and isinstance(operand, str) and comparison(value, operand)


def as_number(value: Any) -> float | None:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    try:
        return float(value) if isinstance(value, str) else None
    except ValueError:
        return None


def check_filter(wanted: Mapping[str, Any]) -> None:
    """Check a filter before anything is compared, so that a wrong one is wrong in an empty store too.

    Raises:
        InvalidInput: An operator is unknown, stands beside plain names, or has a wrong operand.
    """
    if not isinstance(wanted, Mapping):
        raise InvalidInput(f"a filter is a mapping of fields, not {type(wanted).__name__}")
    for name, expected in wanted.items():
        if not isinstance(name, str) or name.startswith("$"):
            raise InvalidInput(f"a filter names fields first; {name!r} is none")
        check_expected(expected)


def check_expected(expected: Any) -> None:
    if isinstance(expected, list | tuple):
        for part in expected:
            check_expected(part)
    if not isinstance(expected, Mapping):
        return
    if not any(str(name).startswith("$") for name in expected):
        check_filter(expected)
        return
    for name, operand in expected.items():
        check_operator(name, operand)


def check_operator(name: str, operand: Any) -> None:
    if name in ("$in", "$nin"):
        if not isinstance(operand, list | tuple | set | frozenset):
            raise InvalidInput(f"{name} takes a list of values, not {operand!r}")
    elif name == "$exists":
        if not isinstance(operand, bool):
            raise InvalidInput(f"$exists takes true or false, not {operand!r}")
    elif name in COMPARISONS:
        if as_number(operand) is None and not isinstance(operand, str):
            raise InvalidInput(f"{name} takes a number or a text, not {operand!r}")
    elif name not in ("$eq", "$ne"):
        raise InvalidInput(
            f"unsupported operator {name!r}; known are $eq, $ne, $in, $nin, $exists, {', '.join(COMPARISONS)}"
        )
