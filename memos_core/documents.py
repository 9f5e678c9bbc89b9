"""The plain data of collections: what goes in, what is found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import JsonValue

__all__ = ["Document", "DocumentHit", "DocumentPage"]


@dataclass(frozen=True, slots=True)
class Document:
    """One entry of a collection.

    Attributes:
        text: Its text; may be empty where a vector is given.
        id: The caller's own id, unique in the collection; None: one is made.
        metadata: JSON values; returned as they were given.
        vector: Its vector; None: made by the collection's embedder. What is read back from a collection has one only
            if it was asked for.
        ttl_seconds: Seconds from the write after which it expires.
        cube_id: The memory that it is kept as: what ``chat(memory_ids=...)``, ``transform`` and ``forget`` take. None
            before it is stored.
    """

    text: str
    id: str | None = None
    metadata: Mapping[str, JsonValue] = field(default_factory=dict)
    vector: Sequence[float] | None = field(default=None, compare=False)
    ttl_seconds: float | None = None
    cube_id: str | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class DocumentHit:
    """A document that a query found.

    Attributes:
        document: The document.
        score: The similarity (cosine or dot product), the BM25 score, or their weighted mean, as was asked.
    """

    document: Document
    score: float

    @property
    def id(self) -> str:
        return self.document.id or ""

    @property
    def text(self) -> str:
        return self.document.text

    @property
    def metadata(self) -> Mapping[str, JsonValue]:
        return self.document.metadata

    @property
    def cube_id(self) -> str:
        return self.document.cube_id or ""


@dataclass(frozen=True, slots=True)
class DocumentPage(Sequence[Document]):
    """A part of a listing: a sequence of documents, and the cursor that the next part begins at (None: the end)."""

    documents: tuple[Document, ...]
    cursor: str | None = None

    def __getitem__(self, index: Any) -> Any:
        return self.documents[index]

    def __len__(self) -> int:
        return len(self.documents)
