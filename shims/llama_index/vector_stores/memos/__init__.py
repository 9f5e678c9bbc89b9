"""The vector store of MemOS under LlamaIndex's own way of naming integrations: the same class as ``memos_llamaindex``."""

from memos_llamaindex import MemosVectorStore

__all__ = ["MemosVectorStore"]
