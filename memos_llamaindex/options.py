"""Options that hold for a stretch of code, where a framework in between passes none on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

__all__ = ["options_in_force", "using"]

IN_FORCE: ContextVar[Mapping[object, Mapping[str, Any]]] = ContextVar("memos_llamaindex_options", default={})  # noqa: B039
"""For each model (and its copies) the options in force. The mapping is replaced, never changed."""


def options_in_force(owner: object) -> Mapping[str, Any]:
    """Return the options that hold for ``owner`` here."""
    return IN_FORCE.get().get(owner, {})


@contextmanager
def using(owner: object, options: Mapping[str, Any]) -> Iterator[None]:
    """Let ``options`` hold for ``owner`` within the block, and in tasks and threads that asyncio starts from there."""
    known = IN_FORCE.get()
    token = IN_FORCE.set({**known, owner: {**known.get(owner, {}), **options}})
    try:
        yield
    finally:
        IN_FORCE.reset(token)
