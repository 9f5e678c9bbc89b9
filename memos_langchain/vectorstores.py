"""MemosVectorStore: documents with vectors and metadata, kept as memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

from memos_core import Collection, DocumentHit, MemOS, Scope, Where, resolve_scope
from memos_core import Document as MemoryDocument
from memos_core.errors import InvalidInput, MissingExtra
from memos_langchain.embeddings import MemosEmbeddings

try:
    from langchain_core.documents import Document
    from langchain_core.embeddings import Embeddings
    from langchain_core.vectorstores import VectorStore
except ImportError as error:
    raise MissingExtra("langchain-core", extra="langchain") from error

__all__ = ["MemosVectorStore"]

SHARED = ("langchain", "vectorstores")
"""Namespace of what lies in a MemOS and belongs to no user."""

Filter = Where | Mapping[str, Any]
Mode = Literal["vector", "words", "hybrid"]


class MemosVectorStore(VectorStore):
    """Keeps documents in a collection of a memory: durable, found exactly, filtered, and erased for good.

    Setup:
        ```bash
        pip install 'memos-mag[langchain,embedder]'
        ```

    Instantiate:
        ```python
        from memos_core import MemOS
        from memos_langchain import MemosVectorStore

        ada = MemOS.open("memory/").scope(user="ada")
        store = MemosVectorStore(ada, collection="manuals")  # or embedding=OpenAIEmbeddings(...)
        ```

    Add:
        ```python
        store.add_documents([Document(page_content="Press both keys.", id="reset", metadata={"page": 7})])
        ```

    Search:
        ```python
        store.similarity_search("How do I reset it?", k=4, filter={"page": {"$lt": 10}})
        store.similarity_search("error E42", k=4, mode="hybrid", alpha=0.3)
        store.max_marginal_relevance_search("reset", k=3, fetch_k=20)
        ```

    Use as retriever:
        ```python
        store.as_retriever(search_type="mmr", search_kwargs={"k": 3}).invoke("reset")
        ```

    Documents come back as they were given: the store adds nothing to their metadata. A filter is a mapping, see
    ``memos_core.parse_where``. The memory that keeps a document is ``store.collection.get([id])[0].cube_id``: pass
    it to ``ChatMemos`` as ``memory_ids`` and the document enters the prompt as KV.

    Args:
        memory: A scope: its user's own. A MemOS: shared by all who hold it, or what ``namespace`` names. None: a
            temporary one, which is gone when the store is.
        embedding: Makes the vectors; None: as those of memories, where a long document is found by any part of it.
        collection: Name of the collection within the scope.
        embedding_name: Identity of ``embedding``, which the collection keeps: another one is refused. By default its
            class and model.
        namespace: Template of the namespace within a MemOS.
        namespace_values: What its variables stand for.
    """

    def __init__(
        self,
        memory: Scope | MemOS | None = None,
        embedding: Embeddings | None = None,
        *,
        collection: str = "langchain",
        embedding_name: str | None = None,
        namespace: Sequence[str] = SHARED,
        namespace_values: Mapping[str, Any] | None = None,
    ) -> None:
        if memory is None:
            memory = MemOS.temporary(embedder="minilm" if embedding is None else None)
        scope = resolve_scope(memory, namespace, namespace_values)
        # The core embeds by itself where it can: it cuts long texts, and leaves out what has not changed.
        own = embedding is None or (isinstance(embedding, MemosEmbeddings) and embedding_name is None)
        made_by = embedding.embedder if isinstance(embedding, MemosEmbeddings) else None
        self._foreign = None if own else embedding
        self._embedding = embedding
        name = None if self._foreign is None else embedding_name or identity(self._foreign)
        self.collection: Collection = scope.collection(collection, embedder=name or made_by)

    @property
    def embeddings(self) -> Embeddings | None:
        return self._embedding

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        # Scores are cosines already; what points away from the question is not relevant at all.
        return lambda score: min(1.0, max(0.0, score))

    # Write

    def add_documents(self, documents: list[Document], ids: list[str] | None = None, **kwargs: Any) -> list[str]:
        """Store documents and return their ids. One whose id is held takes its place.

        Args:
            documents: What to store.
            ids: Their ids; None: those of the documents, else new ones.

        Raises:
            InvalidMemory: Metadata is not JSON, or a text cannot be stored; nothing was written.
            InvalidInput: There are more or fewer ids than documents.
        """
        texts = [document.page_content for document in documents]
        vectors = self._foreign.embed_documents(texts) if self._foreign else None
        return self.collection.upsert(as_memories(documents, ids, vectors))

    async def aadd_documents(self, documents: list[Document], ids: list[str] | None = None, **kwargs: Any) -> list[str]:
        texts = [document.page_content for document in documents]
        vectors = await self._foreign.aembed_documents(texts) if self._foreign else None
        return await self.collection.aupsert(as_memories(documents, ids, vectors))

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[Any, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Store texts and return their ids."""
        return self.add_documents(as_documents(texts, metadatas), ids)

    async def aadd_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[Any, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        return await self.aadd_documents(as_documents(texts, metadatas), ids)

    def delete(self, ids: list[str] | None = None, *, filter: Filter | None = None, **kwargs: Any) -> bool:
        """Erase documents with all their versions and everything made from them; there is no way back.

        Args:
            ids: Which; None: all (that meet ``filter``).
            filter: Only those whose metadata meets it.
        """
        if ids is None and filter is None:
            self.collection.clear()
        else:
            self.collection.delete(ids, where=filter)
        return True

    async def adelete(self, ids: list[str] | None = None, **kwargs: Any) -> bool:
        return await asyncio.to_thread(self.delete, ids, **kwargs)

    # Read

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """Return those of the documents that are there, in the order of ``ids``."""
        return [from_memory(document) for document in self.collection.get(ids)]

    async def aget_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        return [from_memory(document) for document in await self.collection.aget(ids)]

    # Search

    def similarity_search(self, query: str, k: int = 4, **kwargs: Any) -> list[Document]:
        """Return the ``k`` best documents, best first. For the options see ``similarity_search_with_score``."""
        return [document for document, _ in self.similarity_search_with_score(query, k, **kwargs)]

    async def asimilarity_search(self, query: str, k: int = 4, **kwargs: Any) -> list[Document]:
        return [document for document, _ in await self.asimilarity_search_with_score(query, k, **kwargs)]

    def similarity_search_with_score(
        self,
        query: str,
        k: int = 4,
        *,
        filter: Filter | None = None,
        mode: Mode = "vector",
        alpha: float = 0.5,
        **kwargs: Any,
    ) -> list[tuple[Document, float]]:
        """Return the ``k`` best documents with their scores: the greater, the better.

        Args:
            query: What is asked.
            k: Most documents.
            filter: Only documents whose metadata meets it.
            mode: ``vector`` (scores are cosines), ``words`` (BM25) or ``hybrid`` (scores lie between 0 and 1).
            alpha: Weight of the vectors in ``hybrid``.

        Raises:
            InvalidInput: An option is not known, or a filter is malformed.
        """
        check_known(kwargs)
        vector = self._foreign.embed_query(query) if self._foreign and mode != "words" else None
        return scored(self.collection.query(query, vector=vector, k=k, where=filter, mode=mode, alpha=alpha))

    async def asimilarity_search_with_score(
        self,
        query: str,
        k: int = 4,
        *,
        filter: Filter | None = None,
        mode: Mode = "vector",
        alpha: float = 0.5,
        **kwargs: Any,
    ) -> list[tuple[Document, float]]:
        check_known(kwargs)
        vector = await self._foreign.aembed_query(query) if self._foreign and mode != "words" else None
        return scored(await self.collection.aquery(query, vector=vector, k=k, where=filter, mode=mode, alpha=alpha))

    def similarity_search_by_vector(
        self, embedding: list[float], k: int = 4, *, filter: Filter | None = None, **kwargs: Any
    ) -> list[Document]:
        """Return the ``k`` documents nearest to a vector."""
        check_known(kwargs)
        return [document for document, _ in scored(self.collection.query(vector=embedding, k=k, where=filter))]

    async def asimilarity_search_by_vector(
        self, embedding: list[float], k: int = 4, *, filter: Filter | None = None, **kwargs: Any
    ) -> list[Document]:
        check_known(kwargs)
        return [document for document, _ in scored(await self.collection.aquery(vector=embedding, k=k, where=filter))]

    def max_marginal_relevance_search(
        self,
        query: str,
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        *,
        filter: Filter | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        """Return ``k`` of the ``fetch_k`` nearest documents: near the question, and unlike each other.

        Args:
            lambda_mult: 1 goes by nearness alone, 0 by variety alone.
        """
        check_known(kwargs)
        vector = self._foreign.embed_query(query) if self._foreign else None
        hits = self.collection.mmr(query, vector=vector, k=k, fetch_k=fetch_k, balance=lambda_mult, where=filter)
        return [document for document, _ in scored(hits)]

    async def amax_marginal_relevance_search(
        self,
        query: str,
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        *,
        filter: Filter | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        check_known(kwargs)
        vector = await self._foreign.aembed_query(query) if self._foreign else None
        hits = await self.collection.ammr(query, vector=vector, k=k, fetch_k=fetch_k, balance=lambda_mult, where=filter)
        return [document for document, _ in scored(hits)]

    def max_marginal_relevance_search_by_vector(
        self,
        embedding: list[float],
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        *,
        filter: Filter | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        check_known(kwargs)
        hits = self.collection.mmr(vector=embedding, k=k, fetch_k=fetch_k, balance=lambda_mult, where=filter)
        return [document for document, _ in scored(hits)]

    async def amax_marginal_relevance_search_by_vector(
        self, embedding: list[float], k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **kwargs: Any
    ) -> list[Document]:
        search = self.max_marginal_relevance_search_by_vector
        return await asyncio.to_thread(search, embedding, k, fetch_k, lambda_mult, **kwargs)

    # Making one from texts

    @classmethod
    def from_texts(
        cls,
        texts: list[str],
        embedding: Embeddings,
        metadatas: list[dict[Any, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        memory: Scope | MemOS | None = None,
        **kwargs: Any,
    ) -> MemosVectorStore:
        """Return a store that holds these texts.

        Args:
            memory: Where they are kept. For the rest of the options see the class.
        """
        store = cls(memory, embedding, **kwargs)
        store.add_texts(texts, metadatas, ids=ids)
        return store

    @classmethod
    async def afrom_texts(
        cls,
        texts: list[str],
        embedding: Embeddings,
        metadatas: list[dict[Any, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        memory: Scope | MemOS | None = None,
        **kwargs: Any,
    ) -> MemosVectorStore:
        store = cls(memory, embedding, **kwargs)
        await store.aadd_texts(texts, metadatas, ids=ids)
        return store


def identity(embedding: Embeddings) -> str:
    """Return by what vectors of ``embedding`` are known: its class and the model that it names."""
    names = (getattr(embedding, field, None) for field in ("model", "model_name", "model_id", "deployment"))
    model = next((name for name in names if isinstance(name, str)), None)
    return f"{type(embedding).__name__}:{model}" if model else type(embedding).__name__


def as_documents(texts: Iterable[str], metadatas: list[dict[Any, Any]] | None) -> list[Document]:
    """Return texts with their metadata as documents.

    Raises:
        InvalidInput: There are more or fewer metadatas than texts.
    """
    listed = list(texts)
    if metadatas is not None and len(metadatas) != len(listed):
        raise InvalidInput(f"there are {len(listed)} texts and {len(metadatas)} metadatas")
    return [
        Document(page_content=text, metadata=metadata)
        for text, metadata in zip(listed, metadatas or [{} for _ in listed], strict=True)
    ]


def as_memories(
    documents: Sequence[Document], ids: Sequence[str | None] | None, vectors: Sequence[Sequence[float]] | None
) -> list[MemoryDocument]:
    """Return LangChain's documents in the core's words.

    Raises:
        InvalidInput: There are more or fewer ids than documents.
    """
    if ids is not None and len(ids) != len(documents):
        raise InvalidInput(f"there are {len(documents)} documents and {len(ids)} ids")
    named = ids or [document.id for document in documents]
    made: Sequence[Sequence[float] | None] = vectors if vectors is not None else [None] * len(documents)
    return [
        MemoryDocument(document.page_content, id=name or document.id, metadata=document.metadata, vector=vector)
        for document, name, vector in zip(documents, named, made, strict=True)
    ]


def from_memory(document: MemoryDocument) -> Document:
    """Return a document of the core in LangChain's words."""
    return Document(page_content=document.text, id=document.id, metadata=dict(document.metadata))


def check_known(options: Mapping[str, Any]) -> None:
    """Raise InvalidInput for options that no search has: a filter under another name must not be passed over."""
    if options:
        raise InvalidInput(
            f"unknown option {', '.join(sorted(options))}; a search takes filter, mode, alpha and fetch_k"
        )


def scored(hits: Sequence[DocumentHit]) -> list[tuple[Document, float]]:
    return [(from_memory(hit.document), hit.score) for hit in hits]
