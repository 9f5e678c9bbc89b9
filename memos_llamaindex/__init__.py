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
    from memos_llamaindex.chat_engine import MemosContextChatEngine
    from memos_llamaindex.chat_stores import MemosAsyncChatStore, MemosChatStore
    from memos_llamaindex.embeddings import MemosEmbedding
    from memos_llamaindex.events import (
        MemosEvent,
        MemosEventHandler,
        MemosForgetEvent,
        MemosInjectEvent,
        MemosRecallEvent,
        MemosWriteEvent,
    )
    from memos_llamaindex.ingestion import MemosKVPrecompute
    from memos_llamaindex.kv_stores import MemosKVStore
    from memos_llamaindex.llms import MemosLLM
    from memos_llamaindex.memory import MemosMemory
    from memos_llamaindex.memory_block import MemosMemoryBlock
    from memos_llamaindex.postprocessor import MemosNodePostprocessor
    from memos_llamaindex.query_engine import MemosQueryEngine
    from memos_llamaindex.response_synthesizers import MemosSynthesizer
    from memos_llamaindex.retrievers import MemosRetriever
    from memos_llamaindex.stores import MemosDocumentStore, MemosIndexStore, memos_storage_context
    from memos_llamaindex.tools import MemosToolSpec
    from memos_llamaindex.vector_stores import MemosVectorStore

HOMES = {
    "MemosAsyncChatStore": "chat_stores",
    "MemosChatStore": "chat_stores",
    "MemosContextChatEngine": "chat_engine",
    "MemosDocumentStore": "stores",
    "MemosEmbedding": "embeddings",
    "MemosEvent": "events",
    "MemosEventHandler": "events",
    "MemosForgetEvent": "events",
    "MemosIndexStore": "stores",
    "MemosInjectEvent": "events",
    "MemosKVPrecompute": "ingestion",
    "MemosKVStore": "kv_stores",
    "MemosLLM": "llms",
    "MemosMemory": "memory",
    "MemosMemoryBlock": "memory_block",
    "MemosNodePostprocessor": "postprocessor",
    "MemosQueryEngine": "query_engine",
    "MemosRecallEvent": "events",
    "MemosRetriever": "retrievers",
    "MemosSynthesizer": "response_synthesizers",
    "MemosToolSpec": "tools",
    "MemosVectorStore": "vector_stores",
    "MemosWriteEvent": "events",
    "memos_storage_context": "stores",
}

__all__ = [
    "MemosAsyncChatStore",
    "MemosChatStore",
    "MemosContextChatEngine",
    "MemosDocumentStore",
    "MemosEmbedding",
    "MemosEvent",
    "MemosEventHandler",
    "MemosForgetEvent",
    "MemosIndexStore",
    "MemosInjectEvent",
    "MemosKVPrecompute",
    "MemosKVStore",
    "MemosLLM",
    "MemosMemory",
    "MemosMemoryBlock",
    "MemosNodePostprocessor",
    "MemosQueryEngine",
    "MemosRecallEvent",
    "MemosRetriever",
    "MemosSynthesizer",
    "MemosToolSpec",
    "MemosVectorStore",
    "MemosWriteEvent",
    "memos_storage_context",
]


def __getattr__(name: str) -> Any:
    if name in HOMES:
        return getattr(importlib.import_module(f"{__name__}.{HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
