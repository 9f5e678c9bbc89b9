"""MemDocuments: writes, reads and erases the documents of a collection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from memos_core.cube import (
    Descriptive,
    Governance,
    Header,
    MemCube,
    MemoryType,
    PlaintextPayload,
    Source,
    canonical_json,
)
from memos_core.documents import Document, DocumentPage
from memos_core.embedding.base import Embedder, Vector
from memos_core.errors import CubeFrozen, InvalidInput, InvalidMemory
from memos_core.filters import Where
from memos_core.ids import UlidFactory, checked_cursor
from memos_core.infrastructure.governance import MemGovernance
from memos_core.infrastructure.governance.admission import check_document
from memos_core.infrastructure.governance.governance import author_of
from memos_core.infrastructure.vault import MemVault, Passage, SearchFilter, WriteSession, collections
from memos_core.infrastructure.vault.collections import CollectionSpec
from memos_core.operation.finding.words import words
from memos_core.principal import Principal
from memos_core.records import Erasure, MemoryCall

__all__ = ["MemDocuments"]

PAGE = 500


@dataclass(frozen=True, slots=True)
class Entry:
    """A document that is ready to be stored."""

    id: str
    document: Document
    passages: tuple[Passage, ...]


class MemDocuments:
    """Works on one collection, for one principal. Thread-safe.

    Args:
        embedder: Makes vectors of texts; None: the caller brings them.
    """

    def __init__(
        self,
        vault: MemVault,
        governance: MemGovernance,
        ids: UlidFactory,
        *,
        principal: Principal,
        spec: CollectionSpec,
        embedder: Embedder | None,
    ) -> None:
        self.vault = vault
        self.governance = governance
        self.ids = ids
        self.principal = principal
        self.spec = spec
        self.embedder = embedder

    # Writing

    def upsert(self, documents: Sequence[Document]) -> list[str]:
        """Store documents in one transaction, after one embedding batch, and return their ids in order.

        One whose id is held already becomes its next version; one that changes nothing leaves no trace. Of several
        with one id the last counts.

        Raises:
            InvalidMemory: One of them cannot be stored, or the quota is reached; nothing was written.
            EmbedderMismatch: The collection was made by another embedder.
            CubeFrozen: One to be changed is frozen; nothing was written.
        """
        for index, document in enumerate(documents):
            check_document(document, self.governance.limits, index=index if len(documents) > 1 else None)
        named = [document.id or self.ids.new(self.governance.clock.now()) for document in documents]
        wanted = dict(zip(named, documents, strict=True))
        entries = self.entries(self.changed(wanted))
        if entries:
            self.store(entries)
        return named

    def changed(self, wanted: Mapping[str, Document]) -> dict[str, Document]:
        """Return those of the documents that are not held already, just as they are."""
        ids = [key for key, document in wanted.items() if document.ttl_seconds is None]
        held = {document.id: document for document in self.get(ids, vectors=True)}
        return {key: doc for key, doc in wanted.items() if not self.same(doc, held.get(key))}

    def same(self, document: Document, held: Document | None) -> bool:
        if held is None or held.ttl_seconds is not None or document.text != held.text:
            return False
        if canonical_json(dict(document.metadata)) != canonical_json(dict(held.metadata)):
            return False
        if document.vector is None:
            return True
        vector = collections.prepared(document.vector, self.spec.dimension, self.spec.metric)
        return held.vector is not None and np.array_equal(vector, np.asarray(held.vector, dtype=np.float32))

    def entries(self, fresh: Mapping[str, Document]) -> list[Entry]:
        """Return documents with their passages; those without a vector are embedded together."""
        missing = [document.text for document in fresh.values() if document.vector is None]
        if missing and self.embedder is None:
            raise InvalidMemory(f"collection {self.spec.name!r} has no embedder at hand: give each document its vector")
        made = iter(embedded(self.embedder, missing) if self.embedder else [])
        return [
            Entry(key, document, next(made) if document.vector is None else (whole(document, self.spec),))
            for key, document in fresh.items()
        ]

    def store(self, entries: Sequence[Entry]) -> None:
        with self.vault.write() as session:
            session.ensure_namespace(self.principal.namespace)
            for dimension in {len(p.vector) for entry in entries for p in entry.passages if p.vector is not None}:
                collections.ensure(session, self.spec, dimension)
            seen = self.seen()
            held = collections.by_ids(session, seen, [entry.id for entry in entries], lapsed=True)
            stored = [self.put(session, entry, held.get(entry.id)) for entry in entries]
            if reason := self.governance.over_quota(session, self.principal.namespace, 0):
                raise InvalidMemory(reason)
            self.governance.audit(session, self.principal, "upsert", stored, {"collection": self.spec.name})

    def put(self, session: WriteSession, entry: Entry, held: MemCube | None) -> str:
        if held is not None and held.header.governance.frozen:
            raise CubeFrozen(held.id)
        cube = self.cube(entry, held)
        change = session.insert if held is None else session.replace
        change(
            cube,
            passages=entry.passages,
            dedup_key=collections.document_key(self.spec.name, entry.id),
            author=author_of(self.principal),
            reason="added" if held is None else "upserted",
            collection=self.spec.name,
        )
        return cube.id

    def cube(self, entry: Entry, held: MemCube | None) -> MemCube:
        """Return the first version of a document's cube, or the one after ``held``."""
        now = self.governance.clock.now()
        retention = self.governance.retention(entry.document.ttl_seconds, now)
        payload = PlaintextPayload(text=entry.document.text)
        if held is not None:
            what = held.header.descriptive.model_copy(
                update={"updated": now, "metadata": dict(entry.document.metadata)}
            )
            governance = held.header.governance.model_copy(update={"retention": retention})
            header = held.header.model_copy(update={"descriptive": what, "governance": governance})
            return MemCube(header=header, payload=payload, version=held.version + 1)
        descriptive = Descriptive(
            id=self.ids.new(now),
            type=MemoryType.PLAINTEXT,
            kind="document",
            created=now,
            updated=now,
            source=Source(session=self.principal.session, ref=entry.id),
            collection=self.spec.name,
            metadata=entry.document.metadata,
        )
        governance = Governance(
            owner=self.principal.user,
            namespace=self.principal.namespace,
            agent=self.principal.agent,
            retention=retention,
        )
        return MemCube(header=Header(descriptive=descriptive, governance=governance), payload=payload)

    # Erasing

    def delete(self, *, ids: Sequence[str] | None, where: Where | None, complete: bool, drop: bool = False) -> Erasure:
        """Erase documents, all their versions, and everything that was made from them; see ``Collection.delete``."""
        with self.vault.write() as session:
            doomed = self.chosen(session, ids, where)
            rows = session.erase(self.governance.visibility(self.principal), doomed)
            if doomed:
                self.governance.audit(session, self.principal, "forget", rows.cube_ids, {"collection": self.spec.name})
            if drop:
                collections.drop(session, self.spec)
        pending = self.vault.purge() if complete else ("traces on the disk, until memos.run_pending()",)
        return Erasure(
            cube_ids=rows.cube_ids,
            derived_ids=rows.derived_ids,
            versions=rows.versions,
            vectors=rows.vectors,
            blobs=len(rows.blob_addresses),
            at=self.governance.clock.now(),
            complete=not doomed or not pending,
            pending=pending if doomed else (),
        )

    def chosen(
        self,
        session: WriteSession,
        ids: Sequence[str] | None,
        where: Where | None,
    ) -> list[str]:
        """Return the cubes of the documents of these ids that meet ``where``; None for both: all, also expired ones."""
        if ids is None:
            return list(collections.everything(session, self.seen(), where))
        cubes = collections.by_ids(session, self.seen(), list(dict.fromkeys(ids)), lapsed=True).values()
        return [cube.id for cube in cubes if where is None or where.accepts(cube.header.descriptive.metadata)]

    # Reading

    def get(self, ids: Sequence[str], *, vectors: bool) -> list[Document]:
        """Return those of the documents that are there, in the order of ``ids``."""
        with self.vault.read() as session:
            cubes = list(collections.by_ids(session, self.seen(), list(dict.fromkeys(ids))).values())
            passages = session.first_passages([cube.id for cube in cubes]) if vectors else {}
        return self.documents(cubes, passages)

    def page(self, where: Where | None, *, limit: int, cursor: str | None) -> DocumentPage:
        """Return documents in the order in which they were first stored, ``limit`` at a time."""
        if limit < 1:
            raise InvalidInput("limit must be at least 1")
        after = checked_cursor(cursor)
        with self.vault.read() as session:
            cubes = collections.pages(session, self.seen(), where, after=after, size=min(PAGE, limit + 1))
            found = list(islice(cubes, limit + 1))
        more = len(found) > limit
        documents = tuple(document_of(cube) for cube in found[:limit])
        return DocumentPage(documents, found[limit - 1].id if more else None)

    def count(self, where: Where | None) -> int:
        """Return how many documents meet ``where``."""
        seen = self.seen()
        with self.vault.read() as session:
            if where is None:
                return session.count_matching(seen)
            return sum(1 for _ in collections.standing(session, seen, where))

    # Parts

    def seen(self) -> SearchFilter:
        """Return the conditions that every document of the answer meets."""
        return collections.within(self.governance.search_filter(self.principal, MemoryCall(query="*")), self.spec.name)

    def documents(self, cubes: Sequence[MemCube], passages: Mapping[str, int]) -> list[Document]:
        """Return cubes as documents, with the vectors of these passages."""
        if not passages:
            return [document_of(cube) for cube in cubes]
        with self.vault.read() as session:
            seen = self.seen()
            vectors = collections.vectors_of(session.connection, self.spec, seen, list(passages.values()))
        return [replace(document_of(cube), vector=listed(vectors.get(passages.get(cube.id, 0)))) for cube in cubes]


def document_of(cube: MemCube) -> Document:
    """Return the document that ``cube`` keeps."""
    what = cube.header.descriptive
    ttl = cube.header.governance.retention.ttl_seconds
    return Document(cube.text, what.source.ref, dict(what.metadata), ttl_seconds=ttl, cube_id=cube.id)


def listed(vector: Vector | None) -> list[float] | None:
    return None if vector is None else vector.tolist()


def whole(document: Document, spec: CollectionSpec) -> Passage:
    """Return a document that brings its vector as one passage."""
    vector = collections.prepared(document.vector, spec.dimension, spec.metric)
    return Passage(0, len(document.text), words(document.text), vector)


def embedded(embedder: Embedder, texts: Sequence[str]) -> list[tuple[Passage, ...]]:
    """Return the passages of each text with their words and, from one embedding batch, their vectors."""
    spans = [embedder.passages(text) for text in texts]
    parts = [text[start:end] for text, own in zip(texts, spans, strict=True) for start, end in own]
    vectors = iter(embedder.embed(parts)) if parts else iter(())
    return [
        tuple(Passage(start, end, words(text[start:end]), next(vectors)) for start, end in own)
        for text, own in zip(texts, spans, strict=True)
    ]
