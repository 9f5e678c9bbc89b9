"""The durable queue of background work: jobs are rows of the ledger, so they survive whatever the process does not.

    waiting --claim--> running --finish--> done
       ^                  |--fail--> waiting, later  (or dead, with the reason)
       |                  '--lease runs out--> taken over by another worker
       '------retry------ dead
    waiting or running --cancel--> cancelled

A worker holds a job by a lease. What a job makes is published in the transaction that marks it done, and only while
the lease is held; so of two workers that both believe to run a job, one publishes.
"""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from memos_core.errors import InvalidInput, JobLost, JobNotFound
from memos_core.events import Event, EventHook
from memos_core.ids import UlidFactory, is_ulid
from memos_core.infrastructure.vault import Job, JobState, MemVault, ReadSession, Visibility, WriteSession
from memos_core.infrastructure.vault import jobs as rows
from memos_core.principal import Principal

__all__ = ["JobQueue", "JobSettings", "Progress", "Publish", "Task"]

Progress = Callable[[int, int], None]
"""Is told how much of how much is done."""

Publish = Callable[[WriteSession], JsonValue]
"""Writes what a job made, within the transaction that marks the job done, and returns what to keep as its result."""


class JobSettings(BaseModel):
    """How background work is tried.

    Attributes:
        lease_seconds: How long a worker may be silent before another one takes its job over. A living worker renews
            its lease three times within it.
        max_attempts: How often a job is begun before it is a dead letter; a worker that was killed counts.
        first_delay_seconds: Wait after the first failure; doubled after each further one.
        max_delay_seconds: Longest wait.
        keep_finished_seconds: How long done and cancelled jobs can still be looked at.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    lease_seconds: float = Field(default=60.0, gt=0)
    max_attempts: int = Field(default=5, ge=1)
    first_delay_seconds: float = Field(default=5.0, ge=0)
    max_delay_seconds: float = Field(default=3600.0, ge=0)
    keep_finished_seconds: float = Field(default=7 * 86400.0, ge=0)

    def delay_seconds(self, attempts: int) -> float:
        """Return the wait after the ``attempts``-th failure."""
        return min(self.max_delay_seconds, self.first_delay_seconds * 2.0 ** (min(attempts, 64) - 1))


class Task(ABC):
    """One kind of background work."""

    kind: ClassVar[str]

    @abstractmethod
    def prepare(self, job: Job, report: Progress) -> Publish:
        """Do the long part, outside of any transaction, and return what publishes it.

        Must be repeatable: a job may be begun again after a kill. ``report`` raises JobLost once the job was
        cancelled, forgotten or taken over; there is no need to go on then.
        """


class JobQueue:
    """The jobs of one vault, for any number of workers in any number of processes. Thread-safe."""

    def __init__(
        self, vault: MemVault, ids: UlidFactory, *, settings: JobSettings | None = None, emit: EventHook
    ) -> None:
        self.vault = vault
        self.ids = ids
        self.settings = settings or JobSettings()
        self.emit = emit

    # Queueing

    def add(
        self,
        session: WriteSession,
        principal: Principal,
        kind: str,
        cube_ids: Sequence[str] = (),
        *,
        parameters: Mapping[str, JsonValue] | None = None,
        priority: int = 0,
        delay_seconds: float = 0.0,
    ) -> Job:
        """Queue work within the transaction that makes it necessary. Of equal open work there is one job."""
        now = self._now()
        job = Job(
            id=self.ids.new(now),
            principal=principal,
            kind=kind,
            cube_ids=tuple(dict.fromkeys(cube_ids)),
            parameters=dict(parameters or {}),
            state=JobState.WAITING,
            priority=priority,
            attempts=0,
            max_attempts=self.settings.max_attempts,
            due=now + timedelta(seconds=delay_seconds),
            created=now,
            updated=now,
        )
        return rows.insert_job(session, job)

    def detach(self, session: WriteSession, job: Job) -> None:
        """Make a job outlive the memories that it is about; for one that erases them itself."""
        rows.detach(session, job.id)

    # Working

    def claim(self, kinds: Collection[str]) -> Job | None:
        """Take the next due job of these kinds, or one whose worker fell silent; None: there is nothing to do.

        A job that has used up its attempts is buried on the way: something in it kills whoever runs it.
        """
        if not kinds or not self._anything_due(kinds):
            return None
        while True:
            with self.vault.write() as session:
                job = rows.claimable(session, kinds, self._now())
                if job is None:
                    return None
                if job.attempts < job.max_attempts:
                    until = self._now() + timedelta(seconds=self.settings.lease_seconds)
                    begun = {"attempts": job.attempts + 1, "lease": secrets.token_hex(16), "leased_until": until}
                    return self._store(session, job, state=JobState.RUNNING, done=0, total=0, **begun)
                lost = f"its worker was lost {job.attempts} times without a word"
                dead = self._store(session, job, state=JobState.DEAD, reason=lost, lease=None, leased_until=None)
            self._tell("job.dead", dead)

    def _anything_due(self, kinds: Collection[str]) -> bool:
        # Asked without the write lock first: an idle worker must not stand in the way of writers.
        with self.vault.read() as session:
            return rows.anything_due(session, kinds, self._now())

    def renew(self, job: Job, *, done: int | None = None, total: int | None = None) -> Job:
        """Hold a job for another lease, and note how far it is.

        Raises:
            JobLost: It was cancelled, forgotten, or taken over.
        """
        until = self._now() + timedelta(seconds=self.settings.lease_seconds)
        how_far = {"done": job.done if done is None else done, "total": job.total if total is None else total}
        with self.vault.write() as session:
            return self._store(session, job, leased_until=until, **how_far)

    def finish(self, job: Job, publish: Publish) -> Job:
        """Publish what a job made and mark it done, in one transaction.

        Raises:
            JobLost: It is not this worker's any more; nothing was published.
        """
        with self.vault.write() as session:
            held = self._store(session, job)
            result = publish(session)
            steps = max(job.total, 1)
            ended = {"state": JobState.DONE, "result": result, "reason": None, "done": steps, "total": steps}
            finished = self._store(session, held, lease=None, leased_until=None, **ended)
        self._tell("job.done", finished)
        return finished

    def fail(self, job: Job, reason: str, *, for_good: bool = False) -> Job:
        """Note a failure: the job waits for its next attempt, or is a dead letter after the last one.

        Raises:
            JobLost: It is not this worker's any more.
        """
        dead = for_good or job.attempts >= job.max_attempts
        due = self._now() + timedelta(seconds=self.settings.delay_seconds(job.attempts))
        state = JobState.DEAD if dead else JobState.WAITING
        with self.vault.write() as session:
            failed = self._store(session, job, state=state, due=due, reason=reason, lease=None, leased_until=None)
        self._tell("job.dead" if dead else "job.failed", failed)
        return failed

    def release(self, job: Job) -> None:
        """Give a job back unfinished; the attempt does not count. For a worker that is told to stop."""
        with self.vault.write() as session:
            given = {"state": JobState.WAITING, "attempts": job.attempts - 1, "lease": None, "leased_until": None}
            self._store(session, job, **given)

    def tell_lost(self, job: Job) -> None:
        """Tell the observer that a worker gave up a job that is no longer its own."""
        self._tell("job.lost", job)

    # Looking after

    def list(self, visibility: Visibility | None = None, *, states: Iterable[JobState] | None = None) -> list[Job]:
        """Return jobs, oldest first: those of a scope, or for administration all of the vault."""
        with self.vault.read() as session:
            return rows.jobs_of(session, visibility, states=states)

    def get(self, job_id: str, visibility: Visibility | None = None) -> Job:
        """Return one job.

        Raises:
            JobNotFound: There is none of that id here: malformed, absent and foreign ids look the same.
        """
        with self.vault.read() as session:
            return self._found(session, job_id, visibility)

    def cancel(self, job_id: str, visibility: Visibility | None = None) -> Job:
        """Stop a job that waits or runs. A worker in the middle of it publishes nothing.

        Raises:
            JobNotFound: There is none of that id here.
            InvalidInput: It has ended already.
        """
        with self.vault.write() as session:
            job = self._found(session, job_id, visibility)
            if job.state not in rows.OPEN_STATES:
                raise InvalidInput(f"job {job_id} is {job.state}; only waiting and running jobs can be cancelled")
            ended = {"state": JobState.CANCELLED, "reason": "cancelled by its owner", "lease": None}
            cancelled = self._store(session, job, leased_until=None, **ended)
        self._tell("job.cancelled", cancelled)
        return cancelled

    def retry(self, job_id: str, visibility: Visibility | None = None) -> Job:
        """Give a dead or cancelled job all its attempts again, from now on.

        Raises:
            JobNotFound: There is none of that id here.
            InvalidInput: It did not fail, or equal work waits already.
        """
        with self.vault.write() as session:
            job = self._found(session, job_id, visibility)
            if job.state not in (JobState.DEAD, JobState.CANCELLED):
                raise InvalidInput(f"job {job_id} is {job.state}; only dead and cancelled jobs can be tried again")
            fresh = replace(job, state=JobState.WAITING, attempts=0, due=self._now(), reason=None, done=0, total=0)
            twin = rows.open_twin(session, fresh)
            if twin is not None:
                raise InvalidInput(f"job {twin.id} does the same and is {twin.state}")
            return self._store(session, fresh)

    def prune(self) -> int:
        """Remove what ended long ago; return how many jobs that were."""
        before = self._now() - timedelta(seconds=self.settings.keep_finished_seconds)
        with self.vault.read() as session:
            if not rows.job_counts(session):
                return 0
        with self.vault.write() as session:
            return rows.remove_finished(session, before)

    def outlook(self, kinds: Collection[str]) -> tuple[str, ...]:
        """Return what is still to be done, in words; ``kinds`` are those that this process can do."""
        with self.vault.read() as session:
            counts = rows.job_counts(session)
        lines = []
        for (kind, state), count in counts.items():
            jobs = f"{count} {kind} {'job' if count == 1 else 'jobs'}"
            if state is JobState.WAITING:
                lines.append(f"{jobs} due later" if kind in kinds else f"{jobs} for a worker that can do them")
            elif state is JobState.RUNNING:
                lines.append(f"{jobs} running")
        return tuple(lines)

    # Parts

    def _store(self, session: WriteSession, job: Job, **changes: object) -> Job:
        changed = replace(job, updated=self._now(), **changes)  # type: ignore[arg-type]
        if not rows.store_job(session, changed, held=job.lease):
            raise JobLost(job.id)
        return changed

    def _found(self, session: ReadSession, job_id: str, visibility: Visibility | None) -> Job:
        found = rows.jobs_of(session, visibility, job_id=job_id) if is_ulid(job_id) else []
        if not found:
            raise JobNotFound(job_id)
        return found[0]

    def _now(self) -> datetime:
        return self.vault.clock.now()

    def _tell(self, name: str, job: Job) -> None:
        detail = {"job": job.id, "kind": job.kind, "attempts": job.attempts, "reason": job.reason}
        self.emit(Event(name, self._now(), job.principal.namespace, job.cube_ids, detail))
