"""Stores of LlamaIndex over a ``MemosKVStore``: documents, indexes, and a storage context of them all."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Self

from fsspec import AbstractFileSystem

from memos_core import MemOS, Scope
from memos_core.errors import MissingExtra
from memos_llamaindex.files import joined_path, read_json, write_json
from memos_llamaindex.home import SHARED, scope_for
from memos_llamaindex.kv_stores import Collections, MemosKVStore

try:
    from llama_index.core.schema import BaseNode
    from llama_index.core.storage.docstore.keyval_docstore import KVDocumentStore
    from llama_index.core.storage.index_store.keyval_index_store import KVIndexStore
    from llama_index.core.storage.storage_context import DEFAULT_PERSIST_DIR, StorageContext
    from llama_index.core.vector_stores.types import BasePydanticVectorStore
except ImportError as error:
    raise MissingExtra("llama-index-core", extra="llamaindex") from error

__all__ = ["MemosDocumentStore", "MemosIndexStore", "MemosKVStore", "memos_storage_context"]


class OverKVStore:
    """What the stores over a ``MemosKVStore`` have in common: how they are made, and their files."""

    KIND: ClassVar[str]
    """Default of ``name``, and what the names of its collections begin with, as in LlamaIndex's simple store."""

    FILE: ClassVar[str]
    """Name of its file in a folder of ``persist``."""

    _kvstore: Any

    def __init__(
        self,
        memory: Scope | MemOS | MemosKVStore | None = None,
        name: str | None = None,
        *,
        namespace: Sequence[str] = SHARED,
        namespace_values: Mapping[str, Any] | None = None,
    ) -> None:
        # The next class is a store of LlamaIndex, which keeps its namespace apart within a key-value store.
        within = name or self.KIND
        if not isinstance(memory, MemosKVStore):
            memory = MemosKVStore(memory, within, namespace=namespace, namespace_values=namespace_values)
            within = self.KIND
        super().__init__(memory, namespace=within)  # type: ignore[call-arg]

    # Files

    def to_dict(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Return all that is kept, as LlamaIndex's simple store does."""
        kept: dict[str, dict[str, dict[str, Any]]] = self._kvstore.to_dict()
        return kept

    @classmethod
    def from_dict(cls, save_dict: Collections, memory: Scope | MemOS | None = None, **options: Any) -> Self:
        """Return a store of ``memory`` into which what ``to_dict`` returned was put.

        Args:
            save_dict: What ``to_dict`` returned, here or of LlamaIndex's simple store.
            memory: As of the class.
            options: ``name`` and the others of the class.

        Raises:
            InvalidInput: ``save_dict`` is something else.
        """
        store = cls(memory, **options)
        store._kvstore.update(save_dict)
        return store

    def persist(self, persist_path: str | None = None, fs: AbstractFileSystem | None = None) -> None:
        """Write a copy to a file, which forgetting does not reach. The memory itself needs no such call."""
        write_json(self.to_dict(), persist_path or joined_path(DEFAULT_PERSIST_DIR, self.FILE), fs)

    @classmethod
    def from_persist_path(
        cls,
        persist_path: str,
        *,
        fs: AbstractFileSystem | None = None,
        memory: Scope | MemOS | None = None,
        **options: Any,
    ) -> Self:
        """Return a store of ``memory`` into which a file of ``persist``, ours or the simple store's, was put.

        Raises:
            FileNotFoundError: There is no such file.
            InvalidInput: It is no such file.
        """
        return cls.from_dict(read_json(persist_path, fs), memory, **options)

    @classmethod
    def from_persist_dir(
        cls,
        persist_dir: str = DEFAULT_PERSIST_DIR,
        *,
        fs: AbstractFileSystem | None = None,
        memory: Scope | MemOS | None = None,
        **options: Any,
    ) -> Self:
        """``from_persist_path`` for the folder of a storage context."""
        return cls.from_persist_path(joined_path(persist_dir, cls.FILE), fs=fs, memory=memory, **options)


class MemosDocumentStore(OverKVStore, KVDocumentStore):
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

    ``persist`` and ``from_persist_dir`` write and read the files of ``SimpleDocumentStore``.

    Args:
        memory: A scope: its user's own store. A MemOS: one for all who hold it, or the one that ``namespace`` names.
            None: a temporary one, which is gone when the store is. A ``MemosKVStore``: that store.
        name: Keeps several stores of one memory apart.
        namespace: Template of the namespace within a MemOS.
        namespace_values: What its variables stand for.
    """

    KIND = "docstore"
    FILE = "docstore.json"

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

    def get_all_document_ids(self) -> set[str]:
        """Return the ids of all nodes and documents that have a hash; several may share one hash."""
        return set(self._kvstore.get_all(self._metadata_collection))

    async def aget_all_document_ids(self) -> set[str]:
        return await asyncio.to_thread(self.get_all_document_ids)


class MemosIndexStore(OverKVStore, KVIndexStore):
    """Keeps what indexes are made of.

    Examples:
        `pip install 'memos-mag[llamaindex]'`

        ```python
        from memos_core import MemOS
        from memos_llamaindex import MemosIndexStore

        storage_context = StorageContext.from_defaults(index_store=MemosIndexStore(MemOS.open("memory/")))
        ```

    ``persist`` and ``from_persist_dir`` write and read the files of ``SimpleIndexStore``.

    Args:
        memory: A scope: its user's own store. A MemOS: one for all who hold it, or the one that ``namespace`` names.
            None: a temporary one, which is gone when the store is. A ``MemosKVStore``: that store.
        name: Keeps several stores of one memory apart.
        namespace: Template of the namespace within a MemOS.
        namespace_values: What its variables stand for.
    """

    KIND = "index_store"
    FILE = "index_store.json"


def memos_storage_context(
    memory: Scope | MemOS | None = None,
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
        memory: A scope: its user's own. A MemOS: shared by all who hold it, or what ``namespace`` names. None: a
            temporary one, which is gone when the context is.
        name: Keeps several contexts of one memory apart.
        vector_store: Another store for the vectors; None: a ``MemosVectorStore`` in the same memory.
        namespace: Template of the namespace within a MemOS.
        namespace_values: What its variables stand for.
    """
    from memos_llamaindex.vector_stores import MemosVectorStore

    scope = scope_for(memory, namespace, namespace_values)
    suffix = f"-{name}" if name else ""
    return StorageContext.from_defaults(
        docstore=MemosDocumentStore(scope, f"docstore{suffix}"),
        index_store=MemosIndexStore(scope, f"index_store{suffix}"),
        vector_store=vector_store or MemosVectorStore(scope, collection=f"llama_index{suffix}"),
    )
