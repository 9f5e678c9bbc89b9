"""Items: the JSON values that a scope keeps under keys. Made by ``Scope.items``.

Every method has an async twin, named with an ``a`` in front.
"""

from __future__ import annotations

import builtins
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from pydantic import JsonValue

from memos_core.embedding.base import Vector
from memos_core.errors import InvalidInput
from memos_core.events import Event, EventHook
from memos_core.item import (
    DeleteItem,
    FindItems,
    FoundItem,
    GetItem,
    Item,
    ItemOperation,
    ListPaths,
    PathPattern,
    PutItem,
)
from memos_core.operation.items.items import ItemHandle, ItemOperator, ItemPlan
from memos_core.operation.items.writing import ItemTransaction
from memos_core.twins import in_thread

__all__ = ["Items"]

Path = Sequence[str]


class Items:
    """A store of JSON values. Thread-safe; cheap; as durable and as isolated as all memory of its scope.

        items = ada.items()
        items.put(("settings",), "theme", {"dark": True})
        items.get(("settings",), "theme").value

    A path is a sequence of names from the outside in; a key names one item at its path. The items of a scope are those
    that were put through a scope of exactly the same user, agent and session. They are no part of ``Scope.search``.
    """

    def __init__(self, operator: ItemOperator, handle: ItemHandle, emit: EventHook) -> None:
        operator.embedder(handle)  # an index that cannot work is refused here, not at the first put
        self._operator = operator
        self._handle = handle
        self._emit = emit

    @property
    def user(self) -> str:
        return self._handle.principal.user

    def __repr__(self) -> str:
        who = self._handle.principal
        return f"Items(user={who.user!r}, agent={who.agent!r}, session={who.session!r})"

    # One thing

    def get(self, path: Path, key: str, *, refresh: bool = False) -> Item | None:
        """Return the item, or None if there is none. ``refresh``: its time to live begins anew."""
        item: Item | None = self.batch([GetItem(as_path(path), key, refresh)])[0]
        return item

    def put(
        self,
        path: Path,
        key: str,
        value: JsonValue,
        *,
        ttl_seconds: float | None = None,
        fields: Sequence[str] | None = None,
    ) -> Item:
        """Keep ``value`` under ``key``; what was there becomes its earlier version.

        Args:
            ttl_seconds: Seconds after which it expires; None: it stays.
            fields: What of it is searched by meaning; None: what the index says; empty: nothing.

        Raises:
            InvalidInput: The path, the key or the value cannot be kept; nothing was written.
            QuotaReached: The namespace is full; nothing was written.
        """
        chosen = None if fields is None else tuple(fields)
        item: Item = self.batch([PutItem(as_path(path), key, value, ttl_seconds, chosen)])[0]
        return item

    def delete(self, path: Path, key: str) -> bool:
        """Let go of an item with all its versions and what was made of it; tell whether there was one.

        It is unreachable at once. ``memos.run_pending()``, or the next ``forget``, takes its last traces off the disk.
        """
        return bool(self.batch([DeleteItem(as_path(path), key)])[0])

    # Many

    def search(
        self,
        path: Path = (),
        *,
        query: str | None = None,
        filter: Mapping[str, Any] | None = None,
        limit: int | None = 10,
        offset: int = 0,
        refresh: bool = False,
    ) -> builtins.list[FoundItem]:
        """Return items at and below ``path``: those nearest to ``query``, else in the order in which they were put.

        Args:
            query: What they are to be about. Without an index it is passed over. What is not searched by meaning comes
                after everything that is, without a score.
            filter: What their values must hold, such as ``{"color": "red", "size": {"$gte": 3}}``; see
                ``memos_core.operation.items.filters.matches``.
            limit: Most items; None: all.
            offset: How many to leave out at the beginning.
            refresh: The time to live of those returned begins anew.

        Raises:
            InvalidInput: The filter is malformed, or a number negative.
        """
        found: list[FoundItem] = self.batch([FindItems(as_path(path), query, filter, limit, offset, refresh)])[0]
        return found

    def paths(
        self,
        *,
        prefix: Path = (),
        suffix: Path = (),
        max_depth: int | None = None,
        limit: int = 100,
        offset: int = 0,
    ) -> builtins.list[tuple[str, ...]]:
        """Return the paths at which items lie, in order; ``*`` in ``prefix`` and ``suffix`` is any one segment."""
        patterns = (PathPattern("prefix", as_path(prefix)), PathPattern("suffix", as_path(suffix)))
        found: list[tuple[str, ...]] = self.batch([ListPaths(patterns, max_depth, limit, offset)])[0]
        return found

    def batch(self, operations: Sequence[ItemOperation]) -> builtins.list[Any]:
        """Answer several operations at once; what they change, they change together or not at all.

        Every question sees the state before the changes of the batch; of several changes of one item the last counts.
        """
        plan = self.plan(operations)
        return self.commit(plan, *self._operator.embed(self._handle, plan))

    def plan(self, operations: Sequence[ItemOperation]) -> ItemPlan:
        """Check a batch for ``commit``, for a caller that makes the vectors of ``plan.texts`` and ``plan.queries``."""
        return self._operator.plan(self._handle, operations)

    def commit(
        self, plan: ItemPlan, vectors: Mapping[str, Vector], queries: Mapping[str, Vector]
    ) -> builtins.list[Any]:
        """Answer what was planned, with the vectors that it needs; see ``batch``."""
        results = self._operator.commit(self._handle, plan, vectors, queries)
        changed = tuple(result.cube_id for number, result in enumerate(results) if is_put(plan, number))
        if plan.changes:
            self._tell(changed)
        return results

    @contextmanager
    def transaction(self) -> Iterator[ItemTransaction]:
        """Begin a change that depends on what is there: nobody writes in between, and all of it happens or none."""
        with self._operator.writer(self._handle) as writer:
            yield ItemTransaction(writer)
        if writer.put_ids or writer.gone_ids:
            self._tell(tuple(writer.put_ids))

    def sweep(self) -> int:
        """Erase the items whose time is over, which no question sees any more, and return how many those were."""
        return self._operator.sweep(self._handle)

    def _tell(self, cube_ids: tuple[str, ...]) -> None:
        now, namespace = self._operator.governance.clock.now(), self._handle.principal.namespace
        self._emit(Event("items.changed", now, namespace, cube_ids, {"count": len(cube_ids)}))

    # Async twins

    aget = in_thread(get)
    aput = in_thread(put)
    adelete = in_thread(delete)
    asearch = in_thread(search)
    apaths = in_thread(paths)
    abatch = in_thread(batch)
    acommit = in_thread(commit)
    asweep = in_thread(sweep)


def as_path(path: Path) -> tuple[str, ...]:
    """Return a path as a tuple.

    Raises:
        InvalidInput: It is a text, which would be a path of its characters.
    """
    if isinstance(path, str):
        raise InvalidInput(f"a path is a sequence of names such as ({path!r},), not a text")
    return tuple(path)


def is_put(plan: ItemPlan, number: int) -> bool:
    return number in plan.changes and isinstance(plan.operations[number], PutItem)
