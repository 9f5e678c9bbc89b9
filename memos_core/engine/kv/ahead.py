"""Work that is done ahead of the requests that will want it, on a thread of its own, and only while nothing else is."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

__all__ = ["Ahead"]

Result = TypeVar("Result")

MAX_WAITING = 8
"""Pieces of work that wait; the oldest gives way to a newer one, which knows better what comes next."""


class Ahead:
    """Does one thing at a time. Thread-safe; goes on in a forked child with a thread of its own.

    Args:
        name: Of the thread.
        busy: Tells whether something more urgent is under way. What is to start then is cancelled.
    """

    def __init__(self, name: str, busy: Callable[[], bool]) -> None:
        self._name = name
        self._busy = busy
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._waiting: list[Future[object]] = []

    def submit(self, work: Callable[[], Result], otherwise: Result) -> Future[Result]:
        """Do ``work`` when its turn comes; the result is ``otherwise`` where more urgent things were under way."""
        if self._pid != os.getpid():
            # The thread did not survive the fork, and the lock may be held by one that does not exist here.
            self._lock, self._pool, self._waiting, self._pid = threading.Lock(), None, [], os.getpid()
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix=self._name)
            future: Future[Result] = self._pool.submit(lambda: otherwise if self._busy() else work())
            self._waiting = [each for each in self._waiting if not each.done()]
            self._waiting.append(future)  # type: ignore[arg-type]  # only cancelled, never read
            while len(self._waiting) > MAX_WAITING:
                self._waiting.pop(0).cancel()
        return future

    def close(self) -> None:
        """Cancel what waits and end the thread after what it is doing. Idempotent; the next work starts another."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None and self._pid == os.getpid():
            pool.shutdown(wait=True, cancel_futures=True)
