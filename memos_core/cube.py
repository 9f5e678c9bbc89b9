"""MemCube: the one unit of memory (MemOS, arXiv 2505.22101, section 3).

A cube is a payload of one of three types behind a header of three groups:

    MemCube
    ├── payload       PlaintextPayload | ActivationPayload | ParametricPayload
    ├── header
    │   ├── descriptive   what it is: id, type, title, kind, times, source, provenance, language, tags, links
    │   ├── governance    whose it is: owner, namespace, grants, sensitivity, retention, trust, frozen
    │   └── behaviour     how it is used: reads, injections, tokens saved, feedback, contribution
    ├── version           1, 2, 3 ...; a stored version never changes
    └── state             active, merged, archived or expired

Cubes are values: frozen, compared by content, and the same after a round trip through JSON.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from textwrap import shorten
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
    "FORMAT_VERSION",
    "HEAT_HALF_LIFE_SECONDS",
    "ActivationPayload",
    "Behaviour",
    "BlobRef",
    "Descriptive",
    "Governance",
    "Grant",
    "Header",
    "Lineage",
    "Link",
    "MemCube",
    "MemoryType",
    "Moment",
    "ParametricPayload",
    "Payload",
    "PlaintextPayload",
    "Retention",
    "Sensitivity",
    "Source",
    "State",
    "Trust",
    "cooling",
    "normalised",
]

FORMAT_VERSION: Literal[1] = 1
"""Version of the JSON form of a cube. A reader refuses a greater one."""

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


class State(StrEnum):
    """Where a cube stands in its life. Only active cubes are found by a search.

    ``merged``: what it says lives on in the memories that were made of it by a merge or a split.
    """

    ACTIVE = "active"
    MERGED = "merged"
    ARCHIVED = "archived"
    EXPIRED = "expired"


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
    lineage: Lineage = Lineage()
    language: str | None = None
    tags: tuple[str, ...] = ()
    links: tuple[Link, ...] = ()
    collection: str | None = None
    metadata: Mapping[str, JsonValue] = Field(default_factory=dict)
    item: ItemAddress | None = None

    @model_serializer(mode="wrap")
    def _without_unused(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # A header is kept together with its digest: one without these fields must read as it did before they came.
        values: dict[str, Any] = serialise(self)
        return {
            name: value for name, value in values.items() if name not in ("collection", "metadata", "item") or value
        }


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
        contribution: Estimated share in the answers that it took part in, between 0 and 1; None: unknown.
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


class BlobRef(Frozen):
    """Where the tensors of a payload lie.

    Attributes:
        address: Content address in the vault's blob store, salted by namespace.
        size_bytes: Size of the stored file.
    """

    address: str
    size_bytes: int = Field(ge=0)


class PlaintextPayload(Frozen):
    """Text, exactly as it was given."""

    type: Literal[MemoryType.PLAINTEXT] = MemoryType.PLAINTEXT
    text: str


class ActivationPayload(Frozen):
    """The KV cache of a token prefix.

    Attributes:
        blob: Token ids and, for each layer, ``keys`` and ``values`` of shape ``[kv_heads, tokens, head_dim]``.
        fingerprint: Digest of everything that the values depend on besides the tokens.
        token_digest: sha256 over the token ids as little-endian int32.
        token_count: Length of the prefix in tokens.
        model: Name of the model, for people.
        codec: How the tensors are stored.
    """

    type: Literal[MemoryType.ACTIVATION] = MemoryType.ACTIVATION
    blob: BlobRef
    fingerprint: str
    token_digest: str
    token_count: int = Field(gt=0)
    model: str
    codec: str = "raw"


class ParametricPayload(Frozen):
    """A LoRA adapter in PEFT's format.

    Attributes:
        blob: ``adapter_model.safetensors``.
        fingerprint: Digest of the base model that it fits.
        model: Name of the model, for people.
        peft_config: Content of ``adapter_config.json``.
        scope: The tokens that it acts on: ``tail``, those behind the memory prefix, or ``full``, all.
    """

    type: Literal[MemoryType.PARAMETRIC] = MemoryType.PARAMETRIC
    blob: BlobRef
    fingerprint: str
    model: str
    peft_config: Mapping[str, Any] = Field(default_factory=dict)
    scope: Literal["tail", "full"] = "tail"


Payload = Annotated[PlaintextPayload | ActivationPayload | ParametricPayload, Field(discriminator="type")]


class MemCube(Frozen):
    """One memory, in one of its versions. See the module's docstring for its parts."""

    format: Literal[1] = FORMAT_VERSION
    header: Header
    payload: Payload
    version: int = Field(default=1, ge=1)
    state: State = State.ACTIVE

    def __repr__(self) -> str:
        """Return one line that a person can read; the header has the rest."""
        return f"MemCube({self.id}, {self.type}, version {self.version}, {self.state}: {shorten(self.text, 72)!r})"

    __str__ = __repr__

    @property
    def id(self) -> str:
        return self.header.descriptive.id

    @property
    def type(self) -> MemoryType:
        return self.header.descriptive.type

    @property
    def text(self) -> str:
        """The text of a plaintext cube; for other types the title, since their payload is tensors."""
        if isinstance(self.payload, PlaintextPayload):
            return self.payload.text
        return self.header.descriptive.title or f"{self.type} memory {self.id}"

    @property
    def speaker(self) -> str | None:
        return self.header.descriptive.source.speaker

    @property
    def session(self) -> str | None:
        return self.header.descriptive.source.session

    @property
    def at(self) -> datetime | None:
        """When it was said; None if the caller did not tell."""
        return self.header.descriptive.source.at

    @property
    def ref(self) -> str | None:
        return self.header.descriptive.source.ref

    @property
    def tags(self) -> tuple[str, ...]:
        return self.header.descriptive.tags

    @property
    def created(self) -> datetime:
        return self.header.descriptive.created

    @property
    def owner(self) -> str:
        """The user whose memory it is."""
        return self.header.governance.owner

    @property
    def shared(self) -> bool:
        """Whether another user owns it, who lets the reader see it."""
        return self.header.governance.shared

    def as_shared(self) -> MemCube:
        """Return what someone may see of it to whom it was granted: nothing of its owner's other memories."""
        descriptive = self.header.descriptive.model_copy(update={"links": (), "lineage": Lineage(), "metadata": {}})
        governance = self.header.governance.model_copy(update={"agent": None, "grants": (), "shared": True})
        header = Header(descriptive=descriptive, governance=governance)
        return self.model_copy(update={"header": header})

    @property
    def digest(self) -> str:
        """sha256 of the payload in canonical JSON: equal content, equal digest."""
        return hashlib.sha256(canonical_json(self.payload.model_dump(mode="json"))).hexdigest()

    def to_json(self) -> str:
        """Return the cube as JSON, without loss."""
        return self.model_dump_json()

    @classmethod
    def from_json(cls, text: str | bytes) -> MemCube:
        """Return the cube that ``to_json`` wrote.

        Raises:
            pydantic.ValidationError: It is no cube, or of a later format.
        """
        return cls.model_validate_json(text)


ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def canonical_json(value: Any) -> bytes:
    """Return the one JSON form of ``value``: sorted keys, no spaces, UTF-8."""
    return ENCODER.encode(value).encode()


def normalised(text: str) -> str:
    """Return what is compared to tell whether two texts are the same: NFKC, case folded, white space collapsed."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
