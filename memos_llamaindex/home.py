"""Where a store lies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

from memos_core import MemOS, Scope, resolve_scope

__all__ = ["SHARED", "Handle", "scope_for"]

SHARED = ("llama_index", "stores")
"""Namespace, in a MemOS, of stores that belong to no user."""


def scope_for(
    memory: Scope | MemOS | None,
    namespace: Sequence[str] = SHARED,
    namespace_values: Mapping[str, Any] | None = None,
) -> Scope:
    """Return the scope that a store lies in; without a memory that of a new vault, erased with the store.

    Raises:
        InvalidName: The namespace lacks a value, or is malformed.
    """
    home = MemOS.temporary(embedder=None) if memory is None else memory
    return resolve_scope(home, namespace, namespace_values)


class Handle:
    """What leads to a memory, or a model, of this process: it is not pickled, and a deep copy is itself.

    LlamaIndex drops what cannot be pickled from a component, and from the one that stays too, which then fails later.
    """

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        return self

    def __getstate__(self) -> dict[Any, Any]:
        raise TypeError(
            f"{type(self).__name__} leads to a memory or a model of this process and cannot be pickled; "
            "make one anew where it is needed (an ingestion pipeline runs it with num_workers=None)"
        )
