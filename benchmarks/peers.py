"""Other libraries behind one small face, all with the same vectors: what they recall and how long they take.

Each runs as its documentation shows it, offline, with no model but the given vectors.
"""

from __future__ import annotations

import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

__all__ = [
    "PEERS",
    "Chroma",
    "Document",
    "LangChainEnsemble",
    "LangGraphStore",
    "LlamaIndexFusion",
    "LlamaIndexIndex",
    "Mem0",
    "Peer",
    "Txtai",
]


Vector = Any


@dataclass(frozen=True, slots=True)
class Document:
    """One text of one user."""

    user: str
    ref: str
    text: str


class Peer(ABC):
    """A library that keeps texts of several users apart and finds them again.

    Args:
        folder: Where it may write.
        embed: Gives the vector of a text.
    """

    name: str

    def __init__(self, folder: Path, embed: Callable[[str], Vector]) -> None:
        self.folder = folder
        self.embed = embed

    @abstractmethod
    def add(self, documents: Sequence[Document]) -> None:
        """Store documents of one user."""

    @abstractmethod
    def search(self, user: str, text: str, k: int) -> list[str]:
        """Return the references of the best ``k`` documents of a user."""


class Chroma(Peer):
    """Chroma, persistent: one collection, the user as a filter."""

    name = "chroma"

    def __init__(self, folder: Path, embed: Callable[[str], Vector]) -> None:
        super().__init__(folder, embed)
        import chromadb
        from chromadb.config import Settings

        self.client = chromadb.PersistentClient(str(folder), settings=Settings(anonymized_telemetry=False))
        cosine = {"hnsw": {"space": "cosine"}}
        self.collection = self.client.create_collection("memories", configuration=cosine, embedding_function=None)

    def add(self, documents: Sequence[Document]) -> None:
        self.collection.add(
            ids=[f"{one.user}/{one.ref}" for one in documents],
            embeddings=np.stack([self.embed(one.text) for one in documents]),
            documents=[one.text for one in documents],
            metadatas=[{"user": one.user} for one in documents],
        )

    def search(self, user: str, text: str, k: int) -> list[str]:
        found = self.collection.query(query_embeddings=[self.embed(text)], n_results=k, where={"user": user})
        return [name.split("/", 1)[1] for name in found["ids"][0]]


class LangGraphStore(Peer):
    """LangGraph's InMemoryStore with an index: vectors only, nothing durable."""

    name = "langgraph InMemoryStore"

    def __init__(self, folder: Path, embed: Callable[[str], Vector]) -> None:
        super().__init__(folder, embed)
        from langgraph.store.memory import InMemoryStore

        many = lambda texts: [self.embed(text).tolist() for text in texts]  # noqa: E731
        self.store = InMemoryStore(index={"dims": 384, "embed": many, "fields": ["text"]})

    def add(self, documents: Sequence[Document]) -> None:
        for one in documents:
            self.store.put((one.user,), one.ref, {"text": one.text})

    def search(self, user: str, text: str, k: int) -> list[str]:
        return [item.key for item in self.store.search((user,), query=text, limit=k)]


class OfTexts(Peer):
    """A library whose retriever is made of all the texts of a user, anew when one is added."""

    def __init__(self, folder: Path, embed: Callable[[str], Vector]) -> None:
        super().__init__(folder, embed)
        self.documents: dict[str, list[Document]] = {}
        self.retrievers: dict[tuple[str, int], Any] = {}

    def add(self, documents: Sequence[Document]) -> None:
        for one in documents:
            self.documents.setdefault(one.user, []).append(one)
        gone = {one.user for one in documents}  # they are made of the texts that there are
        self.retrievers = {key: one for key, one in self.retrievers.items() if key[0] not in gone}

    def retriever(self, user: str, k: int) -> Any:
        """Return the retriever of a user, made where there is none."""
        if (user, k) not in self.retrievers:
            self.retrievers[user, k] = self.made(self.documents[user], k)
        return self.retrievers[user, k]

    @abstractmethod
    def made(self, documents: Sequence[Document], k: int) -> Any:
        """Return a retriever over these documents."""


class LangChainEnsemble(OfTexts):
    """LangChain's EnsembleRetriever over BM25 and an in-memory vector store, a pair for each user.

    BM25 is bm25s with LangChain's default of splitting at white space.
    """

    name = "langchain ensemble"

    def search(self, user: str, text: str, k: int) -> list[str]:
        return [found.metadata["ref"] for found in self.retriever(user, k).invoke(text)][:k]

    def made(self, documents: Sequence[Document], k: int) -> Any:
        return ensemble(documents, self.embed, k)


def ensemble(documents: Sequence[Document], embed: Callable[[str], Vector], k: int) -> Any:
    import bm25s
    from langchain_classic.retrievers import EnsembleRetriever
    from langchain_core.documents import Document as Page
    from langchain_core.embeddings import Embeddings
    from langchain_core.retrievers import BaseRetriever
    from langchain_core.vectorstores import InMemoryVectorStore

    class Given(Embeddings):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            return [embed(text).tolist() for text in texts]

        def embed_query(self, text: str) -> list[float]:
            return list(embed(text).tolist())

    pages = [Page(page_content=one.text, metadata={"ref": one.ref}) for one in documents]
    index = bm25s.BM25()
    index.index([one.text.split() for one in documents], show_progress=False)
    most = min(k, len(pages))

    class Words(BaseRetriever):
        def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Page]:
            rows, _ = index.retrieve([query.split()], k=most, show_progress=False)
            return [pages[row] for row in rows[0]]

    store = InMemoryVectorStore(Given())
    store.add_documents(pages)
    return EnsembleRetriever(
        retrievers=[Words(), store.as_retriever(search_kwargs={"k": k})], weights=[0.5, 0.5], id_key="ref"
    )


