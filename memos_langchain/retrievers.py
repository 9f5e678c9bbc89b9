"""MemosRetriever: what a memory holds on a question, as documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ConfigDict, Field, JsonValue

from memos_core import Binding, Hit, MemOS, Scope
from memos_core.errors import MissingExtra
from memos_langchain.runs import run_values

try:
    from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
    from langchain_core.documents import Document
    from langchain_core.retrievers import BaseRetriever
    from langchain_core.runnables import RunnableConfig
except ImportError as error:
    raise MissingExtra("langchain-core", extra="langchain") from error

__all__ = ["MemosRetriever"]


class MemosRetriever(BaseRetriever):
    """Finds memories.

        retriever = MemosRetriever(memory=memos.scope(user="ada"), k=5)
        documents = retriever.invoke("What is my cat called?")

    A document's ``id`` is that of the memory; its ``metadata`` says where it came from, and holds ``memos_cube_id``
    and ``score``.

    Attributes:
        memory: A scope, or a MemOS together with ``namespace``.
        namespace: Template of the namespace within a MemOS. Its variables are taken from ``namespace_values`` of a
            call, else from the run's ``config["configurable"]``, else from its metadata.
        k: Most documents.
        filters: Exact matches, as in ``Scope.search``; a call takes it as ``filter`` too, as vector stores do.
        score_threshold: Leave out what scores less. Scores lie between 0 and 1.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    memory: Scope | MemOS = Field(exclude=True, repr=False)
    namespace: tuple[str, ...] = ("users", "{user_id}")
    k: int = Field(default=5, ge=1)
    filters: dict[str, JsonValue] | None = None
    score_threshold: float | None = None

    def invoke(self, input: str, config: RunnableConfig | None = None, **kwargs: Any) -> list[Document]:
        return super().invoke(input, config, **self._with_values(config, kwargs))

    async def ainvoke(self, input: str, config: RunnableConfig | None = None, **kwargs: Any) -> list[Document]:
        return await super().ainvoke(input, config, **self._with_values(config, kwargs))

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,
        k: int | None = None,
        filters: Mapping[str, JsonValue] | None = None,
        filter: Mapping[str, JsonValue] | None = None,
        namespace_values: Mapping[str, Any] | None = None,
    ) -> list[Document]:
        hits = self._binding.scope(namespace_values).search(query, **self._asked(k, filters, filter))
        return self._documents(hits)

    async def _aget_relevant_documents(
        self,
        query: str,
        *,
        run_manager: AsyncCallbackManagerForRetrieverRun,
        k: int | None = None,
        filters: Mapping[str, JsonValue] | None = None,
        filter: Mapping[str, JsonValue] | None = None,
        namespace_values: Mapping[str, Any] | None = None,
    ) -> list[Document]:
        hits = await self._binding.scope(namespace_values).asearch(query, **self._asked(k, filters, filter))
        return self._documents(hits)

    @property
    def _binding(self) -> Binding:
        return Binding(self.memory, self.namespace)

    def _with_values(self, config: RunnableConfig | None, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        values = run_values(self._binding.variables, kwargs.get("namespace_values"), config)
        return {**kwargs, "namespace_values": values}

    def _asked(self, k: int | None, *filters: Mapping[str, JsonValue] | None) -> dict[str, Any]:
        given = [each for each in filters if each is not None]
        return {"k": self.k if k is None else k, "filters": given[0] if given else self.filters}

    def _documents(self, hits: Sequence[Hit]) -> list[Document]:
        least = self.score_threshold
        return [as_document(hit) for hit in hits if least is None or hit.score >= least]


def as_document(hit: Hit) -> Document:
    """Return a hit as a document."""
    metadata = {**hit.metadata, "memos_cube_id": hit.id, "score": hit.score}
    return Document(page_content=hit.text, metadata=metadata, id=hit.id)
