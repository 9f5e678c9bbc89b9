"""Stores of LlamaIndex over the items of a memory: key-value, documents, indexes, and a storage context of them all."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from memos_core import Items, ItemTransaction, MemOS, PutItem, Scope, resolve_scope
from memos_core.errors import InvalidInput, MissingExtra

try:
    from llama_index.core.schema import BaseNode
    from llama_index.core.storage.docstore.keyval_docstore import KVDocumentStore
    from llama_index.core.storage.index_store.keyval_index_store import KVIndexStore
    from llama_index.core.storage.kvstore.types import DEFAULT_BATCH_SIZE, DEFAULT_COLLECTION, BaseKVStore
    from llama_index.core.storage.storage_context import StorageContext
    from llama_index.core.vector_stores.types import BasePydanticVectorStore
except ImportError as error:
    raise MissingExtra("llama-index-core", extra="llamaindex") from error

__all__ = ["MemosDocumentStore", "MemosIndexStore", "MemosKVStore", "memos_storage_context"]

SHARED = ("llama_index", "stores")
"""Namespace, in a MemOS, of stores that belong to no user."""

Pairs = Sequence[tuple[str, dict[str, Any]]]


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
    size. Only the newest version of a value is kept.

    Args:
        memory: A scope: its user's own store. A MemOS: one for all who hold it, or the one that ``namespace`` names.
        name: Keeps several stores of one memory apart.
        namespace: Template of the namespace within a MemOS.
        namespace_values: What its variables stand for.
    """

    def __init__(
        self,
        memory: Scope | MemOS,
        name: str = "kv",
        *,
        namespace: Sequence[str] = SHARED,
        namespace_values: Mapping[str, Any] | None = None,
    ) -> None:
        self._items: Items = resolve_scope(memory, namespace, namespace_values).items(history=False)
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


class MemosDocumentStore(KVDocumentStore):
    """Keeps nodes and what is known of their documents.

    Examples:
        `pip install 'memos-mag[llamaindex]'`

        ```python
        from memos_core import MemOS
        from memos_llamaindex import MemosDocumentStore

        docstore = MemosDocumentStore(MemOS.open("memory/"))
        docstore.add_documents(nodes)
        storage_context = StorageContext.from_defaults(docstore=docstore)
        ```

    Everything that reads and then writes is one transaction: nodes that are added to a document from several threads or
    processes at once are all there, and a deletion leaves no node without its document. The async methods are the same
    calls on a worker thread.

    Args:
        memory: A scope: its user's own store. A MemOS: one for all who hold it, or the one that ``namespace`` names.
        name: Keeps several stores of one memory apart.
        namespace: Template of the namespace within a MemOS.
        namespace_values: What its variables stand for.
    """

    _kvstore: MemosKVStore

    def __init__(
        self,
        memory: Scope | MemOS,
        name: str = "docstore",
        *,
        namespace: Sequence[str] = SHARED,
        namespace_values: Mapping[str, Any] | None = None,
    ) -> None:
        kv = MemosKVStore(memory, name, namespace=namespace, namespace_values=namespace_values)
        super().__init__(kv, namespace=name)

    @contextmanager
    def _changing(self) -> Iterator[KVDocumentStore]:
        """Begin a change: a document store of LlamaIndex's own over a transaction."""
        with self._kvstore.transaction() as change:
            yield KVDocumentStore(change, namespace=self._namespace, batch_size=self._batch_size)

    def add_documents(
        self,
        docs: Sequence[BaseNode],
        allow_update: bool = True,
        batch_size: int | None = None,
        store_text: bool = True,
    ) -> None:
        """Keep nodes in one transaction.

        Raises:
            ValueError: One is there already and ``allow_update`` is False; nothing was written.
        """
        with self._changing() as store:
            store.add_documents(docs, allow_update=allow_update, batch_size=batch_size, store_text=store_text)

    async def async_add_documents(
        self,
        docs: Sequence[BaseNode],
        allow_update: bool = True,
        batch_size: int | None = None,
        store_text: bool = True,
    ) -> None:
        await asyncio.to_thread(self.add_documents, docs, allow_update, batch_size, store_text)

    def delete_document(self, doc_id: str, raise_error: bool = True) -> None:
        """Let go of a node; its document forgets it, and goes with its last one.

        Raises:
            ValueError: There is none, and ``raise_error`` is True.
        """
        with self._changing() as store:
            store.delete_document(doc_id, raise_error)

    async def adelete_document(self, doc_id: str, raise_error: bool = True) -> None:
        await asyncio.to_thread(self.delete_document, doc_id, raise_error)

    def delete_ref_doc(self, ref_doc_id: str, raise_error: bool = True) -> None:
        """Let go of a document and all its nodes.

        Raises:
            ValueError: There is none, and ``raise_error`` is True.
        """
        with self._changing() as store:
            store.delete_ref_doc(ref_doc_id, raise_error)

    async def adelete_ref_doc(self, ref_doc_id: str, raise_error: bool = True) -> None:
        await asyncio.to_thread(self.delete_ref_doc, ref_doc_id, raise_error)


class MemosIndexStore(KVIndexStore):
    """Keeps what indexes are made of.

    Examples:
        `pip install 'memos-mag[llamaindex]'`

        ```python
        from memos_core import MemOS
        from memos_llamaindex import MemosIndexStore

        storage_context = StorageContext.from_defaults(index_store=MemosIndexStore(MemOS.open("memory/")))
        ```

    Args:
        memory: A scope: its user's own store. A MemOS: one for all who hold it, or the one that ``namespace`` names.
        name: Keeps several stores of one memory apart.
        namespace: Template of the namespace within a MemOS.
        namespace_values: What its variables stand for.
    """

    def __init__(
        self,
        memory: Scope | MemOS,
        name: str = "index_store",
        *,
        namespace: Sequence[str] = SHARED,
        namespace_values: Mapping[str, Any] | None = None,
    ) -> None:
        kv = MemosKVStore(memory, name, namespace=namespace, namespace_values=namespace_values)
        super().__init__(kv, namespace=name)


def memos_storage_context(
    memory: Scope | MemOS,
    *,
    name: str = "",
    vector_store: BasePydanticVectorStore | None = None,
    namespace: Sequence[str] = SHARED,
    namespace_values: Mapping[str, Any] | None = None,
) -> StorageContext:
    """Return a storage context whose documents, indexes and vectors lie in one memory, and need no ``persist``.

        context = memos_storage_context(memos.scope(user="ada"))
        VectorStoreIndex(nodes, storage_context=context)
        index = load_index_from_storage(memos_storage_context(memos.scope(user="ada")))  # in another process

    Args:
        memory: A scope: its user's own. A MemOS: shared by all who hold it, or what ``namespace`` names.
        name: Keeps several contexts of one memory apart.
        vector_store: Another store for the vectors; None: a ``MemosVectorStore`` in the same memory.
        namespace: Template of the namespace within a MemOS.
        namespace_values: What its variables stand for.
    """
    from memos_llamaindex.vector_stores import MemosVectorStore

    scope = resolve_scope(memory, namespace, namespace_values)
    suffix = f"-{name}" if name else ""
    return StorageContext.from_defaults(
        docstore=MemosDocumentStore(scope, f"docstore{suffix}"),
        index_store=MemosIndexStore(scope, f"index_store{suffix}"),
        vector_store=vector_store or MemosVectorStore(scope, collection=f"llama_index{suffix}"),
    )


def as_dict(value: Any) -> dict[str, Any]:
    found: dict[str, Any] = value
    return found