class LlamaIndexFusion(OfTexts):
    """LlamaIndex's QueryFusionRetriever over a vector index and BM25, a pair for each user."""

    name = "llamaindex fusion"

    def search(self, user: str, text: str, k: int) -> list[str]:
        return [found.node.id_ for found in self.retriever(user, k).retrieve(text)][:k]

    def made(self, documents: Sequence[Document], k: int) -> Any:
        return fusion(documents, self.embed, k)


class LlamaIndexIndex(LlamaIndexFusion):
    """LlamaIndex's VectorStoreIndex with its retriever, one for each user: vectors only."""

    name = "llamaindex index"

    def made(self, documents: Sequence[Document], k: int) -> Any:
        return index_of(documents, self.embed, k)[0]


def index_of(documents: Sequence[Document], embed: Callable[[str], Vector], k: int) -> tuple[Any, Any]:
    """Return the retriever of a vector index, and its nodes."""
    from llama_index.core import VectorStoreIndex
    from llama_index.core.embeddings import BaseEmbedding
    from llama_index.core.schema import TextNode

    class Given(BaseEmbedding):
        def _get_query_embedding(self, query: str) -> list[float]:
            return list(embed(query).tolist())

        async def _aget_query_embedding(self, query: str) -> list[float]:
            return self._get_query_embedding(query)

        def _get_text_embedding(self, text: str) -> list[float]:
            return list(embed(text).tolist())

    nodes = [TextNode(id_=one.ref, text=one.text) for one in documents]
    index = VectorStoreIndex(nodes, embed_model=Given())
    return index.as_retriever(similarity_top_k=min(k, len(nodes))), nodes


def fusion(documents: Sequence[Document], embed: Callable[[str], Vector], k: int) -> Any:
    """Return a retriever by words and vectors."""
    from llama_index.core.llms import MockLLM
    from llama_index.core.retrievers import QueryFusionRetriever
    from llama_index.retrievers.bm25 import BM25Retriever

    vectors, nodes = index_of(documents, embed, k)
    most = min(k, len(nodes))
    words = BM25Retriever.from_defaults(nodes=nodes, similarity_top_k=most)
    return QueryFusionRetriever(
        [vectors, words],
        llm=MockLLM(),
        mode="reciprocal_rerank",
        num_queries=1,
        similarity_top_k=most,
        use_async=False,
    )


class Mem0(Peer):
    """mem0 over Chroma, ``infer=False``: texts as they are, no model; its BM25 needs another store."""

    name = "mem0"

    def __init__(self, folder: Path, embed: Callable[[str], Vector]) -> None:
        super().__init__(folder, embed)
        os.environ.update(MEM0_TELEMETRY="False", OPENAI_API_KEY="unused", MEM0_DIR=str(folder))
        logging.getLogger("mem0").setLevel(logging.CRITICAL)
        from langchain_core.embeddings import Embeddings
        from mem0 import Memory

        class Given(Embeddings):
            def embed_documents(self, texts: list[str]) -> list[list[float]]:
                return [embed(text).tolist() for text in texts]

            def embed_query(self, text: str) -> list[float]:
                return list(embed(text).tolist())

        store = {"provider": "chroma", "config": {"collection_name": "memories", "path": str(folder / "chroma")}}
        self.memory = Memory.from_config(
            {
                "embedder": {"provider": "langchain", "config": {"model": Given(), "embedding_dims": 384}},
                "vector_store": store,
                "llm": {"provider": "openai", "config": {"api_key": "unused"}},
                "history_db_path": str(folder / "history.db"),
            }
        )

    def add(self, documents: Sequence[Document]) -> None:
        for one in documents:
            self.memory.add(one.text, user_id=one.user, infer=False, metadata={"ref": one.ref})

    def search(self, user: str, text: str, k: int) -> list[str]:
        found = self.memory.search(text, filters={"user_id": user}, limit=k)
        return [item["metadata"]["ref"] for item in found["results"]]


class Txtai(Peer):
    """txtai, hybrid: an index of BM25 and vectors for each user, to which what arrives is added; nothing durable."""

    name = "txtai hybrid"

    def __init__(self, folder: Path, embed: Callable[[str], Vector]) -> None:
        super().__init__(folder, embed)
        self.indexes: dict[str, Any] = {}

    def add(self, documents: Sequence[Document]) -> None:
        from txtai.embeddings import Embeddings

        index = self.indexes.get(documents[0].user)
        if index is None:
            many = lambda texts: np.stack([self.embed(text) for text in texts])  # noqa: E731
            index = Embeddings({"method": "external", "transform": many, "hybrid": True})
            self.indexes[documents[0].user] = index
        index.upsert([(one.ref, one.text, None) for one in documents])

    def search(self, user: str, text: str, k: int) -> list[str]:
        return [name for name, _ in self.indexes[user].search(text, k)]


PEERS: Mapping[str, type[Peer]] = {
    peer.name: peer for peer in (Chroma, LangGraphStore, LangChainEnsemble, LlamaIndexFusion, Mem0)
}
