"""ItemOperator: keeps JSON values under keys, and finds them by key, by path, by what they hold and by meaning.

A batch is answered in three steps, so that an embedder that must be awaited can stand between them: ``plan`` checks
everything and says what needs vectors, the caller has them made, ``commit`` answers and writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from memos_core.embedding.base import Embedder, Vector
from memos_core.errors import InvalidInput
from memos_core.ids import UlidFactory
from memos_core.infrastructure.governance import MemGovernance
from memos_core.infrastructure.vault import MemVault, Passage, PassageHit, ReadSession, WriteSession, items
from memos_core.infrastructure.vault.searching import unit
from memos_core.item import (
    WHOLE,
    DeleteItem,
    FindItems,
    FoundItem,
    GetItem,
    Item,
    ItemOperation,
    ListPaths,
    PutItem,
)
from memos_core.operation.items.filters import check_filter, matches
from memos_core.operation.items.writing import ItemWriter, Removal, Value, checked_value, pieces_of
from memos_core.principal import Principal

__all__ = ["ItemHandle", "ItemIndex", "ItemOperator", "ItemPlan"]

COLLECTION = "items"

FIRST_DEPTH = 64
"""Passages that a search by meaning asks for at first."""


NO_LIMIT = 2**62


@dataclass(frozen=True, slots=True)
class ItemIndex:
    """How items are searched by meaning.

    Attributes:
        fields: What of each value is searched, as described at ``memos_core.item.texts_at``; ``$`` is the whole.
        embedder: Makes the vectors; None: the vault's own. Its name decides which vectors it may be compared with.
    """

    fields: tuple[str, ...] = (WHOLE,)
    embedder: Embedder | None = None


@dataclass(frozen=True, slots=True)
class ItemHandle:
    """Whose items, how they are searched (None: not by meaning), and whether earlier versions are kept."""

    principal: Principal
    index: ItemIndex | None = None
    history: bool = True


@dataclass(frozen=True, slots=True)
class ItemPlan:
    """A batch that was checked.

    Attributes:
        operations: What was asked.
        changes: The last put or removal of each item, by the number of its operation.
        pieces: The texts of a put that are searched, by the number of its operation.
        queries: What is asked about.
    """

    operations: tuple[ItemOperation, ...]
    changes: Mapping[int, Value | Removal]
    pieces: Mapping[int, tuple[str, ...]]
    queries: tuple[str, ...]

    @property
    def texts(self) -> tuple[str, ...]:
        """All pieces, each once."""
        return tuple(dict.fromkeys(piece for own in self.pieces.values() for piece in own))


class ItemOperator:
    """Works on the items of one vault. Thread-safe.

    Args:
        on_erased: Is told of derived cubes that went with an item, so that engines let go of them.
    """

    def __init__(
        self,
        vault: MemVault,
        governance: MemGovernance,
        ids: UlidFactory,
        on_erased: Callable[[Principal, Sequence[str]], None],
    ) -> None:
        self.vault = vault
        self.governance = governance
        self.ids = ids
        self.on_erased = on_erased

    def embedder(self, handle: ItemHandle) -> Embedder | None:
        """Return what makes the vectors; None: nothing is searched by meaning.

        Raises:
            InvalidInput: There is to be an index, and neither it nor the vault has an embedder.
        """
        if handle.index is None:
            return None
        embedder = handle.index.embedder or self.vault.embedder
        if embedder is None:
            raise InvalidInput("an index of items needs an embedder, and this vault was opened without one")
        return embedder

    # A batch

    def plan(self, handle: ItemHandle, operations: Sequence[ItemOperation]) -> ItemPlan:
        """Check a batch; nothing is read or written.

        Raises:
            InvalidInput: One of the operations is wrong.
        """
        embedder = self.embedder(handle)
        changes: dict[tuple[tuple[str, ...], str], int] = {}
        values: dict[int, Value | Removal] = {}
        pieces: dict[int, tuple[str, ...]] = {}
        for number, operation in enumerate(operations):
            if isinstance(operation, PutItem):
                fields = self.fields(handle, operation)
                values[number] = self.checked(operation, fields)
                pieces[number] = pieces_of(operation.value, fields, embedder)
            elif isinstance(operation, DeleteItem):
                values[number] = Removal(tuple(operation.path), operation.key)
            else:
                check_question(operation)
            if number in values:
                changes[values[number].path, values[number].key] = number
        last = set(changes.values())
        return ItemPlan(
            tuple(operations),
            {number: value for number, value in values.items() if number in last},
            {number: own for number, own in pieces.items() if number in last},
            tuple(dict.fromkeys(op.query for op in operations if isinstance(op, FindItems) and op.query and embedder)),
        )

    def fields(self, handle: ItemHandle, put: PutItem) -> tuple[str, ...]:
        if handle.index is None:
            return ()
        return handle.index.fields if put.fields is None else tuple(put.fields)

    def checked(self, put: PutItem, fields: Sequence[str]) -> Value:
        return checked_value(self.governance, put.path, put.key, put.value, put.ttl_seconds, fields=fields)

    def embed(self, handle: ItemHandle, plan: ItemPlan) -> tuple[dict[str, Vector], dict[str, Vector]]:
        """Return the vectors of the texts and of the queries of a plan."""
        embedder = self.embedder(handle)
        if embedder is None:
            return {}, {}
        texts = plan.texts
        vectors = dict(zip(texts, embedder.embed(texts), strict=True)) if texts else {}
        return vectors, {query: embedder.embed_query(query) for query in plan.queries}

    def commit(
        self, handle: ItemHandle, plan: ItemPlan, vectors: Mapping[str, Vector], queries: Mapping[str, Vector]
    ) -> list[Any]:
        """Answer a batch and make its changes, in one transaction.

        Every question sees the state before the changes of its batch. The result of ``GetItem`` is an item or None,
        of ``FindItems`` a list of found items, of ``ListPaths`` a list of paths, of ``PutItem`` the item, of
        ``DeleteItem`` whether there was one; of a put or a deletion that a later one of the same batch took the place
        of, what the later one did.

        Raises:
            QuotaReached: The values do not fit the namespace any more; nothing was written.
            EmbedderMismatch: The vectors are not of the embedder whose name they go under.
        """
        if all(isinstance(operation, PutItem | DeleteItem) for operation in plan.operations):
            results: list[Any] = [None] * len(plan.operations)  # nothing is asked
        else:
            with self.vault.read() as session:
                results = [self.answer(session, handle, operation, queries) for operation in plan.operations]
        prolonged = sorted({item.cube_id for item in refreshed(plan.operations, results)})
        if not plan.changes and not prolonged:
            return results
        changes = [self.with_vectors(handle, plan, number, vectors) for number in plan.changes]
        with self.writer(handle) as writer:
            done = writer.apply(changes)
            ends = items.prolong(writer.session, prolonged, writer.now)
        outcome = {(change.path, change.key): result for change, result in zip(changes, done, strict=True)}
        return [
            outcome[tuple(operation.path), operation.key]
            if isinstance(operation, PutItem | DeleteItem)
            else with_ends(result, ends)
            for operation, result in zip(plan.operations, results, strict=True)
        ]

    @contextmanager
    def writer(self, handle: ItemHandle) -> Iterator[ItemWriter]:
        """Begin a change of items; committed when the block ends, or rolled back if it raises."""
        with self.vault.write() as session:
            self.enter_collection(session, handle)
            writer = ItemWriter(
                session,
                handle.principal,
                self.governance,
                self.ids,
                history=handle.history,
                collection=self.collection(handle),
            )
            yield writer
            writer.finish()
        if writer.derived_ids:
            self.on_erased(handle.principal, writer.derived_ids)

    def enter_collection(self, session: WriteSession, handle: ItemHandle) -> None:
        embedder = self.embedder(handle)
        if embedder is not None:
            session.ensure_collection(self.collection(handle), embedder.dimension, embedder.name)

    def collection(self, handle: ItemHandle) -> str:
        """Return the collection of the vectors: each embedder of a user has one of its own."""
        given = handle.index.embedder if handle.index else None
        return COLLECTION if given is None else f"{COLLECTION}:{given.name}"

    def with_vectors(
        self, handle: ItemHandle, plan: ItemPlan, number: int, vectors: Mapping[str, Vector]
    ) -> Value | Removal:
        change, embedder = plan.changes[number], self.embedder(handle)
        if isinstance(change, Removal) or embedder is None:
            return change
        whole = len(change.text)
        passages = (Passage(0, whole, {}, unit(vectors[piece], embedder.dimension)) for piece in plan.pieces[number])
        return replace(change, passages=tuple(passages))

    # Questions

    def answer(
        self, session: ReadSession, handle: ItemHandle, operation: ItemOperation, queries: Mapping[str, Vector]
    ) -> Any:
        if isinstance(operation, GetItem):
            return items.by_key(session, handle.principal, operation.path, operation.key, session.now)
        if isinstance(operation, FindItems):
            return self.find(session, handle, operation, queries)
        if isinstance(operation, ListPaths):
            return listed_paths(items.paths(session, handle.principal, session.now), operation)
        return None

    def find(
        self, session: ReadSession, handle: ItemHandle, wanted: FindItems, queries: Mapping[str, Vector]
    ) -> list[FoundItem]:
        """Return the items that are asked for: the nearest first, then those that are not searched by meaning."""
        within = items.below(handle.principal, wanted.path, session.now)
        limit = NO_LIMIT if wanted.limit is None else wanted.limit
        if wanted.query is None or wanted.query not in queries:
            return [FoundItem(item) for item in self.page(session, within, wanted, wanted.offset, limit)]
        end = wanted.offset + limit
        ranked = self.nearest(session, handle, wanted, queries[wanted.query], end)
        found = ranked[wanted.offset : end]
        if len(found) < limit:
            rest = items.unindexed(self.collection(handle))
            skipped = max(0, wanted.offset - len(ranked))
            others = self.page(session, within & rest, wanted, skipped, limit - len(found))
            found += [FoundItem(item) for item in others]
        return found

    def page(self, session: ReadSession, condition: Any, wanted: FindItems, offset: int, limit: int) -> list[Item]:
        if not wanted.filter:
            return list(items.items(session, condition, offset=offset, limit=limit))
        passing = (item for item in items.items(session, condition) if matches(item.value, wanted.filter or {}))
        return list(islice(passing, offset, offset + limit))

    def nearest(
        self, session: ReadSession, handle: ItemHandle, wanted: FindItems, query: Vector, needed: int
    ) -> list[FoundItem]:
        """Return the first ``needed`` items that pass the filter, by their nearest part.

        The index knows nothing of filters, so it is asked for more until enough of what it proposes has passed.
        """
        within = items.below(handle.principal, wanted.path, session.now, by_id=True)
        depth = FIRST_DEPTH
        embedder = self.embedder(handle)
        known: dict[str, Item] = {}
        while True:
            depth = max(depth, 2 * needed)
            hits = self.vault.nearest(
                handle.principal.namespace,
                within,
                query,
                depth,
                self.collection(handle),
                embedder=embedder.name if embedder else None,
            )
            best = best_of(hits)
            known.update(items.by_ids(session, within, [cube_id for cube_id in best if cube_id not in known]))
            passing = [
                FoundItem(known[cube_id], score)
                for cube_id, score in best.items()
                if cube_id in known and (not wanted.filter or matches(known[cube_id].value, wanted.filter))
            ]
            if len(passing) >= needed or len(hits) < depth:
                return passing[:needed]
            depth *= 8

    # Care

    def sweep(self, handle: ItemHandle) -> int:
        """Erase the items whose time is over and return how many those were."""
        with self.writer(handle) as writer:
            lapsed = items.lapsed_ids(writer.session, handle.principal, writer.now)
            writer.erase(lapsed)
        return len(lapsed)

    def sweep_all(self) -> int:
        """``sweep`` for everyone in the vault."""
        with self.vault.read() as session:
            owners = items.lapsed_owners(session, session.now)
        return sum(self.sweep(ItemHandle(principal, None, True)) for principal in owners)


def check_question(operation: ItemOperation) -> None:
    """Check what is asked.

    Raises:
        InvalidInput: A filter, a limit or an operation is wrong.
    """
    if isinstance(operation, FindItems | ListPaths):
        if (operation.limit or 0) < 0 or operation.offset < 0:
            raise InvalidInput("limit and offset are not negative")
        if isinstance(operation, FindItems) and operation.filter is not None:
            check_filter(operation.filter)
    elif not isinstance(operation, GetItem):
        raise InvalidInput(f"unknown operation {type(operation).__name__}")


def best_of(hits: Sequence[PassageHit]) -> dict[str, float]:
    """Return the score of each cube's nearest passage, nearest first."""
    best: dict[str, float] = {}
    for hit in hits:
        best.setdefault(hit.cube_id, hit.score)
    return best


def listed_paths(paths: Sequence[tuple[str, ...]], wanted: ListPaths) -> list[tuple[str, ...]]:
    fitting = [path for path in paths if all(pattern.fits(path) for pattern in wanted.patterns)]
    if wanted.max_depth is not None:
        fitting = sorted({path[: wanted.max_depth] for path in fitting})
    return fitting[wanted.offset : wanted.offset + wanted.limit]


def refreshed(operations: Sequence[ItemOperation], results: Sequence[Any]) -> Iterator[Item]:
    """Yield the items that were read and whose time to live is to begin anew."""
    for operation, result in zip(operations, results, strict=True):
        if isinstance(operation, GetItem | FindItems) and operation.refresh:
            read = [result] if isinstance(result, Item) else [found.item for found in result or ()]
            yield from (item for item in read if item.expires_at is not None)


def with_ends(result: Any, ends: Mapping[str, Any]) -> Any:
    """Return a result whose items tell when they expire now."""
    if isinstance(result, Item) and result.cube_id in ends:
        return replace(result, expires_at=ends[result.cube_id])
    if isinstance(result, list):
        return [with_ends(part, ends) for part in result]
    if isinstance(result, FoundItem):
        return replace(result, item=with_ends(result.item, ends))
    return result
