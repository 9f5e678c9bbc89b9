"""MemosStore: the long-term memory of LangGraph, kept in a vault."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypedDict

import numpy as np

from memos_core import (
    Binding,
    DeleteItem,
    Embedder,
    FindItems,
    FoundItem,
    GetItem,
    ItemIndex,
    Items,
    ListPaths,
    MemOS,
    PathPattern,
    PutItem,
    Scope,
)
from memos_core import Item as MemoryItem
from memos_core.embedding import Vector, Vectors
from memos_core.errors import InvalidInput, MissingExtra
from memos_langchain.runs import run_values
from memos_langchain.vectorstores import identity

try:
    from langchain_core.embeddings import Embeddings
    from langgraph.store.base import (
        BaseStore,
        GetOp,
        Item,
        ListNamespacesOp,
        MatchCondition,
        Op,
        PutOp,
        Result,
        SearchItem,
        SearchOp,
        TTLConfig,
        ensure_embeddings,
        validate_op_namespace,
    )
    from langgraph.store.base.embed import AEmbeddingsFunc, EmbeddingsFunc
except ImportError as error:
    raise MissingExtra("langgraph", extra="langchain") from error

__all__ = ["MemosStore", "StoreIndex"]

SHARED = ("langgraph", "store")
"""Namespace, in a MemOS, of a store that belongs to no user."""

SECONDS = 60
"""Times to live are given in minutes."""


class StoreIndex(TypedDict, total=False):
    """What of each value is searched by meaning, and how: LangGraph's ``IndexConfig``, every part of it optional.

    Attributes:
        fields: Fields, as LangGraph writes them; by default the whole value.
        embed: An ``Embeddings``, a function of texts, an async one, or a name (``openai:text-embedding-3-small``);
            by default the embedder of the vault.
        dims: Length of the vectors of ``embed``; by default it is found by embedding a word.
        name: Identity of ``embed``, which the vectors keep; by default its class and model.
    """

    fields: list[str] | None
    embed: Embeddings | EmbeddingsFunc | AEmbeddingsFunc | str
    dims: int
    name: str


class MemosStore(BaseStore):
    """A LangGraph store whose items are memories: durable, isolated, versioned, audited, erased for good.

    Setup:
        ```bash
        pip install 'memos-mag[langchain,embedder]'
        ```

    Instantiate:
        ```python
        from memos_core import MemOS
        from memos_langchain import MemosStore

        memos = MemOS.open("memory/")
        store = MemosStore(memos, index={"fields": ["text"]}, ttl={"default_ttl": 60 * 24 * 30})
        ```

    Use:
        ```python
        store.put(("users", "ada"), "m1", {"text": "likes tea", "cups": 3})
        store.get(("users", "ada"), "m1").value
        store.search(("users", "ada"), query="What does she drink?", filter={"cups": {"$gte": 2}})
        store.list_namespaces(prefix=("users",))
        agent = create_agent(model, tools, store=store)
        ```

    What it answers differs from ``InMemoryStore`` in what upstream's issues call wrong there: a missing field is in no
    order to anything, a value put again leaves no vector of the old one behind, ``offset`` counts items without a score
    too, and ``created_at`` stays what it was. Expired items are never returned. Values must be JSON.

    Args:
        memory: A scope: its user's (agent's, session's) own store. A MemOS: one store for all who hold it, or the
            one that ``namespace`` names. None: a temporary one, which is gone when the store is.
        namespace: Template of the namespace within a MemOS, such as ``("users", "{user_id}")``. Its variables are
            taken from the run's ``config["configurable"]``, else from its metadata.
        index: How items are searched by meaning; None: not at all, as in LangGraph's own stores.
        ttl: Default time to live in minutes, and whether reading prolongs it.
        history: Keep the earlier versions of what is put again.

    Raises:
        InvalidInput: The index needs an embedder and there is none.
    """

    supports_ttl = True

    def __init__(
        self,
        memory: Scope | MemOS | None = None,
        *,
        namespace: Sequence[str] = SHARED,
        index: StoreIndex | None = None,
        ttl: TTLConfig | None = None,
        history: bool = True,
    ) -> None:
        if memory is None:
            memory = MemOS.temporary(embedder="minilm" if index is not None and "embed" not in index else None)
        self.ttl_config = ttl
        self._binding = Binding(memory, tuple(namespace))
        self._embeddings = ensure_embeddings(index["embed"]) if index and "embed" in index else None
        self._index = None if index is None else core_index(index, self._embeddings)
        self._history = history
        if not self._binding.variables:
            self._items()  # an index that cannot work is refused here

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """Answer operations in one transaction; every read sees the state before the puts of its batch."""
        asked = list(ops)
        return as_results(asked, self._items().batch([as_operation(op) for op in asked]))

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """``batch`` for asyncio; embeddings that can be awaited are."""
        asked = list(ops)
        items = await asyncio.to_thread(self._items)
        operations = [as_operation(op) for op in asked]
        if self._embeddings is None or self._index is None or self._index.embedder is None:
            return as_results(asked, await items.abatch(operations))
        plan, dimension = items.plan(operations), self._index.embedder.dimension
        vectors = await self._embeddings.aembed_documents(list(plan.texts)) if plan.texts else []
        asking = await asyncio.gather(*map(self._embeddings.aembed_query, plan.queries))
        return as_results(
            asked,
            await items.acommit(
                plan,
                dict(zip(plan.texts, as_vectors(vectors, len(plan.texts), dimension), strict=True)),
                dict(zip(plan.queries, as_vectors(asking, len(plan.queries), dimension), strict=True)),
            ),
        )

    def sweep_ttl(self) -> int:
        """Erase the items whose time is over, which no read returns any more, and return how many those were."""
        return self._items().sweep()

    def _items(self) -> Items:
        values = run_values(self._binding.variables)
        return self._binding.scope(values).items(index=self._index, history=self._history)


# Operations and their results


def as_operation(op: Op) -> GetItem | FindItems | PutItem | DeleteItem | ListPaths:
    """Return an operation of LangGraph in the core's words.

    Raises:
        ValueError: Its namespace is malformed, or it is unknown.
    """
    validate_op_namespace(op)
    match op:
        case GetOp():
            return GetItem(op.namespace, op.key, op.refresh_ttl)
        case SearchOp():
            return FindItems(op.namespace_prefix, op.query, op.filter, op.limit, op.offset, op.refresh_ttl)
        case ListNamespacesOp():
            patterns = tuple(as_pattern(condition) for condition in op.match_conditions or ())
            return ListPaths(patterns, op.max_depth, op.limit, op.offset)
        case PutOp(value=None):
            return DeleteItem(op.namespace, op.key)
        case PutOp():
            return as_put(op)
    raise ValueError(f"Unknown operation type: {type(op)}")


def as_put(op: PutOp) -> PutItem:
    if not isinstance(op.value, Mapping):
        raise InvalidInput(f"the value of a store's item is a mapping, not a {type(op.value).__name__}")
    fields = () if op.index is False else None if op.index is None else tuple(op.index)
    seconds = None if op.ttl is None else op.ttl * SECONDS
    return PutItem(op.namespace, op.key, dict(op.value), seconds, fields)


def as_pattern(condition: MatchCondition) -> PathPattern:
    if condition.match_type not in ("prefix", "suffix"):
        raise ValueError(f"Unsupported match type: {condition.match_type}")
    return PathPattern(condition.match_type, tuple(condition.path))


def as_results(ops: Sequence[Op], results: Sequence[Any]) -> list[Result]:
    return [as_result(op, result) for op, result in zip(ops, results, strict=True)]


def as_result(op: Op, result: Any) -> Result:
    if isinstance(op, GetOp) and result is not None:
        return Item(**fields_of(result))
    if isinstance(op, SearchOp):
        return [as_search_item(found) for found in result]
    return result if isinstance(op, ListNamespacesOp) else None


def as_search_item(found: FoundItem) -> SearchItem:
    return SearchItem(**fields_of(found.item), score=found.score)


def fields_of(item: MemoryItem) -> dict[str, Any]:
    return {
        "namespace": item.path,
        "key": item.key,
        "value": item.value,
        "created_at": item.created,
        "updated_at": item.updated,
    }


# Embeddings


class GivenEmbedder(Embedder):
    """Embeddings of LangChain as an embedder of the core. A text is embedded whole: its window is the caller's."""

    def __init__(self, embeddings: Embeddings, *, name: str, dimension: int | None) -> None:
        self._embeddings = embeddings
        self._name = name
        self._dimension = dimension

    @property
    def name(self) -> str:
        return self._name

    @property
    def dimension(self) -> int:
        if self._dimension is None:
            self._dimension = len(self._embeddings.embed_query("dimension"))
        return self._dimension

    def embed(self, texts: Sequence[str]) -> Vectors:
        return as_vectors(self._embeddings.embed_documents(list(texts)), len(texts), self.dimension)

    def embed_query(self, text: str) -> Vector:
        vector: Vector = as_vectors([self._embeddings.embed_query(text)], 1, self.dimension)[0]
        return vector

    def passages(self, text: str) -> list[tuple[int, int]]:
        return [(0, len(text))]


