"""MemosVectorStore: nodes with vectors and metadata, kept as memory."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Self

from fsspec import AbstractFileSystem

from memos_core import Collection, Compare, Document, DocumentHit, MemOS, Scope, Where
from memos_core.errors import InvalidInput, MissingExtra, UnsupportedOption
from memos_llamaindex.files import joined_path, names_in, read_json, write_json
from memos_llamaindex.filters import as_where, joined
from memos_llamaindex.home import SHARED, Handle, scope_for
from memos_llamaindex.vector_files import saved_collection, saved_nodes

try:
    from llama_index.core.bridge.pydantic import Field, PrivateAttr
    from llama_index.core.schema import BaseNode, MetadataMode
    from llama_index.core.vector_stores.simple import DEFAULT_VECTOR_STORE, NAMESPACE_SEP
    from llama_index.core.vector_stores.types import (
        DEFAULT_PERSIST_DIR,
        DEFAULT_PERSIST_FNAME,
        BasePydanticVectorStore,
        MetadataFilters,
        VectorStoreQuery,
        VectorStoreQueryMode,
        VectorStoreQueryResult,
    )
    from llama_index.core.vector_stores.utils import metadata_dict_to_node, node_to_metadata_dict
except ImportError as error:
    raise MissingExtra("llama-index-core", extra="llamaindex") from error

__all__ = ["MemosVectorStore"]

WORDS = (VectorStoreQueryMode.TEXT_SEARCH, VectorStoreQueryMode.SPARSE)
BOTH = (VectorStoreQueryMode.HYBRID, VectorStoreQueryMode.SEMANTIC_HYBRID)

PREFETCH = 1000
"""Nearest nodes among which ``mmr`` chooses, if the query names no ``mmr_prefetch_k``."""


class MemosVectorStore(Handle, BasePydanticVectorStore):
    """Keeps nodes in a collection of a memory: durable, found exactly, filtered, and erased for good.

    Examples:
        `pip install 'memos-mag[llamaindex]'`

        ```python
        from memos_core import MemOS
        from memos_llamaindex import MemosVectorStore

        ada = MemOS.open("memory/").scope(user="ada")
        store = MemosVectorStore(ada, collection="manuals")
        index = VectorStoreIndex.from_vector_store(store, embed_model=embed_model)
        ```

    Every operator and condition of ``MetadataFilters`` works, nested as deep as you like; so do ``node_ids`` and
    ``doc_ids``. Modes: ``default``, ``mmr``, ``text_search`` and ``sparse`` (BM25 over the collection), ``hybrid`` and
    ``semantic_hybrid`` (both, weighed by ``alpha``). The learners (``svm`` ...) raise ``UnsupportedOption``.

    A node that is added again under its id takes its place. Metadata must be JSON.

    Args:
        memory: A scope: its user's own. A MemOS: shared by all who hold it, or what ``namespace`` names. None: a
            temporary one, which is gone when the store is.
        collection: Name of the collection within the scope.
        embedding_name: Identity of the model that embeds the nodes, which the collection keeps: another is refused.
        namespace: Template of the namespace within a MemOS.
        namespace_values: What its variables stand for.
    """

    stores_text: bool = True
    is_embedding_query: bool = True
    flat_metadata: bool = False

    collection: str = Field(default="llama_index", description="Name of the collection within the scope.")
    embedding_name: str = Field(default="llama_index", description="Identity of the model that embeds the nodes.")

    _collection: Collection = PrivateAttr()
    _scope: Scope = PrivateAttr()

    def __init__(
        self,
        memory: Scope | MemOS | None = None,
        *,
        collection: str = "llama_index",
        embedding_name: str = "llama_index",
        namespace: Sequence[str] = SHARED,
        namespace_values: Mapping[str, Any] | None = None,
    ) -> None:
        names: dict[str, Any] = {"collection": collection, "embedding_name": embedding_name}
        super().__init__(**names)
        self._scope = scope_for(memory, namespace, namespace_values)
        self._collection = self._scope.collection(collection, embedder=embedding_name)

    @classmethod
    def class_name(cls) -> str:
        return "MemosVectorStore"

    @property
    def client(self) -> Collection:
        """The collection: what else can be done with it, see ``memos_core.Collection``."""
        return self._collection

    @property
    def scope(self) -> Scope:
        """Whose memory the nodes are kept in."""
        return self._scope

    # Write

    def add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        """Store nodes, which carry their embeddings, in one transaction; return their ids.

        Raises:
            InvalidMemory: A node cannot be stored; nothing was written.
            EmbedderMismatch: The collection holds vectors of another model or length.
        """
        return self._collection.upsert([as_document(node) for node in nodes])

    async def async_add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        return await self._collection.aupsert([as_document(node) for node in nodes])

    def delete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """Erase the nodes of a document, and everything made from them."""
        self._collection.delete(where=of_documents([ref_doc_id]))

    async def adelete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        await self._collection.adelete(where=of_documents([ref_doc_id]))

    def delete_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None, **delete_kwargs: Any
    ) -> None:
        """Erase the nodes of these ids that meet the filters.

        Raises:
            InvalidInput: Neither is given; ``clear`` erases all.
        """
        self._collection.delete(node_ids, where=as_where(filters))

    async def adelete_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None, **delete_kwargs: Any
    ) -> None:
        await self._collection.adelete(node_ids, where=as_where(filters))

    def clear(self) -> None:
        """Erase all nodes, and free the name for another model."""
        self._collection.clear()

    async def aclear(self) -> None:
        await self._collection.aclear()

    # Read

    def get_nodes(self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None) -> list[BaseNode]:
        """Return the nodes of these ids (None: all) that meet the filters, without their embeddings."""
        where = as_where(filters)
        if node_ids is None:
            documents = [document for page in self._collection.pages(where=where) for document in page]
        else:
            documents = [document for document in self._collection.get(node_ids) if accepts(where, document)]
        return [as_node(document) for document in documents]

    async def aget_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None
    ) -> list[BaseNode]:
        return await asyncio.to_thread(self.get_nodes, node_ids, filters)

    # Files

    def to_dict(self, **kwargs: Any) -> dict[str, Any]:
        """Return all nodes as ``SimpleVectorStore`` does, and with their texts."""
        return saved_collection(self._collection)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], memory: Scope | MemOS | None = None, **options: Any) -> Self:
        """Return a store of ``memory`` to which what ``to_dict`` returned was added.

        Args:
            data: What ``to_dict`` returned, here or of a ``SimpleVectorStore``, which keeps no texts.
            memory: As of the class.
            options: ``collection`` and the others of the class.

        Raises:
            InvalidInput: ``data`` is something else.
        """
        store = cls(memory, **options)
        store.add(saved_nodes(data))
        return store

    def persist(self, persist_path: str | None = None, fs: AbstractFileSystem | None = None) -> None:
        """Write a copy to a file, which forgetting does not reach. The memory itself needs no such call."""
        write_json(self.to_dict(), persist_path or joined_path(DEFAULT_PERSIST_DIR, DEFAULT_PERSIST_FNAME), fs)

    @classmethod
    def from_persist_path(
        cls,
        persist_path: str,
        fs: AbstractFileSystem | None = None,
        memory: Scope | MemOS | None = None,
        **options: Any,
    ) -> Self:
        """Return a store of ``memory`` to which a file of ``persist``, ours or ``SimpleVectorStore``'s, was added.

        Raises:
            FileNotFoundError: There is no such file.
            InvalidInput: It is no such file.
        """
        return cls.from_dict(read_json(persist_path, fs), memory, **options)

    @classmethod
    def from_persist_dir(
        cls,
        persist_dir: str = DEFAULT_PERSIST_DIR,
        namespace: str = DEFAULT_VECTOR_STORE,
        fs: AbstractFileSystem | None = None,
        memory: Scope | MemOS | None = None,
        **options: Any,
    ) -> Self:
        """``from_persist_path`` for the folder of a storage context; ``namespace`` is the store's name in there."""
        path = joined_path(persist_dir, f"{namespace}{NAMESPACE_SEP}{DEFAULT_PERSIST_FNAME}")
        return cls.from_persist_path(path, fs, memory, **options)

    @classmethod
    def from_namespaced_persist_dir(
        cls,
        persist_dir: str = DEFAULT_PERSIST_DIR,
        fs: AbstractFileSystem | None = None,
        memory: Scope | MemOS | None = None,
    ) -> dict[str, BasePydanticVectorStore]:
        """Return all stores in the folder of a storage context by name, each in a collection of that name."""
        stores: dict[str, BasePydanticVectorStore] = {}
        for name in names_in(persist_dir, f"{NAMESPACE_SEP}{DEFAULT_PERSIST_FNAME}", fs):
            collection = "llama_index" if name == DEFAULT_VECTOR_STORE else f"llama_index-{name}"
            stores[name] = cls.from_persist_dir(persist_dir, name, fs, memory, collection=collection)
        return stores

    # Search

    def query(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """Return the best nodes for ``query``, best first, with their scores.

        Scores are cosines in the modes ``default`` and ``mmr``, BM25 in ``text_search`` and ``sparse``, and lie
        between 0 and 1 in ``hybrid``.

        Args:
            query: What is asked.
            kwargs: For ``mmr``: ``mmr_threshold``, in place of the query's, and ``mmr_prefetch_k``.

        Raises:
            InvalidInput: What the mode needs, an embedding or a text, is missing.
            UnsupportedOption: The mode fits a classifier to the vectors.
        """
        search, options = asked(query, kwargs)
        hits = self._collection.mmr(**options) if search == "mmr" else self._collection.query(**options)
        return as_result(hits)

    async def aquery(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        search, options = asked(query, kwargs)
        find = self._collection.ammr if search == "mmr" else self._collection.aquery
        return as_result(await find(**options))


def asked(query: VectorStoreQuery, kwargs: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return which search of a collection answers ``query``, ``query`` or ``mmr``, and its arguments."""
    if not isinstance(query, VectorStoreQuery):
        raise InvalidInput(f"a query is a VectorStoreQuery, not a {type(query).__name__}; an index takes a text")
    where = joined(as_where(query.filters), None if query.doc_ids is None else of_documents(query.doc_ids))
    # An index without nodes of its own (``from_vector_store``) passes no node ids where it means no restriction.
    common: dict[str, Any] = {"where": where, "ids": query.node_ids or None, "k": query.similarity_top_k}
    vector = query.query_embedding
    if query.mode in WORDS:
        most = query.sparse_top_k if query.mode is VectorStoreQueryMode.SPARSE else None
        return "query", {**common, "text": query.query_str, "mode": "words", "k": most or query.similarity_top_k}
    if query.mode in BOTH:
        alpha = 0.5 if query.alpha is None else query.alpha
        most = query.hybrid_top_k or query.similarity_top_k
        both = {"text": query.query_str, "vector": needed(vector, query.mode), "mode": "hybrid", "alpha": alpha}
        return "query", {**common, **both, "k": most}
    if query.mode is VectorStoreQueryMode.MMR:
        named = kwargs.get("mmr_threshold", query.mmr_threshold)
        fetch_k = max(kwargs.get("mmr_prefetch_k") or PREFETCH, query.similarity_top_k)
        balance = 0.5 if named is None else named
        return "mmr", {**common, "vector": needed(vector, query.mode), "fetch_k": fetch_k, "balance": balance}
    if query.mode is not VectorStoreQueryMode.DEFAULT:
        raise UnsupportedOption(
            f"query mode {query.mode.value!r} fits a classifier to the vectors; use 'default' or 'mmr'"
        )
    return "query", {**common, "vector": needed(vector, query.mode)}


def needed(vector: list[float] | None, mode: VectorStoreQueryMode) -> list[float]:
    if vector is None:
        raise InvalidInput(f"query mode {mode.value!r} needs query_embedding")
    return vector


def of_documents(ref_doc_ids: Sequence[str]) -> Where:
    """Return the condition that a node belongs to one of these documents."""
    return Compare("ref_doc_id", "in", list(ref_doc_ids))


def accepts(where: Where | None, document: Document) -> bool:
    return where is None or where.accepts(document.metadata)


def as_document(node: BaseNode) -> Document:
    """Return a node in the core's words: its text apart, and whatever else it holds in the metadata.

    Raises:
        InvalidInput: It is no node, or has no embedding.
    """
    if not isinstance(node, BaseNode):
        raise InvalidInput(f"a node is a BaseNode such as TextNode, not a {type(node).__name__}")
    if node.embedding is None:
        raise InvalidInput(
            f"node {node.node_id!r} has no embedding: insert it into a VectorStoreIndex, or embed it first"
        )
    metadata = node_to_metadata_dict(node, remove_text=True)
    text = node.get_content(metadata_mode=MetadataMode.NONE)
    return Document(text, id=node.node_id, metadata=metadata, vector=node.get_embedding())


def as_node(document: Document) -> BaseNode:
    """Return the node that a document keeps."""
    return metadata_dict_to_node(dict(document.metadata), text=document.text)


def as_result(hits: Sequence[DocumentHit]) -> VectorStoreQueryResult:
    return VectorStoreQueryResult(
        nodes=[as_node(hit.document) for hit in hits],
        similarities=[hit.score for hit in hits],
        ids=[hit.id for hit in hits],
    )
