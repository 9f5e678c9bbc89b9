"""The memory of MemOS under LlamaIndex's own way of naming: the same classes as in ``memos_llamaindex``."""

from memos_llamaindex import MemosMemory, MemosMemoryBlock

__all__ = ["MemosMemory", "MemosMemoryBlock"]
