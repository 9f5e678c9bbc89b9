"""MemVault: where memory is kept.

<root>/
  ledger.sqlite3     the record: cubes, versions, words, vectors, lineage, audit; one transaction decides what is true
  blobs/             tensors, addressed by content
  index/             disposable, made from the ledger
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import JsonValue
from sqlalchemy import ColumnElement, Connection, bindparam, func, select

from memos_core.clock import Clock, SystemClock
from memos_core.embedding.base import Embedder, Vector, Vectors
from memos_core.errors import EmbedderMismatch, InvalidInput, MissingExtra
from memos_core.events import Event, EventHook, ignore_event
from memos_core.infrastructure.vault import purging, reembedding, schema, searching, sharing, surveying, verification
from memos_core.infrastructure.vault.blobs import BlobStore
from memos_core.infrastructure.vault.conditions import matching
from memos_core.infrastructure.vault.grouping import GroupCommit
from memos_core.infrastructure.vault.index import ExactIndex, Place, VectorIndex, generations
from memos_core.infrastructure.vault.index.activations import Activations
from memos_core.infrastructure.vault.index.catalogue import Catalogue
from memos_core.infrastructure.vault.index.chroma import ChromaIndex, chroma_installed
from memos_core.infrastructure.vault.index.granted import GrantedIndex
from memos_core.infrastructure.vault.ledger import Ledger
from memos_core.infrastructure.vault.prepared import Prepared
from memos_core.infrastructure.vault.reading import ReadSession
from memos_core.infrastructure.vault.values import DEFAULT_COLLECTION, PassageHit, SearchFilter, VaultReport
from memos_core.infrastructure.vault.writing import WriteSession

__all__ = ["MemVault"]

T = TypeVar("T")
IndexChoice = Literal["auto", "exact", "chroma"]

COLLECTION = Prepared(select(schema.collections).where(schema.collections.c.name == bindparam("name")))

LostHook = Callable[[str, Sequence[str]], None]
"""Is told the name of a namespace, and which derived cubes of it went because another user erased their source."""

EXACT_UP_TO = 500_000
"""Vectors of a namespace that are searched exactly under ``index="auto"``: with 50,000 it is 12 times faster."""


class MemVault:
    """One vault on disk. Thread-safe; several processes may open the same one. Made by ``MemVault.open``."""

    def __init__(
        self,
        root: Path,
        ledger: Ledger,
        blobs: BlobStore,
        *,
        embedder: Embedder | None,
        index: IndexChoice,
        clock: Clock,
        on_event: EventHook,
    ) -> None:
        self.root = root
        self.ledger = ledger
        self.blobs = blobs
        self.embedder = embedder
        self.clock = clock
        self.on_event = on_event
        self.exact = ExactIndex()
        self.catalogue = Catalogue()
        self.activations = Activations()
        self.granted = GrantedIndex()
        self.chroma = ChromaIndex(
            ledger, on_rebuilt=lambda count, why: self.emit("index.rebuilt", vectors=count, reason=why)
        )
        self.index_choice = index
        self._group = GroupCommit(self.write)
        self.on_lost: LostHook = ignore_lost
        self.erase: Callable[[], object] | None = None
        """Set on a vault that is to be erased when it is closed."""

    @classmethod
    def open(
        cls,
        root: str | Path,
        *,
        embedder: Embedder | None,
        index: IndexChoice = "auto",
        clock: Clock | None = None,
        on_event: EventHook = ignore_event,
        busy_timeout_seconds: float = 30.0,
        blob_store: str | None = None,
    ) -> MemVault:
        """Open the vault in the folder ``root``; a new one is made if there is none.

        Args:
            embedder: Makes the vectors; None searches by words only.
            index: ``exact``, ``chroma``, or ``auto``: exact up to 500,000 vectors in a namespace, then Chroma if it
                is installed.
            busy_timeout_seconds: How long to wait for another process's write.
            blob_store: A URL of fsspec for the blobs; None: a folder beside the ledger.

        Raises:
            VaultError: ``root`` is a file or holds something other than a vault, or one of a later release.
            VaultWriteFailed: The disk refuses.
            MissingExtra: ``index="chroma"`` without Chroma installed.
        """
        if index not in ("auto", "exact", "chroma"):
            raise InvalidInput(f"index is 'auto', 'exact' or 'chroma', not {index!r}")
        if index == "chroma" and not chroma_installed():
            raise MissingExtra("chromadb", extra="chroma")
        folder = Path(root).expanduser().absolute()
        ledger = Ledger(folder, busy_timeout_seconds=busy_timeout_seconds)
        blobs = BlobStore(blob_store or folder / "blobs")
        clock = clock or SystemClock()
        return cls(folder, ledger, blobs, embedder=embedder, index=index, clock=clock, on_event=on_event)

    # Transactions

    @contextmanager
    def write(self) -> Iterator[WriteSession]:
        """Begin a change. It is committed and durable when the block ends, or rolled back if it raises.

        Raises:
            VaultBusy: Another process holds the write lock for too long.
            VaultWriteFailed: The disk refuses; nothing was changed.
            VaultClosed: The handle is closed.
        """
        with self.ledger.write() as connection:
            session = WriteSession(connection, self.clock.now(), self.embedder)
            yield session
            session.flush()
            arrivals = session.arrivals() if self.index_choice != "chroma" else []
        for arrival in arrivals:
            self.exact.take(arrival)
        for tell in session.afterwards:
            tell()
        for namespace, cube_ids in session.lost.items():
            self.on_lost(namespace, cube_ids)

    def commit(self, work: Callable[[WriteSession], T]) -> T:
        """Run ``work`` in a transaction that other threads' changes may share, so that all wait for the disk once.

        What it changed is durable when this returns; where it raises, nothing of it is stored.

        Args:
            work: Returns what this is to return. Where another one's change fails, it is run again: it may leave
                nothing behind but what it writes.

        Raises:
            VaultBusy: Another process holds the write lock for too long.
            VaultWriteFailed: The disk refuses; nothing was changed.
            VaultClosed: The handle is closed.
        """
        self.ledger.check_usable()  # before a lock that a forked child would find taken
        return self._group.run(work)

    @contextmanager
    def read(self) -> Iterator[ReadSession]:
        """Begin a consistent view of the vault, whatever others commit meanwhile."""
        with self.ledger.read() as connection:
            yield ReadSession(connection, self.clock.now())

    # Search

    def survey(
        self,
        wanted: SearchFilter,
        wording: surveying.Wording,
        *,
        collection: str = DEFAULT_COLLECTION,
        depth: int = 200,
    ) -> surveying.Survey:
        """Return what a ranker needs to know of every passage that may answer a question, as of one moment.

        What was committed before the call, by any process, is in it. What others have granted is read a moment after
        the user's own.

        Args:
            wanted: Whose memories, and under which conditions.
            wording: The question.
            collection: Where to search.
            depth: Passages that an approximate index proposes; an exact one compares all.

        Raises:
            EmbedderMismatch: The collection holds vectors of another embedder.
            InvalidInput: A filter is unknown, or the vector has the wrong shape.
        """
        private = replace(wanted, visibility=replace(wanted.visibility, granted_at=None))
        own = surveying.survey(self, private, wording, collection=collection, depth=depth)
        return sharing.with_granted(self, own, wanted, wording, collection) if own.granted else own

    def vector_search(
        self,
        filter: SearchFilter,
        vector: Vector,
        k: int,
        collection: str = DEFAULT_COLLECTION,
        *,
        min_score: float = -2.0,
    ) -> list[PassageHit]:
        """Return the ``k`` visible passages nearest to ``vector`` by cosine, nearest first; none below ``min_score``.

        What was committed before the call, by any process, is found.

        Raises:
            EmbedderMismatch: The collection holds vectors of another embedder.
            InvalidInput: A filter is unknown, ``k`` is not positive, or the vector has the wrong shape.
        """
        namespace = filter.visibility.namespace
        return self.nearest(namespace, matching(filter), vector, k, collection, min_score=min_score)

    def nearest(
        self,
        namespace: str,
        condition: ColumnElement[bool],
        vector: Vector,
        k: int,
        collection: str,
        *,
        embedder: str | None = None,
        min_score: float = -2.0,
    ) -> list[PassageHit]:
        """Return the ``k`` passages of a namespace nearest to ``vector`` among those whose cubes meet ``condition``.

        Args:
            embedder: Name of the one that made ``vector``; None: the vault's own.

        Raises:
            EmbedderMismatch: The collection holds vectors of another embedder.
            InvalidInput: ``k`` is not positive, or the vector has the wrong shape.
        """
        if k < 1:
            raise InvalidInput(f"k is at least 1, not {k}")
        with self.ledger.read() as connection:
            row = self._collection(connection, collection, embedder)
            place = row and searching.place_of(connection, row.id, row.dimension, namespace)
            if row is None or place is None:
                return []
            query = searching.unit(vector, row.dimension)
            index = self._index(connection, place)
            if index is self.exact:
                return searching.nearest(connection, index, place, query, k=k, condition=condition, min_score=min_score)
        index.prepare()  # may write, so the view of the ledger is taken after it
        with self.ledger.read() as connection:
            return searching.nearest(connection, index, place, query, k=k, condition=condition, min_score=min_score)

    def alike(self, wanted: SearchFilter, vectors: Vectors, k: int, *, min_score: float) -> list[list[PassageHit]]:
        """Return for each of ``vectors`` the memories that ``vector_search`` finds, from one look at the ledger.

        Args:
            vectors: Shape ``[vectors, dimension]``.

        Raises:
            EmbedderMismatch: The collection holds vectors of another embedder.
            InvalidInput: The vectors have the wrong shape.
        """
        namespace = wanted.visibility.namespace
        with self.ledger.read() as connection:
            row = searching.PLACED.first(connection, collection=DEFAULT_COLLECTION, namespace=namespace)
            if row is None:
                return [[] for _ in vectors]
            self._check_embedder(row, None)
            place, scaled = Place(row.id, row.namespace_id, row.dimension), searching.units(vectors, row.dimension)
            if self._index(connection, place) is self.exact:
                near = self.exact.above(connection, place, scaled, min_score, max(searching.MIN_STEP, k), state=row)
                if not any(near):
                    return [[] for _ in vectors]
                own = searching.Alike(place, scaled, k, matching(wanted), min_score)
                return searching.alike(connection, self.exact, own, near)
        return [self.vector_search(wanted, vector, k, min_score=min_score) for vector in scaled]

    def similarities(
        self, passage_ids: Sequence[int], vector: Vector, collection: str = DEFAULT_COLLECTION
    ) -> dict[int, float]:
        """Return the cosine similarity of each of the passages that has a vector, from the ledger.

        Raises:
            EmbedderMismatch: The collection holds vectors of another embedder.
        """
        with self.ledger.read() as connection:
            row = self._collection(connection, collection)
            if row is None:
                return {}
            place = Place(row.id, 0, row.dimension)
            return searching.similarities(connection, place, passage_ids, searching.unit(vector, row.dimension))

    def _collection(self, connection: Connection, name: str, embedder: str | None = None) -> Any:
        row = COLLECTION.first(connection, name=name)
        if row is not None:
            self._check_embedder(row, embedder)
        return row

    def _check_embedder(self, collection: Any, embedder: str | None) -> None:
        offered = embedder or (self.embedder.name if self.embedder else None)
        if offered is not None and collection.embedder != offered:
            raise EmbedderMismatch(collection.name, stored=collection.embedder, offered=offered)

    def _index(self, connection: Connection, place: Place, *, passages: int | None = None) -> VectorIndex:
        held = self.exact.size(place) if passages is None else passages
        few = held is not None and held <= EXACT_UP_TO  # then there are no more vectors, and nothing to ask
        if self.index_choice == "exact" or (self.index_choice == "auto" and (few or not chroma_installed())):
            return self.exact
        large = self.index_choice == "chroma" or searching.exceeds(connection, place, EXACT_UP_TO)
        return self.chroma if large else self.exact

    # Care

    def verify(self) -> VaultReport:
        """Check everything that is stored against its digests and against each other.

        Raises:
            VaultDamaged: Something is wrong; names all of it.
        """
        with self.ledger.read() as connection:
            return verification.verify(connection, self.blobs)

    def rebuild_index(self) -> int:
        """Make the index anew from the ledger and return how many vectors it holds.

        Raises:
            VaultBusy: Another process holds the index for too long.
        """
        self.exact.close()
        if self._uses_chroma():
            return self.chroma.rebuild()
        with self.ledger.read() as connection:
            return int(connection.scalar(select(func.count()).select_from(schema.vectors)) or 0)

    def reembed(
        self,
        collection: str = DEFAULT_COLLECTION,
        *,
        structure: reembedding.Structure,
        embedder: Embedder | None = None,
        batch_size: int = 64,
        progress: Callable[[int, int], None] | None = None,
    ) -> int:
        """Cut and embed the texts of a collection anew and return how many cubes that were.

        The new passages take the place of the old ones in one transaction; if it is interrupted, the old ones are
        whole. For the default collection this handle goes on with the new embedder; others need to be opened with it.

        Args:
            structure: Cuts cubes into passages with their words and, by the embedder that it is given, their vectors.
            batch_size: Cubes that are read and handed to ``structure`` at a time.
            embedder: The new one; None: the vault's own.
            progress: Called with how many cubes are done and how many there are.

        Raises:
            InvalidInput: There is no embedder.
        """
        chosen = embedder or self.embedder
        if chosen is None:
            raise InvalidInput("reembed needs an embedder")
        task = reembedding.Reembedding(collection, chosen, structure)
        count = reembedding.reembed(self, task, batch_size=batch_size, progress=progress)
        if collection == DEFAULT_COLLECTION:
            self.embedder = chosen
        return count

    def apply_outbox(self) -> int:
        """Take over into the index what was committed since the last time; return how many changes."""
        return self.chroma.apply() if self._uses_chroma() else 0

    def _uses_chroma(self) -> bool:
        if self.index_choice == "chroma":
            return True
        with self.ledger.read() as connection:
            return self.index_choice == "auto" and chroma_installed() and generations.state(connection) is not None

    def rewrite_index(self) -> str | None:
        """Replace the files of the index by ones without what was erased; return the generation that counts now."""
        if self._uses_chroma():
            self.chroma.rebuild()
        else:
            self.chroma.drop()
        with self.ledger.read() as connection:
            state = generations.state(connection)
        return state.generation if state else None

    def purge(self) -> tuple[str, ...]:
        """Take the traces of what was erased off the disk, and return what is still pending, in words."""
        return purging.purge(self)

    def stats(self) -> dict[str, JsonValue]:
        """Return counts and sizes of the vault as a whole."""
        with self.ledger.read() as connection:
            tables = (schema.namespaces, schema.cubes, schema.versions, schema.passages, schema.vectors, schema.outbox)
            counts: dict[str, JsonValue] = {
                table.name: connection.scalar(select(func.count()).select_from(table)) for table in tables
            }
            rows = connection.execute(select(schema.collections)).all()
        counts["collections"] = {
            row.name: {"embedder": row.embedder, "dimension": row.dimension, "metric": row.metric} for row in rows
        }
        counts["ledger_bytes"] = self.ledger.path.stat().st_size
        counts["blob_bytes"] = self.blobs.size
        counts["blobs"] = sum(1 for _ in self.blobs.addresses())
        return counts

    @property
    def closed(self) -> bool:
        """Whether this handle can no longer be used, here: it was closed, or this is a forked child."""
        return self.ledger.closed

    def close(self) -> None:
        """Give up all files. May be called again; any other call raises VaultClosed from now on."""
        self.exact.close()
        self.catalogue.drop()
        self.activations.drop()
        self.granted.drop()
        self.chroma.close()
        self.ledger.close()
        if self.erase is not None:
            self.erase()

    def emit(self, name: str, **detail: JsonValue) -> None:
        """Tell the observer of something that concerns the vault as a whole."""
        self.on_event(Event(name, self.clock.now(), detail=detail))


def ignore_lost(namespace: str, cube_ids: Sequence[str]) -> None:
    """No engine holds anything."""
