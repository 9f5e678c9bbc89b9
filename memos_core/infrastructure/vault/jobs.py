"""Jobs as rows of the ledger. What may happen to a job, and when, is decided in ``operation.jobs``."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from pydantic import JsonValue
from sqlalchemy import ColumnElement, Row, Select, and_, delete, func, insert, or_, select, true, update

from memos_core.cube import canonical_json
from memos_core.infrastructure.vault import schema
from memos_core.infrastructure.vault.conditions import chunks, from_micros, micros, moment, within_reach
from memos_core.infrastructure.vault.values import Visibility
from memos_core.principal import Principal

if TYPE_CHECKING:
    from memos_core.infrastructure.vault.reading import ReadSession
    from memos_core.infrastructure.vault.writing import WriteSession

__all__ = [
    "OPEN_STATES",
    "Job",
    "JobState",
    "anything_due",
    "claimable",
    "insert_job",
    "job_counts",
    "jobs_of",
    "open_twin",
    "remove_finished",
    "remove_jobs_about",
    "store_job",
]


class JobState(StrEnum):
    """Where a job stands. ``dead`` is a dead letter: it failed for good, and ``reason`` says why."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    DEAD = "dead"
    CANCELLED = "cancelled"


OPEN_STATES = (JobState.WAITING, JobState.RUNNING)


@dataclass(frozen=True, slots=True)
class Job:
    """A piece of background work. It holds ids and settings, never the text of a memory.

    Attributes:
        id: A ULID.
        principal: For whom it is done; it sees and changes what they may.
        kind: Which task does it.
        cube_ids: The memories that it concerns; when one is forgotten, the job goes with it.
        parameters: JSON values for the task.
        state: Where it stands.
        priority: Greater goes first.
        attempts: How often it was begun.
        max_attempts: How often it may be begun.
        due: Not to be begun before.
        lease: What the worker that runs it holds; it changes when the job changes hands.
        leased_until: When another worker may take it over.
        done: Progress, of ``total``.
        total: What ``done`` counts up to; 0: not known yet.
        reason: Why it failed last, or was cancelled.
        result: What the task published; None before.
        created: When it was queued.
        updated: When anything here changed last.
    """

    id: str
    principal: Principal
    kind: str
    cube_ids: tuple[str, ...]
    parameters: Mapping[str, JsonValue]
    state: JobState
    priority: int
    attempts: int
    max_attempts: int
    due: datetime
    created: datetime
    updated: datetime
    lease: str | None = field(default=None, repr=False)
    leased_until: datetime | None = None
    done: int = 0
    total: int = 0
    reason: str | None = None
    result: JsonValue = None

    @property
    def work_key(self) -> str:
        """Digest of what is to be done, for whom; of equal work only one job waits or runs."""
        who = [self.principal.agent, self.principal.session]
        what = [self.kind, sorted(self.cube_ids), dict(self.parameters)]
        return hashlib.sha256(canonical_json([who, what])).hexdigest()


def insert_job(session: WriteSession, job: Job) -> Job:
    """Store a new job; where equal work waits or runs already, return that job instead."""
    namespace = job.principal.namespace
    session.ensure_namespace(namespace)
    twin = open_twin(session, job)
    if twin is not None:
        return twin
    row = {**job_row(job), "id": job.id, "namespace_id": session._namespace_id(namespace)}
    session.connection.execute(insert(schema.jobs), row)
    about = [{"job_id": job.id, "position": place, "cube_id": each} for place, each in enumerate(job.cube_ids)]
    if about:
        session.connection.execute(insert(schema.job_cubes), about)
    return job


def open_twin(session: ReadSession, job: Job) -> Job | None:
    """Return the job that waits or runs and does the same as ``job``, if there is one."""
    j = schema.jobs
    own = within_reach(Visibility(job.principal.namespace), j)
    held = jobs(session, and_(own, j.c.work_key == job.work_key, j.c.state.in_(OPEN_STATES)))
    return held[0] if held else None


def job_row(job: Job) -> dict[str, Any]:
    return {
        "agent": job.principal.agent,
        "session": job.principal.session,
        "kind": job.kind,
        "parameters": canonical_json(dict(job.parameters)).decode(),
        "work_key": job.work_key,
        "state": str(job.state),
        "priority": job.priority,
        "attempts": job.attempts,
        "max_attempts": job.max_attempts,
        "due": micros(job.due),
        "lease": job.lease,
        "leased_until": micros(job.leased_until),
        "done": job.done,
        "total": job.total,
        "reason": job.reason,
        "result": None if job.result is None else canonical_json(job.result).decode(),
        "created": micros(job.created),
        "updated": micros(job.updated),
    }


def store_job(session: WriteSession, job: Job, *, held: str | None) -> bool:
    """Write ``job`` over its row, if the row still has the lease ``held``; tell whether it had."""
    j = schema.jobs
    own = and_(j.c.id == job.id, j.c.lease == held if held is not None else j.c.lease.is_(None))
    return session.connection.execute(update(j).where(own).values(job_row(job))).rowcount == 1


