"""Snapshots of a scope, and the way back to one: a time machine over versions that are kept anyway."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from memos_core.cube import MemCube, State
from memos_core.errors import InvalidInput
from memos_core.ids import UlidFactory
from memos_core.infrastructure.governance import MemGovernance
from memos_core.infrastructure.governance.governance import author_of
from memos_core.infrastructure.vault import MemVault, Passage, ReadSession, WriteSession
from memos_core.infrastructure.vault import snapshots as rows
from memos_core.infrastructure.vault.snapshots import Snapshot, Standing
from memos_core.operation.lifecycle import next_version
from memos_core.operation.operator import dedup_key, found, passages_of
from memos_core.principal import Principal, check_name

__all__ = ["MemSnapshots", "Restored"]

UNDO = "before-"
"""How the name of a snapshot begins that a restore took of what it replaced."""

KEPT_UNDOS = 10


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore changed.

    Attributes:
        name: The snapshot.
        undo: Name of a snapshot of how things stood before; restoring it undoes this restore.
        rewritten: Memories that have the text of then again, as a new version.
        archived: Memories that did not exist or were not in use then.
        returned: Memories that are in use again.
        skipped: Memory to the reason why it stays as it is now.
    """

    name: str
    undo: str
    rewritten: tuple[str, ...] = ()
    archived: tuple[str, ...] = ()
    returned: tuple[str, ...] = ()
    skipped: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Changes:
    """What is to be done to get back: new texts, and states."""

    texts: dict[str, Standing] = field(default_factory=dict)
    states: dict[str, State] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)


class MemSnapshots:
    """Takes and restores snapshots of the text memories that a scope sees. Thread-safe."""

    def __init__(self, vault: MemVault, governance: MemGovernance, ids: UlidFactory) -> None:
        self.vault = vault
        self.governance = governance
        self.ids = ids

    def snapshot(self, principal: Principal, name: str) -> Snapshot:
        """Note how every text memory of this scope stands, under a name. Takes a few bytes for each memory.

        Raises:
            InvalidName: The name is malformed.
            InvalidInput: There is one of that name.
        """
        name = check_name(name, "snapshot")
        if name.startswith(UNDO):
            raise InvalidInput(f"names that begin with {UNDO!r} are kept for what a restore replaces")
        visibility = self.governance.visibility(principal)
        with self.vault.write() as session:
            if rows.snapshots_of(session, visibility, name):
                raise InvalidInput(f"there is a snapshot {name!r} already; drop it first, or choose another name")
            made = self._take(session, principal, name)
            self.governance.audit(session, principal, "snapshot", [], {"name": name, "memories": made.memories})
        return made

    def snapshots(self, principal: Principal) -> list[Snapshot]:
        """Return the snapshots that were taken by this scope, oldest first."""
        with self.vault.read() as session:
            return rows.snapshots_of(session, self.governance.visibility(principal))

    def drop_snapshot(self, principal: Principal, name: str) -> None:
        """Forget a snapshot; the memories stay as they are.

        Raises:
            InvalidInput: There is none of that name.
        """
        with self.vault.write() as session:
            rows.delete_snapshot(session, self._named(session, principal, name))
            self.governance.audit(session, principal, "drop_snapshot", [], {"name": name})

    def restore(self, principal: Principal, name: str) -> Restored:
        """Bring the text memories of this scope back to how they stood, in one transaction.

        Texts come back as new versions, states as they were, and what was added since is archived. What was forgotten
        stays gone, what has expired stays expired, and what is frozen stays as it is. Links, tags and rights are left
        alone. ``restore(restored.undo)`` undoes it.

        Raises:
            InvalidInput: There is no snapshot of that name.
        """
        with self.vault.read() as read:
            plan = self._changes(read, principal, self._named(read, principal, name))
            drafts = [self._draft(read, principal, cube_id, then) for cube_id, then in plan.texts.items()]
        embedded = {(cube.id, cube.digest): made for cube, made in self._embedded(drafts)}
        with self.vault.write() as session:
            snapshot = self._named(session, principal, name)
            plan = self._changes(session, principal, snapshot)
            undo = self._take(session, principal, UNDO + self.ids.new(session.now))
            restored = Restoration(self, session, principal, f"restored to snapshot {name}").apply(plan, embedded)
            self._drop_old_undos(session, principal)
            touched = sorted({*plan.texts, *plan.states})
            self.governance.audit(session, principal, "restore", touched, {"name": name, "undo": undo.name})
        return Restored(name, undo.name, *restored, skipped=plan.skipped)

    # Parts

    def _take(self, session: WriteSession, principal: Principal, name: str) -> Snapshot:
        visibility = self.governance.visibility(principal)
        return rows.insert_snapshot(session, visibility, self.ids.new(session.now), name, author_of(principal))

    def _named(self, session: ReadSession, principal: Principal, name: str) -> Snapshot:
        held = rows.snapshots_of(session, self.governance.visibility(principal), name)
        if not held:
            raise InvalidInput(f"there is no snapshot {name!r} in this scope")
        return held[0]

    def _drop_old_undos(self, session: WriteSession, principal: Principal) -> None:
        held = rows.snapshots_of(session, self.governance.visibility(principal))
        undos = [each for each in held if each.name.startswith(UNDO)]
        for each in undos[:-KEPT_UNDOS]:
            rows.delete_snapshot(session, each)

    def _changes(self, session: ReadSession, principal: Principal, snapshot: Snapshot) -> Changes:
        """Return what differs between now and then."""
        visibility = self.governance.visibility(principal)
        now, then = rows.standings(session, visibility), rows.recorded(session, snapshot)
        plan = Changes()
        for cube_id, standing in now.items():
            if cube_id not in then:
                if standing.state is State.ACTIVE:
                    plan.states[cube_id] = State.ARCHIVED
            elif standing.state is State.EXPIRED or then[cube_id].state is State.EXPIRED:
                if standing.state is not then[cube_id].state:
                    plan.skipped[cube_id] = "its time is over" if standing.state is State.EXPIRED else "it was expired"
            else:
                if standing.digest != then[cube_id].digest:
                    plan.texts[cube_id] = then[cube_id]
                if standing.state is not then[cube_id].state:
                    plan.states[cube_id] = then[cube_id].state
        return self._without_frozen(session, principal, plan)

    def _without_frozen(self, session: ReadSession, principal: Principal, plan: Changes) -> Changes:
        touched = sorted({*plan.texts, *plan.states})
        for cube in session.cubes(self.governance.visibility(principal), touched):
            if cube.header.governance.frozen:
                plan.texts.pop(cube.id, None)
                plan.states.pop(cube.id, None)
                plan.skipped[cube.id] = "it is frozen"
        return plan

    def _draft(self, session: ReadSession, principal: Principal, cube_id: str, then: Standing) -> MemCube:
        """Return the next version of a cube, with the text of then."""
        visibility = self.governance.visibility(principal)
        cube = found(session.cube(visibility, cube_id), cube_id)
        old = found(session.cube(visibility, cube_id, then.version), cube_id)
        return next_version(cube, old.text, session.now)

    def _embedded(self, drafts: Sequence[MemCube]) -> list[tuple[MemCube, tuple[Passage, ...]]]:
        return list(zip(drafts, passages_of(self.vault.embedder, drafts), strict=True))


