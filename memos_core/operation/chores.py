"""What a vault has to do besides answering: background work, policies, the index, the rest of erasures."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime

from memos_core.engine.base import Engine
from memos_core.infrastructure.vault import MemVault
from memos_core.operation.evolve import MemEvolution
from memos_core.operation.forms.refresh import queue_refreshes
from memos_core.operation.forms.remaking import Remaker
from memos_core.operation.items.items import ItemOperator
from memos_core.operation.learning.restructuring import MemRestructuring
from memos_core.operation.lifecycle import MemLifecycle
from memos_core.operation.retention import MemRetention
from memos_core.operation.worker import Worker

__all__ = ["Chores"]

REMAKE_SECONDS = 60.0
"""How often a worker looks for forms of other models: somebody else may have brought in one."""

SWEEP_SECONDS = 60.0
"""How often a worker erases the items whose time is over: no question sees them in the meantime."""


def nothing() -> None:
    """Nothing waits elsewhere."""


class Chores:
    """Does what waits, when it is told to. Thread-safe.

    Args:
        restructuring: Merges and splits memories by use, where the settings say so.
        items: Those of all users, of which the expired ones are erased.
        evolves: Whether memories change their form by themselves, as often as the policy says.
        engine: For whose model the forms of other models are made again.
        gather: Writes down and queues what other parts have waiting.
    """

    def __init__(
        self,
        vault: MemVault,
        lifecycle: MemLifecycle,
        worker: Worker,
        evolution: MemEvolution,
        retention: MemRetention,
        *,
        restructuring: MemRestructuring,
        items: ItemOperator,
        evolves: bool,
        engine: Engine | None = None,
        gather: Callable[[], None] = nothing,
    ) -> None:
        self.vault = vault
        self.lifecycle = lifecycle
        self.worker = worker
        self.evolution = evolution
        self.retention = retention
        self.restructuring = restructuring
        self.items = items
        self.gather = gather
        self.evolves = evolves
        self.remaker = None if engine is None else Remaker(vault, worker.queue, engine)
        self._done: dict[str, datetime] = {}
        self._lock = threading.Lock()

    def run_pending(self) -> tuple[str, ...]:
        """Do everything that is due once; return what still waits, in words."""
        self.work(None)
        return (*self.worker.queue.outlook(self.worker.tasks), *self.vault.purge())

    def work(self, stop: threading.Event | None, *, poll_seconds: float = 1.0) -> int:
        """Do what is due until ``stop`` is set (None: until nothing is), and return how many jobs that were."""
        done = self._round(stop)
        while stop is not None and not stop.is_set():
            stop.wait(poll_seconds)
            done += self._round(stop)
        return done

    def _round(self, stop: threading.Event | None) -> int:
        self.lifecycle.flush()
        self.gather()
        queue_refreshes(self.vault, self.worker.queue)
        if self.remaker is not None and self._is_time("remake", REMAKE_SECONDS):
            self.remaker.queue_all()
        if stop is None or self._is_time("sweep", SWEEP_SECONDS):
            self.items.sweep_all()
        policy = self.retention.policy
        if policy is not None and self._is_time("tidy", policy.every_seconds):
            self.retention.tidy_all()
        if self.evolves and self._is_time("evolve", self.evolution.policy.every_seconds):
            self.evolution.evolve_all()
        shape = self.restructuring.learning.settings.restructuring
        done = self.worker.run_due(stop=stop)
        if shape is not None and self._is_time("restructure", shape.every_seconds):
            self.restructuring.restructure_all()
        self.worker.queue.prune()
        self.vault.apply_outbox()
        self.vault.purge()
        return done

    def _is_time(self, chore: str, every_seconds: float) -> bool:
        now = self.vault.clock.now()
        with self._lock:
            last = self._done.get(chore)
            if last is not None and (now - last).total_seconds() < every_seconds:
                return False
            self._done[chore] = now
        return True
