"""Worker: takes jobs from the queue and does them, one after the other."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Self

from memos_core.errors import (
    AdapterMismatch,
    AdapterOutdated,
    ContextOverflow,
    CubeFrozen,
    CubeNotFound,
    EngineMissing,
    GateFailed,
    InjectionUnavailable,
    InvalidInput,
    JobLost,
    MemosError,
    MissingExtra,
    ModelNotFound,
    UnsupportedOption,
    VaultBusy,
    VaultClosed,
)
from memos_core.infrastructure.vault import Job
from memos_core.operation.jobs import JobQueue, Task

__all__ = ["Heartbeat", "Worker"]

HOPELESS = (
    AdapterMismatch,
    AdapterOutdated,
    ContextOverflow,
    CubeFrozen,
    CubeNotFound,
    EngineMissing,
    GateFailed,
    InjectionUnavailable,
    InvalidInput,
    MissingExtra,
    ModelNotFound,
    UnsupportedOption,
)
"""What another attempt cannot mend."""

PASSING = (MemosError, OSError, MemoryError, RuntimeError)
"""What another attempt may mend. Anything else is a mistake in the code and reaches whoever runs the worker."""

BEATS_PER_LEASE = 3
MAX_REASON_CHARS = 500


class Worker:
    """Does the jobs that its tasks know. Any number may work on one vault, in threads and in processes."""

    def __init__(self, queue: JobQueue, tasks: Iterable[Task]) -> None:
        self.queue = queue
        self.tasks: Mapping[str, Task] = {task.kind: task for task in tasks}

    def run_due(self, *, stop: threading.Event | None = None) -> int:
        """Do what is due, until nothing is or ``stop`` is set; return how many jobs were begun."""
        done = 0
        while not (stop is not None and stop.is_set()) and self.run_one():
            done += 1
        return done

    def run_one(self) -> bool:
        """Do one due job; False: there was none. A failure is noted at the job and does not raise."""
        job = self.queue.claim(self.tasks)
        if job is None:
            return False
        with Heartbeat(self.queue, job) as heartbeat:
            self._run(job, heartbeat)
        return True

    def _run(self, job: Job, heartbeat: Heartbeat) -> None:
        try:
            publish = self.tasks[job.kind].prepare(job, heartbeat.report)
            heartbeat.stop()
            self.queue.finish(heartbeat.job, publish)
        except JobLost:
            self.queue.tell_lost(job)
        except VaultClosed:
            raise  # nothing can be noted any more; the lease runs out
        except PASSING as error:
            self._fail(heartbeat, error, for_good=isinstance(error, HOPELESS))
        except Exception as error:
            self._fail(heartbeat, error, for_good=True)
            raise
        except BaseException:
            heartbeat.stop()
            self.queue.release(heartbeat.job)
            raise

    def _fail(self, heartbeat: Heartbeat, error: Exception, *, for_good: bool) -> None:
        heartbeat.stop()
        reason = f"{type(error).__name__}: {error}"[:MAX_REASON_CHARS]
        try:
            self.queue.fail(heartbeat.job, reason, for_good=for_good)
        except JobLost:
            self.queue.tell_lost(heartbeat.job)


class Heartbeat:
    """Renews the lease of a job from a thread of its own, for the time of a ``with`` block.

    Args:
        report_seconds: Progress is written down no more often than this: a task may tell of every step.
    """

    def __init__(self, queue: JobQueue, job: Job, *, report_seconds: float = 0.5) -> None:
        self.queue = queue
        self.job = job
        self.report_seconds = report_seconds
        self._reported = float("-inf")
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._lost = False
        self._thread = threading.Thread(target=self._beat, name=f"memos-job-{job.id}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End the thread; the lease is what it was."""
        self._stopped.set()
        self._thread.join()

    def report(self, done: int, total: int) -> None:
        """Note progress, and renew the lease on the way.

        Raises:
            JobLost: The job was cancelled, forgotten or taken over.
        """
        with self._lock:
            if self._lost:
                raise JobLost(self.job.id)
            now = time.monotonic()
            if done < total and now - self._reported < self.report_seconds:
                return
            self._reported = now
            if (done, total) != (self.job.done, self.job.total):
                self.job = self.queue.renew(self.job, done=done, total=total)

    def _beat(self) -> None:
        while not self._stopped.wait(self.queue.settings.lease_seconds / BEATS_PER_LEASE):
            with self._lock:
                try:
                    self.job = self.queue.renew(self.job)
                except VaultBusy:
                    continue  # the next beat comes before the lease runs out
                except (JobLost, VaultClosed):
                    self._lost = True
                    return
