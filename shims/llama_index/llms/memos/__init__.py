"""The model of MemOS under LlamaIndex's own way of naming: the same class as in ``memos_llamaindex``."""

from memos_llamaindex import MemosLLM

__all__ = ["MemosLLM"]
