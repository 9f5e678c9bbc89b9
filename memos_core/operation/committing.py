"""Committing: what an ``add`` brings becomes rows. Duplicates, the quota and contradictions are decided here, inside
the transaction, so that nobody can come in between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from memos_core.cube import Link, MemCube
from memos_core.embedding.base import Vector
from memos_core.infrastructure.governance import MemGovernance
from memos_core.infrastructure.governance.governance import author_of
from memos_core.infrastructure.vault import NewCube, Passage, WriteSession
from memos_core.operation.finding.search import NEAR_DUPLICATE
from memos_core.operation.superseding import contradicted, supersede
from memos_core.principal import Principal
from memos_core.records import Outcome, Receipt, Turn

__all__ = ["Committing", "Draft", "with_links"]


@dataclass(frozen=True, slots=True)
class Draft:
    """A memory that is ready to be committed, or was kept out by policy."""

    turn: Turn
    cube: MemCube
    passages: tuple[Passage, ...]
    dedup_key: str
    rejected: str | None = None

    @property
    def vector(self) -> Vector | None:
        """The vector of a short text; a passage that two documents share does not make them the same."""
        vectors = [passage.vector for passage in self.passages if passage.vector is not None]
        return None if self.rejected or len(vectors) != 1 else vectors[0]


class Committing:
    """Commits drafts of one principal within one transaction.

    Args:
        supersedes: What a new memory contradicts ceases to hold.
    """

    def __init__(
        self, session: WriteSession, governance: MemGovernance, principal: Principal, *, supersedes: bool
    ) -> None:
        self.session = session
        self.governance = governance
        self.principal = principal
        self.supersedes = supersedes
        self.author = author_of(principal)
        self.held: dict[str, tuple[str, int]] = {}
        self.near_ids: set[str] = set()

    def commit(self, drafts: Sequence[Draft], near: Sequence[tuple[str, ...]]) -> list[Receipt]:
        """Insert drafts, or say why not.

        Args:
            near: For each draft the cubes that say nearly the same.
        """
        session, namespace = self.session, self.principal.namespace
        session.ensure_namespace(namespace)
        keys = [draft.dedup_key for draft in drafts if not draft.rejected]
        self.held = session.find_duplicates(namespace, keys, self.governance.clock.now())
        proposed = sorted({cube_id for own in near for cube_id in own})
        if proposed:  # some may have gone since they were found
            self.near_ids = {cube.id for cube in session.cubes(self.governance.visibility(self.principal), proposed)}
        receipts = [self.one(draft, own) for draft, own in zip(drafts, near, strict=True)]
        new = (Outcome.COMMITTED, Outcome.SUPERSEDED)
        added = [receipt.cube_id for receipt in receipts if receipt.outcome in new and receipt.cube_id]
        if added:
            self.governance.audit(session, self.principal, "add", added)
        return receipts

    def one(self, draft: Draft, near: tuple[str, ...]) -> Receipt:
        """Insert one draft, or say why not."""
        if draft.rejected:
            return Receipt(None, 0, Outcome.REJECTED, draft.rejected)
        duplicate = self.held.get(draft.dedup_key)
        if duplicate:
            return Receipt(duplicate[0], duplicate[1], Outcome.DUPLICATE, "the same text is held already")
        size = len(draft.turn.text.encode())
        if reason := self.governance.over_quota(self.session, self.principal.namespace, size):
            return Receipt(None, 0, Outcome.REJECTED, reason)
        near = tuple(cube_id for cube_id in near if cube_id in self.near_ids)
        cube = with_links(draft.cube, [Link(target=other, relation=NEAR_DUPLICATE) for other in near])
        self.session.collect(NewCube(cube, draft.passages, draft.dedup_key, self.author))
        self.held[draft.dedup_key] = (cube.id, cube.version)
        old = self.ended(cube) if self.supersedes else []
        if old:
            named = ", ".join(other.id for other in old)
            return Receipt(cube.id, cube.version, Outcome.SUPERSEDED, f"takes the place of {named}", near=near)
        return Receipt(cube.id, cube.version, Outcome.COMMITTED, near=near)

    def ended(self, cube: MemCube) -> list[MemCube]:
        """Let what ``cube`` contradicts cease to hold, and return it. Its text may then be said anew."""
        old = contradicted(self.session, self.governance, self.principal, cube)
        for other in old:
            supersede(self.session, self.principal, other, cube)
        if old:
            gone = {other.id for other in old}
            self.held = {key: holder for key, holder in self.held.items() if holder[0] not in gone}
        return old


def with_links(cube: MemCube, links: Sequence[Link]) -> MemCube:
    """Return ``cube`` with exactly these links, each once."""
    descriptive = cube.header.descriptive
    wanted = tuple(dict.fromkeys(links))
    if wanted == descriptive.links:
        return cube
    changed = cube.header.model_copy(update={"descriptive": descriptive.model_copy(update={"links": wanted})})
    return cube.model_copy(update={"header": changed})
