"""Work that is done ahead of the requests that will want it, on a thread of its own, and only while nothing else is."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

__all__ = ["Ahead", "Foreseen"]

Result = TypeVar("Result")
Key = TypeVar("Key")

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


class Foreseen(Generic[Key]):
    """What was read ahead of turns that may come, and what became of it. Thread-safe.

    Args:
        max_bytes: Most bytes that are read ahead and not used yet. 0: nothing is read.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._waiting: dict[Key, int] = {}
        self._counts = dict.fromkeys(("reads", "bytes", "used", "wasted"), 0)
        self._lock = threading.Lock()

    @property
    def counts(self) -> dict[str, int]:
        """Reads and their bytes, how many of them a turn was served from, and how many were for nothing."""
        with self._lock:
            return {**self._counts, "waiting": len(self._waiting)}

    def book(self, key: Key, size_bytes: int, held: Callable[[Key], bool]) -> list[Key]:
        """Note a read of ``size_bytes``, which fits the budget; return what is to be let go for it, the oldest first.

        Args:
            held: Tells whether something that was read is still in memory.
        """
        with self._lock:
            gone = [each for each in self._waiting if each == key or not held(each)]
            left = {each: size for each, size in self._waiting.items() if each not in gone}
            too_much = sum(left.values()) + size_bytes - self.max_bytes
            let_go = []
            for each, size in left.items():
                if too_much <= 0:
                    break
                let_go.append(each)
                too_much -= size
            self._waiting = {each: size for each, size in left.items() if each not in let_go} | {key: size_bytes}
            self._counts["reads"] += 1
            self._counts["bytes"] += size_bytes
            self._counts["wasted"] += len(gone) + len(let_go)
        return let_go

    def use(self, key: Key) -> bool:
        """Tell whether ``key``, which serves a turn, was read ahead of it."""
        with self._lock:
            found = self._waiting.pop(key, None) is not None
            self._counts["used"] += found
        return found
