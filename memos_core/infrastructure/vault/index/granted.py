"""What others have granted to a user, as arrays in memory: the part of a search that lies in foreign namespaces.

It is made from the granted memories and from nothing else, and kept for each reader and owner apart. Which memories
these are, and in which state, is asked of the ledger before each search, so a grant, a revocation and an edit count at
once; and the time that it takes tells nothing of what was not granted, or of what its owner does with it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, defaultdict
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
    """

    state: GrantedState
    catalogue: CatalogueShelf
    ids: Ids
    matrix: Vectors

    def similarities(self, query: Vector) -> Vector:
        """Return the cosine similarity of each passage of ``ids`` to ``query``, which has unit length."""
        scores: Vector = self.matrix @ query
        return scores


class GrantedIndex:
    """Thread-safe.

    Args:
        max_passages: Passages kept in memory; those of readers who have not searched for longest go first.
    """

    def __init__(self, *, max_passages: int = MAX_PASSAGES) -> None:
        self.max_passages = max_passages
        self._shelves: OrderedDict[tuple[str, int, str], GrantedShelf] = OrderedDict()
        self._lock = threading.Lock()

    def current(
        self, connection: Connection, visibility: Visibility, collection: str, place: Place | None
    ) -> list[GrantedShelf]:
        """Return what is granted to the user of ``visibility``, by owner, as the transaction of ``connection`` sees it.

        Args:
            collection: Where its passages lie.
            place: Where vectors lie, of whichever namespace; None: there are none to compare.
        """
        found = []
        for namespace_id, state in granted_state(connection, visibility).items():
            key = (visibility.namespace, namespace_id, collection)
            with self._lock:
                shelf = self._shelves.pop(key, None)
            if shelf is None or shelf.state != state or (place is not None and not fits(shelf, place)):
                shelf = made(connection, (namespace_id, collection), state, place)
            with self._lock:
                self._shelves[key] = shelf
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


def fits(shelf: GrantedShelf, place: Place) -> bool:
    return bool(shelf.matrix.shape[1] == place.dimension)


def made(connection: Connection, key: tuple[int, str], state: GrantedState, place: Place | None) -> GrantedShelf:
    """Return the shelf of these memories, read from the ledger."""
    shelf = CatalogueShelf(np.zeros(0, ROW))
    found: list[Row[Any]] = []
    for part in chunks([cube_id for cube_id, _, _ in state]):
        found += connection.execute(described(key).where(schema.cubes.c.id.in_(part))).all()
    found.sort(key=lambda row: int(row.id))
    shelf.rows, shelf.size = as_rows(shelf, found), len(found)
    shelf.order = standing_order(shelf.view())
    passages = shelf.view()["passage"].tolist()
    add_words(shelf, connection, passages)
    dimension = 0 if place is None else place.dimension
    ids, matrix = np.empty(0, np.int64), np.empty((0, dimension), np.float32)
    if place is not None and passages:
        ids, matrix = load_vectors(connection, place, passages)
    order = np.argsort(ids)
    return GrantedShelf(state, shelf, ids[order], matrix[order])


def add_words(shelf: CatalogueShelf, connection: Connection, passages: list[int]) -> None:
    t = schema.postings
    row_of = {passage: row for row, passage in enumerate(passages)}
    for part in chunks(passages):
        query = select(t.c.term, t.c.passage_id, t.c.count).where(t.c.passage_id.in_(part))
        for term, passage, count in connection.execute(query.order_by(t.c.passage_id)):
            posting = shelf.postings.setdefault(term, Postings())
            posting.rows.append(row_of[passage])
            posting.counts.append(count)
