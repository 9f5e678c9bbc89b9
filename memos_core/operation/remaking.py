"""The same memory for another model: forms that this engine's model cannot use are made again from their lineage.

KV and adapters are refused by any model but the one that they were made for, and the memories serve as text meanwhile.
The forms of the other model stay as they are: another process may use it, and a policy drops what is no longer used.
"""

from __future__ import annotations

from pydantic import JsonValue

from memos_core.cube import MemCube, PlaintextPayload
from memos_core.engine.base import Engine
from memos_core.infrastructure.vault import MemVault, ReadSession, Visibility, WriteSession
from memos_core.infrastructure.vault.derivation import foreign_forms, models
from memos_core.operation.background import TransformTask, last_failure
from memos_core.operation.forms import recipe_of
from memos_core.operation.jobs import JobQueue
from memos_core.principal import Principal

__all__ = ["queue_remakes"]

PRIORITY = -10
"""After all other work: the memories serve as text."""


def queue_remakes(vault: MemVault, queue: JobQueue, engine: Engine) -> int:
    """Queue, for this engine's workers, each form in use that its model cannot use and has no like of; return how many.

    What failed for good or was cancelled is not queued again. Loads the model only where a form names another one.
    """
    if not is_worth_asking(vault, engine):
        return 0
    marks = engine.form_fingerprints
    with vault.read() as session:
        found = foreign_forms(session, session.now, sorted(marks))
    added = 0
    for principal, cube_id in found:
        with vault.write() as session:
            added += queue_remake(session, queue, principal, cube_id, engine=engine, marks=marks)
    return added


def is_worth_asking(vault: MemVault, engine: Engine) -> bool:
    """Tell whether there are forms, and the model is loaded or one of them names another model."""
    with vault.read() as session:
        named = models(session)
    return bool(named) and (engine.is_loaded or named != {engine.model_name})


def queue_remake(
    session: WriteSession,
    queue: JobQueue,
    principal: Principal,
    cube_id: str,
    *,
    engine: Engine,
    marks: frozenset[str],
) -> bool:
    """Queue the like of one form; False: it is not to be made, or is there."""
    visibility = Visibility(principal.namespace, principal.agent, principal.session)
    cube = session.cube(visibility, cube_id)
    if cube is None or isinstance(cube.payload, PlaintextPayload):
        return False
    recipe = recipe_of(session, visibility, cube.header.descriptive.lineage, cube.type)
    if recipe is None or any(not is_text(session, visibility, each) for each in recipe.cube_ids):
        return False  # KV under an adapter comes back with the adapter, on request
    if has_like(session, visibility, cube, marks):
        return False
    parameters: dict[str, JsonValue] = {"to": str(recipe.to), "remade_from": [cube.id, cube.payload.model]}
    kind = TransformTask.kind_for(engine)
    if last_failure(session, visibility, kind, recipe.cube_ids, parameters) is not None:
        return False
    queue.add(session, principal, kind, recipe.cube_ids, parameters=parameters, priority=PRIORITY)
    return True


def is_text(session: ReadSession, visibility: Visibility, cube_id: str) -> bool:
    cube = session.cube(visibility, cube_id)
    return cube is not None and isinstance(cube.payload, PlaintextPayload)


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
