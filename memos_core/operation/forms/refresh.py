"""What was made from a memory goes when the memory changes: out of use at once, off the disk by a job.

That a KV cache or adapter may not be used is a condition of every query for one, so it holds from the commit of the
edit on, and from the very moment at which a source expires. This is the broom that comes behind.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pydantic import JsonValue

from memos_core.cube import MemCube, State
from memos_core.infrastructure.governance.governance import author_of
from memos_core.infrastructure.vault import Job, MemVault, Visibility, WriteSession
from memos_core.infrastructure.vault.derivation import fallen
from memos_core.operation.background import TransformTask
from memos_core.operation.forms.forms import recipe_of
from memos_core.operation.jobs import JobQueue, Progress, Publish, Task
from memos_core.principal import Principal

__all__ = ["RefreshTask", "queue_refreshes"]

PRIORITY = 10
"""Before new work: what is stale takes room for nothing."""


def queue_refreshes(vault: MemVault, queue: JobQueue) -> int:
    """Queue the erasure, and where it can be the rebuilding, of all that has lost a source; return how many."""
    with vault.read() as session:
        found = fallen(session, session.now)
    if not found:
        return 0
    with vault.write() as session:
        for principal, cube_id in found:
            queue.add(session, principal, RefreshTask.kind, [cube_id], priority=PRIORITY)
    return len(found)


class RefreshTask(Task):
    """Erases a KV cache or adapter that has lost a source, and queues a new one if all its sources still serve.

    Args:
        dropped: Is told which derived cubes are gone, so that no engine holds them in memory any longer.
    """

    kind = "refresh"

    def __init__(self, vault: MemVault, queue: JobQueue, dropped: Callable[[Principal, Sequence[str]], None]) -> None:
        self.vault = vault
        self.queue = queue
        self.dropped = dropped

    def prepare(self, job: Job, report: Progress) -> Publish:
        def publish(session: WriteSession) -> JsonValue:
            self.queue.detach(session, job)
            rebuilds = [self._refresh(session, job.principal, cube_id) for cube_id in job.cube_ids]
            return [each for each in rebuilds if each is not None]

        return publish

    def _refresh(self, session: WriteSession, principal: Principal, cube_id: str) -> str | None:
        visibility = Visibility(principal.namespace)
        cube = session.cube(visibility, cube_id)
        if cube is None or not fallen(session, session.now, cube_id=cube_id):
            return None  # it was erased meanwhile, or its source came back
        erased = session.erase(visibility, [cube_id], texts=False)
        session.record_audit(principal.namespace, author_of(principal), "refresh", [cube_id], {})
        session.afterwards.append(lambda: self.dropped(principal, erased.cube_ids))
        return self._rebuild(session, principal, cube)

    def _rebuild(self, session: WriteSession, principal: Principal, cube: MemCube) -> str | None:
        """Queue the same form of the sources as they are now; None where one of them does not serve any more."""
        visibility = Visibility(principal.namespace, principal.agent, principal.session, granted_at=session.now)
        recipe = recipe_of(session, visibility, cube.header.descriptive.lineage, cube.type)
        if recipe is None or cube.state is not State.ACTIVE:
            return None
        parameters = {"to": str(recipe.to)}
        return self.queue.add(session, principal, TransformTask.kind, recipe.cube_ids, parameters=parameters).id
