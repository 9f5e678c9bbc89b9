"""The plain data of the vault: what may be seen, what is asked, what is found, what went."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from pydantic import JsonValue

from memos_core.cube import MemoryType
from memos_core.embedding.base import Vector

__all__ = [
    "DEFAULT_COLLECTION",
    "ErasedRows",
    "Namespace",
    "Passage",
    "PassageHit",
    "SearchFilter",
    "UsageDelta",
    "VaultReport",
    "Visibility",
    "WordHit",
    "WordMatch",
]

DEFAULT_COLLECTION = "default"
"""Name of the collection that the memory of scopes lives in."""


@dataclass(frozen=True, slots=True)
class Namespace:
    """The unit of isolation. Its salt keeps equal content of two namespaces at different blob addresses."""

    name: str
    salt: bytes


@dataclass(frozen=True, slots=True)
class Visibility:
    """Whose cubes may be seen: those of the namespace that are unbound or bound to this agent and session.

    None for the agent (session) sees the cubes of all agents (sessions).

    Attributes:
        namespace: The unit of isolation, named as its user.
        agent: The agent.
        session: The session.
        granted_at: Also what others have granted to that user, as the grants stand at this moment, and of what was made
            from it only what still may be used. None: the namespace alone, as whoever changes something there needs it.
    """

    namespace: str
    agent: str | None = None
    session: str | None = None
    granted_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class SearchFilter:
    """The conditions that every result of a search meets.

    Attributes:
        visibility: Whose cubes.
        now: Cubes that have expired by then do not count.
        as_of: The moment at which what a cube says must hold; None: ``now``.
        before: Only what was said (else: committed) before this moment.
        filters: As described at ``MemoryCall.filters``.
        types: Memory types that may be found.
        include_superseded: What another memory took the place of may be found too.
        collection: Only documents of this collection; None: only what is in none.
    """

    visibility: Visibility
    now: datetime
    as_of: datetime | None = None
    before: datetime | None = None
    filters: Mapping[str, JsonValue] = field(default_factory=dict)
    types: tuple[MemoryType, ...] = (MemoryType.PLAINTEXT,)
    include_superseded: bool = False
    collection: str | None = None


@dataclass(frozen=True, slots=True)
class Passage:
    """A part of a text as it is searched.

    Attributes:
        start: First character.
        end: One after the last.
        terms: Word, as analysed, to how often it occurs.
        vector: Unit vector, or None where no embedder is set.
    """

    start: int
    end: int
    terms: Mapping[str, int]
    vector: Vector | None


@dataclass(frozen=True, slots=True)
class PassageHit:
    """A passage that is near a vector; ``score`` is the cosine similarity."""

    passage_id: int
    cube_id: str
    start: int
    end: int
    score: float


@dataclass(frozen=True, slots=True)
class WordMatch:
    """A passage that holds some of the words asked for.

    Attributes:
        length: Words in the passage.
        counts: Those of the words asked for that occur, and how often.
    """

    passage_id: int
    cube_id: str
    start: int
    end: int
    length: int
    counts: Mapping[str, int]


WordHit = WordMatch


@dataclass(frozen=True, slots=True)
class UsageDelta:
    """What is to be added to the counters of a cube; ``last_used`` is the later of the two."""

    reads: int = 0
    injected_text: int = 0
    injected_kv: int = 0
    injected_lora: int = 0
    tokens_saved: int = 0
    feedback: float = 0.0
    last_used: datetime | None = None

    @property
    def uses(self) -> int:
        """Reads and injections together."""
        return self.reads + self.injected_text + self.injected_kv + self.injected_lora

    @classmethod
    def total(cls, deltas: Sequence[UsageDelta]) -> UsageDelta:
        """Return several as one."""
        if len(deltas) == 1:
            return deltas[0]
        return cls(
            reads=sum([delta.reads for delta in deltas]),
            injected_text=sum([delta.injected_text for delta in deltas]),
            injected_kv=sum([delta.injected_kv for delta in deltas]),
            injected_lora=sum([delta.injected_lora for delta in deltas]),
            tokens_saved=sum([delta.tokens_saved for delta in deltas]),
            feedback=sum([delta.feedback for delta in deltas]),
            last_used=max([delta.last_used for delta in deltas if delta.last_used is not None], default=None),
        )

    @classmethod
    def summed(cls, uses: Iterable[tuple[Sequence[str], UsageDelta]]) -> dict[str, UsageDelta]:
        """Return what is to be added to each cube, where several were used at once and some more than once."""
        of_cube: defaultdict[str, list[UsageDelta]] = defaultdict(list)
        for cube_ids, delta in uses:
            for cube_id in cube_ids:
                of_cube[cube_id].append(delta)
        return {cube_id: cls.total(deltas) for cube_id, deltas in of_cube.items()}


@dataclass(frozen=True, slots=True)
class ErasedRows:
    """What an erasure took out of the ledger.

    Attributes:
        cube_ids: Cubes that went: those asked for, then those made from them.
        derived_ids: The latter alone.
        versions: Number of versions.
        vectors: Number of vectors.
        blob_addresses: Blobs that no other cube refers to; ``MemVault.purge`` deletes the files.
    """

    cube_ids: tuple[str, ...]
    derived_ids: tuple[str, ...]
    versions: int
    vectors: int
    blob_addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class VaultReport:
    """What a successful verification looked at."""

    namespaces: int
    cubes: int
    versions: int
    passages: int
    vectors: int
    blobs: int
    blob_bytes: int
