"""The KV caches that one request may use: the engine's small window onto the vault."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence

from memos_core.cube import (
    ActivationPayload,
    Descriptive,
    Governance,
    Header,
    Lineage,
    MemCube,
    MemoryType,
    State,
    canonical_json,
)
from memos_core.engine.base import BuiltActivation, StoredActivation
from memos_core.errors import BlobDamaged
from memos_core.events import Event
from memos_core.ids import UlidFactory
from memos_core.infrastructure.governance import MemGovernance
from memos_core.infrastructure.governance.governance import author_of
from memos_core.infrastructure.vault import MemVault, WriteSession
from memos_core.principal import Principal

__all__ = ["ScopeActivations"]


class ScopeActivations:
    """Implements ``engine.base.ActivationStore`` for one principal and the memories of one plan.

    Args:
        sources: The memories that a prefix may be built from in this request, with the versions that were read.
    """

    def __init__(
        self,
        vault: MemVault,
        governance: MemGovernance,
        principal: Principal,
        sources: Sequence[MemCube],
        *,
        ids: UlidFactory,
        emit: Callable[[Event], None],
    ) -> None:
        self.vault = vault
        self.governance = governance
        self.ids = ids
        self.principal = principal
        self.visibility = governance.visibility(principal)
        self.versions: Mapping[str, int] = {cube.id: cube.version for cube in sources}
        self.emit = emit

    @property
    def owner(self) -> str:
        # The vault's root keeps two vaults with users of the same name apart in an engine that serves both.
        return f"{self.vault.root}\n{self.principal.namespace}"

    def find(self, fingerprint: str) -> list[StoredActivation]:
        with self.vault.read() as session:
            found = session.activations(self.visibility, fingerprint, self.governance.clock.now())
        return [StoredActivation(cube_id, payload) for cube_id, payload in found]

    def read(self, address: str) -> bytes:
        with self.vault.read() as session:
            namespace = session.namespace(self.principal.namespace)
        if namespace is None:
            raise BlobDamaged(address, "its namespace is gone")
        return self.vault.blobs.read(address, namespace.salt)

    def publish(self, built: BuiltActivation) -> str | None:
        """Commit a built cache as a derived cube, unless one of its memories has changed or gone meanwhile."""
        key = hashlib.sha256(
            canonical_json(["activation", built.fingerprint, built.token_digest, built.codec])
        ).hexdigest()
        with self.vault.write() as session:
            if not self.sources_stand(session, built.cube_ids):
                return None
            namespace = session.ensure_namespace(self.principal.namespace)
            held = session.find_duplicate(self.principal.namespace, key, self.governance.clock.now())
            if held:
                return held[0]
            if self.governance.over_quota(session, self.principal.namespace, len(built.data)):
                return None
            blob = self.vault.blobs.put(built.data, namespace.salt)
            payload = ActivationPayload(
                blob=blob,
                fingerprint=built.fingerprint,
                token_digest=built.token_digest,
                token_count=built.token_count,
                model=built.model,
                codec=built.codec,
            )
            cube = self.cube(built, payload)
            session.insert(
                cube, passages=(), dedup_key=key, author=author_of(self.principal), reason="plaintext->activation"
            )
            self.governance.audit(session, self.principal, "transform", [cube.id, *built.cube_ids])
        now = self.governance.clock.now()
        detail = {"tokens": built.token_count, "bytes": len(built.data), **built.parameters}
        self.emit(Event("kv.built", now, self.principal.namespace, (cube.id, *built.cube_ids), detail))
        return cube.id

    def refuse(self, cube_id: str, reason: str) -> None:
        """Archive a damaged cache, so that it is built anew, and tell why."""
        with self.vault.write() as session:
            if session.cube(self.visibility, cube_id) is not None:
                session.set_state(cube_id, State.ARCHIVED, author="memos", reason=f"refused: {reason}")
        self.emit(
            Event("kv.refused", self.governance.clock.now(), self.principal.namespace, (cube_id,), {"reason": reason})
        )

    def sources_stand(self, session: WriteSession, cube_ids: Sequence[str]) -> bool:
        for cube_id in cube_ids:
            cube = session.cube(self.visibility, cube_id)
            if cube is None or cube.state is not State.ACTIVE or cube.version != self.versions.get(cube_id):
                return False
        return True

    def cube(self, built: BuiltActivation, payload: ActivationPayload) -> MemCube:
        now = self.governance.clock.now()
        lineage = Lineage(
            sources=tuple((cube_id, self.versions[cube_id]) for cube_id in built.cube_ids),
            pathway="plaintext->activation",
            parameters=built.parameters,
        )
        descriptive = Descriptive(
            id=self.ids.new(now),
            type=MemoryType.ACTIVATION,
            title=f"KV of {len(built.cube_ids)} memories for {built.model}, {built.token_count} tokens",
            kind="prefix",
            created=now,
            updated=now,
            lineage=lineage,
        )
        descriptive = descriptive.model_copy(
            update={"source": descriptive.source.model_copy(update={"session": self.principal.session})}
        )
        governance = Governance(
            owner=self.principal.user, namespace=self.principal.namespace, agent=self.principal.agent
        )
        return MemCube(header=Header(descriptive=descriptive, governance=governance), payload=payload)
