"""What others have granted to a user, as arrays in memory: the part of a search that lies in foreign namespaces.

It is made from the granted memories and from nothing else, and kept for each reader and owner apart. Which memories
these are, and in which state, is asked of the ledger before each search, so a grant, a revocation and an edit count at
once; and the time that it takes tells nothing of what was not granted, or of what its owner does with it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import BindParameter, Connection, Row, Select, and_, bindparam, select, union

from memos_core.embedding.base import Vector, Vectors
from memos_core.infrastructure.vault import schema
from memos_core.infrastructure.vault.conditions import chunks, granted_to, in_force, micros
from memos_core.infrastructure.vault.index.base import Ids, Place, load_vectors
from memos_core.infrastructure.vault.index.catalogue import (
    ROW,
    CatalogueShelf,
    Postings,
    as_rows,
    described,
    standing_order,
)
from memos_core.infrastructure.vault.prepared import Prepared
from memos_core.infrastructure.vault.values import Visibility

__all__ = ["GrantedIndex", "GrantedShelf", "granted_state"]

MAX_PASSAGES = 500_000

GrantedState = tuple[tuple[str, int, str], ...]
"""Of each granted memory in the order of ids: id, version, and digest of its header. Equal states, equal content."""


@dataclass(frozen=True, slots=True)
class GrantedShelf:
    """The memories that one owner grants to one reader.

    Attributes:
        state: What it was made from.
        catalogue: Their passages and words.
        ids: Passages that have a vector, ascending.
        matrix: Their vectors, shape ``[len(ids), dimension]``.
        digests: Digest of the header of each, by id.
    """

    state: GrantedState
    catalogue: CatalogueShelf
    ids: Ids
    matrix: Vectors
    digests: Mapping[str, str]

    def similarities(self, query: Vector) -> Vector:
        """Return the cosine similarity of each passage of ``ids`` to ``query``, which has unit length."""
        scores: Vector = self.matrix @ query
        return scores


@dataclass(frozen=True, slots=True)
class Shelved:
    """What a shelf holds: the reader, the owner's namespace, where its passages lie, and who made their vectors."""

    reader: str
    namespace_id: int
    collection: str
    embedder: str | None


class GrantedIndex:
    """Thread-safe.

    Args:
        max_passages: Passages kept in memory; those of readers who have not searched for longest go first.
    """

    def __init__(self, *, max_passages: int = MAX_PASSAGES) -> None:
        self.max_passages = max_passages
        self._shelves: OrderedDict[Shelved, GrantedShelf] = OrderedDict()
        self._lock = threading.Lock()

    def current(
        self,
        connection: Connection,
        visibility: Visibility,
        collection: str,
        *,
        vectors: Place | None,
        embedder: str | None,
    ) -> list[GrantedShelf]:
        """Return what is granted to the user of ``visibility``, by owner, as the transaction of ``connection`` sees it.

        Args:
            collection: Where its passages lie.
            vectors: Where vectors lie, of whichever namespace; None: there are none to compare.
            embedder: Name of the one that made them.
        """
        found = []
        for namespace_id, state in granted_state(connection, visibility).items():
            place = Shelved(visibility.namespace, namespace_id, collection, embedder)
            with self._lock:
                shelf = self._shelves.pop(place, None)
            if shelf is None or shelf.state != state:
                base = shelf if shelf is not None and state[: len(shelf.state)] == shelf.state else None
                shelf = made(connection, place, state, vectors, base)
            with self._lock:
                self._shelves[place] = shelf
                self._make_room()
            found.append(shelf)
        return found

    def drop(self) -> None:
        """Forget everything; it is read again when it is next needed."""
        with self._lock:
            self._shelves.clear()

    def _make_room(self) -> None:
        held = sum(shelf.catalogue.size for shelf in self._shelves.values())
        while len(self._shelves) > 1 and held > self.max_passages:
            held -= self._shelves.popitem(last=False)[1].catalogue.size


