"""Collection: documents with vectors and metadata beside the memories of a scope."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

from memos_core.documents import Document, DocumentHit, DocumentPage
from memos_core.embedding.base import Embedder, Vector
from memos_core.errors import InvalidInput, InvalidMemory
from memos_core.filters import Where, parse_where
from memos_core.infrastructure.vault.collections import CollectionSpec, Metric
from memos_core.operation.documents import MemDocuments
from memos_core.operation.finding.document_search import DocumentQuery, DocumentSearch, Mode
from memos_core.principal import Principal, check_name
from memos_core.records import Erasure
from memos_core.twins import in_thread

if TYPE_CHECKING:
    from memos_core.memos import Layers

__all__ = ["Collection", "CollectionOptions", "open_collection"]

Filter = Where | Mapping[str, Any]


class CollectionOptions(TypedDict, total=False):
    """Keyword arguments of ``Scope.collection``.

    Attributes:
        embedder: Makes its vectors, by default as those of memories; a name: the caller brings vectors made so.
        dimension: Length of vectors that the caller brings; None: that of the first.
        metric: ``cosine`` (default), or ``dot`` for vectors whose length means something.
    """

    embedder: Embedder | str | None
    dimension: int | None
    metric: Metric


class Collection:
    """Documents of one scope under one name. Made by ``Scope.collection``; thread-safe; cheap.

        manuals = ada.collection("manuals")
        manuals.upsert([Document("Press both keys to reset.", id="reset", metadata={"page": 7})])
        hits = manuals.query("How do I reset it?", where={"page": {"$lt": 10}})

    A collection belongs to exactly the user, agent and session of its scope: another scope has its own under the same
    name. A document is kept as a memory (``cube_id``) that ordinary searches pass over, so it can enter a prompt by
    ``chat(memory_ids=...)``, become KV by ``transform``, and is versioned and erased like every memory.
    """

    def __init__(self, name: str, documents: MemDocuments, *, forgotten: Callable[[Erasure], None]) -> None:
        self.name = name
        self._documents = documents
        self._search = DocumentSearch(documents)
        self._forgotten = forgotten

    @property
    def key(self) -> str:
        """Its name within the vault: what ``memos.reembed`` takes."""
        return self._documents.spec.name

    @property
    def embedder(self) -> str:
        """Identity of what makes its vectors."""
        return self._documents.spec.embedder

    @property
    def metric(self) -> Metric:
        return self._documents.spec.metric

    def __repr__(self) -> str:
        return f"Collection({self.key!r}, embedder={self.embedder!r})"

    # Write

    def upsert(self, documents: Sequence[Document | Mapping[str, Any] | str]) -> builtins.list[str]:
        """Store documents in one transaction and return their ids, in order.

        A document whose id is held already takes its place as the next version; one that changes nothing costs nothing.

        Args:
            documents: Documents, dicts of their fields, or texts.

        Raises:
            InvalidMemory: One cannot be stored; its ``index`` tells which, and nothing was written.
            EmbedderMismatch: The collection holds vectors of another embedder.
        """
        return self._documents.upsert([as_document(item, number) for number, item in enumerate(documents)])

    def delete(
        self, ids: Sequence[str] | None = None, *, where: Filter | None = None, complete: bool = False
    ) -> Erasure:
        """Erase documents, all their versions and everything made from them. There is no way back.

        They are unreachable at once. The last traces leave the disk with ``memos.run_pending()``, or now with
        ``complete=True``, which writes the ledger anew.

        Args:
            ids: Which; ids that are not there are passed over.
            where: Only those whose metadata meets this.

        Raises:
            InvalidInput: Neither is given; ``clear`` erases all.
        """
        if ids is None and where is None:
            raise InvalidInput("delete needs ids or where; clear() erases all documents")
        return self._erase(ids, where, complete=complete)

    def clear(self, *, complete: bool = False) -> Erasure:
        """Erase all documents, and free the name for another embedder."""
        return self._erase(None, None, complete=complete, drop=True)

    def _erase(self, ids: Sequence[str] | None, where: Filter | None, *, complete: bool, drop: bool = False) -> Erasure:
        erasure = self._documents.delete(ids=ids, where=parse_where(where), complete=complete, drop=drop)
        self._forgotten(erasure)
        return erasure

    # Read

    def get(self, ids: Sequence[str], *, vectors: bool = False) -> builtins.list[Document]:
        """Return those of the documents that are there, in the order of ``ids``."""
        return self._documents.get(ids, vectors=vectors)

    def list(self, *, where: Filter | None = None, limit: int = 50, cursor: str | None = None) -> DocumentPage:
        """Return documents in the order in which they were first stored, ``limit`` at a time."""
        return self._documents.page(parse_where(where), limit=limit, cursor=cursor)

    def pages(self, *, where: Filter | None = None, size: int = 500) -> Iterator[DocumentPage]:
        """Yield all documents, ``size`` at a time; what is written meanwhile may or may not be among them."""
        page = self.list(where=where, limit=size)
        yield page
        while page.cursor is not None:
            page = self.list(where=where, limit=size, cursor=page.cursor)
            yield page

    def count(self, *, where: Filter | None = None) -> int:
        """Return how many documents there are, or how many meet ``where``."""
        return self._documents.count(parse_where(where))

    # Find

    def query(
        self,
        text: str | None = None,
        *,
        vector: Sequence[float] | Vector | None = None,
        k: int = 10,
        where: Filter | None = None,
        ids: Sequence[str] | None = None,
        mode: Mode = "vector",
        alpha: float = 0.5,
        offset: int = 0,
        vectors: bool = False,
    ) -> builtins.list[DocumentHit]:
        """Return the ``k`` best documents, best first; equal ones in the order of their age.

        Args:
            text: What is asked. Embedded by the collection's embedder unless ``vector`` is given.
            vector: Its vector.
            where: Only documents whose metadata meets this: a mapping (see ``parse_where``) or a condition.
            ids: Only documents of these ids.
            mode: ``vector``, ``words`` (BM25 over the collection, which needs no embedder) or ``hybrid``.
            alpha: Weight of the vectors in ``hybrid``; the rest is that of the words.
            offset: Best documents to pass over: the next page of an answer.
            vectors: Return the documents with their vectors.

        Raises:
            InvalidInput: There is neither text nor vector, the vector does not fit, or a filter is malformed.
            EmbedderMismatch: The collection holds vectors of another embedder.
        """
        chosen = None if ids is None else frozenset(ids)
        asked = DocumentQuery(
            text=text,
            vector=vector,
            k=k,
            where=parse_where(where),
            ids=chosen,
            mode=mode,
            alpha=alpha,
            offset=offset,
            vectors=vectors,
        )
        return self._search.query(asked)

    def mmr(
        self,
        text: str | None = None,
        *,
        vector: Sequence[float] | Vector | None = None,
        k: int = 10,
        fetch_k: int = 50,
        balance: float = 0.5,
        where: Filter | None = None,
        ids: Sequence[str] | None = None,
        vectors: bool = False,
    ) -> builtins.list[DocumentHit]:
        """Return ``k`` of the ``fetch_k`` nearest documents, chosen to be near the question and unlike each other.

        Args:
            balance: 1 goes by nearness alone, 0 by variety alone. For the rest see ``query``.
        """
        chosen = None if ids is None else frozenset(ids)
        asked = DocumentQuery(text=text, vector=vector, k=k, where=parse_where(where), ids=chosen, vectors=vectors)
        return self._search.mmr(asked, fetch_k=fetch_k, balance=balance)

    # Async twins

    aupsert = in_thread(upsert)
    adelete = in_thread(delete)
    aclear = in_thread(clear)
    aget = in_thread(get)
    alist = in_thread(list)
    acount = in_thread(count)
    aquery = in_thread(query)
    ammr = in_thread(mmr)


def as_document(item: Document | Mapping[str, Any] | str, index: int) -> Document:
    """Return what a caller brought as a document.

    Raises:
        InvalidMemory: It is none.
    """
    if isinstance(item, Document):
        return item
    if isinstance(item, str):
        return Document(item)
    if not isinstance(item, Mapping):
        raise InvalidMemory(f"cannot store a {type(item).__name__} as a document", index=index)
    try:
        return Document(**item)
    except TypeError as error:
        raise InvalidMemory(f"no document: {error}", index=index) from error


def open_collection(
    layers: Layers,
    principal: Principal,
    name: str,
    options: CollectionOptions,
    *,
    forgotten: Callable[[Erasure], None],
) -> Collection:
    """Return the collection of that name of ``principal``.

    Raises:
        InvalidName: The name is malformed.
        InvalidInput: The metric is unknown, or there is no embedder.
    """
    own, metric = check_name(name, "collection"), options.get("metric", "cosine")
    if metric not in ("cosine", "dot"):
        raise InvalidInput(f"metric is 'cosine' or 'dot', not {metric!r}")
    made_by = options.get("embedder") or layers.vault.embedder
    if made_by is None:
        raise InvalidInput("this vault has no embedder: pass embedder=, or the name of whoever makes the vectors")
    key = key_of(principal, own)
    if isinstance(made_by, str):
        spec, embedder = CollectionSpec(key, made_by, options.get("dimension"), metric), None
    else:
        spec, embedder = CollectionSpec(key, made_by.name, made_by.dimension, metric), made_by
    documents = MemDocuments(
        layers.vault, layers.governance, layers.operator.ids, principal=principal, spec=spec, embedder=embedder
    )
    return Collection(own, documents, forgotten=forgotten)


def key_of(principal: Principal, name: str) -> str:
    """Return the name within the vault. A part never holds a slash, so no two scopes share a key."""
    return "/".join((principal.user, principal.agent or "", principal.session or "", name))
