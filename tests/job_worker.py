"""A process of its own that works on the jobs of a vault; started by the tests of the queue.

python job_worker.py <root> hang         begins the next job, prints its id, and then waits for ever
python job_worker.py <root> drain        does all that is due; prints the id of each job that it did
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from pydantic import JsonValue

from memos_core.ids import UlidFactory
from memos_core.infrastructure.vault import Job, MemVault, WriteSession
from memos_core.operation.jobs import JobQueue, JobSettings, Progress, Publish, Task
from memos_core.operation.worker import Worker


class Note(Task):
    """Writes an entry into the audit: what was published can be counted."""

    kind = "note"

    def __init__(self, pause_seconds: float = 0.0) -> None:
        self.pause_seconds = pause_seconds

    def prepare(self, job: Job, report: Progress) -> Publish:
        report(1, 2)
        time.sleep(self.pause_seconds)

        def publish(session: WriteSession) -> JsonValue:
            session.record_audit(job.principal.namespace, "worker", "noted", job.cube_ids, {"job": job.id})
            return job.id

        return publish


class Hang(Note):
    """Never comes to an end."""

    def prepare(self, job: Job, report: Progress) -> Publish:
        print(job.id, flush=True)
        time.sleep(3600)
        return super().prepare(job, report)


def main() -> None:
    root, action, lease_seconds = sys.argv[1:]
    vault = MemVault.open(Path(root), embedder=None)

    def told(event: object) -> None:
        name, detail = event.name, event.detail  # type: ignore[attr-defined]
        if name == "job.done":
            print(detail["job"], flush=True)

    queue = JobQueue(vault, UlidFactory(), settings=JobSettings(lease_seconds=float(lease_seconds)), emit=told)
    task = Hang() if action == "hang" else Note(pause_seconds=0.01)
    Worker(queue, [task]).run_due()
    vault.close()


if __name__ == "__main__":
    main()
