"""Whether an item holds what a filter asks for: the operators of ``memos_core.filters``, on nested values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from memos_core.errors import InvalidInput
from memos_core.filters import Compare

__all__ = ["check_filter", "matches"]

MISSING: Any = object()


def matches(value: Any, wanted: Mapping[str, Any]) -> bool:
    """Tell whether each field that ``wanted`` names is as it says.

    A plain value means equal; a mapping without operators is compared member by member, a list element by element.
    Operators, of which several may stand together: those of ``memos_core.filters.Compare`` after a ``$``, and
    ``$exists`` with true or false. A field that is missing equals None and is in no order to anything.
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
    if name == "$exists":
        return (value is not MISSING) is operand
    if name in ("$eq", "$ne"):  # between values of any shape
        return fits(value, operand) is (name == "$eq")
    return comparison(name, operand).accepts({"": present(value)})


def comparison(name: str, operand: Any) -> Compare:
    return Compare("", name[1:], operand)  # type: ignore[arg-type]  # Compare checks the name


def present(value: Any) -> Any:
    return None if value is MISSING else value


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


def check_operator(name: Any, operand: Any) -> None:
    if not isinstance(name, str) or not name.startswith("$"):
        raise InvalidInput(f"{name!r} stands beside operators and is none")
    if name == "$exists":
        if not isinstance(operand, bool):
            raise InvalidInput(f"$exists takes true or false, not {operand!r}")
    elif name in ("$gt", "$gte", "$lt", "$lte"):
        if isinstance(operand, bool) or not isinstance(operand, int | float | str):
            raise InvalidInput(f"{name} takes a number or a text, not {operand!r}")
    else:
        comparison(name, operand)
