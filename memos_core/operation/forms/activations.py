"""The KV caches that one request may use: the engine's small window onto the vault."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from memos_core.cube import MemCube, State
from memos_core.engine.base import BuiltActivation, StoredActivation
from memos_core.errors import BlobDamaged
from memos_core.events import Event
from memos_core.infrastructure.governance import MemGovernance
from memos_core.infrastructure.vault import MemVault
from memos_core.infrastructure.vault.granting import has_received
from memos_core.principal import Principal
from memos_core.transform.base import Meter, Proposal
from memos_core.transform.prefill import proposal_of

__all__ = ["ScopeActivations"]


class ScopeActivations:
    """Implements ``engine.base.ActivationStore`` for one principal and the memories of one plan.

    Args:
        sources: The memories that a prefix may be built from in this request, with the versions that were read.
        commit: Stores what was built; returns the id of its cube, or None where it cannot be kept.
    """

    def __init__(
        self,
        vault: MemVault,
        governance: MemGovernance,
        principal: Principal,
        sources: Sequence[MemCube],
        *,
        commit: Callable[[Principal, Proposal], str | None],
        emit: Callable[[Event], None],
    ) -> None:
        self.vault = vault
        self.governance = governance
        self.commit = commit
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
            granted = has_received(session, self.principal.namespace)
            # Asked anew: a grant may have ended since the plan was made. Where there is none, the answer is kept.
            seen = self.governance.reach(self.principal) if granted else self.visibility
            found = self.vault.activations.current(session, seen, fingerprint, self.governance.clock.now())
        return [StoredActivation(cube_id, payload) for cube_id, payload in found]

    def read(self, address: str) -> bytes | bytearray:
        with self.vault.read() as session:
            namespace = session.namespace(self.principal.namespace)
        if namespace is None:
            raise BlobDamaged(address, "its namespace is gone")
        return self.vault.blobs.read(address, namespace.salt)

    def publish(self, built: BuiltActivation) -> str | None:
        """Commit a built cache as a derived cube, unless one of its memories has changed or gone meanwhile."""
        read = {cube_id: self.versions.get(cube_id, 0) for cube_id in built.cube_ids}
        sources = (*self._adapters(built), *read.items()) if built.adapter_cube_ids else tuple(read.items())
        seconds = float(built.parameters.get("prefill_seconds", 0.0))
        return self.commit(self.principal, proposal_of(built, sources, Meter(seconds)))

    def _adapters(self, built: BuiltActivation) -> Iterator[tuple[str, int]]:
        """Yield the adapters that a cache was computed under and what those were made from, but for its own memories.

        Lineage is looked up one step deep, and a cache has to fall with the memories of an adapter in it too.
        """
        with self.vault.read() as session:
            adapters = session.cubes(self.visibility, built.adapter_cube_ids)
        yield from ((cube_id, 0) for cube_id in built.adapter_cube_ids if cube_id not in {each.id for each in adapters})
        seen = set(built.cube_ids)
        for cube in adapters:
            for cube_id, version in ((cube.id, cube.version), *cube.header.descriptive.lineage.sources):
                if cube_id not in seen:
                    seen.add(cube_id)
                    yield cube_id, version

    def refuse(self, cube_id: str, reason: str) -> None:
        """Archive a damaged cache, so that it is built anew, and tell why."""
        with self.vault.write() as session:
            if session.cube(self.visibility, cube_id) is not None:
                session.set_state(cube_id, State.ARCHIVED, author="memos", reason=f"refused: {reason}")
        self.emit(
            Event("kv.refused", self.governance.clock.now(), self.principal.namespace, (cube_id,), {"reason": reason})
        )
