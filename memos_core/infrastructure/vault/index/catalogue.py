"""The catalogue: what a search has to know of every passage of a namespace, as arrays in memory.

Words, places in the conversation, times and lengths of some thousands of passages are compared in a fraction of the
time that as many rows take to come out of SQL. Like the vector indexes it is disposable: it is made from the ledger,
brought up to date by the namespace's revision before each search, and decides nothing about rights.
"""

from __future__ import annotations

import threading
from array import array
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Row, and_, case, func, select

from memos_core.cube import MemoryType, State
from memos_core.infrastructure.vault import schema
from memos_core.infrastructure.vault.conditions import chunks, superseded
from memos_core.infrastructure.vault.index.base import STATE

__all__ = ["ROW", "Catalogue", "CatalogueShelf", "Counts", "Rows"]

NEVER = np.iinfo(np.int64).max
MAX_PASSAGES = 2_000_000
FULL_LOAD_FROM = 2_000
"""New passages from which their words are read by one walk over the namespace instead of by their ids."""

ROW = np.dtype(
    [
        ("passage", np.int64),
        ("cube", np.int32),  # number of the cube, as in ``cube_ids``
        ("start", np.int32),
        ("end", np.int32),
        ("length", np.int32),  # in words
        ("group", np.int32),  # number of the session (and agent), or of the cube itself where there is none
        ("speaker", np.int32),  # number of the speaker, as in ``speakers``; 0: nobody
        ("moment", np.int64),  # when it was said, else committed; microseconds
        ("expires", np.int64),
        ("valid_from", np.int64),
        ("valid_until", np.int64),
        ("active", np.bool_),
        ("superseded", np.bool_),
        ("question", np.bool_),  # its text ends by asking
    ]
)
"""One passage. Times are microseconds since 1970."""

Rows = NDArray[np.void]
"""Structured by ``ROW``, shape ``[passages]``."""

Counts = NDArray[np.float32]
"""How often each word occurs in each passage, shape ``[words, passages]``."""


@dataclass(slots=True)
class Postings:
    """Where one word occurs: row numbers, and how often there."""

    rows: array[int] = field(default_factory=lambda: array("i"))
    counts: array[int] = field(default_factory=lambda: array("i"))


@dataclass(slots=True)
class CatalogueShelf:
    """The passages of one namespace, in the order of their ids.

    Attributes:
        rows: A buffer; the first ``size`` count. Rows below that are never written again, so a view stays right.
        order: Row numbers by group, then moment, then cube and place in it: neighbours stand side by side.
        cube_ids: Id of each cube by number.
        speakers: Name of each speaker by number.
        postings: Word to where it occurs.
        revision: Of the namespace, as of the last look.
        removals: The same.
    """

    rows: Rows
    size: int = 0
    order: NDArray[np.intp] = field(default_factory=lambda: np.empty(0, np.intp))
    cube_ids: list[str] = field(default_factory=list)
    speakers: list[str] = field(default_factory=lambda: [""])
    postings: dict[str, Postings] = field(default_factory=dict)
    cubes: dict[str, int] = field(default_factory=dict)
    groups: dict[Any, int] = field(default_factory=dict)
    voices: dict[str, int] = field(default_factory=lambda: {"": 0})
    revision: int = -1
    removals: int = -1

    def view(self) -> Rows:
        return self.rows[: self.size]

    def counts(self, words: Sequence[str]) -> Counts:
        """Return how often each of ``words`` occurs in each passage."""
        found: Counts = np.zeros((len(words), self.size), np.float32)
        for number, word in enumerate(words):
            posting = self.postings.get(word)
            if posting is not None:
                found[number, np.array(posting.rows)] = posting.counts
        return found

    def holding(self, words: Iterable[str]) -> NDArray[np.bool_]:
        """Tell for each passage whether it holds any of ``words``."""
        found = np.zeros(self.size, np.bool_)
        for word in words:
            posting = self.postings.get(word)
            if posting is not None:
                found[np.array(posting.rows)] = True
        return found


class Catalogue:
    """The catalogues of several namespaces. Thread-safe.

    Args:
        max_passages: Passages kept in memory; namespaces not used for longest go first.
    """

    def __init__(self, *, max_passages: int = MAX_PASSAGES) -> None:
        self.max_passages = max_passages
        self.lock = threading.RLock()
        self._shelves: OrderedDict[tuple[int, str], CatalogueShelf] = OrderedDict()

    def current(self, connection: Connection, namespace_id: int, collection: str) -> CatalogueShelf:
        """Return the catalogue of a namespace as the transaction of ``connection`` sees it. Needs ``lock``."""
        state = STATE.first(connection, namespace_id=namespace_id)
        key = (namespace_id, collection)
        shelf = self._shelves.pop(key, None)
        # An older state than the shelf's: this transaction began before another one's commit.
        if shelf is None or shelf.revision > state.revision or shelf.removals != state.removals:
            shelf = CatalogueShelf(np.zeros(0, ROW))
        if shelf.revision < state.revision:
            changes = state.revision - shelf.revision if shelf.size else 0
            added = append(shelf, connection, key)
            if changes > added and shelf.size:
                reload(shelf, connection, key)
            shelf.order = standing_order(shelf.view())
            shelf.revision, shelf.removals = state.revision, state.removals
        self._shelves[key] = shelf
        self._make_room()
        return shelf

    def drop(self) -> None:
        """Forget everything; it is read again when it is next needed."""
        with self.lock:
            self._shelves.clear()

    def _make_room(self) -> None:
        while len(self._shelves) > 1 and sum(shelf.size for shelf in self._shelves.values()) > self.max_passages:
            self._shelves.popitem(last=False)


