"""The same memory for another model: forms that this engine's model cannot use are made again from their lineage.

KV and adapters are refused by any model but the one that they were made for, and the memories serve as text meanwhile.
The forms of the other model stay as they are: another process may use it, and a policy drops what is no longer used.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import JsonValue

from memos_core.cube import Lineage, MemCube, PlaintextPayload
from memos_core.engine.base import Engine
from memos_core.infrastructure.vault import Job, JobState, MemVault, ReadSession, Visibility
from memos_core.infrastructure.vault import jobs as rows
from memos_core.infrastructure.vault.derivation import foreign_forms, foreign_mark, models
from memos_core.operation.background import TransformTask
from memos_core.operation.forms.forms import MAX_DEMOTIONS, Recipe, demotion_of, recipe_of
from memos_core.operation.jobs import JobQueue
from memos_core.principal import Principal

__all__ = ["Remaker"]

PAGE = 500
PRIORITY = -10
"""After all other work: the memories serve as text."""
ENDED = (JobState.DONE, JobState.DEAD, JobState.CANCELLED)


@dataclass(frozen=True, slots=True)
class Remake:
    """A form that is to be made again.

    Attributes:
        principal: For whom.
        recipe: How.
        cube: The form of the other model.
    """

    principal: Principal
    recipe: Recipe
    cube: MemCube


class Remaker:
    """Queues, for the workers of one engine, the forms that its model cannot use. Thread-safe.

    What was made once, failed for good, was cancelled or was dropped again is not queued another time.
    """

    def __init__(self, vault: MemVault, queue: JobQueue, engine: Engine) -> None:
        self.vault = vault
        self.queue = queue
        self.engine = engine
        self._seen: tuple[object, ...] = ()

    def queue_all(self) -> int:
        """Look through the vault, unless nothing came in since the last time, and return how many were queued.

        Loads the model only where a form names another one; where all names agree, looks once it is loaded anyway.
        """
        if not self._is_worth_asking():
            return 0
        marks = self.engine.form_fingerprints
        with self.vault.read() as session:
            seen = (marks, *foreign_mark(session, session.now, sorted(marks)))
        if seen == self._seen:
            return 0
        added = self._sweep(marks)
        self._seen = seen
        return added

    def _is_worth_asking(self) -> bool:
        with self.vault.read() as session:
            named = models(session)
        return bool(named) and (self.engine.is_loaded or named != {self.engine.model_name})

    def _sweep(self, marks: frozenset[str]) -> int:
        added, after = 0, ""
        while True:
            with self.vault.read() as session:
                page = foreign_forms(session, session.now, sorted(marks), after=after, limit=PAGE)
                told: dict[Principal, frozenset[str]] = {}
                wanted = [self._wanted(session, who, cube_id, marks, told) for who, cube_id in page]
            added += self._queue([each for each in wanted if each is not None])
            if len(page) < PAGE:
                return added
            after = page[-1][1]

    def _wanted(
        self,
        session: ReadSession,
        principal: Principal,
        cube_id: str,
        marks: frozenset[str],
        told: dict[Principal, frozenset[str]],
    ) -> Remake | None:
        visibility = Visibility(principal.namespace, principal.agent, principal.session, granted_at=session.now)
        if principal not in told:
            told[principal] = self._over(session, visibility)
        cube = session.cube(visibility, cube_id)
        if cube is None or cube.id in told[principal] or has_like(session, visibility, cube, marks):
            return None
        recipe = recipe_of(session, visibility, cube.header.descriptive.lineage, cube.type)
        texts = [] if recipe is None else session.cubes(visibility, recipe.cube_ids)
        if recipe is None or not all(isinstance(each.payload, PlaintextPayload) for each in texts):
            return None  # KV under an adapter needs that adapter, and comes back on request
        return Remake(principal, recipe, cube)

    def _over(self, session: ReadSession, visibility: Visibility) -> frozenset[str]:
        """Return the forms whose like was made or given up before, and maybe dropped since."""
        kind = TransformTask.kind_for(self.engine)
        ended: list[Job] = rows.jobs_of(session, visibility, states=ENDED)
        found = {source_of(job.parameters.get("remade_from")) for job in ended if job.kind == kind}
        dropped = [demotion_of(each) for each in session.audit(visibility.namespace, MAX_DEMOTIONS, action="demote")]
        mine = [each.lineage for each in dropped if each is not None and each.model == self.engine.model_name]
        return frozenset(name for name in (*found, *map(remade_from, mine)) if name)

    def _queue(self, wanted: list[Remake]) -> int:
        if wanted:
            kind = TransformTask.kind_for(self.engine)
            with self.vault.write() as session:
                for each in wanted:
                    parameters: dict[str, JsonValue] = {
                        "to": str(each.recipe.to),
                        "remade_from": [each.cube.id, model_of(each.cube)],
                    }
                    ids = each.recipe.cube_ids
                    self.queue.add(session, each.principal, kind, ids, parameters=parameters, priority=PRIORITY)
        return len(wanted)


def has_like(session: ReadSession, visibility: Visibility, cube: MemCube, marks: frozenset[str]) -> bool:
    """Tell whether there is a form of the same kind, of the same memories, that this model can use."""
    sources = cube.header.descriptive.lineage.sources
    made = session.cubes(visibility, session.derived(visibility, [sources[-1][0]], recursive=False))
    return any(
        each.header.descriptive.lineage.sources == sources
        and not isinstance(each.payload, PlaintextPayload)
        and (each.type, each.header.descriptive.kind) == (cube.type, cube.header.descriptive.kind)
        and each.payload.fingerprint in marks
        for each in made
    )


def remade_from(lineage: Lineage) -> str:
    return source_of(lineage.parameters.get("remade_from"))


def source_of(told: JsonValue) -> str:
    """Return the cube of ``remade_from``; empty where nothing was told."""
    return str(told[0]) if isinstance(told, list) and told else ""


def model_of(cube: MemCube) -> str:
    return "" if isinstance(cube.payload, PlaintextPayload) else cube.payload.model
