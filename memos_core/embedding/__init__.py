"""Texts into vectors: the contract, the bundled MiniLM, and a cache by content."""

from memos_core.embedding.base import Embedder, Vector, Vectors

__all__ = ["Embedder", "Vector", "Vectors"]