class Restoration:
    """Carries out the changes of one restore, within its transaction."""

    def __init__(self, snapshots: MemSnapshots, session: WriteSession, principal: Principal, reason: str) -> None:
        self.snapshots = snapshots
        self.session = session
        self.principal = principal
        self.author = author_of(principal)
        self.reason = reason

    def apply(
        self, plan: Changes, embedded: Mapping[tuple[str, str], tuple[Passage, ...]]
    ) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
        """Change texts and states; return what was rewritten, archived and brought back.

        What will change is put aside first: two memories may be about to swap texts, and no two live ones may say the
        same at any moment.
        """
        visibility = self.snapshots.governance.visibility(self.principal)
        touched = self.session.cubes(visibility, sorted({*plan.texts, *plan.states}))
        wanted = {cube.id: plan.states.get(cube.id, cube.state) for cube in touched}
        for cube in touched:
            if cube.state is State.ACTIVE:
                self._set(cube.id, State.ARCHIVED)
        rewritten, archived, returned = [], [], []
        for cube in touched:
            aside = cube.model_copy(update={"state": State.ARCHIVED if cube.state is State.ACTIVE else cube.state})
            if cube.id in plan.texts:
                aside = self._rewrite(aside, plan.texts[cube.id], embedded)
                rewritten.append(cube.id)
            state = self._settle(aside, wanted[cube.id], plan)
            if state is State.ACTIVE and cube.state is not State.ACTIVE:
                returned.append(cube.id)
            elif state is not State.ACTIVE and cube.state is State.ACTIVE:
                archived.append(cube.id)
        return tuple(rewritten), tuple(archived), tuple(returned)

    def _rewrite(
        self, cube: MemCube, then: Standing, embedded: Mapping[tuple[str, str], tuple[Passage, ...]]
    ) -> MemCube:
        draft = self.snapshots._draft(self.session, self.principal, cube.id, then)
        passages = embedded.get((draft.id, draft.digest)) or self.snapshots._embedded([draft])[0][1]
        draft = draft.model_copy(update={"state": cube.state})
        key = dedup_key(draft)
        self.session.replace(draft, passages=passages, dedup_key=key, author=self.author, reason=self.reason)
        return draft

    def _settle(self, cube: MemCube, state: State, plan: Changes) -> State:
        """Bring a cube to its state; one that may not be active, since another one says the same, stays archived."""
        if state is State.ACTIVE:
            namespace = self.principal.namespace
            holder = self.session.find_duplicate(namespace, dedup_key(cube), self.session.now)
            if holder is not None and holder[0] != cube.id:
                plan.skipped[cube.id] = f"memory {holder[0]} says the same; this one stays archived"
                state = State.ARCHIVED
        if cube.state is not state:
            self._set(cube.id, state)
        return state

    def _set(self, cube_id: str, state: State) -> None:
        self.session.set_state(cube_id, state, author=self.author, reason=self.reason)
