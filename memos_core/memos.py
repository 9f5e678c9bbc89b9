"""MemOS: opens a vault, wires the layers, hands out scopes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Event as Flag
from types import TracebackType
from typing import Any, Literal, Self
from weakref import WeakSet

from pydantic import JsonValue

from memos_core.clock import Clock, SystemClock
from memos_core.embedding.base import Embedder
from memos_core.engine.base import Engine
from memos_core.events import EventHook, ignore_event
from memos_core.infrastructure.governance import Limits, MemGovernance
from memos_core.infrastructure.vault import MemVault, VaultReport
from memos_core.infrastructure.vault.temporary import erased_with, new_folder
from memos_core.interface.items import Items
from memos_core.interface.reader import Reader
from memos_core.layers import Layers, Parts, wire
from memos_core.operation.evolve import Decision, EvolutionPolicy
from memos_core.operation.finding.ranker import Ranker
from memos_core.operation.finding.search import SearchSettings
from memos_core.operation.items.items import ItemIndex
from memos_core.operation.jobs import JobQueue, JobSettings
from memos_core.operation.learning.learning import LearningSettings
from memos_core.operation.operator import passages_of
from memos_core.operation.retention import RetentionPolicy, Tidying
from memos_core.operation.scheduler import MemScheduler
from memos_core.principal import Principal, principal_of
from memos_core.scope import Scope

__all__ = ["Layers", "MemOS"]

SHARED_ITEMS = ("memos", "items")
"""Namespace of the items that belong to no user."""


OPEN: WeakSet[MemOS] = WeakSet()
"""The handles of this process, so that saved state finds the vault that it belongs to."""


class MemOS:
    """A memory operating system over one vault. Thread-safe; close it, or use it in a ``with`` block.

        with MemOS.open("memory/") as memos:
            ada = memos.scope(user="ada")
            ada.add("My cat is called Biscuit.")

    A handle does not survive a fork: the child opens its own.
    """

    def __init__(self, layers: Layers) -> None:
        self._layers = layers
        OPEN.add(self)

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        engine: Engine | None = None,
        embedder: Embedder | Literal["minilm"] | None = "minilm",
        index: Literal["auto", "exact", "chroma"] = "auto",
        limits: Limits | None = None,
        max_text_chars: int | None = None,
        max_bytes: int | None = None,
        scheduler: MemScheduler | None = None,
        search: SearchSettings | None = None,
        ranker: Ranker | None = None,
        reader: Reader | None = None,
        jobs: JobSettings | None = None,
        evolution: EvolutionPolicy | None = None,
        retention: RetentionPolicy | None = None,
        learning: LearningSettings | None = None,
        clock: Clock | None = None,
        on_event: EventHook = ignore_event,
    ) -> Self:
        """Open the vault in the folder ``path``; it is made if it is not there.

        Args:
            path: Folder of the vault.
            engine: Runs the model for ``chat``, ``stream`` and ``transform``.
            embedder: Makes vectors: the bundled MiniLM by default; None finds by words alone.
            index: ``exact`` search over a scope's vectors, ``chroma``, or ``auto``: Chroma above 500,000 vectors.
            limits: What a scope may hold.
            max_text_chars, max_bytes: Short for ``limits``: longest text of one memory, most bytes of a namespace.
            scheduler: How memories are chosen.
            search: How memories are found.
            ranker: Weighs what speaks for a memory; by default the one that ships with the project.
            reader: Reads what a prompt asks of memory; by default by patterns.
            jobs: How background work is tried.
            evolution: When memories change their form by themselves; None: only when ``evolve`` is called.
            retention: How long memories stay in use, and how many; None: all, for ever.
            learning: How a user's feedback changes the ranking of that user's memories.
            clock: Tells the time.
            on_event: Is told what happens.

        Raises:
            VaultError: The folder is no vault, or one of a later version, or cannot be written.
            MissingExtra: The embedder or index needs a package that is not installed.
        """
        clock = clock or SystemClock()
        vault = MemVault.open(path, embedder=resolved_embedder(embedder), index=index, clock=clock, on_event=on_event)
        limits = limits_with(limits, max_text_chars=max_text_chars, max_bytes=max_bytes)
        parts = Parts(
            engine=engine,
            scheduler=scheduler,
            search=search,
            ranker=ranker,
            reader=reader,
            jobs=jobs,
            evolution=evolution,
            retention=retention,
            learning=learning,
        )
        return cls(wire(vault, MemGovernance(clock=clock, limits=limits), parts, on_event))

    @classmethod
    def temporary(cls, **options: Any) -> Self:
        """Open a new vault that nobody else sees, and that is erased when it is closed or nothing uses it any more.

        For trying things out, and for what need not outlive the process. It lies in the system's folder for such files.

        Args:
            options: Those of ``open``.
        """
        memos = cls.open(new_folder(), **options)
        erased_with(memos._layers.vault)
        return memos

    def scope(self, user: str, *, agent: str | None = None, session: str | None = None) -> Scope:
        """Return the memory of a user, bound further to an agent or a session if they are named.

        An unknown user is an empty scope.

        Raises:
            InvalidName: A name is malformed.
        """
        return Scope(self._layers, Principal(user, agent, session))

    def scope_of(self, namespace: Sequence[str], values: Mapping[str, object] | None = None) -> Scope:
        """Return the scope that a namespace template stands for, such as ``("users", "{user_id}")``.

        Raises:
            InvalidName: A variable of the template has no value, or the result is malformed.
        """
        return Scope(self._layers, principal_of(namespace, values or {}))

    def items(
        self, *, namespace: Sequence[str] = SHARED_ITEMS, index: ItemIndex | None = None, history: bool = True
    ) -> Items:
        """Return a store of JSON values that belongs to no user but to the whole vault, or to ``namespace``.

        ``Scope.items`` returns that of one user.
        """
        return self.scope_of(namespace).items(index=index, history=history)

    @property
    def engine(self) -> Engine | None:
        return self._layers.engine

    @property
    def path(self) -> Path:
        """The folder of the vault, absolute."""
        return self._layers.vault.root

    @property
    def closed(self) -> bool:
        """Whether this handle can no longer be used here: it was closed, or inherited through a fork."""
        return self._layers.vault.closed

    def users(self) -> list[str]:
        """Return the users that have memory here, sorted. For administration: no scope can do this."""
        with self._layers.vault.read() as session:
            return sorted(session.namespaces())

    @property
    def jobs(self) -> JobQueue:
        """The background work of the whole vault. For administration: a scope sees its own with ``scope.jobs()``."""
        return self._layers.jobs

    def run_pending(self) -> tuple[str, ...]:
        """Do what waits: jobs that are due, counters, the vector index, the rest of an erasure.

        Returns:
            What still waits, in words.
        """
        return self._layers.chores.run_pending()

    def work(self, stop: Flag | None = None, *, poll_seconds: float = 1.0) -> int:
        """Do jobs as they come, and the rest of ``run_pending``, until told to stop; return how many jobs.

        Any number of threads and processes may work at once. A job that runs when ``stop`` is set is finished first.

        Args:
            stop: Set to end it. None: ends when nothing is due any more.
            poll_seconds: Pause before looking again when nothing was due.
        """
        return self._layers.chores.work(stop, poll_seconds=poll_seconds)

    def evolve(self, *, policy: EvolutionPolicy | None = None, dry_run: bool = False) -> tuple[Decision, ...]:
        """Let every user's memories change their form by what they were used for; see ``Scope.evolve``.

        Args:
            policy: Instead of the one that the vault was opened with.
            dry_run: Only say what would be done, and why.
        """
        self._layers.lifecycle.flush()
        return self._layers.evolution.evolve_all(policy=policy, dry_run=dry_run)

    def tidy(self, *, policy: RetentionPolicy | None = None, dry_run: bool = False) -> tuple[Tidying, ...]:
        """Archive every user's memories that are no longer used or over the limit; see ``Scope.tidy``.

        Args:
            policy: Instead of the one that the vault was opened with.
            dry_run: Only say what would be done, and why.
        """
        self._layers.lifecycle.flush()
        return self._layers.retention.tidy_all(policy=policy, dry_run=dry_run)

    def stats(self) -> dict[str, JsonValue]:
        """Return counts and sizes of the vault as JSON values, and what reading KV ahead of turns came to."""
        self._layers.lifecycle.flush()
        engine = self._layers.engine
        ahead: dict[str, JsonValue] = dict(engine.read_ahead_counts) if engine is not None else {}
        return {**self._layers.vault.stats(), "read_ahead": ahead}

    def verify(self) -> VaultReport:
        """Check everything that is stored.

        Raises:
            VaultDamaged: Names each damaged thing.
        """
        return self._layers.vault.verify()

    def rebuild_index(self) -> int:
        """Make the vector index anew from the ledger and return how many vectors it holds."""
        return self._layers.vault.rebuild_index()

    def reembed(
        self,
        collection: str = "default",
        *,
        embedder: Embedder | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> int:
        """Move a collection to another embedder (by default the one this vault was opened with).

        Takes effect in one transaction at the end; an interrupted run changes nothing.

        Args:
            collection: Which collection.
            embedder: The new embedder.
            progress: Is told how many memories of how many are done.
        """
        return self._layers.vault.reembed(collection, structure=passages_of, embedder=embedder, progress=progress)

    def close(self) -> None:
        """Write what waits and let go of all files. Idempotent. An engine that was handed in stays open."""
        if not self._layers.vault.closed:
            self._layers.lifecycle.flush()
            self._layers.feedback.flush()
        self._layers.vault.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def limits_with(limits: Limits | None, **given: int | None) -> Limits:
    """Return ``limits``, or the usual ones, with those that are given in their place."""
    values = (limits or Limits()).model_dump()
    return Limits(**{**values, **{key: value for key, value in given.items() if value is not None}})


def resolved_embedder(embedder: Embedder | str | None) -> Embedder | None:
    """Return the embedder that a name stands for, with a cache in front of it."""
    if not isinstance(embedder, str):
        return embedder
    from memos_core.embedding.cache import CachedEmbedder
    from memos_core.embedding.minilm import MiniLM

    return CachedEmbedder(MiniLM())