def as_vectors(vectors: Sequence[Sequence[float]], count: int, dimension: int) -> Vectors:
    """Return what embeddings gave as float32 of shape ``[count, dimension]``.

    Raises:
        InvalidInput: It is something else.
    """
    if len(vectors) != count or any(len(vector) != dimension for vector in vectors):
        shape = f"{len(vectors)} of length {sorted({len(vector) for vector in vectors})}"
        raise InvalidInput(f"embed was asked for {count} vectors of {dimension} numbers and gave {shape}; check dims")
    return np.asarray(vectors, dtype=np.float32).reshape(count, dimension)


def core_index(index: StoreIndex, embeddings: Embeddings | None) -> ItemIndex:
    """Return an index of LangGraph in the core's words."""
    unknown = set(index) - set(StoreIndex.__annotations__)
    if unknown:
        raise InvalidInput(f"unknown parts of an index: {', '.join(sorted(unknown))}")
    fields = tuple(index.get("fields") or ("$",))
    if embeddings is None:
        return ItemIndex(fields)
    name = index.get("name") or function_name(index["embed"]) or identity(embeddings)
    return ItemIndex(fields, GivenEmbedder(embeddings, name=name, dimension=index.get("dims")))


def function_name(embed: object) -> str | None:
    """Return the name of a function that embeds; None: it is none."""
    name = getattr(embed, "__qualname__", None)
    return f"{getattr(embed, '__module__', '')}.{name}" if isinstance(name, str) else None
