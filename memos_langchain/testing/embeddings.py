"""Deterministic embeddings: no model, the same vectors on every machine."""

from __future__ import annotations

from memos_core.errors import MissingExtra
from memos_core.testing import HashEmbedder

try:
    from langchain_core.embeddings import Embeddings
except ImportError as error:
    raise MissingExtra("langchain-core", extra="langchain") from error

__all__ = ["WordEmbeddings"]


class WordEmbeddings(Embeddings):
    """Texts that share words are similar. Counts what it is asked, so that a test can tell.

    Attributes:
        documents: Texts that were embedded as documents.
        queries: Texts that were embedded as questions.
    """

    def __init__(self, dimension: int = 64) -> None:
        self._embedder = HashEmbedder(dimension)
        self.documents: list[str] = []
        self.queries: list[str] = []

    @property
    def dimension(self) -> int:
        return self._embedder.dimension

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        self.documents += texts
        vectors: list[list[float]] = self._embedder.embed(texts).tolist()
        return vectors

    def embed_query(self, text: str) -> list[float]:
        self.queries.append(text)
        vector: list[float] = self._embedder.embed([text])[0].tolist()
        return vector