def state_query() -> Select[Any]:
    """Return the query for what is granted to ``grantee`` at ``now``.

    It starts from the grants, so that its time depends on what is granted; that all of it is granted is checked by the
    condition that every read checks.
    """
    c, g = schema.cubes, schema.grants
    all_of = and_(g.c.cube_id.is_(None), g.c.namespace_id == c.c.namespace_id)
    ways = (
        g.c.cube_id == c.c.id,
        and_(all_of, g.c.session == c.c.session),
        and_(all_of, g.c.session.is_(None), g.c.agent == c.c.agent),
        and_(all_of, g.c.session.is_(None), g.c.agent.is_(None)),
    )
    grantee: BindParameter[str] = bindparam("grantee")
    now: BindParameter[int] = bindparam("now")
    conditions = g.c.grantee == grantee, in_force(now), granted_to(grantee, now)
    columns = c.c.namespace_id, c.c.id, c.c.version, c.c.header_digest
    found = union(*(select(*columns).select_from(g.join(c, way)).where(*conditions) for way in ways)).subquery()
    return select(found).order_by(found.c.namespace_id, found.c.id)


STATE = Prepared(state_query())


def granted_state(connection: Connection, visibility: Visibility) -> dict[int, GrantedState]:
    """Return the state of what is granted to the user of a visibility, by the id of its namespace."""
    if visibility.granted_at is None:
        return {}
    rows = STATE.all(connection, grantee=visibility.namespace, now=micros(visibility.granted_at))
    by_owner: defaultdict[int, list[tuple[str, int, str]]] = defaultdict(list)
    for namespace_id, cube_id, version, digest in rows:
        by_owner[namespace_id].append((cube_id, version, digest))
    return {namespace_id: tuple(state) for namespace_id, state in by_owner.items()}


def made(
    connection: Connection,
    place: Shelved,
    state: GrantedState,
    vectors: Place | None,
    base: GrantedShelf | None = None,
) -> GrantedShelf:
    """Return the shelf of these memories, read from the ledger.

    Args:
        base: One that holds the first of them as they are now; only the others are read.
    """
    known = len(base.state) if base else 0
    shelf = copied(base.catalogue) if base else CatalogueShelf(np.zeros(0, ROW))
    found: list[Row[Any]] = []
    for part in chunks([cube_id for cube_id, _, _ in state[known:]]):
        query = described((place.namespace_id, place.collection)).where(schema.cubes.c.id.in_(part))
        found += connection.execute(query).all()
    found.sort(key=lambda row: int(row.id))
    if base and shelf.size and found and found[0].id < shelf.rows["passage"][-1]:
        return made(connection, place, state, vectors)  # what was edited has newer passages than what came later
    passages = [int(row.id) for row in found]
    add_words(shelf, connection, passages)
    shelf.rows = np.concatenate([shelf.view(), as_rows(shelf, found)])
    shelf.size = len(shelf.rows)
    shelf.order = standing_order(shelf.view())
    ids, matrix = np.empty(0, np.int64), np.empty((0, 0 if vectors is None else vectors.dimension), np.float32)
    if vectors is not None and passages:
        ids, matrix = load_vectors(connection, vectors, passages)
        order = np.argsort(ids)
        ids, matrix = ids[order], matrix[order]
    digests = {cube_id: digest for cube_id, _, digest in state}
    if base:
        ids, matrix = np.concatenate([base.ids, ids]), np.concatenate([base.matrix, matrix])
    return GrantedShelf(state, shelf, ids, matrix, digests)


def copied(shelf: CatalogueShelf) -> CatalogueShelf:
    """Return a shelf to add to: others are reading this one. Postings are replaced, never written to."""
    return CatalogueShelf(
        rows=shelf.view(),
        size=shelf.size,
        cube_ids=list(shelf.cube_ids),
        speakers=list(shelf.speakers),
        postings=dict(shelf.postings),
        cubes=dict(shelf.cubes),
        groups=dict(shelf.groups),
        voices=dict(shelf.voices),
    )


def add_words(shelf: CatalogueShelf, connection: Connection, passages: list[int]) -> None:
    """Add the words of passages that are about to stand behind those held."""
    t = schema.postings
    row_of = {passage: shelf.size + place for place, passage in enumerate(passages)}
    found: defaultdict[str, Postings] = defaultdict(Postings)
    for part in chunks(passages):
        query = select(t.c.term, t.c.passage_id, t.c.count).where(t.c.passage_id.in_(part))
        for term, passage, count in connection.execute(query.order_by(t.c.passage_id)):
            found[term].rows.append(row_of[passage])
            found[term].counts.append(count)
    for term, posting in found.items():
        held = shelf.postings.get(term, Postings())
        shelf.postings[term] = Postings(held.rows + posting.rows, held.counts + posting.counts)
