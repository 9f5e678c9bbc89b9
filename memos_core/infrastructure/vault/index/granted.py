"""What others have granted to a user, as arrays in memory: the part of a search that lies in foreign namespaces.

It is made from the granted memories and from nothing else, and kept for each reader and owner apart. Which memories
these are, and in which state, is asked of the ledger before each search, so a grant, a revocation and an edit count at
once; and the time that it takes tells nothing of what was not granted, or of what its owner does with it.
"""

from __future__ import annotations

import threading
from array import array
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import (
    BindParameter,
    Connection,
    Row,
    Select,
    String,
    bindparam,
    cast,
    func,
    literal_column,
    not_,
    or_,
    select,
)

from memos_core.embedding.base import Vector, Vectors
from memos_core.infrastructure.vault import schema
from memos_core.infrastructure.vault.conditions import chunks, in_force, is_memory, live_at, micros, secret
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
        told: What it was made from, as the ledger tells it.
        state: The same, memory by memory.
        catalogue: Their passages and words.
        ids: Passages that have a vector, ascending.
        matrix: Their vectors, shape ``[len(ids), dimension]``.
        digests: Digest of the header of each, by id.
    """

    told: Told
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
        for namespace_id, told in granted_told(connection, visibility).items():
            place = Shelved(visibility.namespace, namespace_id, collection, embedder)
            with self._lock:
                shelf = self._shelves.pop(place, None)
            if shelf is None or shelf.told != told:
                shelf = made(connection, place, told, vectors, shelf)
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


def told_query(way: Callable[[Any, Any], tuple[Any, ...]]) -> Select[Any]:
    """Return the query for what is granted to ``grantee`` at ``now`` in one way, as one text for each owner.

    It starts from the grants, so that its time depends on what is granted. A text is made by the database and compared
    at once; rows would take Python three times as long.
    """
    c, g = schema.cubes, schema.grants
    grantee: BindParameter[str] = bindparam("grantee")
    now: BindParameter[int] = bindparam("now")
    given = g.c.grantee == grantee, in_force(now), *way(g.c, c.c), is_memory(c), live_at(now, c)
    entry = c.c.id + BETWEEN + cast(c.c.version, String) + BETWEEN + c.c.header_digest
    end: Any = literal_column(f"'{ENTRY_END}'")  # a bound value would not be fixed SQL
    told = func.aggregate_strings(entry, end).label("told")
    joined = g.join(c, g.c.namespace_id == c.c.namespace_id)
    return select(c.c.namespace_id, told).select_from(joined).where(*given).group_by(c.c.namespace_id)


BETWEEN, ENTRY_END = ":", ","

WAYS: tuple[Callable[[Any, Any], tuple[Any, ...]], ...] = (
    lambda g, c: (g.cube_id == c.id,),
    lambda g, c: (*whole(g), g.session == c.session, or_(g.agent.is_(None), g.agent == c.agent)),
    lambda g, c: (*whole(g), g.session.is_(None), g.agent == c.agent),
    lambda g, c: (*whole(g), g.session.is_(None), g.agent.is_(None)),
)
"""How a memory may be granted: by its id, or with all of a session, of an agent, or of a user. See ``granted_to``."""


def whole(grants: Any) -> tuple[Any, ...]:
    return grants.cube_id.is_(None), not_(secret())


TOLD = [Prepared(told_query(way)) for way in WAYS]
Told = tuple[str, ...]
"""What is granted by one owner, in the words of the ledger. Equal ones mean equal content."""


def granted_told(connection: Connection, visibility: Visibility) -> dict[int, Told]:
    """Return what is granted to the user of a visibility, by the id of the owner's namespace."""
    if visibility.granted_at is None:
        return {}
    found: defaultdict[int, list[str]] = defaultdict(list)
    for query in TOLD:
        rows = query.all(connection, grantee=visibility.namespace, now=micros(visibility.granted_at))
        for namespace_id, told in rows:
            found[namespace_id].append(told)
    return {namespace_id: tuple(found[namespace_id]) for namespace_id in sorted(found)}


def granted_state(connection: Connection, visibility: Visibility) -> dict[int, GrantedState]:
    """Return the state of what is granted to the user of a visibility, by the id of its namespace."""
    return {own: state_of(told) for own, told in granted_told(connection, visibility).items()}


def state_of(told: Told) -> GrantedState:
    parts = (entry.split(BETWEEN) for text in told for entry in text.split(ENTRY_END))
    return tuple(sorted({(cube_id, int(version), digest) for cube_id, version, digest in parts}))


