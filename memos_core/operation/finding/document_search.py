"""DocumentSearch: finds documents of a collection by vector, by words, by both, or for variety."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from memos_core.documents import DocumentHit
from memos_core.embedding.base import Embedder, Vector
from memos_core.errors import InvalidInput
from memos_core.filters import Where
from memos_core.infrastructure.vault import collections
from memos_core.infrastructure.vault.collections import CollectionSpec, DocumentMatch
from memos_core.infrastructure.vault.selecting import Selection
from memos_core.operation.documents import MemDocuments
from memos_core.operation.finding.diversity import spread
from memos_core.operation.finding.ranking import bm25, fuse, min_max
from memos_core.operation.finding.words import query_words

__all__ = ["DocumentQuery", "DocumentSearch", "Mode"]

Mode = Literal["vector", "words", "hybrid"]

DEPTH = 200
"""Documents that each part of a hybrid query contributes, at least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentQuery:
    """What is asked of a collection; see ``Collection.query`` and ``Collection.mmr``.

    Raises:
        InvalidInput: A value is out of range, or what the mode needs is missing.
    """

    text: str | None
    vector: Sequence[float] | Vector | None
    k: int
    where: Where | None = None
    ids: frozenset[str] | None = None
    mode: Mode = "vector"
    alpha: float = 0.5
    offset: int = 0
    vectors: bool = False

    def __post_init__(self) -> None:
        if self.k < 1 or self.offset < 0:
            raise InvalidInput("k is at least 1, and offset at least 0")
        if self.mode not in ("vector", "words", "hybrid"):
            raise InvalidInput(f"mode is 'vector', 'words' or 'hybrid', not {self.mode!r}")
        if not 0 <= self.alpha <= 1:
            raise InvalidInput("alpha lies between 0 (words alone) and 1 (vectors alone)")
        if self.mode != "vector" and not (self.text and self.text.strip()):
            raise InvalidInput(f"mode {self.mode!r} needs a text to look for")

    @property
    def chosen(self) -> Selection | None:
        """What decides, beside the ledger, whether a document may answer."""
        return None if self.where is None and self.ids is None else Selection(self.where, self.ids)


class DocumentSearch:
    """Searches one collection. Thread-safe."""

    def __init__(self, shelf: MemDocuments) -> None:
        self.shelf = shelf

    def query(self, asked: DocumentQuery) -> list[DocumentHit]:
        """Return the best documents for what is asked, best first; equal ones in the order of their age."""
        most = asked.k + asked.offset
        if asked.mode == "vector":
            matches = self.nearest(asked, most)
        elif asked.mode == "words":
            matches = self.by_words(asked)[:most]
        else:
            matches = self.hybrid(asked, most)
        return self.hits(matches[asked.offset : most], vectors=asked.vectors)

    def mmr(self, asked: DocumentQuery, *, fetch_k: int, balance: float) -> list[DocumentHit]:
        """Return documents that are near what is asked and unlike each other (Carbonell and Goldstein, 1998)."""
        if fetch_k < 1 or not 0 <= balance <= 1:
            raise InvalidInput("fetch_k is at least 1, and the balance lies between 0 (variety) and 1 (nearness)")
        nearest = self.nearest(asked, max(fetch_k, asked.k))
        seen = self.shelf.seen()
        with self.shelf.vault.read() as session:
            held = collections.vectors_of(
                session.connection, self.shelf.spec, seen, [match.passage_id for match in nearest]
            )
        nearest = [match for match in nearest if match.passage_id in held]  # another may have erased one meanwhile
        vectors = [held[match.passage_id] for match in nearest]
        chosen = spread([match.score for match in nearest], vectors, k=asked.k, balance=balance)
        return self.hits([nearest[row] for row in chosen], vectors=asked.vectors)

    def nearest(self, asked: DocumentQuery, count: int) -> list[DocumentMatch]:
        vector: Any = asked.vector
        if vector is None:
            vector = query_vector(self.shelf.embedder, asked.text, self.shelf.spec)
        return collections.nearest(
            self.shelf.vault, self.shelf.spec, self.shelf.seen(), vector, count=count, chosen=asked.chosen
        )

    def by_words(self, asked: DocumentQuery) -> list[DocumentMatch]:
        """Return all documents that hold a word of the question, by BM25 over the collection, best first."""
        seen = self.shelf.seen()
        with self.shelf.vault.read() as session:
            matches = collections.matched(session, seen, query_words(asked.text or ""), asked.chosen)
            passages, mean = session.corpus(seen.visibility, seen.now, collection=self.shelf.spec.name)
        scores = bm25(matches, passages=passages, mean_length=mean)
        found = [DocumentMatch(match.cube_id, match.passage_id, scores[match.passage_id]) for match in matches]
        found.sort(key=lambda match: (-match.score, match.passage_id))
        return collections.first(iter(found), len(found))

    def hybrid(self, asked: DocumentQuery, count: int) -> list[DocumentMatch]:
        """Return documents by the weighted mean of similarity and BM25, each stretched to [0, 1] first."""
        depth = max(DEPTH, 4 * count)
        near = {match.cube_id: match for match in self.nearest(asked, depth)}
        worded = {match.cube_id: match for match in self.by_words(asked)}
        order = {cube_id: number for number, cube_id in enumerate(sorted(near.keys() | worded.keys()))}
        parts = [
            (weight, min_max({order[cube_id]: match.score for cube_id, match in found.items()}))
            for weight, found in ((asked.alpha, near), (1 - asked.alpha, worded))
        ]
        scores = fuse([part for part in parts if part[0] > 0])
        names = list(order)
        ranked = sorted(scores, key=lambda number: (-scores[number], number))
        return [
            replace(near.get(names[number]) or worded[names[number]], score=scores[number]) for number in ranked[:count]
        ]

    def hits(self, matches: Sequence[DocumentMatch], *, vectors: bool) -> list[DocumentHit]:
        with self.shelf.vault.read() as session:
            found = session.cubes(self.shelf.seen(), [match.cube_id for match in matches])
        cubes = {cube.id: cube for cube in found}
        kept = [match for match in matches if match.cube_id in cubes]  # another may have erased one meanwhile
        passages = {match.cube_id: match.passage_id for match in kept} if vectors else {}
        documents = self.shelf.documents([cubes[match.cube_id] for match in kept], passages)
        return [DocumentHit(document, match.score) for document, match in zip(documents, kept, strict=True)]


def query_vector(embedder: Embedder | None, text: str | None, spec: CollectionSpec) -> Vector:
    if text is None or not text.strip():
        raise InvalidInput("a query needs a text or a vector")
    if embedder is None:
        raise InvalidInput(f"collection {spec.name!r} has no embedder at hand: query it by vector")
    return embedder.embed_query(text)
