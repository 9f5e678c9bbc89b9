"""Collections: documents with vectors of one embedder, and what lies in them.

A document is a cube whose header names its collection, so it is versioned, derived from, counted and erased like any
memory; ordinary searches and listings pass it over. It is found again by its id through the cube's ``dedup_key``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import JsonValue
from sqlalchemy import ColumnElement, Connection, Row, Select, and_, delete, exists, select

from memos_core.cube import MemCube, State, canonical_json
from memos_core.embedding.base import Vector
from memos_core.errors import EmbedderMismatch, InvalidInput
from memos_core.filters import Where
from memos_core.infrastructure.vault import schema, searching
from memos_core.infrastructure.vault.conditions import CHUNK, chunks, matching, of_collection, visible
from memos_core.infrastructure.vault.index.base import Candidates, Place, VectorIndex, load_vectors
from memos_core.infrastructure.vault.prepared import NewRow
from memos_core.infrastructure.vault.reading import ReadSession
from memos_core.infrastructure.vault.rows import check, cube_of, current
from memos_core.infrastructure.vault.selecting import Selection, narrowed
from memos_core.infrastructure.vault.values import SearchFilter, Visibility, WordMatch

if TYPE_CHECKING:
    from memos_core.infrastructure.vault.vault import MemVault
    from memos_core.infrastructure.vault.writing import WriteSession

__all__ = [
    "CollectionSpec",
    "DocumentMatch",
    "Metric",
    "by_ids",
    "document_key",
    "drop",
    "ensure",
    "everything",
    "first",
    "known",
    "matched",
    "names",
    "nearest",
    "pages",
    "prepared",
    "standing",
    "vectors_of",
    "within",
]

Condition = ColumnElement[bool]

Metric = Literal["cosine", "dot"]

NEW_COLLECTION = NewRow(schema.collections)

FIRST_STEP = 64
"""Proposals that are put to the ledger in the first question; each further one takes four times as many."""

PROBES = 6
"""Questions before which it is asked whether what is to be read are fewer documents than those that are proposed."""

MOST_IDS = 4096
"""Ids of documents that are asked for by name; of more, each proposed document is looked at."""


@dataclass(frozen=True, slots=True)
class CollectionSpec:
    """What a collection is. ``dimension`` None: that of the first vector."""

    name: str
    embedder: str
    dimension: int | None
    metric: Metric


@dataclass(frozen=True, slots=True)
class DocumentMatch:
    """A document that is near a vector or holds words that were asked for, and the passage by which it does."""

    cube_id: str
    passage_id: int
    score: float


def document_key(collection: str, document_id: str) -> str:
    """Return the ``dedup_key`` of a document: one live cube for each id in a collection."""
    return hashlib.sha256(canonical_json(["document", collection, document_id])).hexdigest()


def prepared(vector: Any, dimension: int | None, metric: Metric) -> Vector:
    """Return a caller's vector as it is stored: float32, and of length 1 where the metric is the cosine.

    Raises:
        InvalidInput: It is no vector of finite numbers, or of another length than the collection's.
    """
    try:
        flat: Vector = np.asarray(vector, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"a vector is a sequence of numbers: {error}") from error
    if flat.ndim != 1 or not flat.size:
        raise InvalidInput(f"a vector has one axis and is not empty; this one has shape {flat.shape}")
    if metric == "cosine":
        return searching.unit(flat, dimension or len(flat))
    if dimension not in (None, len(flat)):
        raise InvalidInput(f"a vector of this collection has shape ({dimension},), not {flat.shape}")
    if not np.isfinite(flat).all():
        raise InvalidInput("the vector holds infinities or NaN")
    return flat


def known(connection: Connection, spec: CollectionSpec) -> Row[Any] | None:
    """Return the row of the collection, if it holds anything yet.

    Raises:
        EmbedderMismatch: It was made by another embedder, or with another metric.
    """
    row = connection.execute(select(schema.collections).where(schema.collections.c.name == spec.name)).first()
    if row is None:
        return None
    offered = (spec.embedder, spec.dimension or row.dimension, spec.metric)
    if (row.embedder, row.dimension, row.metric) != offered:
        raise EmbedderMismatch(
            spec.name, stored=worded(row.embedder, row.dimension, row.metric), offered=worded(*offered)
        )
    return row


def worded(embedder: str, dimension: int, metric: str) -> str:
    return f"{embedder} ({dimension} dimensions, {metric})"


def ensure(session: WriteSession, spec: CollectionSpec, dimension: int) -> None:
    """Make the collection if it is new, and let the session store vectors of ``dimension`` in it.

    Raises:
        EmbedderMismatch: It was made by another embedder, or with another metric.
    """
    row = known(session.connection, spec)
    if row is None:
        values = {"name": spec.name, "embedder": spec.embedder, "dimension": dimension, "metric": spec.metric}
        session._collection_ids[spec.name, dimension] = NEW_COLLECTION.add(session.connection, values)
    elif row.dimension != dimension:
        stored = worded(row.embedder, row.dimension, row.metric)
        offered = worded(spec.embedder, dimension, spec.metric)
        raise EmbedderMismatch(spec.name, stored=stored, offered=offered)
    else:
        session._collection_ids[spec.name, dimension] = row.id


def names(session: ReadSession, visibility: Visibility) -> list[str]:
    """Return the names, within the vault, of the collections that may hold documents within reach."""
    k = schema.collections
    own = k.c.name.startswith(f"{visibility.namespace}/", autoescape=True)
    return list(session.connection.scalars(select(k.c.name).where(own).order_by(k.c.id)))


def within(wanted: SearchFilter, collection: str | None) -> SearchFilter:
    """Return the same conditions on the documents of a collection; None: on what is in none."""
    return replace(wanted, collection=collection)


def drop(session: WriteSession, spec: CollectionSpec) -> None:
    """Forget what the collection is, once nothing lies in it: the name is free for another embedder."""
    connection, k, v = session.connection, schema.collections, schema.vectors
    collection_id = connection.scalar(select(k.c.id).where(k.c.name == spec.name))
    if collection_id is None or connection.scalar(select(exists().where(v.c.collection_id == collection_id))):
        return
    connection.execute(delete(schema.outbox).where(schema.outbox.c.collection_id == collection_id))
    connection.execute(delete(k).where(k.c.id == collection_id))


# Documents by their ids, and in order


def by_ids(
    session: ReadSession, wanted: SearchFilter, ids: Sequence[str], *, lapsed: bool = False
) -> dict[str, MemCube]:
    """Return the documents of these ids that are there, by id.

    Args:
        lapsed: Also those whose time is over, which still hold their id.
    """
    assert wanted.collection is not None
    c = schema.cubes
    condition = c.c.state == str(State.ACTIVE) if lapsed else matching(wanted)
    keys = {document_key(wanted.collection, document_id): document_id for document_id in ids}
    found: dict[str, MemCube] = {}
    for part in chunks(list(keys)):
        query = current().where(c.c.namespace_id == namespace_id(wanted), c.c.dedup_key.in_(part), condition)
        cubes = [cube_of(row, session.now) for row in session.connection.execute(query)]
        found.update((cube.ref, cube) for cube in cubes if cube.ref is not None)
    return {document_id: found[document_id] for document_id in ids if document_id in found}


def pages(
    session: ReadSession, wanted: SearchFilter, where: Where | None, *, after: str | None, size: int
) -> Iterator[MemCube]:
    """Yield the documents of a collection that meet ``where`` in the order of their cubes, beginning after ``after``.

    Args:
        size: Cubes that are read at a time.
    """
    fitting = narrowing(wanted, Selection(where))
    condition = matching(wanted, by_id=fitting is not None)
    for cube in cubes_where(session, condition if fitting is None else and_(condition, fitting), after, size):
        if where is None or where.accepts(cube.header.descriptive.metadata):
            yield cube


def everything(session: ReadSession, wanted: SearchFilter, where: Where | None) -> Iterator[str]:
    """Yield the documents of a collection that meet ``where``, in every state, and those whose time is over too."""
    fitting = narrowing(wanted, Selection(where))
    seen = visible(wanted.visibility, by_id=fitting is not None)
    return meeting(session, and_(seen, of_collection(wanted.collection)), fitting, where)


def standing(session: ReadSession, wanted: SearchFilter, where: Where | None) -> Iterator[str]:
    """Yield the documents of a collection that may answer and meet ``where``."""
    fitting = narrowing(wanted, Selection(where))
    return meeting(session, matching(wanted, by_id=fitting is not None), fitting, where)


def narrowing(wanted: SearchFilter, chosen: Selection) -> Condition | None:
    """Return a condition that holds of every document that is chosen, and of few others, if there is one."""
    assert wanted.collection is not None
    parts = [] if chosen.where is None else [narrowed(wanted.collection, chosen.where)]
    if chosen.ids is not None and len(chosen.ids) <= MOST_IDS:
        parts.append(schema.cubes.c.id.in_(holders(wanted, chosen.ids)))
    known = [part for part in parts if part is not None]
    return and_(*known) if known else None


def holders(wanted: SearchFilter, ids: Collection[str]) -> Select[Any]:
    """Return the query for the cubes of the documents of these ids."""
    assert wanted.collection is not None
    c, keys = schema.cubes.alias("holder"), [document_key(wanted.collection, document_id) for document_id in ids]
    own = c.c.namespace_id == namespace_id(wanted), c.c.dedup_key.in_(keys), c.c.state == str(State.ACTIVE)
    return select(c.c.id).where(*own)


def namespace_id(wanted: SearchFilter) -> Any:
    n = schema.namespaces
    return select(n.c.id).where(n.c.name == wanted.visibility.namespace).scalar_subquery()


def meeting(
    session: ReadSession, condition: Condition, fitting: Condition | None, where: Where | None
) -> Iterator[str]:
    # Ten times faster than making cubes of the rows, of which nothing but the metadata is looked at.
    c = schema.cubes
    header = () if where is None else (c.c.header, c.c.header_digest)
    query = select(c.c.id.label("cube_id"), *header).where(condition).order_by(c.c.id)
    for row in session.connection.execute(query if fitting is None else query.where(fitting)):
        if where is None or where.accepts(metadata_of(row)):
            yield row.cube_id


def cubes_where(session: ReadSession, condition: Condition, after: str | None, size: int) -> Iterator[MemCube]:
    c = schema.cubes
    while True:
        query = current().where(condition)
        if after is not None:
            query = query.where(c.c.id > after)
        rows = session.connection.execute(query.order_by(c.c.id).limit(size)).all()
        yield from (cube_of(row, session.now) for row in rows)
        if len(rows) < size:
            return
        after = rows[-1].id


# Documents by vector and by words


def nearest(
    vault: MemVault, spec: CollectionSpec, wanted: SearchFilter, vector: Any, *, count: int, chosen: Selection | None
) -> list[DocumentMatch]:
    """Return the ``count`` documents nearest to ``vector`` that may answer and are chosen, nearest first.

    Raises:
        EmbedderMismatch: The collection was made by another embedder.
        InvalidInput: The vector does not fit the collection.
    """
    with vault.ledger.read() as connection:
        place = place_of(connection, spec, wanted)
        if place is None:
            prepared(vector, spec.dimension, spec.metric)  # a wrong vector is wrong in an empty collection too
            return []
        query = prepared(vector, place.dimension, spec.metric)
        index = vault.exact if spec.metric == "dot" else vault._index(connection, place)
        if index is vault.exact:
            return first(Near(connection, place, wanted, query, chosen).found(index), count)
    index.prepare()  # may write, so the view of the ledger is taken after it
    with vault.ledger.read() as connection:
        return first(Near(connection, place, wanted, query, chosen).found(index), count)


def place_of(connection: Connection, spec: CollectionSpec, wanted: SearchFilter) -> Place | None:
    row = known(connection, spec)
    return row and searching.place_of(connection, row.id, row.dimension, wanted.visibility.namespace)


def first(matches: Iterator[DocumentMatch], count: int) -> list[DocumentMatch]:
    """Return the first ``count`` documents; one that is found by several passages counts by its best."""
    best: dict[str, DocumentMatch] = {}
    for match in matches:
        best.setdefault(match.cube_id, match)
        if len(best) == count:
            break
    return list(best.values())


@dataclass(frozen=True, slots=True)
class Near:
    """A question for the documents near a vector, within one view of the ledger.

    An index proposes passages, nearest first, and each document is looked at until enough are chosen. Where few can be,
    those are compared one by one instead, as soon as that is less work.
    """

    connection: Connection
    place: Place
    wanted: SearchFilter
    query: Vector
    chosen: Selection | None

    def found(self, index: VectorIndex) -> Iterator[DocumentMatch]:
        """Yield the documents that answer, nearest first; one may come again."""
        for number, scores in enumerate(steps(index.candidates(self.connection, self.place, self.query))):
            few = self.few(len(scores)) if 0 < number < PROBES else None  # the first step answers most questions
            if few is not None:
                yield from self.among(few)
                return
            rows = self.accepted(schema.passages.c.id, list(scores))
            yield from ordered(rows, scores)

    def few(self, most: int) -> list[str] | None:
        """Return the documents to which ids and metadata narrow the answer down; None: they are more than ``most``."""
        fitting = None if self.chosen is None else narrowing(self.wanted, self.chosen)
        if fitting is None:
            return None
        found = list(self.connection.scalars(select(schema.cubes.c.id).where(fitting).limit(most + 1)))
        return found if len(found) <= most else None

    def among(self, cube_ids: Sequence[str]) -> Iterator[DocumentMatch]:
        """Yield those of these documents that answer, nearest first."""
        rows = self.accepted(schema.passages.c.cube_id, cube_ids)
        ids, matrix = load_vectors(self.connection, self.place, [row.id for row in rows])
        scores = dict(zip(ids.tolist(), (matrix @ self.query).tolist(), strict=True))
        yield from ordered([row for row in rows if row.id in scores], scores)

    def accepted(self, column: Any, values: Sequence[Any]) -> list[Row[Any]]:
        return accepted(self.connection, column, values, matching(self.wanted), self.chosen)


def steps(proposals: Candidates) -> Iterator[dict[int, float]]:
    """Yield proposed passages with their scores, nearest first: few to begin with, then more at a time."""
    size = FIRST_STEP
    for ids, scores in proposals:
        start = 0
        while start < len(ids):
            end = start + size
            yield dict(zip(ids[start:end].tolist(), scores[start:end].tolist(), strict=True))
            start, size = end, min(4 * size, CHUNK)


def ordered(rows: Sequence[Row[Any]], scores: Mapping[int, float]) -> list[DocumentMatch]:
    matches = (DocumentMatch(row.cube_id, row.id, scores[row.id]) for row in rows)
    return sorted(matches, key=lambda match: (-match.score, match.passage_id))


def accepted(
    connection: Connection, column: Any, values: Sequence[Any], condition: Condition, chosen: Selection | None
) -> list[Row[Any]]:
    """Return the passages whose documents may answer and are chosen, of those with these values in a column.

    A header is read, and checked, only where something is chosen by it.
    """
    p, c = schema.passages, schema.cubes
    header = () if chosen is None else (c.c.ref, c.c.header, c.c.header_digest)
    query = select(p.c.id, p.c.cube_id, *header).select_from(p.join(c, c.c.id == p.c.cube_id))
    rows: list[Row[Any]] = []
    for part in chunks(values):
        rows += connection.execute(query.where(column.in_(part), condition)).all()
    return rows if chosen is None else [row for row in rows if chosen.accepts(row.ref, metadata_of(row))]


def metadata_of(row: Any) -> Mapping[str, JsonValue]:
    check(row.header, row.header_digest, f"cube {row.cube_id}: header")
    metadata: Mapping[str, JsonValue] = json.loads(row.header)["descriptive"].get("metadata", {})
    return metadata


def matched(
    session: ReadSession, wanted: SearchFilter, terms: Sequence[str], chosen: Selection | None
) -> list[WordMatch]:
    """Return the passages of documents that may answer, are chosen and hold at least one of ``terms``."""
    matches = session.word_matches(wanted, terms)
    if chosen is None or not matches:
        return matches
    ids, fitting = [match.passage_id for match in matches], narrowing(wanted, chosen)
    condition = matching(wanted) if fitting is None else and_(matching(wanted), fitting)
    kept = {row.id for row in accepted(session.connection, schema.passages.c.id, ids, condition, chosen)}
    return [match for match in matches if match.passage_id in kept]


def vectors_of(
    connection: Connection, spec: CollectionSpec, wanted: SearchFilter, passage_ids: Sequence[int]
) -> dict[int, Vector]:
    """Return the stored vectors of passages, by passage id."""
    place = place_of(connection, spec, wanted)
    if place is None:
        return {}
    ids, matrix = load_vectors(connection, place, passage_ids)
    return dict(zip(ids.tolist(), matrix, strict=True))
