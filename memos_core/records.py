"""The plain data that crosses layers: what is asked, what was found, what is planned, what came out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal, TypedDict

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from memos_core.calls import Intent, MemoryCall, TimeRange
from memos_core.cube import Header, MemCube, Moment, Sensitivity, Trust
from memos_core.references import Reference
from memos_core.tools import ToolCall, as_calls

__all__ = [
    "Erasure",
    "FinishReason",
    "Hit",
    "Inject",
    "InjectionPlan",
    "Intent",
    "MemoryCall",
    "Message",
    "Outcome",
    "Page",
    "Placement",
    "PlannedMemory",
    "Receipt",
    "Reply",
    "ReplyChunk",
    "TimeRange",
    "Turn",
    "TurnFields",
    "Usage",
    "VersionRecord",
    "Weighed",
]


class Turn(BaseModel):
    """One thing to remember, as a caller brings it.

    Attributes:
        text: What was said or written.
        speaker: Who said it.
        role: Chat role, if it comes from a chat.
        session: Conversation that it belongs to; must not conflict with the scope's own.
        at: When it was said; a naive moment is UTC.
        ref: The caller's own reference.
        uri: The document that it comes from.
        title: A short name for people.
        kind: Semantic kind.
        tags: Labels.
        ttl_seconds: Seconds from the commit after which it expires.
        valid_from: From when on it holds.
        valid_until: Until when it holds.
        language: BCP 47 tag.
        sensitivity: How carefully it is to be handled.
        trust: How far its source is believed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str
    speaker: str | None = None
    role: str | None = None
    session: str | None = None
    at: Moment | None = None
    ref: str | None = None
    uri: str | None = None
    title: str | None = None
    kind: str = "turn"
    tags: tuple[str, ...] = ()
    ttl_seconds: float | None = Field(default=None, gt=0)
    valid_from: Moment | None = None
    valid_until: Moment | None = None
    language: str | None = None
    sensitivity: Sensitivity = Sensitivity.INTERNAL
    trust: Trust = Trust.NORMAL


class TurnFields(TypedDict, total=False):
    """The fields of ``Turn`` besides its text, as keyword arguments."""

    speaker: str | None
    role: str | None
    session: str | None
    at: datetime | None
    ref: str | None
    uri: str | None
    title: str | None
    kind: str
    tags: Sequence[str]
    ttl_seconds: float | None
    valid_from: datetime | None
    valid_until: datetime | None
    language: str | None
    sensitivity: Sensitivity
    trust: Trust


class Message(BaseModel):
    """One message of a chat, in OpenAI's words."""

    model_config = ConfigDict(frozen=True, extra="allow")

    role: str
    content: str

    @property
    def called(self) -> tuple[ToolCall, ...]:
        """The calls that the message asks for, from OpenAI's ``tool_calls``.

        Raises:
            InvalidInput: ``tool_calls`` is malformed.
        """
        return as_calls((self.model_extra or {}).get("tool_calls"))


class Outcome(StrEnum):
    """What became of a write."""

    COMMITTED = "committed"
    DUPLICATE = "duplicate"
    SUPERSEDED = "superseded"
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True)
class Receipt:
    """Tells what became of one write.

    Attributes:
        cube_id: The cube that now holds the memory (for a duplicate, the one that did before); None if rejected.
        version: Its version.
        outcome: ``committed``, ``duplicate``, ``superseded`` (it took the place of an older memory) or ``rejected``.
        reason: Why, where the outcome is not plain.
        near: Cubes that say nearly the same; linked, never dropped.
    """

    cube_id: str | None
    version: int
    outcome: Outcome
    reason: str | None = None
    near: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class VersionRecord:
    """One version of a cube, who made it, when and why."""

    cube: MemCube
    author: str
    committed: datetime
    reason: str

    @property
    def version(self) -> int:
        return self.cube.version

    @property
    def text(self) -> str:
        return self.cube.text


@dataclass(frozen=True, slots=True)
class Page(Sequence[MemCube]):
    """A part of a listing: a sequence of cubes, and the cursor that the next part begins at (None: the end)."""

    cubes: tuple[MemCube, ...]
    cursor: str | None = None

    def __getitem__(self, index: Any) -> Any:
        return self.cubes[index]

    def __len__(self) -> int:
        return len(self.cubes)


