"""Texts into vectors: the contract, the bundled MiniLM, and a cache by content."""

from memos_core.embedding.base import Embedder, Vector, Vectors
from memos_core.embedding.cache import CachedEmbedder
from memos_core.embedding.minilm import MiniLM

__all__ = ["CachedEmbedder", "Embedder", "MiniLM", "Vector", "Vectors"]
