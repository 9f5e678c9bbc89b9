"""MemOS: a memory operating system for language models.

One unit of memory, the MemCube, over plaintext, activation (KV caches) and parametric (LoRA) memory, after
*MemOS: An Operating System for Memory-Augmented Generation* (arXiv 2505.22101).

    from memos_core import MemOS

    memos = MemOS.open("memory/")
    ada = memos.scope(user="ada")
    ada.add("My cat is called Biscuit.")
    hits = ada.search("What is my cat called?")

Importing this package loads no model library; each part loads when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from memos_core.address import Address, address_of, scope_at
    from memos_core.binding import Binding, check_memory, resolve_scope
    from memos_core.collection import Collection
    from memos_core.conversation import Conversation, Remember
    from memos_core.cube import MemCube, MemoryType, State
    from memos_core.documents import Document, DocumentHit, DocumentPage
    from memos_core.embedding import Embedder
    from memos_core.engine import Engine, HFEngine
    from memos_core.errors import MemosError
    from memos_core.events import Event
    from memos_core.filters import AllOf, AnyOf, Compare, NoneOf, Where, parse_where
    from memos_core.grants import GrantRecord
    from memos_core.infrastructure.governance import Limits
    from memos_core.infrastructure.vault import Job, JobState
    from memos_core.infrastructure.vault.learning import LearnedWeights
    from memos_core.interface.chat import ChatOptions
    from memos_core.interface.context import MemoryContext
    from memos_core.interface.items import Items
    from memos_core.interface.reader import as_messages
    from memos_core.interface.summary import extractive_summary
    from memos_core.item import DeleteItem, FindItems, FoundItem, GetItem, Item, ListPaths, PathPattern, PutItem
    from memos_core.memos import MemOS
    from memos_core.operation.evolve import EvolutionPolicy
    from memos_core.operation.items.items import ItemIndex
    from memos_core.operation.items.writing import ItemTransaction
    from memos_core.operation.jobs import JobSettings
    from memos_core.operation.learning.feedback import Judgement
    from memos_core.operation.learning.learning import LearningSettings
    from memos_core.operation.learning.proposals import Proposal, RestructuringPolicy
    from memos_core.operation.resolving import Resolution
    from memos_core.operation.retention import RetentionPolicy
    from memos_core.records import (
        Erasure,
        Hit,
        Inject,
        InjectionPlan,
        Message,
        Outcome,
        Page,
        Placement,
        Receipt,
        Reply,
        ReplyChunk,
        Turn,
        Usage,
    )
    from memos_core.scope import Scope
    from memos_core.tools import ToolCall

__version__ = "0.1.0"

HOMES = {
    "Address": "memos_core.address",
    "AllOf": "memos_core.filters",
    "AnyOf": "memos_core.filters",
    "Binding": "memos_core.binding",
    "ChatOptions": "memos_core.interface.chat",
    "Collection": "memos_core.collection",
    "Compare": "memos_core.filters",
    "Conversation": "memos_core.conversation",
    "DeleteItem": "memos_core.item",
    "Document": "memos_core.documents",
    "DocumentHit": "memos_core.documents",
    "DocumentPage": "memos_core.documents",
    "Embedder": "memos_core.embedding",
    "Engine": "memos_core.engine",
    "Erasure": "memos_core.records",
    "Event": "memos_core.events",
    "EvolutionPolicy": "memos_core.operation.evolve",
    "FindItems": "memos_core.item",
    "FoundItem": "memos_core.item",
    "GrantRecord": "memos_core.grants",
    "GetItem": "memos_core.item",
    "HFEngine": "memos_core.engine",
    "Hit": "memos_core.records",
    "Inject": "memos_core.records",
    "InjectionPlan": "memos_core.records",
    "Item": "memos_core.item",
    "ItemIndex": "memos_core.operation.items.items",
    "ItemTransaction": "memos_core.operation.items.writing",
    "Items": "memos_core.interface.items",
    "Job": "memos_core.infrastructure.vault",
    "JobSettings": "memos_core.operation.jobs",
    "JobState": "memos_core.infrastructure.vault",
    "Judgement": "memos_core.operation.learning.feedback",
    "LearnedWeights": "memos_core.infrastructure.vault.learning",
    "LearningSettings": "memos_core.operation.learning.learning",
    "Limits": "memos_core.infrastructure.governance",
    "ListPaths": "memos_core.item",
    "MemCube": "memos_core.cube",
    "MemOS": "memos_core.memos",
    "MemoryContext": "memos_core.interface.context",
    "MemoryType": "memos_core.cube",
    "MemosError": "memos_core.errors",
    "Message": "memos_core.records",
    "NoneOf": "memos_core.filters",
    "Outcome": "memos_core.records",
    "Page": "memos_core.records",
    "PathPattern": "memos_core.item",
    "Placement": "memos_core.records",
    "Proposal": "memos_core.operation.learning.proposals",
    "PutItem": "memos_core.item",
    "Receipt": "memos_core.records",
    "Remember": "memos_core.conversation",
    "Reply": "memos_core.records",
    "Resolution": "memos_core.operation.resolving",
    "ReplyChunk": "memos_core.records",
    "RestructuringPolicy": "memos_core.operation.learning.proposals",
    "RetentionPolicy": "memos_core.operation.retention",
    "Scope": "memos_core.scope",
    "State": "memos_core.cube",
    "ToolCall": "memos_core.tools",
    "Turn": "memos_core.records",
    "Usage": "memos_core.records",
    "address_of": "memos_core.address",
    "Where": "memos_core.filters",
    "as_messages": "memos_core.interface.reader",
    "extractive_summary": "memos_core.interface.summary",
    "parse_where": "memos_core.filters",
    "check_memory": "memos_core.binding",
    "resolve_scope": "memos_core.binding",
    "scope_at": "memos_core.address",
}
"""Where each public name lives; it is imported when it is first asked for."""

__all__ = [
    "Address",
    "AllOf",
    "AnyOf",
    "Binding",
    "ChatOptions",
    "Collection",
    "Compare",
    "Conversation",
    "DeleteItem",
    "Document",
    "DocumentHit",
    "DocumentPage",
    "Embedder",
    "Engine",
    "Erasure",
    "Event",
    "EvolutionPolicy",
    "FindItems",
    "FoundItem",
    "GetItem",
    "GrantRecord",
    "HFEngine",
    "Hit",
    "Inject",
    "InjectionPlan",
    "Item",
    "ItemIndex",
    "ItemTransaction",
    "Items",
    "Job",
    "JobSettings",
    "JobState",
    "Judgement",
    "LearnedWeights",
    "LearningSettings",
    "Limits",
    "ListPaths",
    "MemCube",
    "MemOS",
    "MemoryContext",
    "MemoryType",
    "MemosError",
    "Message",
    "NoneOf",
    "Outcome",
    "Page",
    "PathPattern",
    "Placement",
    "Proposal",
    "PutItem",
    "Receipt",
    "Remember",
    "Reply",
    "ReplyChunk",
    "Resolution",
    "RestructuringPolicy",
    "RetentionPolicy",
    "Scope",
    "State",
    "ToolCall",
    "Turn",
    "Usage",
    "Where",
    "__version__",
    "address_of",
    "as_messages",
    "check_memory",
    "extractive_summary",
    "parse_where",
    "resolve_scope",
    "scope_at",
]


def __getattr__(name: str) -> Any:
    if name in HOMES:
        return getattr(importlib.import_module(HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