@dataclass(frozen=True, slots=True)
class Weighed:
    """What a ranking weighed for one memory, as numbers: what is learned from, if it turns out to be used.

    Attributes:
        features: Which signals and which parts of a situation these are.
        signals: What spoke for the memory.
        situation: Of the question and the memory that was searched; the same for all hits of a search.
    """

    features: str
    signals: tuple[float, ...]
    situation: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Hit:
    """A memory that a search found.

    Attributes:
        cube: The memory.
        score: Between 0 and 1, comparable within one search only.
        why: The parts of the score, for people.
        passage: The part of a long text that matched, as ``(start, end)`` characters; None: the whole.
        shares: Each signal's share in the score, by name; those that count against it are negative.
        weighed: The signals themselves; None where no ranking was made.
    """

    cube: MemCube
    score: float
    why: str
    passage: tuple[int, int] | None = None
    shares: Mapping[str, float] = field(default_factory=dict)
    weighed: Weighed | None = field(default=None, repr=False)

    @property
    def id(self) -> str:
        return self.cube.id

    @property
    def text(self) -> str:
        return self.cube.text

    @property
    def ref(self) -> str | None:
        return self.cube.ref

    @property
    def header(self) -> Header:
        return self.cube.header

    @property
    def owner(self) -> str:
        """The user whose memory it is."""
        return self.cube.owner

    @property
    def shared(self) -> bool:
        """Whether another user owns it, who granted it to the one who searched."""
        return self.cube.shared

    @property
    def metadata(self) -> dict[str, JsonValue]:
        """Where it comes from, as JSON values and without empty fields: speaker, session, at, ref, uri, tags ..."""
        what = self.header.descriptive
        fields = {**what.source.model_dump(mode="json"), "kind": what.kind, "tags": list(what.tags)}
        fields["shared_by"] = self.owner if self.shared else None
        return {name: value for name, value in fields.items() if value not in (None, [])}


Inject = Literal["off", "text", "kv", "lora", "auto"]
"""How memory is to enter the model; see ``Scope.chat``."""


class Placement(StrEnum):
    """How one memory enters, or entered, the model."""

    TEXT = "text"
    KV = "kv"
    LORA = "lora"


@dataclass(frozen=True, slots=True)
class PlannedMemory:
    """One memory of a plan.

    Attributes:
        cube: The memory.
        tokens: What it takes in the prompt.
        preferred: How the scheduler would have it enter.
        placed: How it did enter; None until the engine has resolved the plan.
        reason: Why it was chosen and why it was placed so.
        passage: The characters of a long memory that ``cube`` holds; None: the whole.
        weighed: What the search weighed for it; None where it was not searched for.
    """

    cube: MemCube
    tokens: int
    preferred: Placement
    reason: str
    placed: Placement | None = None
    passage: tuple[int, int] | None = None
    weighed: Weighed | None = field(default=None, repr=False)

    @property
    def cube_id(self) -> str:
        return self.cube.id

    @property
    def reference(self) -> str:
        """What ``memory_ids`` of a chat takes to have the same text again."""
        return str(Reference(self.cube.id, self.passage))


