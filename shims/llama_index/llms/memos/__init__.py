"""The model of MemOS under LlamaIndex's own way of naming integrations: the same class as ``memos_llamaindex``."""

from memos_llamaindex import MemosLLM

__all__ = ["MemosLLM"]
