"""What tests of LangChain integrations are made of. Needs pytest: ``memos-mag[langchain,testing]``."""

from memos_langchain.testing.embeddings import WordEmbeddings
from memos_langchain.testing.store import StoreConformanceTests

__all__ = ["StoreConformanceTests", "WordEmbeddings"]
