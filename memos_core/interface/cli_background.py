"""Commands for other forms of memories and for background work: transform, worker, jobs."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from enum import StrEnum
from typing import Annotated

import typer
from pydantic import JsonValue
from rich.text import Text

from memos_core.infrastructure.vault import Job, JobState
from memos_core.interface.cli_memory import local_engine
from memos_core.interface.cli_terminal import Terminal
from memos_core.interface.cli_views import columns, cube_json, iso, minute, printable, short

__all__ = ["COMMANDS", "jobs", "transform", "worker"]

Model = Annotated[str, typer.Option("--model", help="Hub id, folder, or memos-reader: the bundled one.")]


class TargetChoice(StrEnum):
    """Forms that a memory can be given."""

    ACTIVATION = "activation"
    PARAMETRIC = "parametric"
    CARTRIDGE = "cartridge"
    PLAINTEXT = "plaintext"


class JobAction(StrEnum):
    """What can be done to background work."""

    LIST = "list"
    SHOW = "show"
    CANCEL = "cancel"
    RETRY = "retry"


def transform(
    terminal: Terminal,
    *,
    cube_ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Ids of the memories.")],
    to: Annotated[TargetChoice, typer.Option(help="Form that they are given.")] = TargetChoice.ACTIVATION,
    each: Annotated[bool, typer.Option("--each", help="Each memory alone, not all together.")] = False,
    later: Annotated[bool, typer.Option("--later", help="Leave it to a worker.")] = False,
    model: Model = "memos-reader",
) -> None:
    """Give memories another form: a KV cache, a cartridge or an adapter of the model, or text again.

    The memories stay; what is made goes with them when they are forgotten.
    """
    if later:
        groups = [[cube_id] for cube_id in cube_ids] if each else [cube_ids]
        with terminal.scope() as scope:
            queued = [scope.transform_later(group, to=to.value) for group in groups]
        show_jobs(terminal, queued)
        return
    with (
        closing(local_engine(model)) as engine,
        terminal.scope(engine=engine) as scope,
        terminal.progress(f"making {to.value}") as progress,
    ):
        if each:
            derived = scope.transform_each(cube_ids, to=to.value, progress=progress)
        else:
            derived = [scope.transform(cube_ids, to=to.value, progress=progress)]
    if terminal.as_json:
        made: list[JsonValue] = [cube_json(cube) for cube in derived]
        terminal.document({"derived": made})
        return
    for cube in derived:
        typer.echo(f"{cube.id}  {printable(cube.text)}")


def worker(
    terminal: Terminal,
    *,
    once: Annotated[bool, typer.Option("--once", help="Do what is due, then leave.")] = False,
    model: Model = "memos-reader",
    poll_seconds: Annotated[float, typer.Option("--poll", metavar="SECONDS", help="Pause between looks.", min=0)] = 1.0,
) -> None:
    """Do the background work of the vault until stopped; a job that runs then is finished first.

    Any number of workers may run beside each other.
    """
    with closing(local_engine(model)) as engine, terminal.memos(engine=engine) as memos:
        if once:
            done, waiting = memos.work(), memos.run_pending()
        else:
            with told_to_stop() as stop:
                terminal.err.print("[dim]Working; Ctrl-C leaves.[/dim]")
                done, waiting = memos.work(stop, poll_seconds=poll_seconds), ()
    if terminal.as_json:
        terminal.document({"done": done, "waiting": list(waiting)})
        return
    typer.echo(f"{done} {'job' if done == 1 else 'jobs'} done")
    for line in waiting:
        typer.echo(f"still to be done: {line}")


@contextmanager
def told_to_stop() -> Iterator[threading.Event]:
    """Yield a flag that is set by Ctrl-C and by a request to terminate; a second one ends the process as ever."""
    stop = threading.Event()
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, frame: object) -> None:
        stop.set()
        for each, old in before.items():
            signal.signal(each, old)

    for each in before:
        signal.signal(each, note)
    try:
        yield stop
    finally:
        for each, old in before.items():
            signal.signal(each, old)


def jobs(
    terminal: Terminal,
    *,
    action: Annotated[JobAction, typer.Argument(help="What to do.")] = JobAction.LIST,
    job_id: Annotated[str | None, typer.Argument(metavar="[ID]", help="Which job, for all but 'list'.")] = None,
    state: Annotated[JobState | None, typer.Option(help="List only these.")] = None,
) -> None:
    """List background work, show one job, cancel it, or try a failed one again."""
    if (action is JobAction.LIST) != (job_id is None):
        raise typer.BadParameter("'list' takes no ID, and the other actions need one")
    with terminal.scope() as scope:
        if job_id is None:
            found = scope.jobs(states=[state] if state else None)
        elif action is JobAction.SHOW:
            found = [scope.job(job_id)]
        else:
            found = [scope.cancel_job(job_id) if action is JobAction.CANCEL else scope.retry_job(job_id)]
    show_jobs(terminal, found)


def show_jobs(terminal: Terminal, found: list[Job]) -> None:
    if terminal.as_json:
        listed: list[JsonValue] = [job_json(job) for job in found]
        terminal.document({"jobs": listed})
        return
    if not found:
        typer.echo("no jobs")
        return
    table = columns("id", "kind", "state", ">tries", ">done", "due", "memories", "reason")
    for job in found:
        far = f"{job.done}/{job.total}" if job.total else ""
        tries = f"{job.attempts}/{job.max_attempts}"
        about = short(" ".join(job.cube_ids), 60)
        cells = (job.id, job.kind, str(job.state), tries, far, minute(job.due), about, short(job.reason or ""))
        table.add_row(*map(Text, cells))
    terminal.out.print(table)


def job_json(job: Job) -> dict[str, JsonValue]:
    return {
        "id": job.id,
        "kind": job.kind,
        "state": str(job.state),
        "cube_ids": list(job.cube_ids),
        "parameters": dict(job.parameters),
        "priority": job.priority,
        "attempts": job.attempts,
        "max_attempts": job.max_attempts,
        "due": iso(job.due),
        "done": job.done,
        "total": job.total,
        "reason": job.reason,
        "result": job.result,
        "created": iso(job.created),
        "updated": iso(job.updated),
    }


COMMANDS: dict[str, Callable[..., None]] = {"transform": transform, "worker": worker, "jobs": jobs}
"""The commands of this file by name."""
