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
from sqlalchemy import Connection, and_, bindparam, case, func, select

from memos_core.cube import MemoryType, State
from memos_core.infrastructure.vault import schema
from memos_core.infrastructure.vault.conditions import superseded
from memos_core.infrastructure.vault.index.base import STATE
from memos_core.infrastructure.vault.prepared import Prepared

__all__ = ["ROW", "Catalogue", "CatalogueShelf", "Counts", "Rows", "Standing"]

NEVER = np.iinfo(np.int64).max
MAX_PASSAGES = 2_000_000
FULL_LOAD_FROM = 2_000
"""New passages from which their words are read by one walk over the namespace instead of by their ids."""

AT_ONE_SITTING = 3_600_000_000
"""Microseconds. What has no session and was said within the same one of these stretches stands together as in one."""

ROW = np.dtype(
    [
        ("passage", np.int64),
        ("cube", np.int32),  # number of the cube, as in ``cube_ids``
        ("start", np.int32),
        ("end", np.int32),
        ("length", np.int32),  # in words
        ("group", np.int32),  # number of the session, or of the hour where there is none (and of the agent)
        ("speaker", np.int32),  # number of the speaker, as in ``speakers``; 0: nobody
        ("moment", np.int64),  # when it was said, else committed; microseconds
        ("expires", np.int64),
        ("valid_from", np.int64),
        ("valid_until", np.int64),
        ("active", np.bool_),
        ("superseded", np.bool_),
        ("question", np.bool_),  # its text ends by asking
        ("in_session", np.bool_),
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


@dataclass(frozen=True, slots=True)
class Standing:
    """The passages in use, neighbours side by side, and what follows from that: made once, not for each question.

    Attributes:
        rows: By group, then moment, then cube and place in it. Not to be written to.
        place: Of each row of the shelf among them; -1 for what is not in use.
        whole: Whether all rows of the shelf are.
        begins: From this moment on all of them hold.
        ends: Until this moment none of them expires or ceases to hold.
        kept: What was worked out from ``rows`` alone, by name.
    """

    rows: Rows
    place: NDArray[np.intp]
    whole: bool
    begins: int
    ends: int
    kept: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class CatalogueShelf:
    """The passages of one namespace, in the order of their ids. What is archived is left out, or stays as not active.

    Attributes:
        rows: A buffer; the first ``size`` count. Rows below that are never written again, so a view stays right.
        order: Numbers of the rows in use by group, then moment, then cube and place in it: neighbours side by side.
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
    _standing: tuple[NDArray[np.intp], Standing] | None = None

    def view(self) -> Rows:
        return self.rows[: self.size]

    def standing(self) -> Standing:
        """Return the rows in use as they stand in ``order``."""
        if self._standing is None or self._standing[0] is not self.order:
            self._standing = self.order, stood(self.view(), self.order)
        return self._standing[1]

    def counts_standing(self, words: Sequence[str]) -> Counts:
        """Return how often each of ``words`` occurs in each passage in use, in the order of ``standing``."""
        standing = self.standing()
        found: Counts = np.zeros((len(words), len(standing.rows)), np.float32)
        for number, word in enumerate(words):
            posting = self.postings.get(word)
            if posting is not None:
                place, counts = standing.place[np.array(posting.rows)], np.array(posting.counts)
                if not standing.whole:
                    place, counts = place[place >= 0], counts[place >= 0]
                found[number, place] = counts
        return found

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
        self._size = 0  # of all shelves

    def current(self, connection: Connection, namespace_id: int, collection: str) -> CatalogueShelf:
        """Return the catalogue of a namespace as the transaction of ``connection`` sees it. Needs ``lock``."""
        state = STATE.first(connection, namespace_id=namespace_id)
        key = (namespace_id, collection)
        held = self._shelves.pop(key, None)
        self._size -= held.size if held else 0
        shelf = held
        # An older state than the shelf's: this transaction began before another one's commit.
        if shelf is None or shelf.revision > state.revision or shelf.removals != state.removals:
            shelf = CatalogueShelf(np.zeros(0, ROW))
        if shelf.revision < state.revision:
            shelf = brought_up(shelf, connection, key, state.revision)
            shelf.order = standing_order(shelf.view())
            shelf.revision, shelf.removals = state.revision, state.removals
        self._shelves[key] = shelf
        self._size += shelf.size
        self._make_room()
        return shelf

    def drop(self) -> None:
        """Forget everything; it is read again when it is next needed."""
        with self.lock:
            self._shelves.clear()
            self._size = 0

    def _make_room(self) -> None:
        while len(self._shelves) > 1 and self._size > self.max_passages:
            _, shelf = self._shelves.popitem(last=False)
            self._size -= shelf.size


def standing_order(rows: Rows) -> NDArray[np.intp]:
    used = np.flatnonzero(rows["active"])
    rows = rows[used]
    order: NDArray[np.intp] = used[
        np.lexsort((rows["passage"], rows["start"], rows["cube"], rows["moment"], rows["group"]))
    ]
    return order


def stood(rows: Rows, order: NDArray[np.intp]) -> Standing:
    """Return the rows named by ``order``, and what follows from them."""
    standing = rows[order]
    standing.flags.writeable = False
    place = np.full(len(rows), -1, np.intp)
    place[order] = np.arange(len(order))
    ends = np.minimum(standing["expires"], standing["valid_until"])
    return Standing(
        standing,
        place,
        whole=len(order) == len(rows),
        begins=int(standing["valid_from"].max(initial=-NEVER)),
        ends=int(ends.min(initial=NEVER)),
    )


def brought_up(shelf: CatalogueShelf, connection: Connection, key: tuple[int, str], revision: int) -> CatalogueShelf:
    """Return the shelf with what has changed since its revision; a new one where that is less work."""
    changes = revision - shelf.revision if shelf.size else 0
    added = append(shelf, connection, key)
    if changes <= added or not shelf.size or reload(shelf, connection, key):
        return shelf
    fresh = CatalogueShelf(np.zeros(0, ROW))
    append(fresh, connection, key)
    return fresh


def append(shelf: CatalogueShelf, connection: Connection, key: tuple[int, str]) -> int:
    """Add the passages that are newer than those held, and return how many cubes they belong to."""
    newest = int(shelf.rows["passage"][shelf.size - 1]) if shelf.size else 0
    found = DESCRIBED.all(connection, namespace_id=key[0], collection=key[1], newer=newest)
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


def reload(shelf: CatalogueShelf, connection: Connection, key: tuple[int, str]) -> bool:
    """Read again what a change of a header or state may have touched: everything but the words.

    Returns:
        Whether the shelf can go on: no passage came back that it does not hold, and most that it holds are in use.
    """
    found = DESCRIBED.all(connection, namespace_id=key[0], collection=key[1], newer=0)
    held = shelf.view()["passage"]
    used = np.fromiter((row[0] for row in found), np.int64, len(found))
    place = np.minimum(np.searchsorted(held, used), max(shelf.size - 1, 0))
    if 2 * len(used) < shelf.size or not (held[place] == used).all():
        return False
    shelf.groups.clear()
    rows = shelf.view().copy()
    rows["active"] = False
    rows[place] = as_rows(shelf, found)
    shelf.rows = rows
    return True


def described(key: tuple[Any, Any]) -> Any:
    """Return the query for the passages of plaintext cubes in use, in the order of their ids.

    Args:
        key: Id of the namespace and name of the collection.
    """
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
        c.c.state == str(State.ACTIVE),
        c.c.collection.is_(None),
        c.c.item_path.is_(None),
        c.c.type == str(MemoryType.PLAINTEXT),
    )
    return query.select_from(joined).where(*own).order_by(p.c.id)


DESCRIBED = Prepared(
    described((bindparam("namespace_id"), bindparam("collection"))).where(schema.passages.c.id > bindparam("newer"))
)


def as_rows(shelf: CatalogueShelf, found: Sequence[Sequence[Any]]) -> Rows:
    """Return rows as an array, giving numbers to names that are new."""
    rows = np.zeros(len(found), ROW)
    for number, row in enumerate(found):
        passage, cube, start, end, length, session, agent, speaker, moment, expires, begin, until, *flags = row
        rows[number] = (
            passage,
            numbered(shelf.cubes, cube, shelf.cube_ids),
            start,
            end,
            length,
            numbered(shelf.groups, (session, agent) if session is not None else (moment // AT_ONE_SITTING, agent)),
            numbered(shelf.voices, speaker or "", shelf.speakers),
            moment,
            NEVER if expires is None else expires,
            -NEVER if begin is None else begin,
            NEVER if until is None else until,
            *flags,
            session is not None,
        )
    return rows


def numbered(numbers: dict[Any, int], name: Any, names: list[str] | None = None) -> int:
    number = numbers.setdefault(name, len(numbers))
    if names is not None and number == len(names):
        names.append(name)
    return number


WORDS = select(schema.postings.c.term, schema.postings.c.passage_id, schema.postings.c.count)
WORDS_OF = Prepared(WORDS.where(schema.postings.c.passage_id == bindparam("passage")))
WORDS_SINCE = Prepared(
    WORDS.where(
        schema.postings.c.namespace_id == bindparam("namespace_id"), schema.postings.c.passage_id >= bindparam("first")
    )
)


def add_words(shelf: CatalogueShelf, connection: Connection, namespace_id: int, first: int) -> None:
    """Add the words of the rows from ``first`` on."""
    row_of = {int(passage): first + place for place, passage in enumerate(shelf.view()["passage"][first:])}
    if len(row_of) >= FULL_LOAD_FROM or first == 0:
        parts = [WORDS_SINCE.all(connection, namespace_id=namespace_id, first=min(row_of))]
    else:
        parts = [WORDS_OF.all(connection, passage=passage) for passage in row_of]
    for part in parts:
        for term, passage_id, count in part:
            row = row_of.get(passage_id)
            if row is not None:
                posting = shelf.postings.get(term)
                if posting is None:
                    posting = shelf.postings[term] = Postings()
                posting.rows.append(row)
                posting.counts.append(count)
