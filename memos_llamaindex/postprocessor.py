"""MemosNodePostprocessor: only what may be used now, as it reads now, and what fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from memos_core import MemOS, Resolution, Scope, resolve_scope
from memos_core.errors import MissingExtra

try:
    from llama_index.core.bridge.pydantic import Field, PrivateAttr
    from llama_index.core.postprocessor.types import BaseNodePostprocessor
    from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle
except ImportError as error:
    raise MissingExtra("llama-index-core", extra="llamaindex") from error

__all__ = ["MemosNodePostprocessor"]


class MemosNodePostprocessor(BaseNodePostprocessor):
    """Checks retrieved nodes against the memory that they come from.

    Examples:
        `pip install 'memos-mag[llamaindex]'`

        ```python
        engine = index.as_query_engine(node_postprocessors=[MemosNodePostprocessor(ada, token_budget=1024)])
        ```

    A node whose memory was forgotten, has expired or belongs to someone else is dropped; one whose memory has changed
    gets the present text. What does not fit the budget is dropped, the worst first. Nodes are not changed in place.

    Args:
        memory: A scope, or a MemOS together with ``namespace``.
        token_budget: Most tokens of all memories together; None: no limit.
        keep_others: Whether to keep nodes that do not come from this memory at all.
        namespace: Template of the namespace within a MemOS.
        namespace_values: What its variables stand for.
    """

    token_budget: int | None = Field(default=None, description="Most tokens of all memories together.")
    keep_others: bool = Field(default=True, description="Whether to keep nodes that come from elsewhere.")

    _scope: Scope = PrivateAttr()

    def __init__(
        self,
        memory: Scope | MemOS,
        *,
        token_budget: int | None = None,
        keep_others: bool = True,
        namespace: Sequence[str] = ("users", "{user_id}"),
        namespace_values: Mapping[str, Any] | None = None,
    ) -> None:
        fields: dict[str, Any] = {"token_budget": token_budget, "keep_others": keep_others}
        super().__init__(**fields)
        self._scope = resolve_scope(memory, namespace, namespace_values)

    @classmethod
    def class_name(cls) -> str:
        return "MemosNodePostprocessor"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        found = self._scope.resolve([key_of(item) for item in nodes], max_tokens=self.token_budget)
        kept = [self._checked(item, found) for item in nodes]
        return [item for item in kept if item is not None]

    def _checked(self, item: NodeWithScore, found: Resolution) -> NodeWithScore | None:
        """Return the node as it may be used, or None."""
        key = key_of(item)
        cube = found.memories.get(key)
        if cube is None:
            elsewhere = key not in found.over_budget and "memos_cube_id" not in item.node.metadata
            return item if elsewhere and self.keep_others else None
        if cube.text == item.node.get_content(metadata_mode=MetadataMode.NONE):
            return item
        node = item.node.model_copy(deep=True)
        node.set_content(cube.text)
        return NodeWithScore(node=node, score=item.score)


def key_of(item: NodeWithScore) -> str:
    """Return by what the memory of a node is found."""
    return str(item.node.metadata.get("memos_cube_id", item.node.node_id))
