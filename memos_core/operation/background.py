"""Work of a scope that does not have to be waited for: other forms of its memories, made by a worker."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from pydantic import JsonValue

from memos_core.cube import MemoryType, State
from memos_core.engine.base import Engine
from memos_core.errors import GateFailed, InvalidInput, SourcesChanged
from memos_core.infrastructure.governance import MemGovernance
from memos_core.infrastructure.vault import Job, JobState, ReadSession, Visibility, WriteSession
from memos_core.infrastructure.vault import jobs as rows
from memos_core.operation.forms.transforms import MemTransform
from memos_core.operation.jobs import JobQueue, Progress, Publish, Task
from memos_core.operation.operator import found
from memos_core.principal import Principal
from memos_core.transform import TARGETS

__all__ = ["Background", "TransformTask", "as_ids", "last_failure", "target_form", "target_type"]


class Background:
    """Queues work for principals, and shows them their own jobs. Thread-safe."""

    def __init__(self, queue: JobQueue, governance: MemGovernance) -> None:
        self.queue = queue
        self.governance = governance

    def transform_later(self, principal: Principal, cube_id: str | Sequence[str], *, to: str, priority: int = 0) -> Job:
        """Queue ``transform`` and return the job; a worker, or ``memos.run_pending()``, does it.

        Of equal open work there is one job. Forgetting one of the memories removes it.

        Raises:
            CubeNotFound: A memory is not visible here.
            InvalidInput: None is named, or ``to`` is no form of memory.
        """
        cube_ids = as_ids(cube_id)
        target = target_form(to)
        visibility = self.governance.reach(principal)
        with self.queue.vault.write() as session:
            for each in cube_ids:
                found(session.cube(visibility, each), each)
            return self.queue.add(
                session,
                principal,
                TransformTask.kind,
                cube_ids,
                parameters={"to": str(target)},
                priority=priority,
            )

    def jobs(self, principal: Principal, *, states: Iterable[JobState | str] | None = None) -> list[Job]:
        """Return the background work for this scope, oldest first.

        Args:
            states: ``waiting``, ``running``, ``done``, ``dead``, ``cancelled``; None: all.
        """
        wanted = None if states is None else [job_state(state) for state in states]
        return self.queue.list(self.governance.visibility(principal), states=wanted)

    def job(self, principal: Principal, job_id: str) -> Job:
        """Return one job as it stands now.

        Raises:
            JobNotFound: There is none of that id here.
        """
        return self.queue.get(job_id, self.governance.visibility(principal))

    def cancel_job(self, principal: Principal, job_id: str) -> Job:
        """Stop a job that waits or runs; what it was about to make is not published.

        Raises:
            JobNotFound: There is none of that id here.
            InvalidInput: It has ended already.
        """
        return self.queue.cancel(job_id, self.governance.visibility(principal))

    def retry_job(self, principal: Principal, job_id: str) -> Job:
        """Give a job that failed for good, or was cancelled, all its attempts again.

        Raises:
            JobNotFound: There is none of that id here.
            InvalidInput: It did not fail, or equal work waits already.
        """
        return self.queue.retry(job_id, self.governance.visibility(principal))


class TransformTask(Task):
    """Makes another form of the memories of a job together.

    Parameters: ``to``, one of ``TARGETS``; ``remade_from``, the cube and the model of a form that this one takes after.

    Args:
        bound: Take the work that is for this engine's model alone; else the work that is for any.
    """

    kind = "transform"

    def __init__(self, transforms: MemTransform, engine: Engine, *, bound: bool = False) -> None:
        self.transforms = transforms
        self.engine = engine
        if bound:
            self.kind = self.kind_for(engine)  # type: ignore[misc]

    @classmethod
    def kind_for(cls, engine: Engine) -> str:
        """Return the kind of work that only workers with this engine's model do."""
        return f"transform for {engine.model_name}"

    def prepare(self, job: Job, report: Progress) -> Publish:
        self.check(job)
        target = target_form(str(job.parameters.get("to")))
        proposal = self.transforms.propose(job.principal, self.engine, job.cube_ids, target, progress=report)
        if not proposal.passed:
            raise GateFailed(proposal.pathway, proposal.failures)
        if "remade_from" in job.parameters:
            parameters = {**proposal.parameters, "remade_from": job.parameters["remade_from"]}
            proposal = replace(proposal, parameters=parameters)

        def publish(session: WriteSession) -> JsonValue:
            cube_id = self.transforms.store(session, job.principal, proposal)
            if cube_id is None:
                raise SourcesChanged(f"memories changed while {proposal.pathway} was made, or the quota is reached")
            return cube_id

        return publish

    def check(self, job: Job) -> None:
        """Raise InvalidInput where a memory is out of use, before anything is computed for it."""
        transforms = self.transforms
        with transforms.vault.read() as session:
            cubes = session.cubes(transforms.governance.reach(job.principal), job.cube_ids)
        for cube in cubes:
            if cube.state is not State.ACTIVE:
                raise InvalidInput(f"memory {cube.id} is {cube.state}")


def as_ids(cube_id: str | Sequence[str]) -> list[str]:
    """Return one id or several as a list without repeats.

    Raises:
        InvalidInput: There is none.
    """
    cube_ids = [cube_id] if isinstance(cube_id, str) else list(dict.fromkeys(cube_id))
    if not cube_ids:
        raise InvalidInput("name at least one memory")
    return cube_ids


def last_failure(
    session: ReadSession,
    visibility: Visibility,
    kind: str,
    cube_ids: Sequence[str],
    parameters: Mapping[str, JsonValue],
) -> datetime | None:
    """Return when this very work was last begun that failed for good or was cancelled; None: it never was."""
    ended = rows.jobs_of(session, visibility, states=[JobState.DEAD, JobState.CANCELLED])
    wanted = kind, set(cube_ids), dict(parameters)
    return max((j.created for j in ended if (j.kind, set(j.cube_ids), dict(j.parameters)) == wanted), default=None)


def target_form(name: str) -> str:
    """Return ``name`` where it is something that memories can be made into.

    Raises:
        InvalidInput: It is not.
    """
    if name not in TARGETS:
        raise InvalidInput(f"to must be {', '.join(TARGETS)}; not {name!r}")
    return name


def target_type(name: str) -> MemoryType:
    """Return the memory type of that name.

    Raises:
        InvalidInput: There is none.
    """
    if name not in set(MemoryType):
        raise InvalidInput(f"to must be {', '.join(MemoryType)}; not {name!r}")
    return MemoryType(name)


def job_state(name: JobState | str) -> JobState:
    if name not in set(JobState):
        raise InvalidInput(f"a job is {', '.join(JobState)}; not {name!r}")
    return JobState(name)
