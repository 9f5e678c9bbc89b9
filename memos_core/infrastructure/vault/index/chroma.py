"""Chroma, embedded, as an index over the ledger.

What is measured about Chroma 1.5 shapes this file: a client does not see what another process wrote until it is
closed and opened again; several writers corrupt the files; a deleted vector stays on the disk. So

- a generation of the index is a folder of its own, ``index/chroma-<generation>``, named in the ledger's
  ``index_state`` together with how far it has taken over the outbox;
- whoever opens or writes a generation holds a lock that dies with its process (opening replays Chroma's own log);
- a client that is behind the ledger's state is closed and opened again; what no client has loaded yet, and what an
  approximate search has missed, is compared exactly from the ledger;
- an erasure writes a new generation and deletes the old folder;
- anything wrong with the files makes a new generation. Nothing here is worth repairing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from sqlalchemy import Connection, Row, select

from memos_core.embedding.base import Vector, Vectors
from memos_core.errors import VaultBusy
from memos_core.infrastructure.vault import schema
from memos_core.infrastructure.vault.index import generations
from memos_core.infrastructure.vault.index.base import (
    Candidates,
    Ids,
    Place,
    VectorIndex,
    load_vectors,
    rows_to_arrays,
)
from memos_core.infrastructure.vault.index.client import (
    Opened,
    chroma_errors,
    chroma_installed,
    connect,
    disconnect,
    replay,
)
from memos_core.infrastructure.vault.index.generations import State
from memos_core.infrastructure.vault.ledger import Ledger

__all__ = ["ChromaIndex", "chroma_installed"]

FIRST_BATCH = 512
LAST_BATCH = 8192
"""Beyond this an approximate search is slower than an exact one over what is left."""

APPLY_AFTER = 500
"""Changes that may wait in the outbox before a search takes them over."""

PAGE = 2000
BRIEF_SECONDS = 2.0
NAMESPACE = "namespace"


class ChromaIndex(VectorIndex):
    """See the module's docstring. Thread-safe; several processes may use one vault.

    Args:
        ledger: The record that it is made from.
        on_rebuilt: Called with the number of vectors and the reason when a generation was made.
        lock_timeout_seconds: How long a rebuild waits for another process's.
    """

    name = "chroma"

    def __init__(
        self, ledger: Ledger, *, on_rebuilt: Callable[[int, str], None], lock_timeout_seconds: float = 30.0
    ) -> None:
        self.ledger = ledger
        self.folder = ledger.root / "index"
        self.on_rebuilt = on_rebuilt
        self.lock_timeout_seconds = lock_timeout_seconds
        self._opened: Opened | None = None
        self._held = False
        self._lock = threading.RLock()

    # Searching

    def prepare(self) -> None:
        with self._lock:
            state = self._state()
            if state is None or not state.generation:
                self._rebuild("first use")
            elif not generations.folder_of(self.folder, state.generation).is_dir():
                self._rebuild("its folder is missing")
            elif self._opened and self._opened.broken and self._opened.state.generation == state.generation:
                self._rebuild("its files are damaged")
            elif self._backlog(state) >= APPLY_AFTER:
                self._apply(wait_seconds=BRIEF_SECONDS)
            else:
                self._catch_up(state)

    def candidates(self, connection: Connection, place: Place, query: Vector) -> Candidates:
        v = schema.vectors
        own = (v.c.collection_id == place.collection_id, v.c.namespace_id == place.namespace_id)
        loaded = self._opened.state.applied_passage if self._opened else 0
        newer = connection.scalars(select(v.c.passage_id).where(*own, v.c.passage_id > loaded)).all()
        seen: set[int] = set()
        count = FIRST_BATCH
        while count <= LAST_BATCH:
            proposed = self._query(place, query, count)
            yield scored(connection, place, query, [i for i in (*proposed, *newer) if i not in seen])
            seen.update(proposed, newer)
            newer = []
            if len(proposed) < count:
                break
            count *= 4
        rest = connection.scalars(select(v.c.passage_id).where(*own)).all()
        yield scored(connection, place, query, [i for i in rest if i not in seen])

    def _query(self, place: Place, query: Vector, count: int) -> list[int]:
        """Return up to ``count`` passage ids, approximately nearest first; none if the files are damaged."""
        with self._lock:
            if self._opened is None or self._opened.broken:
                return []
            try:
                collection = self._collection(self._opened.client, place.collection_id)
                found = collection.query(
                    query_embeddings=[query], n_results=count, where={NAMESPACE: place.namespace_id}, include=[]
                )
            except chroma_errors():
                self._opened.broken = True
                return []
            return [int(name) for name in found["ids"][0]]

    # Keeping up

    def apply(self) -> int:
        with self._lock:
            state = self._state()
            if state is None or not state.generation:
                return self._rebuild("first use")
            return self._apply(wait_seconds=self.lock_timeout_seconds)

    def _apply(self, *, wait_seconds: float) -> int:
        applied = 0
        with self._exclusive(wait_seconds) as held:
            if not held or not self._reopened_if_behind():
                return 0
            with self._changing_files():
                while rows := self._waiting():
                    if not self._take_over(rows):
                        break
                    applied += len(rows)
        return applied

    @contextmanager
    def _changing_files(self) -> Iterator[None]:
        """Hold the seal open. If the block raises or the process dies, it stays open and a new generation is made."""
        assert self._opened is not None
        folder = generations.folder_of(self.folder, self._opened.state.generation)
        generations.unseal(folder)
        yield
        if self._opened is not None and not self._opened.broken:
            generations.seal(folder)

    def _waiting(self) -> Sequence[Row[Any]]:
        assert self._opened is not None
        o = schema.outbox
        with self.ledger.read() as connection:
            query = select(o).where(o.c.seq > self._opened.state.applied_seq)
            return connection.execute(query.order_by(o.c.seq).limit(PAGE)).all()

    def _take_over(self, rows: Sequence[Row[Any]]) -> bool:
        """Bring one part of the outbox into Chroma, then record it. Doing it twice does no harm.

        Returns:
            False if the files turned out to be damaged; the next search makes new ones.
        """
        opened = self._opened
        assert opened is not None
        removed = {row.passage_id for row in rows if row.operation == "remove"}
        added = [row.passage_id for row in rows if row.operation == "add" and row.passage_id not in removed]
        for collection_id in {row.collection_id for row in rows}:
            with self.ledger.read() as connection:
                entries = vectors_of(connection, collection_id, added)
            try:
                collection = self._collection(opened.client, collection_id)
                self._add(collection, entries)
                for part in parts(sorted(removed)):
                    collection.delete(ids=[str(passage_id) for passage_id in part])
            except chroma_errors():
                opened.broken = True
                return False
        newest = max([opened.state.applied_passage, *added])
        state = State(opened.state.generation, rows[-1].seq, newest)
        with self.ledger.write() as connection:
            generations.record(connection, state)
        opened.state = state
        return True

    def _catch_up(self, state: State) -> None:
        if self._opened is not None and self._opened.state == state and not self._opened.broken:
            return
        with self._exclusive(BRIEF_SECONDS) as held:
            # If another process is writing right now, the older state serves; the ledger fills the difference.
            if held:
                self._reopened_if_behind()

    def _reopened_if_behind(self) -> bool:
        """Open the generation that the ledger names, unless it is loaded already. Needs the lock."""
        state = self._state()
        if state is None or not state.generation:
            return False
        if self._opened is None or self._opened.broken or self._opened.state != state:
            self._shut()
            try:
                self._opened = self._open(state)
            except chroma_errors():
                self._rebuild("its files are damaged")
        return True

    # Generations

    def rebuild(self) -> int:
        with self._lock:
            return self._rebuild("asked for")

    def _rebuild(self, reason: str) -> int:
        """Write a new generation and delete the others.

        Raises:
            VaultBusy: Another process holds the index for too long.
        """
        with self._exclusive(self.lock_timeout_seconds) as held:
            if not held:
                raise VaultBusy(f"another process holds the index of the vault at {self.ledger.root}")
            self._shut()
            generations.begin(self.ledger)
            opened, count = self._filled()
            generations.seal(generations.folder_of(self.folder, opened.state.generation))
            with self.ledger.write() as connection:
                generations.record(connection, opened.state)
            self._opened = opened
            generations.sweep(self.folder, keep=opened.state.generation)
        self.on_rebuilt(count, reason)
        return count

    def _filled(self) -> tuple[Opened, int]:
        """Make a generation from one view of the ledger."""
        with self.ledger.read() as connection:
            state = generations.next_state(connection)
            folder = generations.folder_of(self.folder, state.generation)
            folder.mkdir(parents=True)
            opened = connect(folder, state)
            try:
                return opened, self._fill(connection, opened.client)
            except BaseException:
                disconnect(opened)
                raise

    def _fill(self, connection: Connection, client: Any) -> int:
        v = schema.vectors
        count, last = 0, 0
        while True:
            query = select(v).where(v.c.passage_id > last).order_by(v.c.passage_id).limit(PAGE)
            rows = connection.execute(query).all()
            if not rows:
                return count
            for collection_id in {row.collection_id for row in rows}:
                self._add(self._collection(client, collection_id), arrays(rows, collection_id))
            count, last = count + len(rows), rows[-1].passage_id

    def drop(self) -> None:
        """Delete the index as a whole; it is made anew when it is next needed.

        Raises:
            VaultBusy: Another process holds the index for too long.
        """
        with self._lock, self._exclusive(self.lock_timeout_seconds) as held:
            if not held:
                raise VaultBusy(f"another process holds the index of the vault at {self.ledger.root}")
            self._shut()
            generations.forget(self.ledger)
            generations.sweep(self.folder, keep=None)

    def close(self) -> None:
        with self._lock:
            self._shut()

    # Chroma

    def _open(self, state: State) -> Opened:
        folder = generations.folder_of(self.folder, state.generation)
        generations.check_seal(folder)
        generations.unseal(folder)
        opened = connect(folder, state)
        try:
            for collection in opened.client.list_collections():
                replay(collection)
        except BaseException:
            disconnect(opened)
            raise
        generations.seal(folder)
        return opened

    def _shut(self) -> None:
        if self._opened is not None:
            opened, self._opened = self._opened, None
            disconnect(opened)

    def _collection(self, client: Any, collection_id: int) -> Any:
        return client.get_or_create_collection(
            f"collection-{collection_id}", configuration={"hnsw": {"space": "cosine"}}, embedding_function=None
        )

    def _add(self, collection: Any, entries: tuple[Ids, Vectors, Sequence[int]]) -> None:
        ids, vectors, namespaces = entries
        for part in parts(range(len(ids))):
            collection.upsert(
                ids=[str(ids[row]) for row in part],
                embeddings=vectors[list(part)],
                metadatas=[{NAMESPACE: namespaces[row]} for row in part],
            )

    def _state(self) -> State | None:
        with self.ledger.read() as connection:
            return generations.state(connection)

    def _backlog(self, state: State) -> int:
        with self.ledger.read() as connection:
            return generations.backlog(connection, state)

    @contextmanager
    def _exclusive(self, wait_seconds: float) -> Iterator[bool]:
        """Hold the lock of the index's folder among processes; yields False if it could not be had in time."""
        if self._held:
            yield True
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / "lock", timeout=wait_seconds)
        try:
            lock.acquire()
        except Timeout:
            yield False
            return
        self._held = True
        try:
            yield True
        finally:
            self._held = False
            lock.release()


