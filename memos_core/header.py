"""The header of a MemCube: what a memory is, whose it is, and how it is used (MemOS, arXiv 2505.22101, section 3).

Header
├── descriptive   what it is: id, type, title, kind, times, source, provenance, language, tags, links, importance
├── governance    whose it is: owner, namespace, grants, sensitivity, retention, trust, frozen
└── behaviour     how it is used: reads, injections, tokens saved, feedback, contribution
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    SerializerFunctionWrapHandler,
    model_serializer,
)

from memos_core.clock import as_utc
from memos_core.item import ItemAddress

__all__ = [
    "HEAT_HALF_LIFE_SECONDS",
    "Behaviour",
    "Descriptive",
    "Frozen",
    "Governance",
    "Grant",
    "Header",
    "Lineage",
    "Link",
    "MemoryType",
    "Moment",
    "Retention",
    "Sensitivity",
    "Source",
    "Trust",
    "cooling",
]

Moment = Annotated[datetime, AfterValidator(as_utc)]
"""A moment in UTC; a naive one is taken to be UTC."""


HEAT_HALF_LIFE_SECONDS = 7 * 86400.0
"""After this time a use counts half for the heat of a memory."""


def cooling(seconds: float) -> float:
    """Return what share of its heat a memory keeps that is left alone for ``seconds``."""
    return float(0.5 ** (seconds / HEAT_HALF_LIFE_SECONDS))


class Frozen(BaseModel):
    """A value: immutable, and strict about what it is made of."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class MemoryType(StrEnum):
    """What a payload is, and so how it enters a model."""

    PLAINTEXT = "plaintext"
    ACTIVATION = "activation"
    PARAMETRIC = "parametric"


class Sensitivity(StrEnum):
    """How carefully a memory is to be handled."""

    PUBLIC = "public"
    INTERNAL = "internal"
    PERSONAL = "personal"
    SECRET = "secret"


class Trust(StrEnum):
    """How far the source of a memory is believed."""

    UNTRUSTED = "untrusted"
    NORMAL = "normal"
    VERIFIED = "verified"


class Source(Frozen):
    """Where a memory came from, in the words of whoever brought it.

    Attributes:
        speaker: Who said or wrote it.
        role: The chat role under which it was said (``user``, ``assistant``, ``tool``), if any.
        session: The conversation that it belongs to.
        at: When it was said, as opposed to when it was stored.
        ref: The caller's own reference, such as a message id; returned as it was given.
        uri: The document or page, if any.
    """

    speaker: str | None = None
    role: str | None = None
    session: str | None = None
    at: Moment | None = None
    ref: str | None = None
    uri: str | None = None


class Lineage(Frozen):
    """What a cube was made of. Empty sources: it was brought from outside.

    Attributes:
        sources: The cube ids and versions that it was made from, in order.
        pathway: How, such as ``plaintext->activation``.
        parameters: What the pathway was called with and what it cost; JSON values.
    """

    sources: tuple[tuple[str, int], ...] = ()
    pathway: str | None = None
    parameters: Mapping[str, Any] = Field(default_factory=dict)


class Link(Frozen):
    """A named relation from this cube to another one of the same scope."""

    target: str
    relation: str


class Grant(Frozen):
    """A right that the owner gave to someone else."""

    grantee: str
    right: Literal["read", "write"]
    until: Moment | None = None


class Retention(Frozen):
    """How long a cube is kept. ``expires_at`` counts from the commit; None keeps it until it is forgotten."""

    ttl_seconds: float | None = Field(default=None, gt=0)
    expires_at: Moment | None = None

    def renewed(self, now: datetime) -> Retention:
        """Return this retention as if the cube had been committed ``now``."""
        if self.ttl_seconds is None:
            return self
        return Retention(ttl_seconds=self.ttl_seconds, expires_at=now + timedelta(seconds=self.ttl_seconds))


ADDED_LATER = frozenset({"collection", "metadata", "item", "importance"})
"""Fields of the descriptive group that older headers do not have."""


