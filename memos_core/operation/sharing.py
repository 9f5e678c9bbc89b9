"""MemSharing: who else may read what. Only the owner grants; nothing that was granted can be granted on.

A right takes effect with the commit that gives it and ends with the commit that takes it back, in every process: each
read asks the ledger for it. What a reader sees of a memory, and how it is found among theirs, is described in
``docs/sharing.md``.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from pydantic import JsonValue

from memos_core.clock import as_utc
from memos_core.cube import MemCube, MemoryType, Sensitivity
from memos_core.errors import InvalidInput
from memos_core.grants import GrantRecord
from memos_core.infrastructure.governance import MemGovernance
from memos_core.infrastructure.governance.governance import author_of
from memos_core.infrastructure.vault import MemVault, ReadSession, WriteSession, granting
from memos_core.infrastructure.vault.granting import Given
from memos_core.operation.operator import found
from memos_core.principal import Principal, check_name

__all__ = ["MemSharing"]


class MemSharing:
    """Gives and takes back rights to the memories of one vault. Thread-safe."""

    def __init__(self, vault: MemVault, governance: MemGovernance) -> None:
        self.vault = vault
        self.governance = governance

    def grant(
        self,
        principal: Principal,
        grantee: str,
        right: str = "read",
        *,
        cube_id: str | None = None,
        whole_scope: bool = False,
        until: datetime | None = None,
    ) -> GrantRecord:
        """Let another user read one memory, or the whole scope, from now on.

        In the grantee's scopes it is found like their own memories, marked with its owner, as it is at that moment:
        with each edit, and no longer than it is active. Granting the same again replaces the grant, ``until`` included.

        Args:
            grantee: The user, known to the vault or not. All scopes of that user see what is granted.
            right: ``read``.
            cube_id: The memory.
            whole_scope: All text memories that this scope holds, and those that it will hold; but none that is marked
                secret. From the scope of an agent or session: what is bound to it.
            until: When the grant ends by itself; a naive moment is UTC.

        Raises:
            CubeNotFound: The memory is not visible here.
            InvalidInput: Neither or both of ``cube_id`` and ``whole_scope`` are given, the right is unknown, the
                grantee is the owner, ``until`` is over, or the cube is no memory in words.
            InvalidName: The grantee's name is malformed.
        """
        name = self._grantee(principal, grantee)
        if right != "read":
            raise InvalidInput(f"the right to 'read' can be granted, not {right!r}")
        if (cube_id is None) != whole_scope:
            raise InvalidInput("name one memory by cube_id, or say whole_scope=True to share all of this scope")
        with self.vault.write() as session:
            end = None if until is None else as_utc(until)
            if end is not None and end <= session.now:
                raise InvalidInput(f"until is {end.isoformat()}, which is over")
            bound = (principal.agent, principal.session) if whole_scope else (None, None)
            record = GrantRecord(principal.user, name, "read", cube_id, *bound, end, author_of(principal), session.now)
            if cube_id is not None:
                self._shareable(session, principal, cube_id)
            granting.give(session, record)
            self._show(session, principal, [cube_id] if cube_id else [], "granted")
            self._audit(session, principal, "grant", record)
        return record

    def revoke(self, principal: Principal, grantee: str, *, cube_id: str | None = None) -> tuple[GrantRecord, ...]:
        """Take a right back, and return the grants that ended: none, if there was none.

        Once this returns, the grantee cannot see the memory (without ``cube_id``: anything of this scope) any more, in
        any process, and nothing that was made from it is used.

        Args:
            grantee: The user.
            cube_id: The memory; None: every grant of this scope to that user, of single memories too.

        Raises:
            CubeNotFound: The memory is not visible here.
            InvalidInput: A grant of more than this gives the right; that one is to be revoked.
            InvalidName: The grantee's name is malformed.
        """
        name = self._grantee(principal, grantee)
        with self.vault.write() as session:
            held = granting.given(session, principal.namespace, grantee=name)
            if cube_id is None:
                touching = self._touching(session, principal, held)
                ended = [each for each in touching if each.record.cube_id or lies_within(each.record, principal)]
            else:
                cube = found(session.cube(self.governance.visibility(principal), cube_id), cube_id)
                touching = [each for each in held if covers(each.record, cube)]
                ended = [each for each in touching if each.record.cube_id]
            if remaining := [each.record for each in touching if each not in ended]:
                raise InvalidInput(f"{remaining[0]}; revoke that, in a scope that holds as much")
            granting.take_back(session, ended)
            self._show(session, principal, [each.record.cube_id for each in ended if each.record.cube_id], "revoked")
            for each in ended:
                self._audit(session, principal, "revoke", each.record)
        return tuple(each.record for each in ended)

    def grants(self, principal: Principal, *, cube_id: str | None = None, received: bool = False) -> list[GrantRecord]:
        """Return who may read what of this scope, oldest first; grants that are over are left out.

        Args:
            cube_id: Only what lets this memory be read, grants of the whole scope included.
            received: Instead what others let this user read now.

        Raises:
            CubeNotFound: The memory is not visible here.
            InvalidInput: Both arguments are given.
        """
        if received and cube_id is not None:
            raise InvalidInput("name a memory of this scope, or ask for what was received")
        with self.vault.read() as session:
            if received:
                return [each.record for each in granting.received(session, self.governance.reach(principal))]
            held = granting.given(session, principal.namespace)
            if cube_id is None:
                return [each.record for each in self._touching(session, principal, held)]
            cube = found(session.cube(self.governance.visibility(principal), cube_id), cube_id)
        return [each.record for each in held if covers(each.record, cube)]

    # Parts

    def _grantee(self, principal: Principal, grantee: str) -> str:
        name = check_name(grantee, "user")
        if name == principal.user:
            raise InvalidInput(f"{name!r} owns these memories and needs no grant")
        return name

    def _shareable(self, session: WriteSession, principal: Principal, cube_id: str) -> None:
        cube = found(session.cube(self.governance.visibility(principal), cube_id), cube_id)
        if cube.type is not MemoryType.PLAINTEXT:
            raise InvalidInput(f"memory {cube_id} is {cube.type}; grant the text that it was made from")
        if cube.header.descriptive.item is not None or cube.header.descriptive.collection is not None:
            raise InvalidInput(
                f"{cube_id} is an item of a store or a document of a collection; only memories are granted"
            )

    def _touching(self, session: ReadSession, principal: Principal, held: Sequence[Given]) -> list[Given]:
        """Return the grants by which something that the scope sees can be read."""
        named = [each.record.cube_id for each in held if each.record.cube_id is not None]
        if principal.agent is not None or principal.session is not None:
            named = [cube.id for cube in session.cubes(self.governance.visibility(principal), named)]
        seen = set(named)
        return [
            each
            for each in held
            if (each.record.cube_id in seen if each.record.cube_id else overlaps(each.record, principal))
        ]

    def _show(self, session: WriteSession, principal: Principal, cube_ids: Sequence[str], reason: str) -> None:
        """Let the headers of cubes tell the grants of them as they are now."""
        for cube in session.cubes(self.governance.visibility(principal), cube_ids):
            session.set_header(cube, author=author_of(principal), reason=reason)

    def _audit(self, session: WriteSession, principal: Principal, action: str, record: GrantRecord) -> None:
        detail: dict[str, JsonValue] = {"grantee": record.grantee, "right": record.right}
        detail |= {name: value for name in ("agent", "session") if (value := getattr(record, name)) is not None}
        if record.until is not None:
            detail["until"] = record.until.isoformat()
        self.governance.audit(session, principal, action, [record.cube_id] if record.cube_id else [], detail)


def overlaps(record: GrantRecord, principal: Principal) -> bool:
    """Tell whether a grant of a whole scope may cover something that ``principal`` sees."""
    pairs = (record.agent, principal.agent), (record.session, principal.session)
    return all(theirs is None or own is None or theirs == own for theirs, own in pairs)


def lies_within(record: GrantRecord, principal: Principal) -> bool:
    """Tell whether a grant of a whole scope covers nothing that ``principal`` does not see."""
    pairs = (record.agent, principal.agent), (record.session, principal.session)
    return all(own is None or theirs == own for theirs, own in pairs)


def covers(record: GrantRecord, cube: MemCube) -> bool:
    """Tell whether a grant lets ``cube`` be read while it is in use; the rule of ``conditions.granted``."""
    what, rules = cube.header.descriptive, cube.header.governance
    if cube.type is not MemoryType.PLAINTEXT or what.item is not None or what.collection is not None:
        return False
    if record.cube_id is not None:
        return record.cube_id == cube.id
    bound = record.agent in (None, rules.agent) and record.session in (None, what.source.session)
    return bound and rules.sensitivity is not Sensitivity.SECRET