def standing_order(rows: Rows) -> NDArray[np.intp]:
    return np.lexsort((rows["passage"], rows["start"], rows["cube"], rows["moment"], rows["group"]))


def append(shelf: CatalogueShelf, connection: Connection, key: tuple[int, str]) -> int:
    """Add the passages that are newer than those held, and return how many cubes they belong to."""
    newest = int(shelf.rows["passage"][shelf.size - 1]) if shelf.size else 0
    found = connection.execute(described(key).where(schema.passages.c.id > newest)).all()
    if not found:
        return 0
    first, size = shelf.size, shelf.size + len(found)
    if size > len(shelf.rows):
        grown = np.zeros(max(size, 2 * shelf.size), ROW)
        grown[:first] = shelf.view()
        shelf.rows = grown
    shelf.rows[first:size] = as_rows(shelf, found)
    shelf.size = size
    add_words(shelf, connection, key[0], first)
    return len(set(shelf.rows["cube"][first:size].tolist()))


def reload(shelf: CatalogueShelf, connection: Connection, key: tuple[int, str]) -> None:
    """Read again what a change of a header or state may have touched: everything but the words."""
    found = connection.execute(described(key)).all()
    shelf.groups.clear()
    shelf.rows = as_rows(shelf, found)


def described(key: tuple[int, str]) -> Any:
    """Return the query for the passages of plaintext cubes, in the order of their ids."""
    p, c, v = schema.passages, schema.cubes, schema.versions
    joined = p.join(c, c.c.id == p.c.cube_id).join(v, and_(v.c.cube_id == c.c.id, v.c.version == c.c.version))
    asks = case((v.c.payload.like('%?","type":"plaintext"}'), 1), else_=0)  # canonical JSON: the text, then its type
    times = (func.coalesce(c.c.at, c.c.created), c.c.expires_at, c.c.valid_from, c.c.valid_until)
    query = select(
        p.c.id, p.c.cube_id, p.c.start, p.c.end, p.c.length, c.c.session, c.c.agent, c.c.speaker, *times
    ).add_columns(case((c.c.state == str(State.ACTIVE), 1), else_=0), superseded(), asks)
    own = (
        p.c.namespace_id == key[0],
        p.c.collection == key[1],
        c.c.collection.is_(None),
        c.c.item_path.is_(None),
        c.c.type == str(MemoryType.PLAINTEXT),
    )
    return query.select_from(joined).where(*own).order_by(p.c.id)


def as_rows(shelf: CatalogueShelf, found: Sequence[Row[Any]]) -> Rows:
    """Return rows as an array, giving numbers to names that are new."""
    rows = np.zeros(len(found), ROW)
    for number, row in enumerate(found):
        passage, cube, start, end, length, session, agent, speaker, moment, expires, begin, until, *flags = tuple(row)
        rows[number] = (
            passage,
            numbered(shelf.cubes, cube, shelf.cube_ids),
            start,
            end,
            length,
            numbered(shelf.groups, cube if session is None else (session, agent)),
            numbered(shelf.voices, speaker or "", shelf.speakers),
            moment,
            NEVER if expires is None else expires,
            -NEVER if begin is None else begin,
            NEVER if until is None else until,
            *flags,
        )
    return rows


def numbered(numbers: dict[Any, int], name: Any, names: list[str] | None = None) -> int:
    number = numbers.setdefault(name, len(numbers))
    if names is not None and number == len(names):
        names.append(name)
    return number


def add_words(shelf: CatalogueShelf, connection: Connection, namespace_id: int, first: int) -> None:
    """Add the words of the rows from ``first`` on."""
    t = schema.postings
    row_of = {int(passage): first + place for place, passage in enumerate(shelf.view()["passage"][first:])}
    query = select(t.c.term, t.c.passage_id, t.c.count)
    if len(row_of) >= FULL_LOAD_FROM or first == 0:
        parts = [query.where(t.c.namespace_id == namespace_id, t.c.passage_id >= min(row_of))]
    else:
        parts = [query.where(t.c.passage_id.in_(part)) for part in chunks(list(row_of))]
    for part in parts:
        for term, passage_id, count in connection.execute(part):
            row = row_of.get(passage_id)
            if row is not None:
                posting = shelf.postings.get(term)
                if posting is None:
                    posting = shelf.postings[term] = Postings()
                posting.rows.append(row)
                posting.counts.append(count)
