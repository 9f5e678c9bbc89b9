"""MemosKVPrecompute: nodes become KV while they are ingested, so that the first question is served from it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from memos_core import Binding, Scope
from memos_core.errors import EngineMissing, InvalidInput, MissingExtra
from memos_llamaindex.home import Handle
from memos_llamaindex.llms import MemosLLM
from memos_llamaindex.vector_stores import MemosVectorStore

try:
    from llama_index.core.bridge.pydantic import Field, PrivateAttr
    from llama_index.core.schema import BaseNode, TransformComponent
except ImportError as error:
    raise MissingExtra("llama-index-core", extra="llamaindex") from error

__all__ = ["MemosKVPrecompute"]


class MemosKVPrecompute(Handle, TransformComponent):
    """Stores nodes in a ``MemosVectorStore`` and computes the KV of each, as the last step of an ingestion.

    Examples:
        `pip install 'memos-mag[llamaindex,local]'`

        ```python
        pipeline = IngestionPipeline(
            transformations=[SentenceSplitter(), embed_model, MemosKVPrecompute(store, llm)],
            vector_store=store,
        )
        ```

    Place it after the embedding, and the same store behind the pipeline, which finds the nodes stored already. The
    nodes are returned as they came. KV is made from a node alone, as the head of a prompt: it serves exactly the
    questions for which this node is the oldest of those retrieved, and each node of an answer where the engine
    composes (``HFEngine(compose=...)``). It is computed once, under one model, and erased with its node.

    A pipeline with a cache skips this step for what it has seen before, as long as collection and model are the same;
    KV that is missing then is built by the first question that needs it.

    Args:
        store: Where the nodes are kept.
        llm: The model that is to answer; None: that of the store's memory.

    Raises:
        EngineMissing: There is no model.
    """

    collection: str = Field(description="Name of the collection, so that a cache tells stores apart.")
    model_name: str = Field(description="Name of the model, so that a cache tells models apart.")

    _store: MemosVectorStore = PrivateAttr()
    _scope: Scope = PrivateAttr()

    def __init__(self, store: MemosVectorStore, llm: MemosLLM | None = None) -> None:
        asked = Binding(store.scope) if llm is None else Binding(llm.memory, llm.namespace, llm.engine, llm.model)
        engine = asked.present_engine if llm is None else asked.engine()
        if engine is None:
            raise EngineMissing("KV needs a model: pass llm=MemosLLM(...), or open the memory with an engine")
        names: dict[str, Any] = {"collection": store.client.key, "model_name": engine.capabilities.model}
        super().__init__(**names)
        self._store = store
        self._scope = store.scope.with_engine(engine)

    @classmethod
    def class_name(cls) -> str:
        return "MemosKVPrecompute"

    def __call__(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
        """Store the nodes, compute the KV of each that has none yet, and return the nodes.

        Raises:
            InvalidInput: A node has no embedding.
            InjectionUnavailable: The model's KV cannot be stored; the reason is named.
        """
        if any(node.embedding is None for node in nodes):
            raise InvalidInput("a node has no embedding: place MemosKVPrecompute after the embedding model")
        found = self._scope.resolve(self._store.add(nodes))
        texts = [cube.id for cube in found.memories.values() if cube.text.strip()]
        if texts:
            self._scope.transform_each(texts, to="activation")
        return nodes

    async def acall(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
        return await asyncio.to_thread(self.__call__, nodes, **kwargs)
