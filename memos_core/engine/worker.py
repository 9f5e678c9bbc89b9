"""One scheduling thread per engine: callers, sync and async, hand it work and wait, cancel or go away.

Work is a generator that computes a little (a part of the prompt, one token) between two yields. The thread gives each
request under way one step a round, so a short question does not wait behind a long answer, and looks at a cancellation
before each step. What can be computed for several requests at once is not computed by the generator: it yields the
step, and the thread takes all such steps of a round together.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Generator, Hashable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol, Self, runtime_checkable

from memos_core.errors import GenerationCancelled

__all__ = ["Done", "Failed", "Joint", "Piece", "Ticket", "Worker"]

MAX_ACTIVE = 8
"""Requests that take turns; further ones wait, since each of them holds a KV cache."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Something that the work yielded."""

    value: Any


@dataclass(frozen=True, slots=True)
class Done:
    """The work ended; ``value`` is what it returned."""

    value: Any


@dataclass(frozen=True, slots=True)
class Failed:
    """The work raised ``error``, which the caller is to raise."""

    error: BaseException


@runtime_checkable
class Joint(Protocol):
    """A step that work yields instead of taking it, since it may be taken together with others of the same key."""

    piece: Any
    key: Hashable

    def take(self, steps: Sequence[Self]) -> None:
        """Take all of ``steps``. What goes wrong for one of them is for its work to raise; an error here ends all."""
        ...


@dataclass(slots=True, eq=False)
class Ticket:
    """One piece of work in the hands of the thread. ``cancel`` may be called at any time, any number of times."""

    work: Generator[Any, None, Any]
    deliver: Callable[[Piece | Done | Failed], None]
    cancelled: bool = False

    def cancel(self) -> None:
        self.cancelled = True


@dataclass(slots=True, eq=False)
class Shared:
    """What the thread and its callers share. The thread holds this and not the worker, so the worker can be
    collected, which stops the thread."""

    context: Callable[[], AbstractContextManager[Any]]
    condition: threading.Condition = field(default_factory=threading.Condition)
    waiting: deque[Ticket] = field(default_factory=deque)
    stopping: bool = False
    active: int = 0
    pid: int = field(default_factory=os.getpid)


class Worker:
    """Owns the thread: started by the first work, ended by ``close`` or garbage collection, restarted after either
    and after a fork.

    Args:
        context: Entered by the thread around all work.
        forked: Called by the thread of a forked child before its first work.
    """

    def __init__(
        self,
        name: str,
        context: Callable[[], AbstractContextManager[Any]],
        forked: Callable[[], None] = lambda: None,
    ) -> None:
        self._name = name
        self._context = context
        self._forked = forked
        self._home = os.getpid()
        self._shared: Shared | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._finalizer: weakref.finalize[..., Any] | None = None

    def submit(self, work: Generator[Any, None, Any], deliver: Callable[[Piece | Done | Failed], None]) -> Ticket:
        """Queue ``work``; ``deliver`` is called on the scheduling thread and must neither block nor raise."""
        ticket = Ticket(work, deliver)
        if self._shared is not None and self._shared.pid != os.getpid():
            # The thread did not survive the fork, and its locks may be held by threads that do not exist here.
            self._lock, self._shared = threading.Lock(), None
        with self._lock:
            shared = self._shared if self._shared is not None else self._start()
            with shared.condition:
                shared.waiting.append(ticket)
                shared.condition.notify()
        return ticket

    @property
    def busy(self) -> bool:
        """Whether work is under way or waits."""
        shared = self._shared
        return shared is not None and shared.pid == os.getpid() and bool(shared.waiting or shared.active)

    def close(self) -> None:
        """Stop the thread; work under way fails with ``GenerationCancelled``. Idempotent."""
        with self._lock:
            shared, thread, self._shared, self._thread = self._shared, self._thread, None, None
        if shared is None or thread is None or shared.pid != os.getpid():
            return
        stop(shared)
        if thread is not threading.current_thread():
            thread.join()

    def _start(self) -> Shared:
        if self._finalizer is not None:
            self._finalizer.detach()
        shared = Shared(self._context)
        forked = self._forked if os.getpid() != self._home else (lambda: None)
        self._thread = threading.Thread(target=serve, args=(shared, forked), name=self._name, daemon=True)
        self._thread.start()
        # At exit the interpreter must not tear down modules under a thread that is computing.
        self._finalizer = weakref.finalize(self, stop_and_join, shared, self._thread)
        self._shared = shared
        return shared


def stop(shared: Shared) -> None:
    with shared.condition:
        shared.stopping = True
        shared.condition.notify()


def stop_and_join(shared: Shared, thread: threading.Thread) -> None:
    if shared.pid == os.getpid():
        stop(shared)
        if thread is not threading.current_thread():
            thread.join(timeout=10)


def serve(shared: Shared, forked: Callable[[], None]) -> None:
    """Give each ticket a step a round until told to stop."""
    forked()
    active: deque[Ticket] = deque()
    with shared.context():
        while take(shared, active):
            serve_round(active)
    for ticket in (*active, *shared.waiting):
        ticket.work.close()
        ticket.deliver(Failed(GenerationCancelled("the engine was closed while the request was under way")))


def serve_round(active: deque[Ticket]) -> None:
    """Advance every ticket by one step; those that have ended leave ``active``."""
    joint: dict[Hashable, list[tuple[Ticket, Joint]]] = {}
    for _ in range(len(active)):
        ticket = active.popleft()
        step = advance(ticket)
        if step is not None:
            active.append(ticket)
        if isinstance(step, Joint):
            joint.setdefault(step.key, []).append((ticket, step))
    for members in joint.values():
        try:
            members[0][1].take([step for _, step in members])
        except BaseException as error:  # noqa: BLE001 - handed to the callers; the thread serves others too
            for ticket, _ in members:
                active.remove(ticket)
                ticket.work.close()
                ticket.deliver(Failed(error))


def take(shared: Shared, active: deque[Ticket]) -> bool:
    """Wait for something to do and move new tickets to ``active``; False when it is time to stop."""
    with shared.condition:
        while not (shared.stopping or shared.waiting or active):
            shared.active = 0
            shared.condition.wait()
        while shared.waiting and len(active) < MAX_ACTIVE:
            active.append(shared.waiting.popleft())
        shared.active = len(active)
        return not shared.stopping


def advance(ticket: Ticket) -> Piece | Joint | None:
    """Do one step of ``ticket`` and return it; None where that was the last."""
    try:
        if ticket.cancelled:
            ticket.work.close()
            ticket.deliver(Failed(GenerationCancelled("the request was cancelled")))
            return None
        given = next(ticket.work)
    except StopIteration as end:
        ticket.deliver(Done(end.value))
        return None
    except BaseException as error:  # noqa: BLE001 - handed to the caller, who raises it in his own thread
        ticket.deliver(Failed(error))
        return None
    step = given if isinstance(given, Joint) else Piece(given)
    ticket.deliver(Piece(step.piece) if isinstance(step, Joint) else step)
    return step
