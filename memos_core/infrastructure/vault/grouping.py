"""Group commit: changes that threads ask for at the same time share one transaction, and wait for the disk once.

Each is durable before its caller goes on, and one that fails changes nothing for the others.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Generic, TypeVar, cast

from sqlalchemy.exc import SQLAlchemyError

from memos_core.errors import MemosError
from memos_core.infrastructure.vault.writing import WriteSession

__all__ = ["GroupCommit"]

MOST = 256
"""Changes in one transaction: a longer one would keep other processes waiting."""

T = TypeVar("T")


class Request(Generic[T]):
    """A change that a thread waits for.

    Attributes:
        work: Makes the change; may be run again after a transaction that failed.
        alone: It was in one that failed: it goes by itself now.
        done: It is durable.
        result: What ``work`` returned.
        woken: Set once it is done, or has to lead; None: it leads from the start, and never waits.
    """

    def __init__(self, work: Callable[[WriteSession], T]) -> None:
        self.work = work
        self.alone = False
        self.done = False
        self.result: T | None = None
        self.woken: threading.Event | None = None

    def wake(self) -> None:
        """Let its thread go on."""
        if self.woken is not None:
            self.woken.set()


class GroupCommit:
    """Runs changes, those of several threads in one transaction. Thread-safe.

    While one thread waits for the disk, the changes of others gather. Then the first of them leads: it makes them all.

    Args:
        begin: Begins a transaction.
    """

    def __init__(self, begin: Callable[[], AbstractContextManager[WriteSession]]) -> None:
        self._begin = begin
        self._lock = threading.Lock()
        self._leader: Request[Any] | None = None
        self._waiting: list[Request[Any]] = []

    def run(self, work: Callable[[WriteSession], T]) -> T:
        """Run ``work`` in a transaction and return its result once that is durable.

        Args:
            work: Must leave nothing behind but what it writes: where another one's change fails, it is run again.

        Raises:
            What ``work`` raises, or the transaction itself; then nothing of it was stored.
        """
        request = Request(work)
        with self._lock:
            self._waiting.append(request)
            if self._leader is None:
                self._leader = request
            else:
                request.woken = threading.Event()
        try:
            if request.woken is not None:
                request.woken.wait()
            if not request.done:
                self._lead(request)
        finally:
            self._leave(request)
        return cast(T, request.result)

    def _lead(self, request: Request[Any]) -> None:
        group = self._take(request)
        if len(group) == 1 or not self._shared(group, request):
            self._commit([request])

    def _shared(self, group: Sequence[Request[Any]], request: Request[Any]) -> bool:
        """Make several changes in one transaction; False if that failed, so that each has to find out by itself."""
        try:
            self._commit(group)
        except (MemosError, SQLAlchemyError, sqlite3.Error):
            return False
        finally:
            self._separate(group, request)
        return True

    def _commit(self, group: Sequence[Request[Any]]) -> None:
        with self._begin() as session:
            results = [each.work(session) for each in group]
        for each, result in zip(group, results, strict=True):
            each.result, each.done = result, True
            each.wake()

    def _take(self, request: Request[Any]) -> list[Request[Any]]:
        """Take ``request`` off the queue, with those that it can share a transaction with, in their order."""
        with self._lock:
            if request not in self._waiting:
                return []
            others = [] if request.alone else [each for each in self._waiting if not each.alone][:MOST]
            group = others if request in others else [request]
            self._waiting = [each for each in self._waiting if each not in group]
            return group

    def _leave(self, request: Request[Any]) -> None:
        with self._lock:
            self._waiting = [each for each in self._waiting if each is not request]  # its thread was interrupted
            if self._leader is request:
                self._leader = None
                if self._waiting:
                    self._leader = self._waiting[0]
                    self._leader.wake()

    def _separate(self, group: Sequence[Request[Any]], request: Request[Any]) -> None:
        with self._lock:
            for each in group:
                if not each.done and each is not request:
                    each.alone = True
                    self._waiting.append(each)
