"""MemOS for LlamaIndex: a model with memory in it, and a retriever over memory.

    from memos_core import MemOS
    from memos_llamaindex import MemosLLM

    ada = MemOS.open("memory/").scope(user="ada")
    llm = MemosLLM(memory=ada)
    llm.complete("What is my cat called?")

Importing this package loads neither LlamaIndex nor a model library; each name loads when it is first asked for.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from memos_llamaindex.embeddings import MemosEmbedding
    from memos_llamaindex.llms import MemosLLM
    from memos_llamaindex.retrievers import MemosRetriever
    from memos_llamaindex.vector_stores import MemosVectorStore

HOMES = {
    "MemosEmbedding": "embeddings",
    "MemosLLM": "llms",
    "MemosRetriever": "retrievers",
    "MemosVectorStore": "vector_stores",
}

__all__ = [
    "MemosEmbedding",
    "MemosLLM",
    "MemosRetriever",
    "MemosVectorStore",
]


def __getattr__(name: str) -> Any:
    if name in HOMES:
        return getattr(importlib.import_module(f"{__name__}.{HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
