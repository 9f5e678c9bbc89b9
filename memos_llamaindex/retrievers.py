"""MemosRetriever: what a memory holds on a question, as nodes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from memos_core import Binding, Hit, MemOS, Scope
from memos_core.errors import MissingExtra
from memos_llamaindex.filters import as_filters

try:
    from llama_index.core.base.base_retriever import BaseRetriever
    from llama_index.core.callbacks import CallbackManager
    from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
    from llama_index.core.vector_stores.types import MetadataFilters
except ImportError as error:
    raise MissingExtra("llama-index-core", extra="llamaindex") from error

__all__ = ["MemosRetriever"]


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
        filters: Conditions on where a memory comes from and what is known of it, as a mapping (see ``Scope.search``) or
            as LlamaIndex's ``MetadataFilters`` with all their operators, nested as deep as you like.
        callback_manager: LlamaIndex's.
        verbose: LlamaIndex's.
    """

    def __init__(
        self,
        memory: Scope | MemOS,
        namespace: tuple[str, ...] = ("users", "{user_id}"),
        *,
        namespace_values: Mapping[str, Any] | None = None,
        similarity_top_k: int = 5,
        filters: Mapping[str, Any] | MetadataFilters | None = None,
        callback_manager: CallbackManager | None = None,
        verbose: bool = False,
    ) -> None:
        super().__init__(callback_manager=callback_manager, verbose=verbose)
        self._scope = Binding(memory, tuple(namespace)).scope(namespace_values)
        self._filters = as_filters(filters) if isinstance(filters, MetadataFilters) else filters
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