def made(
    connection: Connection, place: Shelved, told: Told, vectors: Place | None, base: GrantedShelf | None
) -> GrantedShelf:
    """Return the shelf of what was told.

    Args:
        base: One that was told before; words and vectors of passages that it holds are not read again.
    """
    state = state_of(told)
    grown = base is not None and state[: len(base.state)] == base.state
    rows = read(connection, place, [cube_id for cube_id, *_ in state[len(base.state) if base and grown else 0 :]])
    if base and grown and rows and base.catalogue.size and rows[0].id < base.catalogue.rows["passage"][-1]:
        grown, rows = False, read(connection, place, [cube_id for cube_id, *_ in state])  # in the order of passages
    shelf = copied(base.catalogue) if base and grown else CatalogueShelf(np.zeros(0, ROW))
    shelf.rows = np.concatenate([shelf.view(), as_rows(shelf, rows)])
    shelf.size = len(shelf.rows)
    shelf.order = standing_order(shelf.view())
    if base and not grown:
        carry(shelf, base.catalogue)
    held = base.catalogue.view()["passage"] if base else np.empty(0, np.int64)
    fresh = np.flatnonzero(~np.isin(shelf.rows["passage"], held))
    add_words(shelf, connection, fresh.tolist())
    ids, matrix = vectors_of(connection, vectors, shelf.rows["passage"][fresh].tolist())
    if base:
        ids, matrix = together(base, shelf, ids, matrix)
    return GrantedShelf(told, state, shelf, ids, matrix, {cube_id: digest for cube_id, _, digest in state})


def read(connection: Connection, place: Shelved, cube_ids: Sequence[str]) -> list[Row[Any]]:
    """Return the passages of these memories, in the order of their ids."""
    found: list[Row[Any]] = []
    for part in chunks(cube_ids):
        query = described((place.namespace_id, place.collection)).where(schema.cubes.c.id.in_(part))
        found += connection.execute(query).all()
    return sorted(found, key=lambda row: int(row.id))


def carry(shelf: CatalogueShelf, base: CatalogueShelf) -> None:
    """Take over the words of the passages that both hold. Of the others nothing stays, not even in memory."""
    held = base.view()["passage"]
    place = np.searchsorted(shelf.rows["passage"], held)
    stays = np.isin(held, shelf.rows["passage"])
    for term, posting in base.postings.items():
        rows, counts = np.array(posting.rows), np.array(posting.counts)
        kept = stays[rows]
        if kept.any():
            shelf.postings[term] = Postings(array("i", place[rows[kept]].tolist()), array("i", counts[kept].tolist()))


def together(base: GrantedShelf, shelf: CatalogueShelf, ids: Ids, matrix: Vectors) -> tuple[Ids, Vectors]:
    """Return the vectors that are held of what a shelf still has, and new ones, in the order of passages."""
    kept = np.isin(base.ids, shelf.rows["passage"])
    ids, matrix = np.concatenate([base.ids[kept], ids]), np.concatenate([base.matrix[kept], matrix])
    order = np.argsort(ids)
    return ids[order], matrix[order]


def vectors_of(connection: Connection, place: Place | None, passages: Sequence[int]) -> tuple[Ids, Vectors]:
    """Return those of the passages that have a vector, ascending, with their vectors."""
    if place is None or not passages:
        return np.empty(0, np.int64), np.empty((0, 0 if place is None else place.dimension), np.float32)
    ids, matrix = load_vectors(connection, place, passages)
    order = np.argsort(ids)
    return ids[order], matrix[order]


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


def add_words(shelf: CatalogueShelf, connection: Connection, rows: Sequence[int]) -> None:
    """Add the words of the passages in these rows."""
    t = schema.postings
    row_of = {int(shelf.rows["passage"][row]): row for row in rows}
    found: defaultdict[str, Postings] = defaultdict(Postings)
    for part in chunks(list(row_of)):
        query = select(t.c.term, t.c.passage_id, t.c.count).where(t.c.passage_id.in_(part))
        for term, passage, count in connection.execute(query.order_by(t.c.passage_id)):
            found[term].rows.append(row_of[passage])
            found[term].counts.append(count)
    for term, posting in found.items():
        held = shelf.postings.get(term, Postings())
        shelf.postings[term] = Postings(held.rows + posting.rows, held.counts + posting.counts)