def may_begin(kinds: Collection[str], now: datetime) -> ColumnElement[bool]:
    """Return the condition that a job is due, or that its worker fell silent."""
    j = schema.jobs
    waiting = and_(j.c.state == JobState.WAITING, j.c.due <= micros(now))
    lapsed = and_(j.c.state == JobState.RUNNING, j.c.leased_until <= micros(now))
    return and_(j.c.kind.in_(sorted(kinds)), or_(waiting, lapsed))


def anything_due(session: ReadSession, kinds: Collection[str], now: datetime) -> bool:
    """Tell whether ``claimable`` would find a job."""
    query = select(schema.jobs.c.id).where(may_begin(kinds, now)).limit(1)
    return session.connection.scalar(query) is not None


def claimable(session: WriteSession, kinds: Collection[str], now: datetime) -> Job | None:
    """Return the job that is to be begun next: of the greatest priority the one that was due first."""
    j = schema.jobs
    query = job_rows(may_begin(kinds, now)).order_by(j.c.priority.desc(), j.c.due, j.c.id)
    return next(iter(with_cubes(session, session.connection.execute(query.limit(1)).all())), None)


def jobs_of(
    session: ReadSession,
    visibility: Visibility | None,
    *,
    states: Iterable[JobState] | None = None,
    job_id: str | None = None,
) -> list[Job]:
    """Return the jobs that a scope may see (None: all of the vault), oldest first."""
    j = schema.jobs
    conditions = [true() if visibility is None else within_reach(visibility, j)]
    if states is not None:
        conditions.append(j.c.state.in_([str(state) for state in states]))
    if job_id is not None:
        conditions.append(j.c.id == job_id)
    return jobs(session, and_(*conditions))


def jobs(session: ReadSession, condition: ColumnElement[bool]) -> list[Job]:
    """Return the jobs that meet a condition on their rows, oldest first."""
    rows = session.connection.execute(job_rows(condition).order_by(schema.jobs.c.id)).all()
    return with_cubes(session, rows)


def job_rows(condition: ColumnElement[bool]) -> Select[Any]:
    j, n = schema.jobs, schema.namespaces
    return select(j, n.c.name).join_from(j, n, n.c.id == j.c.namespace_id).where(condition)


def with_cubes(session: ReadSession, rows: Sequence[Row[Any]]) -> list[Job]:
    about: defaultdict[str, list[str]] = defaultdict(list)
    c = schema.job_cubes
    for part in chunks([row.id for row in rows]):
        named = select(c.c.job_id, c.c.cube_id).where(c.c.job_id.in_(part)).order_by(c.c.job_id, c.c.position)
        for job_id, cube_id in session.connection.execute(named):
            about[job_id].append(cube_id)
    return [job_of(row, tuple(about[row.id])) for row in rows]


def job_of(row: Row[Any], cube_ids: tuple[str, ...]) -> Job:
    return Job(
        id=row.id,
        principal=Principal(row.name, row.agent, row.session),
        kind=row.kind,
        cube_ids=cube_ids,
        parameters=json.loads(row.parameters),
        state=JobState(row.state),
        priority=row.priority,
        attempts=row.attempts,
        max_attempts=row.max_attempts,
        due=from_micros(row.due),
        created=from_micros(row.created),
        updated=from_micros(row.updated),
        lease=row.lease,
        leased_until=moment(row.leased_until),
        done=row.done,
        total=row.total,
        reason=row.reason,
        result=None if row.result is None else json.loads(row.result),
    )


def job_counts(session: ReadSession) -> dict[tuple[str, JobState], int]:
    """Return how many jobs of the vault there are, by kind and state."""
    j = schema.jobs
    query = select(j.c.kind, j.c.state, func.count()).group_by(j.c.kind, j.c.state).order_by(j.c.kind, j.c.state)
    return {(kind, JobState(state)): count for kind, state, count in session.connection.execute(query)}


def remove_jobs(session: WriteSession, job_ids: Sequence[str]) -> int:
    """Delete jobs and return how many there were. A worker that runs one finds its lease gone."""
    removed = 0
    for part in chunks(job_ids):
        session.connection.execute(delete(schema.job_cubes).where(schema.job_cubes.c.job_id.in_(part)))
        removed += session.connection.execute(delete(schema.jobs).where(schema.jobs.c.id.in_(part))).rowcount
    return removed


def remove_jobs_about(session: WriteSession, cube_ids: Sequence[str]) -> int:
    """Delete the jobs that concern any of these cubes."""
    found: set[str] = set()
    for part in chunks(cube_ids):
        named = select(schema.job_cubes.c.job_id).where(schema.job_cubes.c.cube_id.in_(part))
        found.update(session.connection.scalars(named))
    return remove_jobs(session, sorted(found))


def detach(session: WriteSession, job_id: str) -> None:
    """Make a job no longer be about any cube."""
    session.connection.execute(delete(schema.job_cubes).where(schema.job_cubes.c.job_id == job_id))


def remove_finished(session: WriteSession, before: datetime) -> int:
    """Delete the jobs that were done or cancelled before a moment. Dead letters stay until someone looks at them."""
    j = schema.jobs
    over = and_(j.c.state.in_([JobState.DONE, JobState.CANCELLED]), j.c.updated < micros(before))
    return remove_jobs(session, list(session.connection.scalars(select(j.c.id).where(over))))
