"""What tests of MemOS, and of programs that use it, are made of. Light: no model is loaded."""

from memos_core.testing.clock import FakeClock
from memos_core.testing.embedder import HashEmbedder

__all__ = ["FakeClock", "HashEmbedder"]
