"""MemOS for LangChain: a chat model with memory in it, and a retriever over memory.

    from memos_core import MemOS
    from memos_langchain import ChatMemos

    memos = MemOS.open("memory/")
    llm = ChatMemos(memory=memos, namespace=("users", "{user_id}"))
    llm.invoke("What is my cat called?", config={"configurable": {"user_id": "ada"}})

Importing this package loads neither LangChain nor a model library; each name loads when it is first asked for.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from memos_langchain.callbacks import MemosCallbackHandler
    from memos_langchain.chat_history import MemosChatMessageHistory
    from memos_langchain.chat_models import ChatMemos
    from memos_langchain.embeddings import MemosEmbeddings
    from memos_langchain.middleware import MemosMiddleware
    from memos_langchain.retrievers import MemosRetriever
    from memos_langchain.store import MemosStore
    from memos_langchain.summarization import MemosSummarizer
    from memos_langchain.tools import create_memory_tools
    from memos_langchain.vectorstores import MemosVectorStore

HOMES = {
    "ChatMemos": "chat_models",
    "MemosCallbackHandler": "callbacks",
    "MemosChatMessageHistory": "chat_history",
    "MemosEmbeddings": "embeddings",
    "MemosMiddleware": "middleware",
    "MemosRetriever": "retrievers",
    "MemosStore": "store",
    "MemosSummarizer": "summarization",
    "MemosVectorStore": "vectorstores",
    "create_memory_tools": "tools",
}

__all__ = [
    "ChatMemos",
    "MemosCallbackHandler",
    "MemosChatMessageHistory",
    "MemosEmbeddings",
    "MemosMiddleware",
    "MemosRetriever",
    "MemosStore",
    "MemosSummarizer",
    "MemosVectorStore",
    "create_memory_tools",
]


def __getattr__(name: str) -> Any:
    if name in HOMES:
        return getattr(importlib.import_module(f"{__name__}.{HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
