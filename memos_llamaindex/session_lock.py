"""A lock for one conversation, across tasks, threads and event loops of a process."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar, copy_context
from types import TracebackType
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from memos_core.errors import VaultBusy

__all__ = ["SessionLock", "lock_of", "run_blocking"]

R = TypeVar("R")
Waiter = tuple[asyncio.AbstractEventLoop, "asyncio.Future[None]"]

_stopped: ContextVar[frozenset[asyncio.AbstractEventLoop]] = ContextVar("stopped", default=frozenset())
"""Event loops that stand still until the present call returns."""


def run_blocking(work: Coroutine[Any, Any, R]) -> R:
    """Run ``work`` to its end from synchronous code, even within a running event loop, which it stops meanwhile."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    token = _stopped.set(_stopped.get() | {loop})
    try:
        with ThreadPoolExecutor(max_workers=1) as pool:
            return pool.submit(copy_context().run, asyncio.run, work).result()
    finally:
        _stopped.reset(token)


class SessionLock:
    """Lets one caller in at a time, in the order in which they came.

    A synchronous call that would wait for a task of the very event loop that it stops raises VaultBusy instead.

    An ``asyncio.Lock`` belongs to one loop, and a synchronous call of LlamaIndex's memory runs in a loop of its own; a
    ``threading.Lock`` would stop the loop while it waits.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._holder: asyncio.AbstractEventLoop | None = None
        self._waiting: deque[Waiter] = deque()

    async def __aenter__(self) -> None:
        loop = asyncio.get_running_loop()
        with self._guard:
            if self._holder is None:
                self._holder = loop
                return
            if _stopped.get().intersection({self._holder, *(other for other, _ in self._waiting)}):
                raise VaultBusy("a task of the event loop that this call stops is at work here; await the async method")
            waiter: Waiter = (loop, loop.create_future())
            self._waiting.append(waiter)
        try:
            await waiter[1]
        except asyncio.CancelledError:
            self._leave(waiter)
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._release()

    def _leave(self, waiter: Waiter) -> None:
        """Stop waiting; if the lock was given to this waiter just now, pass it on."""
        with self._guard:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
                return
        if not waiter[1].cancelled():
            self._release()

    def _release(self) -> None:
        while True:
            with self._guard:
                if not self._waiting:
                    self._holder = None
                    return
                loop, future = self._waiting.popleft()
                self._holder = loop
            try:
                loop.call_soon_threadsafe(self._admit, future)
            except RuntimeError:  # that loop has ended, and its waiter with it
                continue
            return

    def _admit(self, future: asyncio.Future[None]) -> None:
        if future.cancelled():
            self._release()
        else:
            future.set_result(None)


_locks: WeakValueDictionary[tuple[str, str], SessionLock] = WeakValueDictionary()
_making = threading.Lock()


def lock_of(store: str, session: str) -> SessionLock:
    """Return the lock of a session in a store: the same for all who hold it at once."""
    with _making:
        lock = _locks.get((store, session))
        if lock is None:
            lock = _locks[store, session] = SessionLock()
        return lock
