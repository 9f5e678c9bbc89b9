"""Forms of memories that go and come back: demoted to their source, and made again from their lineage.

A form is a derived cube: KV or an adapter. What it was made from stays when it goes, and the audit keeps how it was
made, without any text; so dropping one loses nothing but time. The same recipe makes a form again for another model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pydantic import JsonValue

from memos_core.cube import ActivationPayload, Lineage, MemCube, MemoryType, ParametricPayload, PlaintextPayload, State
from memos_core.engine.base import Engine
from memos_core.errors import CubeFrozen, InvalidInput
from memos_core.infrastructure.governance.governance import author_of
from memos_core.infrastructure.vault import Job, ReadSession, Visibility, WriteSession
from memos_core.operation.background import TransformTask, target_type
from memos_core.operation.forms.transforms import MemTransform
from memos_core.operation.jobs import JobQueue
from memos_core.operation.operator import found
from memos_core.principal import Principal
from memos_core.transform import CARTRIDGE

__all__ = ["Demotion", "Dropped", "MemForms", "Recipe", "drop_form", "recipe_of"]

MAX_DEMOTIONS = 1000
"""The newest ones, which can be looked at and made again."""

Dropped = Callable[[Principal, Sequence[str]], None]
"""Is told which derived cubes are gone, so that no engine holds them in memory any longer."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to make a form again.

    Attributes:
        cube_ids: What to transform.
        to: What it becomes.
    """

    cube_ids: tuple[str, ...]
    to: str


@dataclass(frozen=True, slots=True)
class Demotion:
    """A form of memories that was dropped, while the memories stay.

    Attributes:
        cube_id: The derived cube that is gone.
        type: What it was.
        lineage: What it was made from and how, what that cost and how good it was.
        model: Name of the model that it was for.
        size_bytes: What was freed.
        reason: Why it was dropped.
        author: Who did it.
        at: When.
    """

    cube_id: str
    type: MemoryType
    lineage: Lineage
    model: str
    size_bytes: int
    reason: str
    author: str
    at: datetime


@dataclass(frozen=True)
class MemForms:
    """Drops forms and makes them again. Thread-safe.

    Attributes:
        transforms: Makes and commits forms.
        queue: Where what is made later waits.
        dropped: Is told what is gone.
        engine: Returns the engine that forms are made for; raises ``EngineMissing`` where there is none.
    """

    transforms: MemTransform
    queue: JobQueue
    dropped: Dropped
    engine: Callable[[], Engine] = field(repr=False)

    def demote(self, principal: Principal, cube_id: str, *, reason: str = "demoted by its owner") -> Demotion:
        """Drop a KV cache or an adapter; the memories that it was made from stay, and ``remake`` brings it back.

        Raises:
            CubeFrozen: It is protected from change.
            CubeNotFound: It is not visible here.
            InvalidInput: It is text, or was brought from outside, so that nothing would be left of it; or something
                else was made from it.
        """
        visibility = self.transforms.governance.visibility(principal)
        with self.transforms.vault.write() as session:
            cube = found(session.cube(visibility, cube_id), cube_id)
            check_droppable(cube)
            if cube.header.governance.frozen:
                raise CubeFrozen(cube_id)
            made = session.derived(principal.namespace, [cube_id], recursive=False)
            if made:
                raise InvalidInput(f"memory {made[0]} was made from {cube_id}; drop that first")
            return drop_form(session, principal, cube, reason, self.dropped)

    def demotions(self, principal: Principal, *, limit: int = 50) -> tuple[Demotion, ...]:
        """Return the forms that were dropped while all memories that they were made from are still here, newest first.

        Raises:
            InvalidInput: ``limit`` is not positive.
        """
        if limit < 1:
            raise InvalidInput("limit must be at least 1")
        visibility = self.transforms.governance.reach(principal)
        with self.transforms.vault.read() as session:
            told = [demotion_of(entry) for entry in session.audit(principal.namespace, MAX_DEMOTIONS, action="demote")]
            named = {source for each in told if each for source, _ in each.lineage.sources}
            seen = {cube.id for cube in session.cubes(visibility, sorted(named))}
        whole = [each for each in told if each and {source for source, _ in each.lineage.sources} <= seen]
        return tuple(whole[:limit])

    def remake(
        self, principal: Principal, cube_id: str, *, progress: Callable[[int, int], None] | None = None
    ) -> MemCube:
        """Make a form again, for the engine's model and from its memories as they are now, and return the new cube.

        It may have been dropped, be out of date, or have been made for another model.

        Raises:
            CubeNotFound: There is no such form here, and none was dropped.
            GateFailed: What was made is not good enough.
            InvalidInput: It is text, or a memory that it was made from is out of use.
        """
        recipe = self.recipe(principal, cube_id)
        made = self.transforms.transform(principal, self.engine(), recipe.cube_ids, recipe.to, progress=progress)
        with self.transforms.vault.read() as session:
            return found(session.cube(self.transforms.governance.reach(principal), made), made)

    def remake_later(self, principal: Principal, cube_id: str) -> Job:
        """Leave ``remake`` to a worker and return the job.

        Raises:
            CubeNotFound: There is no such form here, and none was dropped.
            InvalidInput: It is text, or a memory that it was made from is out of use.
        """
        recipe = self.recipe(principal, cube_id)
        with self.queue.vault.write() as session:
            parameters = {"to": str(recipe.to)}
            return self.queue.add(session, principal, TransformTask.kind, recipe.cube_ids, parameters=parameters)

    def recipe(self, principal: Principal, cube_id: str) -> Recipe:
        """Return how to make again a form that is here, or was dropped. Raises as ``remake_later``."""
        visibility = self.transforms.governance.reach(principal)
        with self.transforms.vault.read() as session:
            cube = session.cube(visibility, cube_id)
        if cube is not None:
            kind, lineage = cube.type, cube.header.descriptive.lineage
        else:
            gone = next((e for e in self.demotions(principal, limit=MAX_DEMOTIONS) if e.cube_id == cube_id), None)
            kind, lineage = (gone.type, gone.lineage) if gone else (found(cube, cube_id).type, Lineage())
        if kind is MemoryType.PLAINTEXT:
            raise InvalidInput(f"memory {cube_id} is text; a form is a KV cache or an adapter")
        with self.transforms.vault.read() as session:
            recipe = recipe_of(session, visibility, lineage, kind)
        if recipe is None:
            raise InvalidInput(f"a memory that {cube_id} was made from is out of use, or it was brought from outside")
        return recipe


def recipe_of(session: ReadSession, visibility: Visibility, lineage: Lineage, kind: MemoryType) -> Recipe | None:
    """Return how to make a form again from what it was made of, as that is now; None where some of it does not serve.

    KV under an adapter needs that very adapter, with the memories that it was made from as they were.
    """
    versions = dict(lineage.sources)
    cubes = session.cubes(visibility, list(versions))
    if not versions or len(cubes) != len(versions) or any(cube.state is not State.ACTIVE for cube in cubes):
        return None
    forms = [cube for cube in cubes if cube.type is not MemoryType.PLAINTEXT]
    if not forms:
        return Recipe(tuple(versions), CARTRIDGE if (lineage.pathway or "").endswith(CARTRIDGE) else kind)
    below = {source for each in forms for source in each.header.descriptive.lineage.sources}
    current = {(cube.id, cube.version) for cube in cubes}
    if kind is not MemoryType.ACTIVATION or not below <= current:
        return None
    named = (*lineage.parameters.get("adapters", ()), *lineage.parameters.get("memories", ()))
    return Recipe(tuple(named), kind) if named and set(named) <= set(versions) else None


def drop_form(session: WriteSession, principal: Principal, cube: MemCube, reason: str, dropped: Dropped) -> Demotion:
    """Erase a form, keep in the audit how it was made, and return what was dropped.

    Raises:
        InvalidInput: It is text, or was made from nothing that stays.
    """
    payload, lineage = check_droppable(cube), cube.header.descriptive.lineage
    erased = session.erase(Visibility(principal.namespace), [cube.id], texts=False)
    author, size_bytes = author_of(principal), payload.blob.size_bytes
    about = [cube.id, *(source for source, _ in lineage.sources)]  # forgetting one of these empties the entry
    detail: dict[str, JsonValue] = {
        "type": str(cube.type),
        "lineage": lineage.model_dump(mode="json"),
        "model": payload.model,
        "bytes": size_bytes,
        "reason": reason,
    }
    session.record_audit(principal.namespace, author, "demote", about, detail)
    session.afterwards.append(lambda: dropped(principal, erased.cube_ids))
    return Demotion(cube.id, cube.type, lineage, payload.model, size_bytes, reason, author, session.now)


def check_droppable(cube: MemCube) -> ActivationPayload | ParametricPayload:
    """Return the payload of a form whose source stays when it goes.

    Raises:
        InvalidInput: It is text, or was made from nothing that stays.
    """
    if isinstance(cube.payload, PlaintextPayload):
        raise InvalidInput(f"memory {cube.id} is text; archive or forget it")
    if not cube.header.descriptive.lineage.sources:
        raise InvalidInput(f"memory {cube.id} was brought from outside, and nothing would be left of it; forget it")
    return cube.payload


def demotion_of(entry: dict[str, Any]) -> Demotion | None:
    """Return what an entry of the audit tells; None where it was emptied, since a memory was forgotten."""
    detail = entry["detail"]
    if "lineage" not in detail:
        return None
    return Demotion(
        cube_id=entry["cube_ids"][0],
        type=target_type(detail["type"]),
        lineage=Lineage.model_validate(detail["lineage"]),
        model=detail["model"],
        size_bytes=detail["bytes"],
        reason=detail["reason"],
        author=entry["principal"],
        at=datetime.fromisoformat(entry["at"]),
    )
