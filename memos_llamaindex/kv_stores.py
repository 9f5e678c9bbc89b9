"""MemosKVStore: dicts under keys, in collections, as items of a memory."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self

from fsspec import AbstractFileSystem

from memos_core import Items, ItemTransaction, MemOS, PutItem, Scope
from memos_core.errors import InvalidInput, MissingExtra
from memos_llamaindex.files import as_collections, read_json, write_json
from memos_llamaindex.home import SHARED, scope_for

try:
    from llama_index.core.storage.kvstore.types import DEFAULT_BATCH_SIZE, DEFAULT_COLLECTION, BaseKVStore
except ImportError as error:
    raise MissingExtra("llama-index-core", extra="llamaindex") from error

__all__ = ["KVTransaction", "MemosKVStore"]

Pairs = Sequence[tuple[str, dict[str, Any]]]

Collections = Mapping[str, Mapping[str, Any]]
"""Values by collection and key: what LlamaIndex's ``SimpleKVStore`` writes to a file."""


class MemosKVStore(BaseKVStore):
    """Keeps dicts under keys, in collections: durable when ``put`` returns, seen by every process at once.

    Examples:
        `pip install 'memos-mag[llamaindex]'`

        ```python
        from memos_core import MemOS
        from memos_llamaindex import MemosKVStore

        store = MemosKVStore(MemOS.open("memory/"))
        store.put("k", {"x": 1}, collection="settings")
        cache = IngestionCache(cache=store)
        ```

    What is put and what is returned are copies. Values must be JSON. ``put_all`` is one transaction whatever the batch
    size. Only the newest version of a value is kept. ``persist`` and ``from_persist_path`` write and read the files of
    ``SimpleKVStore``.

    Args:
        memory: A scope: its user's own store. A MemOS: one for all who hold it, or the one that ``namespace`` names.
            None: a temporary one, which is gone when the store is.
        name: Keeps several stores of one memory apart.
        namespace: Template of the namespace within a MemOS.
        namespace_values: What its variables stand for.
    """

    def __init__(
        self,
        memory: Scope | MemOS | None = None,
        name: str = "kv",
        *,
        namespace: Sequence[str] = SHARED,
        namespace_values: Mapping[str, Any] | None = None,
    ) -> None:
        self._items: Items = scope_for(memory, namespace, namespace_values).items(history=False)
        self._name = name

    def __deepcopy__(self, memo: dict[int, Any]) -> MemosKVStore:
        return self  # a handle: what it leads to is there once

    def path(self, collection: str) -> tuple[str, ...]:
        """Return the path at which the items of a collection lie.

        Raises:
            InvalidInput: A collection has no such name.
        """
        if not isinstance(collection, str) or not collection:
            raise InvalidInput(f"a collection is named by a text, not by {collection!r}")
        return ("llama_index", self._name, collection)

    def put(self, key: str, val: dict[str, Any], collection: str = DEFAULT_COLLECTION) -> None:
        """Keep a value.

        Raises:
            InvalidInput: It is no JSON, or key or collection cannot be one.
        """
        self._items.put(self.path(collection), key, val)

    async def aput(self, key: str, val: dict[str, Any], collection: str = DEFAULT_COLLECTION) -> None:
        await self._items.aput(self.path(collection), key, val)

    def put_all(
        self,
        kv_pairs: Pairs,
        collection: str = DEFAULT_COLLECTION,
        batch_size: int = DEFAULT_BATCH_SIZE,
    ) -> None:
        """Keep many values in one transaction."""
        self._items.batch(self._puts(kv_pairs, collection))

    async def aput_all(
        self,
        kv_pairs: Pairs,
        collection: str = DEFAULT_COLLECTION,
        batch_size: int = DEFAULT_BATCH_SIZE,
    ) -> None:
        await self._items.abatch(self._puts(kv_pairs, collection))

    def get(self, key: str, collection: str = DEFAULT_COLLECTION) -> dict[str, Any] | None:
        """Return the value, or None if there is none."""
        item = self._items.get(self.path(collection), key)
        return None if item is None else as_dict(item.value)

    async def aget(self, key: str, collection: str = DEFAULT_COLLECTION) -> dict[str, Any] | None:
        return await asyncio.to_thread(self.get, key, collection)

    def get_all(self, collection: str = DEFAULT_COLLECTION) -> dict[str, dict[str, Any]]:
        """Return all values of a collection, in the order in which their keys were first put."""
        found = self._items.search(self.path(collection), limit=None)
        return {one.item.key: as_dict(one.item.value) for one in found}

    async def aget_all(self, collection: str = DEFAULT_COLLECTION) -> dict[str, dict[str, Any]]:
        return await asyncio.to_thread(self.get_all, collection)

    def delete(self, key: str, collection: str = DEFAULT_COLLECTION) -> bool:
        """Let go of a value; tell whether there was one."""
        return self._items.delete(self.path(collection), key)

    async def adelete(self, key: str, collection: str = DEFAULT_COLLECTION) -> bool:
        return await self._items.adelete(self.path(collection), key)

    # Files

    def to_dict(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Return all values, by collection and key."""
        found: dict[str, dict[str, dict[str, Any]]] = {}
        for one in self._items.search(("llama_index", self._name), limit=None):
            found.setdefault(one.item.path[-1], {})[one.item.key] = as_dict(one.item.value)
        return found

    def update(self, collections: Collections) -> None:
        """Keep all values of ``collections``, as ``to_dict`` returns them, in one transaction.

        Raises:
            InvalidInput: That is something else.
        """
        with self.transaction() as change:
            for collection, values in as_collections(collections).items():
                change.put_all(list(values.items()), collection)

    @classmethod
    def from_dict(cls, save_dict: Collections, memory: Scope | MemOS | None = None, **options: Any) -> Self:
        """Return a store of ``memory`` into which what ``to_dict`` returned was put.

        Args:
            save_dict: Values by collection and key; ``SimpleKVStore.to_dict`` returns the same.
            memory: As of the class.
            options: ``name`` and the others of the class.

        Raises:
            InvalidInput: ``save_dict`` is something else.
        """
        store = cls(memory, **options)
        store.update(save_dict)
        return store

    def persist(self, persist_path: str, fs: AbstractFileSystem | None = None) -> None:
        """Write a copy to a file, which forgetting does not reach. The memory itself needs no such call."""
        write_json(self.to_dict(), persist_path, fs)

    @classmethod
    def from_persist_path(
        cls,
        persist_path: str,
        fs: AbstractFileSystem | None = None,
        memory: Scope | MemOS | None = None,
        **options: Any,
    ) -> Self:
        """Return a store of ``memory`` into which a file of ``persist``, ours or ``SimpleKVStore``'s, was put.

        Raises:
            FileNotFoundError: There is no such file.
            InvalidInput: It is no such file.
        """
        return cls.from_dict(read_json(persist_path, fs), memory, **options)

    @contextmanager
    def transaction(self) -> Iterator[KVTransaction]:
        """Begin a change that depends on what is there: nobody writes in between, and all of it happens or none."""
        with self._items.transaction() as change:
            yield KVTransaction(self, change)

    def _puts(self, pairs: Pairs, collection: str) -> list[PutItem]:
        path = self.path(collection)
        return [PutItem(path, key, value) for key, value in pairs]


class KVTransaction(BaseKVStore):
    """The store within a transaction: what it reads includes what it has changed."""

    def __init__(self, store: MemosKVStore, change: ItemTransaction) -> None:
        self._store = store
        self._change = change

    def put(self, key: str, val: dict[str, Any], collection: str = DEFAULT_COLLECTION) -> None:
        self.put_all([(key, val)], collection)

    def put_all(
        self, kv_pairs: Pairs, collection: str = DEFAULT_COLLECTION, batch_size: int = DEFAULT_BATCH_SIZE
    ) -> None:
        self._change.put_all(self._store.path(collection), dict(kv_pairs))

    def get(self, key: str, collection: str = DEFAULT_COLLECTION) -> dict[str, Any] | None:
        item = self._change.get(self._store.path(collection), key)
        return None if item is None else as_dict(item.value)

    def get_all(self, collection: str = DEFAULT_COLLECTION) -> dict[str, dict[str, Any]]:
        return {item.key: as_dict(item.value) for item in self._change.list(self._store.path(collection))}

    def delete(self, key: str, collection: str = DEFAULT_COLLECTION) -> bool:
        return bool(self._change.delete(self._store.path(collection), key))

    # The contract asks for these; a transaction lives on one thread, so they are the same calls.

    async def aput(self, key: str, val: dict[str, Any], collection: str = DEFAULT_COLLECTION) -> None:
        self.put(key, val, collection)

    async def aget(self, key: str, collection: str = DEFAULT_COLLECTION) -> dict[str, Any] | None:
        return self.get(key, collection)

    async def aget_all(self, collection: str = DEFAULT_COLLECTION) -> dict[str, dict[str, Any]]:
        return self.get_all(collection)

    async def adelete(self, key: str, collection: str = DEFAULT_COLLECTION) -> bool:
        return self.delete(key, collection)


def as_dict(value: Any) -> dict[str, Any]:
    found: dict[str, Any] = value
    return found
