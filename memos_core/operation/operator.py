"""MemOperator: structures what comes in, finds what is asked for, links what belongs together.

No language model stands on either path.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict, Field

from memos_core.cube import (
    Descriptive,
    Governance,
    Header,
    Link,
    MemCube,
    MemoryType,
    PlaintextPayload,
    Source,
    canonical_json,
    normalised,
)
from memos_core.embedding.base import Embedder, Vectors
from memos_core.errors import CubeNotFound, InvalidInput
from memos_core.ids import UlidFactory
from memos_core.infrastructure.governance import MemGovernance
from memos_core.infrastructure.governance.governance import author_of
from memos_core.infrastructure.vault import MemVault, Passage, PassageHit, ReadSession, SearchFilter, WriteSession
from memos_core.infrastructure.vault.items import item_key
from memos_core.item import decoded_value
from memos_core.operation.item_writing import pieces_of
from memos_core.operation.ranking import bm25, fuse, min_max
from memos_core.operation.words import query_words, words
from memos_core.principal import Principal
from memos_core.records import Hit, MemoryCall, Outcome, Receipt, Turn
from memos_core.render import index_text

__all__ = ["Draft", "Fusion", "MemOperator", "dedup_key", "passages_of"]


class Fusion(BaseModel):
    """How the parts of a search are weighed. ``docs/log.md`` tells how the defaults were found.

    Attributes:
        words: Weight of BM25.
        vectors: Weight of the similarity of vectors.
        neighbour: Share of its score that a turn gives to the turns just before and after it in its session: what
            answers a question often stands next to what sounds like it.
        depth: Passages that each part contributes, at least.
        near_duplicate: Similarity from which two memories are linked as saying nearly the same.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    words: float = Field(default=0.5, ge=0)
    vectors: float = Field(default=0.5, ge=0)
    neighbour: float = Field(default=0.3, ge=0, le=1)
    depth: int = Field(default=200, gt=0)
    near_duplicate: float = Field(default=0.97, gt=0, le=1)


@dataclass(frozen=True, slots=True)
class Draft:
    """A memory that is ready to be committed, or was kept out by policy."""

    turn: Turn
    cube: MemCube
    passages: tuple[Passage, ...]
    dedup_key: str
    rejected: str | None = None


