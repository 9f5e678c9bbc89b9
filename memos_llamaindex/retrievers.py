"""MemosRetriever: what a memory holds on a question, as nodes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import JsonValue

from memos_core import Binding, Hit, MemOS, Scope
from memos_core.errors import MissingExtra, UnsupportedOption

try:
    from llama_index.core.base.base_retriever import BaseRetriever
    from llama_index.core.callbacks import CallbackManager
    from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
    from llama_index.core.vector_stores.types import (
        FilterCondition,
        FilterOperator,
        MetadataFilter,
        MetadataFilters,
    )
except ImportError as error:
    raise MissingExtra("llama-index-core", extra="llamaindex") from error

__all__ = ["MemosRetriever"]

ONE = frozenset({FilterOperator.EQ, FilterOperator.CONTAINS})
ANY_OF = frozenset({FilterOperator.IN, FilterOperator.ANY})
"""Operators that say what a filter of the core says: equal to the value, or to any one of a list."""


class MemosRetriever(BaseRetriever):
    """Finds memories.

        retriever = MemosRetriever(memos.scope(user="ada"), similarity_top_k=5)
        nodes = retriever.retrieve("What is my cat called?")

    A node's ``id_`` is that of the memory. Its metadata says where it came from; the key ``memos_cube_id`` is kept out
    of prompts and embeddings.

    Args:
        memory: A scope, or a MemOS together with ``namespace``.
        namespace: Template of the namespace within a MemOS.
        namespace_values: What its variables stand for.
        similarity_top_k: Most nodes.
        filters: Exact matches, as a mapping (see ``Scope.search``) or as LlamaIndex's ``MetadataFilters``.
        callback_manager: LlamaIndex's.
        verbose: LlamaIndex's.

    Raises:
        UnsupportedOption: The filters use an operator other than equality, or a condition other than ``and``.
    """

    def __init__(
        self,
        memory: Scope | MemOS,
        namespace: tuple[str, ...] = ("users", "{user_id}"),
        *,
        namespace_values: Mapping[str, Any] | None = None,
        similarity_top_k: int = 5,
        filters: Mapping[str, JsonValue] | MetadataFilters | None = None,
        callback_manager: CallbackManager | None = None,
        verbose: bool = False,
    ) -> None:
        super().__init__(callback_manager=callback_manager, verbose=verbose)
        self._scope = Binding(memory, tuple(namespace)).scope(namespace_values)
        self._filters = as_core_filters(filters) if isinstance(filters, MetadataFilters) else filters
        self.similarity_top_k = similarity_top_k

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        hits = self._scope.search(query_bundle.query_str, k=self.similarity_top_k, filters=self._filters)
        return [as_node(hit) for hit in hits]

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        hits = await self._scope.asearch(query_bundle.query_str, k=self.similarity_top_k, filters=self._filters)
        return [as_node(hit) for hit in hits]


def as_node(hit: Hit) -> NodeWithScore:
    """Return a hit as a node."""
    metadata = {**hit.metadata, "memos_cube_id": hit.id}
    own = [key for key in metadata if key.startswith("memos_")]
    node = TextNode(
        id_=hit.id,
        text=hit.text,
        metadata=metadata,
        excluded_llm_metadata_keys=own,
        excluded_embed_metadata_keys=own,
    )
    return NodeWithScore(node=node, score=hit.score)


def as_core_filters(filters: MetadataFilters) -> dict[str, JsonValue]:
    """Return LlamaIndex's filters in the core's words."""
    if filters.condition not in (FilterCondition.AND, None):
        raise UnsupportedOption(f"filters of memory can be joined by 'and' only, not by {filters.condition.value!r}")
    found: dict[str, JsonValue] = {}
    for item in filters.filters:
        known = isinstance(item, MetadataFilter) and item.operator in (ANY_OF if isinstance(item.value, list) else ONE)
        if not isinstance(item, MetadataFilter) or not known or item.key in found:
            raise UnsupportedOption("filters of memory are one value, or a list of alternatives, for each field")
        found[item.key] = list(item.value) if isinstance(item.value, list) else item.value
    return found
