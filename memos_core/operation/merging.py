"""Merging memories into one and splitting one into several; both leave their lineage and can be reverted.

A merge is insert-then-retire in one transaction: the sources stay, in the state ``merged``, and nothing is lost if the
new text says less than they did.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal, TypeVar

from memos_core.cube import (
    Descriptive,
    Governance,
    Header,
    Lineage,
    MemCube,
    MemoryType,
    PlaintextPayload,
    Retention,
    Sensitivity,
    Source,
    State,
    Trust,
)
from memos_core.errors import CubeConflict, CubeFrozen, IllegalTransition, InvalidInput, SourcesChanged
from memos_core.infrastructure.governance import MemGovernance
from memos_core.infrastructure.governance.governance import author_of
from memos_core.infrastructure.vault import MemVault, Passage, WriteSession
from memos_core.operation.importance import importance_of
from memos_core.operation.operator import MemOperator, dedup_key, found, passages_of
from memos_core.operation.states import check_transition
from memos_core.principal import Principal
from memos_core.records import Outcome, Receipt, Turn

__all__ = ["MemMerging", "Remake"]

Pathway = Literal["merge", "split"]
CAUTION = tuple(Sensitivity)  # from the least to the most careful
BELIEF = tuple(Trust)  # from the least to the most believed

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Remake:
    """A merge or split that is ready to be committed.

    Attributes:
        pathway: Which of the two.
        sources: The memories that it takes the place of, as they were read.
        drafts: The new ones.
        passages: Of each of them.
    """

    pathway: Pathway
    sources: tuple[MemCube, ...]
    drafts: tuple[MemCube, ...]
    passages: tuple[tuple[Passage, ...], ...]

    @property
    def versions(self) -> tuple[tuple[str, int], ...]:
        return current_versions(self.sources)


class MemMerging:
    """Merges and splits the text memories of one vault. Thread-safe."""

    def __init__(self, vault: MemVault, governance: MemGovernance, operator: MemOperator) -> None:
        self.vault = vault
        self.governance = governance
        self.operator = operator

    def merge(self, principal: Principal, cube_ids: Sequence[str], text: str) -> Receipt:
        """Put one memory in the place of several, and return its receipt; ``revert`` undoes it.

        The sources are no longer found, and stay as they are in the state ``merged``. The new memory is no less
        sensitive than any of them, no more trusted, and lives no longer; a speaker or session that they agree on it
        keeps. It is forgotten with any of them.

        Raises:
            CubeConflict: Another live memory says the same already.
            CubeFrozen: One of them is protected from change.
            CubeNotFound: One of them is not visible here.
            IllegalTransition: One of them is not active.
            InvalidInput: Fewer than two are named, or one is not plaintext.
            InvalidMemory: The text cannot be a memory.
        """
        if len(set(cube_ids)) < 2:
            raise InvalidInput("a merge takes two memories or more")
        return self._remake(principal, list(dict.fromkeys(cube_ids)), [text], "merge")[0]

    def split(self, principal: Principal, cube_id: str, texts: Sequence[str]) -> list[Receipt]:
        """Put several memories in the place of one, and return their receipts; ``revert`` undoes it.

        Raises:
            InvalidInput: Fewer than two texts are given, or two are the same. Besides what ``merge`` raises.
        """
        if isinstance(texts, str) or len(texts) < 2:
            raise InvalidInput("a split takes two texts or more")
        return self._remake(principal, [cube_id], list(texts), "split")

    def revert(self, principal: Principal, cube_id: str) -> tuple[str, ...]:
        """Undo the merge or split that made this memory: what it was made from is active again.

        What was made is archived, for a split all of its parts, with whatever was edited in them since.

        Returns:
            The ids that are active again.

        Raises:
            CubeConflict: A live memory says the same as one that was to come back.
            CubeFrozen: A memory that takes part is protected from change.
            CubeNotFound: It is not visible here.
            IllegalTransition: It was merged further itself; that is to be reverted first.
            InvalidInput: It was made by no merge or split.
        """
        visibility, author = self.governance.visibility(principal), author_of(principal)
        with self.vault.write() as session:
            cube = found(session.cube(visibility, cube_id), cube_id)
            lineage = cube.header.descriptive.lineage
            if lineage.pathway not in ("merge", "split"):
                raise InvalidInput(f"memory {cube_id} was made by no merge or split")
            sources = [found(session.cube(visibility, each), each) for each, _ in lineage.sources]
            for made in self._siblings(session, principal, cube):
                if made.state is not State.EXPIRED:
                    check_transition(made, State.ARCHIVED)
                if made.state is State.ACTIVE:
                    session.set_state(made.id, State.ARCHIVED, author=author, reason=f"{lineage.pathway} reverted")
            for source in sources:
                if source.state is not State.MERGED:
                    raise IllegalTransition(source.id, source.state, f"the {lineage.pathway} was reverted already")
                check_transition(source, State.ACTIVE)
                self._free_key(session, principal, source)
                session.set_state(source.id, State.ACTIVE, author=author, reason=f"{lineage.pathway} reverted")
            self.governance.audit(session, principal, "revert", [cube_id, *(source.id for source in sources)])
        return tuple(source.id for source in sources)

    # In two steps: what takes long first, without holding up other writers

    def prepare(
        self, principal: Principal, source_ids: Sequence[str], texts: Sequence[str], pathway: Pathway
    ) -> Remake:
        """Return what would be committed, from the memories as they are now. Writes nothing; raises as ``merge``."""
        for number, text in enumerate(texts):
            self.governance.check(Turn.model_construct(text=text), index=number if len(texts) > 1 else None)
        visibility = self.governance.visibility(principal)
        with self.vault.read() as read:
            sources = [mergeable(found(read.cube(visibility, each), each)) for each in source_ids]
        drafts = self._drafts(principal, sources, texts, pathway)
        return Remake(pathway, tuple(sources), tuple(drafts), tuple(passages_of(self.vault.embedder, drafts)))

    def commit(self, principal: Principal, remake: Remake, *, author: str, reason: str) -> list[Receipt]:
        """Commit what was prepared, in one transaction, if its sources still are what it was made from.

        Raises:
            SourcesChanged: They are not.
        """
        visibility = self.governance.visibility(principal)
        with self.vault.write() as session:
            current = session.cubes(visibility, [source.id for source in remake.sources])
            if current_versions(current) != remake.versions:
                raise SourcesChanged("a memory changed while it was merged or split")
            made = replace(remake, sources=tuple(mergeable(cube) for cube in current))
            return self._commit(session, principal, made, author=author, reason=reason)

    # Parts

    def _remake(
        self, principal: Principal, source_ids: Sequence[str], texts: Sequence[str], pathway: Pathway
    ) -> list[Receipt]:
        made = self.prepare(principal, source_ids, texts, pathway)
        visibility = self.governance.visibility(principal)
        with self.vault.write() as session:
            current = tuple(mergeable(found(session.cube(visibility, each), each)) for each in source_ids)
            if any(
                now.header != then.header or now.version != then.version for now, then in both(current, made.sources)
            ):
                ids = [draft.id for draft in made.drafts]
                drafts = tuple(self._drafts(principal, current, texts, pathway, ids=ids))
                made = replace(made, sources=current, drafts=drafts)
            return self._commit(session, principal, made, author=author_of(principal), reason=pathway)

    def _drafts(
        self,
        principal: Principal,
        sources: Sequence[MemCube],
        texts: Sequence[str],
        pathway: Pathway,
        ids: Sequence[str] | None = None,
    ) -> list[MemCube]:
        """Return the new cubes. The parts of one split share its first id, so that they find each other."""
        now = self.governance.clock.now()
        fresh = ids or [self.operator.ids.new(now) for _ in texts]
        lineage = Lineage(
            sources=tuple((source.id, source.version) for source in sources),
            pathway=pathway,
            parameters={"operation": fresh[0]},
        )
        return [
            MemCube(
                header=Header(
                    descriptive=described(sources, cube_id, lineage, now, text), governance=governed(sources, principal)
                ),
                payload=PlaintextPayload(text=text),
            )
            for cube_id, text in zip(fresh, texts, strict=True)
        ]

    def _commit(
        self, session: WriteSession, principal: Principal, remake: Remake, *, author: str, reason: str
    ) -> list[Receipt]:
        drafts, sources, pathway = remake.drafts, remake.sources, remake.pathway
        size = sum(len(draft.text.encode()) for draft in drafts)
        if refused := self.governance.over_quota(session, principal.namespace, size):
            return [Receipt(None, 0, Outcome.REJECTED, refused) for _ in drafts]
        for source in sources:
            check_transition(source, State.MERGED)
            session.set_state(source.id, State.MERGED, author=author, reason=f"{pathway}: {drafts[0].id}")
        for draft, own in zip(drafts, remake.passages, strict=True):
            key = self._free_key(session, principal, draft)
            session.insert(draft, passages=own, dedup_key=key, author=author, reason=reason)
        session.record_audit(principal.namespace, author, pathway, [each.id for each in (*drafts, *sources)], {})
        return [Receipt(draft.id, draft.version, Outcome.COMMITTED, reason) for draft in drafts]

    def _siblings(self, session: WriteSession, principal: Principal, cube: MemCube) -> list[MemCube]:
        """Return what the same merge or split made, ``cube`` among it."""
        lineage = cube.header.descriptive.lineage
        made = session.derived(principal.namespace, [each for each, _ in lineage.sources], recursive=False)
        operation = lineage.parameters.get("operation")
        cubes = session.cubes(self.governance.visibility(principal), made)
        return [each for each in cubes if each.header.descriptive.lineage.parameters.get("operation") == operation]

    def _free_key(self, session: WriteSession, principal: Principal, cube: MemCube) -> str:
        key = dedup_key(cube)
        holder = session.find_duplicate(principal.namespace, key, self.governance.clock.now())
        if holder and holder[0] != cube.id:
            raise CubeConflict(cube.id, holder[0])
        return key


def current_versions(cubes: Iterable[MemCube]) -> tuple[tuple[str, int], ...]:
    return tuple((cube.id, cube.version) for cube in cubes)


def both(one: Sequence[T], other: Sequence[T]) -> list[tuple[T, T]]:
    return list(zip(one, other, strict=True))


def mergeable(cube: MemCube) -> MemCube:
    """Return ``cube`` if it may be merged or split."""
    if cube.type is not MemoryType.PLAINTEXT:
        raise InvalidInput(f"memory {cube.id} is {cube.type}; only plaintext can be merged or split")
    if collection := cube.header.descriptive.collection:
        raise InvalidInput(f"memory {cube.id} is a document of {collection!r}")
    if cube.header.descriptive.item is not None:
        raise InvalidInput(f"memory {cube.id} is an item of a store; put it there")
    check_transition(cube, State.MERGED)
    if cube.header.governance.frozen:  # merged already, so that nothing was to be checked
        raise CubeFrozen(cube.id)
    if cube.state is State.MERGED:
        raise IllegalTransition(cube.id, cube.state, "it lives on in other memories already")
    return cube


def described(sources: Sequence[MemCube], cube_id: str, lineage: Lineage, now: datetime, text: str) -> Descriptive:
    """Return what a new cube inherits: what the sources agree on, the union of tags, and the latest time."""
    whats = [source.header.descriptive for source in sources]
    froms = [what.source for what in whats]
    moments = [each.at for each in froms if each.at is not None]
    source = Source(
        speaker=agreed(each.speaker for each in froms),
        role=agreed(each.role for each in froms),
        session=agreed(each.session for each in froms),
        uri=agreed(each.uri for each in froms),
        at=max(moments, default=None),
    )
    return Descriptive(
        id=cube_id,
        type=MemoryType.PLAINTEXT,
        kind=agreed(what.kind for what in whats) or "note",
        created=now,
        updated=now,
        valid_from=agreed(what.valid_from for what in whats),
        valid_until=agreed(what.valid_until for what in whats),
        source=source,
        lineage=lineage,
        language=agreed(what.language for what in whats),
        tags=tuple(dict.fromkeys(tag for what in whats for tag in what.tags)),
        importance=importance_of(text, source.role),
    )


def governed(sources: Sequence[MemCube], principal: Principal) -> Governance:
    """Return the governance of a new cube: as careful as the most careful source, and no longer-lived than any."""
    rules = [source.header.governance for source in sources]
    ends = [rule.retention.expires_at for rule in rules if rule.retention.expires_at is not None]
    return Governance(
        owner=principal.user,
        namespace=principal.namespace,
        agent=agreed(rule.agent for rule in rules),
        sensitivity=most_careful(rule.sensitivity for rule in rules),
        trust=min((rule.trust for rule in rules), key=BELIEF.index),
        retention=Retention(expires_at=min(ends)) if ends else Retention(),
    )


def most_careful(levels: Iterable[Sensitivity]) -> Sensitivity:
    """Return the level of what was made from memories of these levels; without any, that of a memory of its own."""
    return max(levels, key=CAUTION.index, default=Sensitivity.INTERNAL)


def agreed(values: Iterable[T | None]) -> T | None:
    """Return the one value that all have, or None."""
    distinct = set(values)
    return distinct.pop() if len(distinct) == 1 else None
