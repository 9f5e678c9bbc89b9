"""MemRestructuring: carries out what use proposes for the shape of memories, by hand or in the background.

Each change is a merge or a split with its lineage, in one transaction, and ``revert`` undoes it; what was reverted is
not proposed again. Nothing reaches beyond one user, and nothing happens by itself unless the settings say so.
"""

from __future__ import annotations

from collections.abc import Iterable

from memos_core.cube import MemCube, State
from memos_core.errors import (
    CubeConflict,
    CubeFrozen,
    CubeNotFound,
    IllegalTransition,
    InvalidInput,
    InvalidMemory,
    SourcesChanged,
)
from memos_core.infrastructure.governance import MemGovernance
from memos_core.infrastructure.governance.governance import author_of
from memos_core.infrastructure.vault import MemVault, ReadSession
from memos_core.infrastructure.vault import learning as rows
from memos_core.operation.learning.learning import AUTHOR, MemLearning, edits_of
from memos_core.operation.learning.lessons import uses_of
from memos_core.operation.learning.proposals import Proposal, RestructuringPolicy, proposed
from memos_core.operation.merging import MemMerging
from memos_core.principal import Principal
from memos_core.records import MemoryCall, Receipt

__all__ = ["MemRestructuring"]

ANYTHING = MemoryCall(query="*")
HINDERED = (CubeConflict, CubeFrozen, CubeNotFound, IllegalTransition, InvalidMemory, SourcesChanged)
"""Somebody was faster, another memory says the same, or the text is longer than this vault takes."""


class MemRestructuring:
    """Proposals for the memories of one vault. Thread-safe."""

    def __init__(self, vault: MemVault, governance: MemGovernance, merging: MemMerging, learning: MemLearning) -> None:
        self.vault = vault
        self.governance = governance
        self.merging = merging
        self.learning = learning

    def proposals(self, principal: Principal, *, policy: RestructuringPolicy | None = None) -> tuple[Proposal, ...]:
        """Return the merges and splits that the use of this scope's memories speaks for, the best supported first.

        What was noted while learning was on counts. Nothing is changed; ``adopt`` carries one out.

        Args:
            policy: Instead of the one that the vault was opened with.
        """
        chosen = policy or self.learning.settings.restructuring or RestructuringPolicy()
        name, follow = principal.namespace, self.learning.settings.settle_seconds
        with self.vault.read() as session:
            recalls = [each for each in self.learning.standing(session, name) if within(each.principal, principal)]
            given = sorted({cube.cube_id for each in recalls for cube in each.cubes})
            cubes = session.cubes(self.governance.search_filter(principal, ANYTHING), given)
            reverted = self._reverted(session, principal, cubes)
            edits = edits_of(session, name, recalls)
        found = proposed(principal.user, recalls, uses_of(recalls, edits, follow_seconds=follow), cubes, chosen)
        return tuple(each for each in found if (each.action, frozenset(each.cube_ids)) not in reverted)

    def adopt(
        self, principal: Principal, proposal_id: str, *, policy: RestructuringPolicy | None = None
    ) -> list[Receipt]:
        """Carry out one proposal, and return the receipts of the new memories; ``revert`` undoes it.

        Args:
            policy: The one that it was proposed by, if not that of the vault.

        Raises:
            InvalidInput: Nothing of that id is proposed now.
            SourcesChanged: A memory of it has just changed.
            CubeConflict: Another live memory says the same as a new one would.
        """
        found = {each.id: each for each in self.proposals(principal, policy=policy)}
        if proposal_id not in found:
            raise InvalidInput(f"no proposal with id {proposal_id!r} here")
        return self._carry_out(principal, found[proposal_id], author_of(principal))

    def restructure_all(self) -> tuple[Proposal, ...]:
        """Carry out what is proposed for each user, as far as the settings let one run go; return what was done."""
        policy = self.learning.settings.restructuring
        if policy is None or not self.learning.settings.enabled:
            return ()
        with self.vault.read() as session:
            users = rows.recalled_namespaces(session)
        return tuple(done for user in users for done in self._restructure(Principal(user), policy))

    def _restructure(self, principal: Principal, policy: RestructuringPolicy) -> Iterable[Proposal]:
        touched: set[str] = set()
        left = policy.max_changes
        for each in self.proposals(principal, policy=policy):
            if left and touched.isdisjoint(each.cube_ids) and self._done(principal, each):
                touched.update(each.cube_ids)
                left -= 1
                yield each

    def _done(self, principal: Principal, proposal: Proposal) -> bool:
        """Carry out a proposal, and tell whether it was possible. What still holds is proposed again the next time."""
        try:
            receipts = self._carry_out(principal, proposal, AUTHOR)
        except HINDERED:
            return False
        return all(receipt.cube_id is not None for receipt in receipts)

    def _carry_out(self, principal: Principal, proposal: Proposal, author: str) -> list[Receipt]:
        remake = self.merging.prepare(principal, proposal.cube_ids, proposal.texts, proposal.action)
        if remake.versions != proposal.sources:
            raise SourcesChanged("a memory changed since this was proposed")
        return self.merging.commit(principal, remake, author=author, reason=f"{proposal.action}: {proposal.reason}")

    def _reverted(
        self, session: ReadSession, principal: Principal, cubes: Iterable[MemCube]
    ) -> set[tuple[str, frozenset[str]]]:
        """Return the merges and splits of these memories that somebody took back."""
        visibility = self.governance.visibility(principal)
        made = session.derived(visibility, [cube.id for cube in cubes], recursive=False)
        lineages = [c.header.descriptive.lineage for c in session.cubes(visibility, made) if c.state is State.ARCHIVED]
        return {
            (each.pathway, frozenset(source for source, _ in each.sources))
            for each in lineages
            if each.pathway is not None
        }


def within(asked: Principal, principal: Principal) -> bool:
    """Tell whether a request was made in a scope, or in one that is bound further."""
    return principal.agent in (None, asked.agent) and principal.session in (None, asked.session)