@dataclass(frozen=True, slots=True)
class InjectionPlan:
    """Which memories enter a prompt, in which order, how, and why.

    Attributes:
        inject: What the caller asked for.
        memories: In the order of the prompt.
        left_out: Cube id to the reason why a candidate did not make it.
        budget_tokens: The budget that was kept.
        notes: What the engine did with the prompt as a whole: prefix reused, built, fallback and its reason.
        prefix_cube_id: The activation cube whose KV served, if any.
        adapter_cube_ids: The parametric cubes whose adapters acted.
        asked: What was searched for; None where the caller named the memories, or memory is off.
    """

    inject: Inject
    memories: tuple[PlannedMemory, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    budget_tokens: int = 0
    notes: tuple[str, ...] = ()
    prefix_cube_id: str | None = None
    adapter_cube_ids: tuple[str, ...] = ()
    asked: MemoryCall | None = field(default=None, repr=False)

    @property
    def cube_ids(self) -> tuple[str, ...]:
        return tuple(memory.cube.id for memory in self.memories)

    @property
    def tokens(self) -> int:
        """Tokens of all chosen memories together."""
        return sum(memory.tokens for memory in self.memories)

    @property
    def why(self) -> str:
        """The plan in words; see ``explain``."""
        return self.explain()

    def explain(self) -> str:
        """Return the plan in words, a line for each memory."""
        lines = [f"{m.cube.id} as {m.placed or m.preferred} ({m.tokens} tokens): {m.reason}" for m in self.memories]
        lines += [f"{cube_id} left out: {reason}" for cube_id, reason in self.left_out.items()]
        return "\n".join([*lines, *self.notes])


@dataclass(frozen=True, slots=True)
class Usage:
    """What a reply took.

    Attributes:
        prompt_tokens: All context positions before the reply; equal for text and KV.
        memory_tokens: Those of them served from stored KV; 0 for text.
        completion_tokens: Tokens of the reply.
        ttft_seconds: From the start of the engine's work on the request to the first token.
        total_seconds: To the last token.
        carried_tokens: What the prompt no longer carries: tokens of the memories that adapters carried instead, as the
            plan counts them. They are not among ``prompt_tokens``.
    """

    prompt_tokens: int = 0
    memory_tokens: int = 0
    completion_tokens: int = 0
    ttft_seconds: float = 0.0
    total_seconds: float = 0.0
    carried_tokens: int = 0


FinishReason = Literal["stop", "length", "tool_calls"]


@dataclass(frozen=True, slots=True)
class Reply:
    """What the model answered.

    Attributes:
        text: The answer.
        usage: What it took.
        plan: What memory did in it, and why.
        finish_reason: ``stop`` (end of turn or a stop string), ``length`` (the limit cut it, or made a structured
            answer close early) or ``tool_calls``.
        tool_calls: The tools that the model calls; their JSON is no part of ``text``.
    """

    text: str
    usage: Usage
    plan: InjectionPlan
    finish_reason: FinishReason = "stop"
    tool_calls: tuple[ToolCall, ...] = ()

    def __str__(self) -> str:
        return self.text

    @property
    def report(self) -> dict[str, JsonValue]:
        """What memory did in this reply and what it took, as JSON values. Holds ids, never the text of a memory."""
        return {
            "inject": self.plan.inject,
            "cube_ids": list(self.plan.cube_ids),
            "placed": {m.cube.id: str(m.placed or m.preferred) for m in self.plan.memories},
            "reasons": {m.cube.id: m.reason for m in self.plan.memories},
            "prefix_cube_id": self.plan.prefix_cube_id,
            "adapter_cube_ids": list(self.plan.adapter_cube_ids),
            "notes": list(self.plan.notes),
            "prompt_tokens": self.usage.prompt_tokens,
            "memory_tokens": self.usage.memory_tokens,
            "carried_tokens": self.usage.carried_tokens,
            "completion_tokens": self.usage.completion_tokens,
            "ttft_seconds": self.usage.ttft_seconds,
            "total_seconds": self.usage.total_seconds,
        }


@dataclass(frozen=True, slots=True)
class ReplyChunk:
    """A piece of a streamed answer. The last one has empty text and carries the whole ``reply``."""

    text: str
    reply: Reply | None = None

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Erasure:
    """What a ``forget`` took away.

    Attributes:
        cube_ids: The cubes asked for, and everything made from them.
        derived_ids: Those of them that were made from the ones asked for.
        versions: How many versions went.
        vectors: How many vectors.
        blobs: How many blob files left the disk.
        at: When they became unreachable.
        complete: Whether every trace has left the disk. If not, ``memos.run_pending()`` finishes it.
        pending: What is still to be done, in words.
    """

    cube_ids: tuple[str, ...]
    derived_ids: tuple[str, ...]
    versions: int
    vectors: int
    blobs: int
    at: datetime
    complete: bool = True
    pending: tuple[str, ...] = ()