class MemOperator:
    """Works on the memories of one vault. Thread-safe."""

    def __init__(
        self, vault: MemVault, governance: MemGovernance, ids: UlidFactory, fusion: Fusion | None = None
    ) -> None:
        self.vault = vault
        self.governance = governance
        self.ids = ids
        self.fusion = fusion or Fusion()

    # Writing

    def add(self, principal: Principal, turns: Sequence[Turn]) -> list[Receipt]:
        """Commit ``turns`` in one transaction, after one embedding batch, and return a receipt for each.

        Raises:
            InvalidMemory: One of them cannot be a memory; nothing was written.
            ScopeConflict: One names another session than the scope's own; nothing was written.
            EmbedderMismatch: The vault holds vectors of another embedder.
        """
        drafts = self.structure(principal, turns)
        nearest = [self.near(principal, draft) for draft in drafts]
        with self.vault.write() as session:
            session.ensure_namespace(principal.namespace)
            receipts = [
                self.commit(session, principal, draft, near) for draft, near in zip(drafts, nearest, strict=True)
            ]
            added = [r.cube_id for r in receipts if r.outcome is Outcome.COMMITTED and r.cube_id]
            if added:
                self.governance.audit(session, principal, "add", added)
        return receipts

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
        )
        governance = Governance(
            owner=principal.user,
            namespace=principal.namespace,
            agent=principal.agent,
            sensitivity=turn.sensitivity,
            trust=turn.trust,
            retention=self.governance.retention(turn.ttl_seconds, now),
        )
        header = Header(descriptive=descriptive, governance=governance)
        return MemCube(header=header, payload=PlaintextPayload(text=turn.text))

    def near(self, principal: Principal, draft: Draft) -> tuple[str, ...]:
        """Return the cubes in the scope that say nearly the same as ``draft``, best first."""
        vectors = [passage.vector for passage in draft.passages if passage.vector is not None]
        if draft.rejected or len(vectors) != 1:
            return ()  # only short texts: a shared passage does not make two documents the same
        seen = self.governance.search_filter(principal, MemoryCall(query="*"))
        hits = self.vault.vector_search(seen, vectors[0], 3, min_score=self.fusion.near_duplicate)
        return tuple(hit.cube_id for hit in hits)

    def commit(self, session: WriteSession, principal: Principal, draft: Draft, near: tuple[str, ...]) -> Receipt:
        """Insert one draft, or say why not. Duplicates are decided here, inside the transaction."""
        if draft.rejected:
            return Receipt(None, 0, Outcome.REJECTED, draft.rejected)
        duplicate = session.find_duplicate(principal.namespace, draft.dedup_key, self.governance.clock.now())
        if duplicate:
            return Receipt(duplicate[0], duplicate[1], Outcome.DUPLICATE, "the same text is held already")
        size = len(draft.turn.text.encode())
        if reason := self.governance.over_quota(session, principal.namespace, size):
            return Receipt(None, 0, Outcome.REJECTED, reason)
        near = tuple(cube_id for cube_id in near if session.cube(self.governance.visibility(principal), cube_id))
        cube = with_links(draft.cube, [Link(target=other, relation="near_duplicate") for other in near])
        session.insert(cube, passages=draft.passages, dedup_key=draft.dedup_key, author=author_of(principal))
        return Receipt(cube.id, cube.version, Outcome.COMMITTED, near=near)

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

        Each passage is scored by BM25 and by cosine similarity; both are stretched to [0, 1] over the candidates
        and averaged by weight. A memory counts as its best passage, and gets a share of what its neighbours in the
        same session score.

        Raises:
            InvalidInput: The query is empty or a filter is unknown.
            EmbedderMismatch: The vault holds vectors of another embedder.
        """
        if not call.query.strip():
            raise InvalidInput("the query is empty")
        conditions = self.governance.search_filter(principal, call)
        parts = Parts()
        with self.vault.read() as session:
            matches = session.word_matches(conditions, query_words(call.query))
            passages, mean_length = session.corpus(conditions.visibility, conditions.now)
        parts.words = bm25(matches, passages=passages, mean_length=mean_length)
        for match in matches:
            place = Place(match.passage_id, match.cube_id, match.start, match.end, 0.0)
            parts.places[match.passage_id] = place
            parts.matched[match.passage_id] = ", ".join(sorted(match.counts))
        self.add_similarities(parts, conditions, call)
        weighed = [
            (self.fusion.words, min_max(parts.words)),
            (self.fusion.vectors, min_max(parts.vectors)),
        ]
        best = best_passages(fuse(weighed), parts.places)
        with self.vault.read() as session:
            scores = self.with_neighbours(session, conditions, {cube_id: score for cube_id, (score, _) in best.items()})
            ranked = sorted(scores, key=lambda cube_id: (-scores[cube_id], cube_id))[: call.k]
            cubes = session.cubes(conditions, ranked)
        return [parts.hit(cube, scores[cube.id], best.get(cube.id)) for cube in cubes]

    def standing(self, principal: Principal, cube_ids: Sequence[str]) -> list[MemCube]:
        """Return those of ``cube_ids``, in their order, that a search could find now: visible, active, valid."""
        conditions = self.governance.search_filter(principal, MemoryCall(query="any"))
        with self.vault.read() as session:
            return session.cubes(conditions, list(dict.fromkeys(cube_ids)))

    def add_similarities(self, parts: Parts, conditions: SearchFilter, call: MemoryCall) -> None:
        """Add the similarities of the nearest passages, and of those that were found by words."""
        if self.vault.embedder is None:
            return
        vector = self.vault.embedder.embed_query(call.query)
        nearest = self.vault.vector_search(conditions, vector, max(self.fusion.depth, 4 * call.k))
        parts.places.update({hit.passage_id: hit for hit in nearest})
        parts.vectors = {hit.passage_id: hit.score for hit in nearest}
        missing = [passage_id for passage_id in parts.words if passage_id not in parts.vectors]
        parts.vectors.update(self.vault.similarities(missing, vector))

    def with_neighbours(
        self, session: ReadSession, conditions: SearchFilter, scores: dict[str, float]
    ) -> dict[str, float]:
        """Return scores to which each cube adds a share of its better neighbour's, brought back to [0, 1]."""
        share = self.fusion.neighbour
        if not share:
            return scores
        leading = sorted(scores, key=lambda cube_id: -scores[cube_id])[: self.fusion.depth]
        beside: dict[str, float] = {}
        for cube_id, neighbours in session.neighbours(conditions, leading).items():
            for other in neighbours:
                beside[other] = max(beside.get(other, 0.0), scores[cube_id])
        return {
            cube_id: (scores.get(cube_id, 0.0) + share * beside.get(cube_id, 0.0)) / (1 + share)
            for cube_id in scores.keys() | beside.keys()
        }


Place = PassageHit
"""Where a passage lies: ``passage_id``, ``cube_id``, ``start``, ``end``."""


@dataclass(slots=True)
class Parts:
    """What one search collects about passages, by passage id."""

    words: dict[int, float] = field(default_factory=dict)
    vectors: dict[int, float] = field(default_factory=dict)
    places: dict[int, Place] = field(default_factory=dict)
    matched: dict[int, str] = field(default_factory=dict)

    def hit(self, cube: MemCube, score: float, best: tuple[float, Place] | None) -> Hit:
        """Return the hit for ``cube`` and its best passage; none: it was found through a neighbour."""
        if best is None:
            return Hit(cube, score, "beside a better match in the same session")
        place = best[1]
        why = []
        if place.passage_id in self.words:
            why.append(f"words {self.words[place.passage_id]:.2f} ({self.matched[place.passage_id]})")
        if place.passage_id in self.vectors:
            why.append(f"similarity {self.vectors[place.passage_id]:.2f}")
        whole = place.start == 0 and place.end >= len(cube.text)
        return Hit(cube, score, "; ".join(why), None if whole else (place.start, place.end))


def best_passages(scores: Mapping[int, float], places: Mapping[int, Place]) -> dict[str, tuple[float, Place]]:
    """Return the best passage of each cube with its score, by cube id."""
    best: dict[str, tuple[float, Place]] = {}
    for passage_id, score in scores.items():
        place = places[passage_id]
        if place.cube_id not in best or score > best[place.cube_id][0]:
            best[place.cube_id] = (score, place)
    return best


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


def with_links(cube: MemCube, links: Sequence[Link]) -> MemCube:
    """Return ``cube`` with exactly these links, each once."""
    descriptive = cube.header.descriptive.model_copy(update={"links": tuple(dict.fromkeys(links))})
    return cube.model_copy(update={"header": cube.header.model_copy(update={"descriptive": descriptive})})


def found(cube: MemCube | None, cube_id: str) -> MemCube:
    """Return ``cube``, or raise CubeNotFound if there is none."""
    if cube is None:
        raise CubeNotFound(cube_id)
    return cube
