"""Memory of MemOS under LlamaIndex's own way of naming integrations: the same classes as ``memos_llamaindex``."""

from memos_llamaindex import MemosMemory, MemosMemoryBlock

__all__ = ["MemosMemory", "MemosMemoryBlock"]
