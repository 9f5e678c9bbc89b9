"""MemLifecycle: states and versions of a cube, counters of its use, and its end.

Every change makes a new version or leaves a trace in the audit, and has a way back; only ``forget`` has none. Which
state may follow which stands in ``operation.states``; merging and splitting in ``operation.merging``, snapshots of a
whole scope in ``operation.snapshots``.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import datetime

from memos_core.cube import MemCube, MemoryType, PlaintextPayload, State
from memos_core.errors import CubeConflict, CubeFrozen, InvalidInput
from memos_core.infrastructure.governance import MemGovernance
from memos_core.infrastructure.governance.governance import author_of
from memos_core.infrastructure.vault import MemVault, UsageDelta, WriteSession
from memos_core.operation.differences import VersionDiff, compared
from memos_core.operation.importance import importance_of
from memos_core.operation.operator import dedup_key, found, passages_of
from memos_core.operation.states import check_archivable, check_editable, check_transition
from memos_core.principal import Principal
from memos_core.records import Erasure, Outcome, Receipt, Turn, VersionRecord

__all__ = ["MemLifecycle"]

FLUSH_AFTER = 4096
"""Uses wait in memory until there are this many: reading a memory must not cost a disk write."""


class MemLifecycle:
    """Changes the memories of one vault. Thread-safe."""

    def __init__(self, vault: MemVault, governance: MemGovernance) -> None:
        self.vault = vault
        self.governance = governance
        self._uses: list[tuple[Sequence[str], UsageDelta]] = []
        self._waiting = 0
        self._lock = threading.Lock()

    # Versions

    def update(self, principal: Principal, cube_id: str, text: str, *, reason: str = "updated") -> Receipt:
        """Give a plaintext cube a new text, as a new version.

        Raises:
            CubeNotFound: It is not visible here.
            CubeFrozen: It is protected from change.
            CubeConflict: Another live cube says the same already.
            IllegalTransition: It is merged or expired.
            InvalidMemory: The text cannot be a memory.
            InvalidInput: The cube is not plaintext.
        """
        self.governance.check(Turn.model_construct(text=text))
        visibility = self.governance.visibility(principal)
        with self.vault.read() as read:
            before = found(read.cube(visibility, cube_id), cube_id)
        check_editable(before)
        if before.type is not MemoryType.PLAINTEXT:
            raise InvalidInput(f"memory {cube_id} is {before.type}; only plaintext can be edited")
        if before.header.descriptive.item is not None:
            raise InvalidInput(f"memory {cube_id} is an item; put it anew through Scope.items")
        if collection := before.header.descriptive.collection:
            raise InvalidInput(f"memory {cube_id} is a document of {collection!r}; upsert it there")
        after = next_version(before, text, self.governance.clock.now())
        passages = passages_of(self.vault.embedder, [after])[0]
        with self.vault.write() as session:
            current = found(session.cube(visibility, cube_id), cube_id)
            check_editable(current)
            if current.version != before.version:  # someone else was faster: theirs stays, ours comes after it
                after = next_version(current, text, self.governance.clock.now())
            key = self.free_key(session, principal, after)
            session.replace(after, passages=passages, dedup_key=key, author=author_of(principal), reason=reason)
            self.governance.audit(session, principal, "update", [cube_id], {"version": after.version})
        return Receipt(cube_id, after.version, Outcome.COMMITTED, reason)

    def rollback(self, principal: Principal, cube_id: str, version: int) -> Receipt:
        """Make the text of an earlier version current again, as a new version.

        Raises:
            InvalidInput: There is no such version. Besides what ``update`` raises.
        """
        visibility = self.governance.visibility(principal)
        with self.vault.read() as read:
            found(read.cube(visibility, cube_id), cube_id)
            old = read.cube(visibility, cube_id, version)
        if old is None:
            raise InvalidInput(f"memory {cube_id} has no version {version}")
        return self.update(principal, cube_id, old.text, reason=f"rolled back to version {version}")

    def history(self, principal: Principal, cube_id: str) -> list[VersionRecord]:
        """Return all versions, oldest first.

        Raises:
            CubeNotFound: It is not visible here.
        """
        visibility = self.governance.visibility(principal)
        with self.vault.read() as session:
            found(session.cube(visibility, cube_id), cube_id)
            return session.versions(visibility, cube_id)

    # States

    def freeze(self, principal: Principal, cube_id: str, *, frozen: bool = True) -> MemCube:
        """Protect a cube from change, or lift the protection.

        Its owner can still forget it: erasure is a right, freezing is a guard against accidents.
        """
        visibility = self.governance.visibility(principal)
        with self.vault.write() as session:
            cube = found(session.cube(visibility, cube_id), cube_id)
            changed = with_governance(cube, frozen=frozen)
            word = "frozen" if frozen else "unfrozen"
            session.set_header(changed, author=author_of(principal), reason=word)
            self.governance.audit(session, principal, word, [cube_id])
        return changed

    def archive(self, principal: Principal, cube_id: str, *, archived: bool = True) -> MemCube:
        """Take a cube out of search without losing it, or bring it back.

        Raises:
            CubeConflict: It was to come back, and a live cube says the same by now.
            CubeFrozen: It is protected from change.
            IllegalTransition: It is merged or expired.
        """
        visibility = self.governance.visibility(principal)
        state = State.ARCHIVED if archived else State.ACTIVE
        with self.vault.write() as session:
            cube = self.changeable(found(session.cube(visibility, cube_id), cube_id))
            check_archivable(cube, archived=archived, now=session.now)
            if state is State.ACTIVE and cube.state is not State.ACTIVE:
                self.free_key(session, principal, cube)
            if cube.state is not state:
                word = "archived" if archived else "restored"
                session.set_state(cube_id, state, author=author_of(principal), reason=word)
                self.governance.audit(session, principal, word, [cube_id])
        return cube.model_copy(update={"state": state})

    def renew(self, principal: Principal, cube_id: str, *, ttl_seconds: float | None = None) -> MemCube:
        """Give a memory a new time to live, from now on (None: it is kept until it is forgotten).

        An expired one is active again.

        Raises:
            CubeConflict: It was to come back, and a live cube says the same by now.
            CubeFrozen: It is protected from change.
            IllegalTransition: It is merged.
            InvalidInput: The time to live is not positive.
        """
        if ttl_seconds is not None and not ttl_seconds > 0:
            raise InvalidInput(f"ttl_seconds is more than 0, not {ttl_seconds}")
        visibility, author = self.governance.visibility(principal), author_of(principal)
        with self.vault.write() as session:
            cube = self.changeable(found(session.cube(visibility, cube_id), cube_id))
            lapsed = cube.state is State.EXPIRED
            if lapsed:
                self.free_key(session, principal, cube)
            elif cube.state is State.MERGED:
                check_transition(cube, State.EXPIRED)
            renewed = with_governance(cube, retention=self.governance.retention(ttl_seconds, session.now))
            session.set_header(renewed, author=author, reason="renewed")
            if lapsed:
                session.set_state(cube_id, State.ACTIVE, author=author, reason="renewed")
            self.governance.audit(session, principal, "renew", [cube_id])
        return renewed.model_copy(update={"state": State.ACTIVE}) if lapsed else renewed

    def diff(
        self, principal: Principal, cube_id: str, before: int | None = None, after: int | None = None
    ) -> VersionDiff:
        """Return what changed from one version of a memory to another, word by word.

        Args:
            before: By default the version before ``after``, or the first.
            after: By default the current one.

        Raises:
            CubeNotFound: It is not visible here.
            InvalidInput: There is no such version, or the cube is not plaintext.
        """
        records = {record.version: record for record in self.history(principal, cube_id)}
        newest = max(records)
        later = newest if after is None else after
        earlier = max(later - 1, min(records)) if before is None else before
        for version in (earlier, later):
            if version not in records:
                raise InvalidInput(f"memory {cube_id} has no version {version}; there are {min(records)} to {newest}")
        if records[newest].cube.type is not MemoryType.PLAINTEXT:
            raise InvalidInput(f"memory {cube_id} is {records[newest].cube.type}; only plaintext can be compared")
        return compared(cube_id, records[earlier], records[later])

    def changeable(self, cube: MemCube) -> MemCube:
        if cube.header.governance.frozen:
            raise CubeFrozen(cube.id)
        return cube

    def free_key(self, session: WriteSession, principal: Principal, cube: MemCube) -> str:
        """Return the duplicate key of ``cube`` after making sure that no other live cube holds it."""
        key = dedup_key(cube)
        holder = session.find_duplicate(principal.namespace, key, self.governance.clock.now())
        if holder and holder[0] != cube.id:
            raise CubeConflict(cube.id, holder[0])
        return key

    # Use

    def count(self, cube_ids: Sequence[str], delta: UsageDelta) -> None:
        """Add to the counters of some cubes. Written when a policy needs them, after some thousand uses, at close."""
        with self._lock:
            self._uses.append((tuple(cube_ids), delta))
            self._waiting += len(cube_ids)
            full = self._waiting >= FLUSH_AFTER
        if full:
            self.flush()

    def flush(self) -> None:
        """Write the counters that wait in memory."""
        with self._lock:
            waiting, self._uses, self._waiting = self._uses, [], 0
        if waiting:
            with self.vault.write() as session:
                session.touch(UsageDelta.summed(waiting))

    # The end

    def forget(self, principal: Principal, cube_ids: Sequence[str]) -> Erasure:
        """Erase cubes, all their versions, and everything that was made from them.

        They are unreachable when this returns. ``complete`` tells whether the last trace has left the disk as well;
        if something still held a file open, ``memos.run_pending()`` finishes it.

        Raises:
            CubeNotFound: One of them is not visible here; nothing was erased.
        """
        visibility = self.governance.visibility(principal)
        with self.vault.write() as session:
            seen = {cube.id: cube for cube in session.cubes(visibility, cube_ids)}
            for cube_id in cube_ids:
                found(seen.get(cube_id), cube_id)
            rows = session.erase(visibility, cube_ids)
            self.governance.audit(session, principal, "forget", rows.cube_ids)
        at = self.governance.clock.now()
        pending = self.vault.purge()
        return Erasure(
            cube_ids=tuple(rows.cube_ids),
            derived_ids=tuple(rows.derived_ids),
            versions=rows.versions,
            vectors=rows.vectors,
            blobs=len(rows.blob_addresses),
            at=at,
            complete=not pending,
            pending=pending,
        )


def next_version(cube: MemCube, text: str, now: datetime) -> MemCube:
    """Return the version after ``cube``, with a new text."""
    importance = importance_of(text, cube.header.descriptive.source.role)
    descriptive = cube.header.descriptive.model_copy(update={"updated": now, "importance": importance})
    header = cube.header.model_copy(update={"descriptive": descriptive})
    update = {"header": header, "payload": PlaintextPayload(text=text), "version": cube.version + 1}
    return cube.model_copy(update=update)


def with_governance(cube: MemCube, **changes: object) -> MemCube:
    """Return ``cube`` with some of its governance changed."""
    governance = cube.header.governance.model_copy(update=changes)
    return cube.model_copy(update={"header": cube.header.model_copy(update={"governance": governance})})
