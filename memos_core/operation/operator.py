"""MemOperator: structures what comes in, finds what is asked for, links what belongs together.

No language model stands on either path.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from memos_core.cube import (
    Descriptive,
    Governance,
    Header,
    Link,
    MemCube,
    MemoryType,
    PlaintextPayload,
    Source,
    Trust,
    canonical_json,
    normalised,
)
from memos_core.embedding.base import Embedder, Vectors
from memos_core.errors import CubeNotFound, InvalidInput
from memos_core.ids import UlidFactory
from memos_core.infrastructure.governance import MemGovernance
from memos_core.infrastructure.governance.governance import author_of
from memos_core.infrastructure.vault import MemVault, Passage, WriteSession
from memos_core.infrastructure.vault.items import item_key
from memos_core.item import decoded_value
from memos_core.operation.committing import Committing, Draft, with_links
from memos_core.operation.finding.ranker import Ranker
from memos_core.operation.finding.search import Learned, MemSearch, SearchSettings, nothing_learned
from memos_core.operation.finding.words import words
from memos_core.operation.importance import importance_of
from memos_core.operation.items.writing import pieces_of
from memos_core.operation.superseding import reinstated
from memos_core.principal import Principal
from memos_core.records import Hit, MemoryCall, Receipt, Turn
from memos_core.render import index_text

EVERYTHING = MemoryCall(query="*")

__all__ = ["MemOperator", "dedup_key", "passages_of"]


class MemOperator:
    """Works on the memories of one vault. Thread-safe."""

    def __init__(
        self,
        vault: MemVault,
        governance: MemGovernance,
        ids: UlidFactory,
        settings: SearchSettings | None = None,
        ranker: Ranker | None = None,
        *,
        learned: Learned = nothing_learned,
    ) -> None:
        self.vault = vault
        self.governance = governance
        self.ids = ids
        self.settings = settings or SearchSettings()
        self.finder = MemSearch(vault, governance, self.settings, ranker or Ranker.load(), learned)

    # Writing

    def add(self, principal: Principal, turns: Sequence[Turn]) -> list[Receipt]:
        """Commit ``turns`` in one transaction, after one embedding batch, and return a receipt for each.

        Raises:
            InvalidMemory: One of them cannot be a memory; nothing was written.
            ScopeConflict: One names another session than the scope's own; nothing was written.
            EmbedderMismatch: The vault holds vectors of another embedder.
        """
        drafts = self.structure(principal, turns)
        nearest = self.near(principal, drafts)
        supersedes = self.settings.supersede

        def commit(session: WriteSession) -> list[Receipt]:
            return Committing(session, self.governance, principal, supersedes=supersedes).commit(drafts, nearest)

        return self.vault.commit(commit)

    def structure(self, principal: Principal, turns: Sequence[Turn]) -> list[Draft]:
        """Turn what a caller brought into cubes with their passages, words and vectors. Writes nothing."""
        bound = []
        for index, turn in enumerate(turns):
            self.governance.check(turn, index=index if len(turns) > 1 else None)
            session = principal.narrow(session=turn.session).session
            bound.append(turn if turn.session == session else turn.model_copy(update={"session": session}))
        cubes = [self.cube(principal, turn) for turn in bound]
        rejections = [self.governance.rejection(turn) for turn in bound]
        kept = [cube for cube, rejection in zip(cubes, rejections, strict=True) if rejection is None]
        passages = dict(zip([cube.id for cube in kept], passages_of(self.vault.embedder, kept), strict=True))
        return [
            Draft(turn, cube, passages.get(cube.id, ()), dedup_key(cube), rejection)
            for turn, cube, rejection in zip(bound, cubes, rejections, strict=True)
        ]

    def cube(self, principal: Principal, turn: Turn) -> MemCube:
        """Return the first version of a plaintext cube."""
        now = self.governance.clock.now()
        source = Source(
            speaker=turn.speaker, role=turn.role, session=turn.session, at=turn.at, ref=turn.ref, uri=turn.uri
        )
        descriptive = Descriptive(
            id=self.ids.new(now),
            type=MemoryType.PLAINTEXT,
            title=turn.title,
            kind=turn.kind,
            created=now,
            updated=now,
            valid_from=turn.valid_from,
            valid_until=turn.valid_until,
            source=source,
            language=turn.language,
            tags=tuple(dict.fromkeys(turn.tags)),
            importance=importance_of(turn.text, turn.role),
        )
        governance = Governance(
            owner=principal.user,
            namespace=principal.namespace,
            agent=principal.agent,
            sensitivity=turn.sensitivity,
            trust=trust_of(turn),
            retention=self.governance.retention(turn.ttl_seconds, now),
        )
        header = Header(descriptive=descriptive, governance=governance)
        return MemCube(header=header, payload=PlaintextPayload(text=turn.text))

    def near(self, principal: Principal, drafts: Sequence[Draft]) -> list[tuple[str, ...]]:
        """Return for each draft the cubes in the scope that say nearly the same, best first."""
        vectors = {number: own for number, draft in enumerate(drafts) if (own := draft.vector) is not None}
        if not vectors:
            return [()] * len(drafts)
        seen = self.governance.search_filter(principal, EVERYTHING)
        near = self.vault.alike(seen, np.stack(list(vectors.values())), 3, min_score=self.settings.near_duplicate)
        found = {number: tuple(hit.cube_id for hit in hits) for number, hits in zip(vectors, near, strict=True)}
        return [found.get(number, ()) for number in range(len(drafts))]

    def reinstate(self, principal: Principal, cube_id: str) -> MemCube:
        """Let a memory hold again that another one took the place of. The other one stays as it is.

        Raises:
            CubeNotFound: It is not visible here.
            InvalidInput: It was not superseded.
            CubeConflict: A live memory says the same by now.
        """
        with self.vault.write() as session:
            old = found(session.cube(self.governance.visibility(principal), cube_id), cube_id)
            cube = reinstated(old)
            session.take_key(cube_id, dedup_key(cube))
            session.set_header(cube, author=author_of(principal), reason="reinstated")
            self.governance.audit(session, principal, "reinstate", [cube_id])
        return cube

    def link(self, principal: Principal, source: str, target: str, relation: str) -> MemCube:
        """Add a named relation from one cube to another and return the changed cube.

        Raises:
            CubeNotFound: One of them is not visible here.
            InvalidInput: The relation is empty or too long.
        """
        if not relation.strip() or len(relation) > 100:
            raise InvalidInput("a relation is named by 1 to 100 characters")
        visibility = self.governance.visibility(principal)
        with self.vault.write() as session:
            cube = found(session.cube(visibility, source), source)
            found(session.cube(visibility, target), target)
            linked = with_links(cube, [*cube.header.descriptive.links, Link(target=target, relation=relation)])
            session.set_header(linked, author=author_of(principal), reason=f"linked: {relation}")
            self.governance.audit(session, principal, "link", [source, target], {"relation": relation})
        return linked

    # Finding

    def search(self, principal: Principal, call: MemoryCall) -> list[Hit]:
        """Return the best memories for ``call``, best first. Rights, validity and expiry are part of the query.

        Words, meaning, neighbours, session, speaker and time are weighed by ``operation/finding/ranker.py``. A
        memory counts as its best passage.

        Raises:
            InvalidInput: The query is empty or a filter is unknown.
            EmbedderMismatch: The vault holds vectors of another embedder.
        """
        return self.finder.search(principal, call)

    def standing(self, principal: Principal, cube_ids: Sequence[str]) -> list[MemCube]:
        """Return those of ``cube_ids``, in their order, that a search could find now: visible, active, valid."""
        conditions = self.governance.search_filter(principal, MemoryCall(query="any"), granted=True)
        with self.vault.read() as session:
            return session.cubes(conditions, list(dict.fromkeys(cube_ids)))


def trust_of(turn: Turn) -> Trust:
    """Return how far the source is believed, unless the caller said it: what a tool brings came from anywhere."""
    said = "trust" in turn.model_fields_set
    return turn.trust if said or turn.role != "tool" else Trust.UNTRUSTED


def passages_of(embedder: Embedder | None, cubes: Sequence[MemCube]) -> list[tuple[Passage, ...]]:
    """Return the passages of each cube with their words and, from one embedding batch, their vectors."""
    parts = [parts_of(embedder, cube) for cube in cubes]
    texts = [text for own in parts for _, _, text in own]
    vectors: Vectors | None = embedder.embed(texts) if embedder and texts else None
    result = []
    position = 0
    for cube, own in zip(cubes, parts, strict=True):
        passages = []
        for start, end, text in own:
            vector = None if vectors is None else vectors[position]
            terms = {} if cube.header.descriptive.item else words(text)
            passages.append(Passage(start=start, end=end, terms=terms, vector=vector))
            position += 1
        result.append(tuple(passages))
    return result


def parts_of(embedder: Embedder | None, cube: MemCube) -> list[tuple[int, int, str]]:
    """Return what of a cube is searched: first character, one after the last, and the text that stands for it."""
    item, whole = cube.header.descriptive.item, len(cube.text)
    if item is not None:
        return [(0, whole, piece) for piece in pieces_of(decoded_value(cube.text), item.fields, embedder)]
    spans = embedder.passages(cube.text) if embedder else [(0, whole)]
    return [(*span, index_text(cube, *span)) for span in spans]


def dedup_key(cube: MemCube) -> str:
    """Return what two memories have in common when they are the same: scope, ref, speaker and normalised text."""
    source, item = cube.header.descriptive.source, cube.header.descriptive.item
    if item is not None:
        owner = Principal(cube.header.governance.owner, cube.header.governance.agent, source.session)
        return item_key(owner, item.path, item.key)
    parts = [cube.header.governance.agent, source.session, source.ref, source.speaker, normalised(cube.text)]
    return hashlib.sha256(canonical_json(parts)).hexdigest()


def found(cube: MemCube | None, cube_id: str) -> MemCube:
    """Return ``cube``, or raise CubeNotFound if there is none."""
    if cube is None:
        raise CubeNotFound(cube_id)
    return cube
