"""MemosQueryEngine: questions to a retriever, answered by a model that gets the nodes as memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from memos_core.errors import MissingExtra
from memos_llamaindex.response_synthesizers import MemosSynthesizer

try:
    from llama_index.core.base.base_retriever import BaseRetriever
    from llama_index.core.callbacks import CallbackManager
    from llama_index.core.llms import LLM
    from llama_index.core.postprocessor.types import BaseNodePostprocessor
    from llama_index.core.query_engine import RetrieverQueryEngine
    from llama_index.core.response_synthesizers import BaseSynthesizer
except ImportError as error:
    raise MissingExtra("llama-index-core", extra="llamaindex") from error

__all__ = ["MemosQueryEngine"]


class MemosQueryEngine(RetrieverQueryEngine):
    """A ``RetrieverQueryEngine`` whose synthesizer is a ``MemosSynthesizer``.

    Examples:
        `pip install 'memos-mag[llamaindex,local]'`

        ```python
        engine = MemosQueryEngine.from_args(index.as_retriever(), llm=MemosLLM(memory=ada), inject="kv")
        response = engine.query("How do I reset it?")
        response.metadata["memos"]["memory_tokens"]
        ```

    Any retriever serves: ``MemosRetriever`` over what a user said, that of an index over a ``MemosVectorStore``, a
    fusion of several. See ``MemosSynthesizer`` for which nodes enter as KV, and for what ``metadata["memos"]`` tells.
    """

    @classmethod
    def from_args(  # type: ignore[override]
        cls,
        retriever: BaseRetriever,
        llm: LLM | None = None,
        response_synthesizer: BaseSynthesizer | None = None,
        node_postprocessors: list[BaseNodePostprocessor] | None = None,
        callback_manager: CallbackManager | None = None,
        **options: Any,
    ) -> MemosQueryEngine:
        """Return an engine.

        Args:
            retriever: Finds the nodes.
            llm: The model; a ``MemosLLM`` for memory as KV.
            response_synthesizer: None: a ``MemosSynthesizer`` with ``options``.
            node_postprocessors: Change the nodes between finding and answering.
            callback_manager: LlamaIndex's.
            options: Of ``MemosSynthesizer``: ``memory``, ``inject``, ``streaming``, ``output_cls`` ...
        """
        synthesizer = response_synthesizer or MemosSynthesizer(llm, callback_manager=callback_manager, **options)
        return cls(retriever, synthesizer, node_postprocessors, callback_manager)

    def with_retriever(self, retriever: BaseRetriever) -> MemosQueryEngine:
        """Return the same engine over another retriever."""
        postprocessors: Sequence[BaseNodePostprocessor] = self._node_postprocessors
        return type(self)(retriever, self._response_synthesizer, list(postprocessors), self.callback_manager)