def scored(connection: Connection, place: Place, query: Vector, passage_ids: Sequence[int]) -> tuple[Ids, Vector]:
    """Return the passages that the ledger still has, with exact similarities, nearest first."""
    ids, vectors = load_vectors(connection, place, passage_ids)
    scores: Vector = vectors @ query
    order = np.lexsort((ids, -scores))
    return ids[order], scores[order]


def arrays(rows: Sequence[Row[Any]], collection_id: int) -> tuple[Ids, Vectors, Sequence[int]]:
    own = [row for row in rows if row.collection_id == collection_id]
    ids, vectors = rows_to_arrays([(row.passage_id, row.data, row.crc) for row in own], len(own[0].data) // 4)
    return ids, vectors, [row.namespace_id for row in own]


def vectors_of(
    connection: Connection, collection_id: int, passage_ids: Sequence[int]
) -> tuple[Ids, Vectors, Sequence[int]]:
    v = schema.vectors
    query = select(v).where(v.c.collection_id == collection_id, v.c.passage_id.in_(passage_ids))
    rows = connection.execute(query.order_by(v.c.passage_id)).all()
    if rows:
        return arrays(rows, collection_id)
    return np.empty(0, np.int64), np.empty((0, 0), np.float32), []


def parts(items: Any) -> Iterator[Any]:
    for start in range(0, len(items), PAGE):
        yield items[start : start + PAGE]