class Descriptive(Frozen):
    """What a cube is.

    Attributes:
        id: A ULID; ids sort by creation time.
        type: One of the three memory types.
        title: A short name for people.
        kind: Semantic kind: ``turn``, ``note``, ``document``, ``prefix`` ...
        created: When the first version was committed.
        updated: When this version was committed.
        valid_from: From when on what it says holds; None: always did.
        valid_until: Until when; None: still does.
        source: Where it came from.
        lineage: What it was made of.
        language: BCP 47 tag, if known.
        tags: Free labels, in the order given, without repeats.
        links: Relations to other cubes.
        item: Where it lies, if it is an item; None for every other memory.
        importance: How much its text is worth keeping, between 0.05 and 1, told from its words when they were written;
            None: not told, as for items, documents and what is older than this field.
        collection: The collection that it is a document of; None: a memory of its scope, found by every search.
        metadata: Whatever else the caller wants kept with a document; JSON values.
    """

    id: str
    type: MemoryType
    title: str | None = None
    kind: str = "note"
    created: Moment
    updated: Moment
    valid_from: Moment | None = None
    valid_until: Moment | None = None
    source: Source = Source()
    lineage: Lineage = Field(default_factory=Lineage)  # as a plain default it would be copied deeply for each memory
    language: str | None = None
    tags: tuple[str, ...] = ()
    links: tuple[Link, ...] = ()
    collection: str | None = None
    metadata: Mapping[str, JsonValue] = Field(default_factory=dict)
    item: ItemAddress | None = None
    importance: float | None = Field(default=None, gt=0, le=1)

    @model_serializer(mode="wrap")
    def _without_unused(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # A header is kept together with its digest: one without these fields must read as it did before they came.
        values: dict[str, Any] = serialise(self)
        return {name: value for name, value in values.items() if name not in ADDED_LATER or value}


class Governance(Frozen):
    """Whose a cube is and what may be done with it.

    Attributes:
        owner: The user.
        namespace: The unit of isolation that it lives in.
        agent: The agent that it is bound to, or None for all of the user's.
        grants: Rights given to others.
        sensitivity: How carefully it is to be handled.
        retention: How long it is kept.
        trust: How far its source is believed.
        frozen: Whether it is protected from change.
        shared: Whether this is what another user may read of it: without links, lineage, counters and grants. Never
            stored.
    """

    owner: str
    namespace: str
    agent: str | None = None
    grants: tuple[Grant, ...] = ()
    sensitivity: Sensitivity = Sensitivity.INTERNAL
    retention: Retention = Retention()
    trust: Trust = Trust.NORMAL
    frozen: bool = False
    shared: bool = False

    @model_serializer(mode="wrap")
    def _without_unused(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = serialise(self)
        return {name: value for name, value in values.items() if name != "shared" or value}


class Behaviour(Frozen):
    """How a cube is used. Counted beside the versions: reading a cube makes no new version.

    Attributes:
        reads: How often it was returned by a search or fetched.
        last_used: When that, or an injection, happened last.
        injected_text: How often it entered a prompt as text.
        injected_kv: How often as a KV cache.
        injected_lora: How often as an adapter.
        tokens_saved: Prompt positions that did not have to be computed because of it.
        feedback: Sum of the caller's judgements, each between -1 and 1.
        contribution: Its mean share in what the answers that were given it took from memory, between 0 and 1; None: not
            known, as without learning and for what was given less than three times.
        heat: Reads and injections, each halved for every week that has passed since; as of ``last_used``.
    """

    reads: int = 0
    last_used: Moment | None = None
    injected_text: int = 0
    injected_kv: int = 0
    injected_lora: int = 0
    tokens_saved: int = 0
    feedback: float = 0.0
    contribution: float | None = None
    heat: float = 0.0

    def heat_at(self, now: datetime) -> float:
        """Return the heat as it is at ``now``, cooled since the last use."""
        if self.last_used is None:
            return 0.0
        return self.heat * cooling(max(0.0, (now - self.last_used).total_seconds()))


class Header(Frozen):
    """The three groups of a cube's metadata."""

    descriptive: Descriptive
    governance: Governance
    behaviour: Behaviour = Behaviour()
