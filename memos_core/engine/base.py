"""The contract of an engine: what runs a model with memory in it.

An engine knows no vault. It is handed the messages, the memory block and, for KV, a small store that is bound to the
scope of the request (``ActivationStore``). Text and KV consume the same token ids by construction: the messages are
rendered once, and KV only replaces the computation of a prefix of those ids.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from memos_core.cube import ActivationPayload, ParametricPayload
from memos_core.records import InjectionPlan, Message, Placement, Reply, ReplyChunk
from memos_core.render import MemoryBlock
from memos_core.tools import ToolChoice

__all__ = [
    "ActivationStore",
    "AdapterChoice",
    "BlobReader",
    "BuiltActivation",
    "BuiltAdapter",
    "Capabilities",
    "Engine",
    "EngineRequest",
    "GenerationOptions",
    "StoredActivation",
]


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an engine can do.

    Attributes:
        model: Name of the model, for people.
        context_window: Positions that the model has.
        placements: How memory can enter it.
        refusal: Why KV cannot be used with this model, where it cannot.
    """

    model: str
    context_window: int
    placements: frozenset[Placement]
    refusal: str | None = None


@dataclass(frozen=True, slots=True)
class GenerationOptions:
    """How to generate.

    Attributes:
        max_tokens: Most tokens of the reply.
        temperature: 0 takes the most likely token always.
        top_p: Share of the probability mass to sample from.
        seed: Makes sampling repeatable.
        stop: Strings that end the reply; they are not part of it.
        response_format: What the reply must look like; see ``ChatOptions``.
    """

    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    response_format: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class StoredActivation:
    """A KV cache that the scope may use: its cube and where its tensors lie."""

    cube_id: str
    payload: ActivationPayload


@dataclass(frozen=True, slots=True)
class BuiltActivation:
    """A KV cache that an engine made and proposes to keep.

    Attributes:
        data: The blob: safetensors bytes.
        fingerprint: Digest of everything that the values depend on besides the tokens.
        token_digest: sha256 over the token ids as little-endian int32.
        token_count: Length of the prefix.
        model: Name of the model.
        codec: How the tensors are stored.
        cube_ids: The memories whose text lies in the prefix, in order.
        parameters: What it cost: seconds of prefill, tokens reused.
        adapter_cube_ids: The adapters that it was computed under; it falls with them.
    """

    data: bytes
    fingerprint: str
    token_digest: str
    token_count: int
    model: str
    codec: str
    cube_ids: tuple[str, ...]
    parameters: dict[str, Any] = field(default_factory=dict)
    adapter_cube_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BuiltAdapter:
    """A LoRA adapter that was trained, or came from outside, and is proposed to be kept.

    Attributes:
        data: ``adapter_model.safetensors`` as PEFT writes it.
        peft_config: Content of ``adapter_config.json``.
        fingerprint: Digest of the base model that it fits.
        model: Name of that model.
        scope: ``tail``: it acts on the tokens behind the memory prefix only, so KV of the base model serves beside it;
            ``full``: it acts on every token, so KV must have been computed with it.
    """

    data: bytes
    peft_config: Mapping[str, Any]
    fingerprint: str
    model: str
    scope: Literal["tail", "full"] = "tail"


@dataclass(frozen=True, slots=True)
class AdapterChoice:
    """An adapter that a request may use.

    Attributes:
        cube_id: Its cube.
        payload: Where its tensors lie, and which model it fits.
        carries: The memories that it was made from, whose text the prompt needs no more.
        weight: How strongly it acts.
        named: Whether the caller asked for this very one; it is then used or refused, never passed over.
    """

    cube_id: str
    payload: ParametricPayload
    carries: frozenset[str] = frozenset()
    weight: float = 1.0
    named: bool = False


class BlobReader(Protocol):
    """The tensors that one scope may read. Implemented by the operation layer; thread-safe."""

    @property
    def owner(self) -> str:
        """Identity of the namespace; tensors kept in memory are never shared across owners."""
        ...

    def read(self, address: str) -> bytes | bytearray:
        """Return the blob after checking its digest; a ``bytearray`` is the caller's own.

        Raises:
            BlobDamaged: It is missing or not what it should be.
        """
        ...

    def refuse(self, cube_id: str, reason: str) -> None:
        """Take damaged or forged tensors out of use; they are rebuilt from their text when they are wanted again."""
        ...


class ActivationStore(BlobReader, Protocol):
    """The KV caches that one scope may use."""

    def find(self, fingerprint: str) -> Sequence[StoredActivation]:
        """Return the live KV caches of that fingerprint, asked anew for each request (one may be forgotten)."""
        ...

    def publish(self, built: BuiltActivation) -> str | None:
        """Keep a KV cache; return the id of its cube, or None where one of its memories is gone by now."""
        ...


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """One call of a model.

    Attributes:
        messages: The chat, without memory.
        plan: What the scheduler chose; the engine returns it resolved, within the reply.
        block: The chosen memories as text.
        options: How to generate.
        activations: KV caches of the scope; None: none may be used.
        strict: Raise instead of falling back to text.
        tools: What the model may call, in OpenAI's form; see ``as_tools``.
        tool_choice: Whether it must.
        adapters: Adapters that it may use, the preferred ones first.
        blobs: Where their tensors are read.
    """

    messages: Sequence[Message]
    plan: InjectionPlan
    block: MemoryBlock = field(default_factory=MemoryBlock)
    options: GenerationOptions = field(default_factory=GenerationOptions)
    activations: ActivationStore | None = None
    strict: bool = False
    tools: Sequence[dict[str, Any]] = ()
    tool_choice: ToolChoice = field(default_factory=ToolChoice)
    adapters: Sequence[AdapterChoice] = ()
    blobs: BlobReader | None = None

    @property
    def shown_tools(self) -> Sequence[dict[str, Any]]:
        """The tools that the model is told of."""
        return () if self.tool_choice.mode == "none" else self.tools


class Engine(ABC):
    """Runs one model. Thread-safe; shared by any number of vaults and scopes."""

    @property
    @abstractmethod
    def capabilities(self) -> Capabilities:
        """What this engine can do. May load the model's configuration, never its weights."""

    @property
    def base_fingerprint(self) -> str | None:
        """Digest of what an adapter of this model fits; None: this engine takes no adapters. May load the model."""
        return None

    @property
    def model_name(self) -> str:
        """Name of the model, as forms of memory carry it. Loads nothing."""
        return self.capabilities.model

    @property
    def is_loaded(self) -> bool:
        """Whether the model is in memory, so that asking about it costs nothing."""
        return False

    @property
    def form_fingerprints(self) -> frozenset[str]:
        """The fingerprints of all forms of memory that this model can use by itself. May load the model."""
        return frozenset() if self.base_fingerprint is None else frozenset([self.base_fingerprint])

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Return the ids that the model's own tokenizer makes of ``text``, without special ones."""

    def count_tokens(self, text: str) -> int:
        """Return how many ids ``encode`` gives."""
        return len(self.encode(text))

    @abstractmethod
    def stream(self, request: EngineRequest) -> Iterator[ReplyChunk]:
        """Generate, piece by piece; the last chunk has empty text and carries the reply.

        Closing the iterator cancels the request; nothing of it stays behind.

        Raises:
            ContextOverflow: The prompt does not fit.
            InjectionUnavailable: ``strict`` and a memory cannot enter as asked.
            ModelNotFound: There is no such model.
        """

    @abstractmethod
    def astream(self, request: EngineRequest) -> AsyncIterator[ReplyChunk]:
        """``stream`` for asyncio: the event loop is never blocked; cancelling the task cancels the request."""

    @abstractmethod
    def prefill(
        self, block: MemoryBlock, activations: ActivationStore, *, adapters: Sequence[AdapterChoice] = ()
    ) -> BuiltActivation:
        """Compute the KV of the prompt prefix that holds ``block``, as every chat with these memories begins.

        Args:
            adapters: Those under which it is computed. Only one that acts on every token makes a difference.

        Raises:
            InjectionUnavailable: This model's KV cannot be stored; the reason is named.
            ContextOverflow: The block does not fit.
        """

    def prefetch(self, request: EngineRequest) -> Future[int]:
        """Bring the KV that would serve ``request`` into memory, in the background, unless requests are under way.

        Returns:
            How many tokens of it were found in stored KV; 0 where other requests came first.
        """
        return nothing_to_bring()

    def read_ahead(self, request: EngineRequest) -> Future[int]:
        """``prefetch`` for a turn that may come: of the block of ``request`` alone, within a budget of the engine.

        Returns:
            How many tokens were brought into memory; 0 where that was not needed or other requests came first.
        """
        return nothing_to_bring()

    @property
    def read_ahead_counts(self) -> dict[str, int]:
        """What reading ahead came to: reads, their bytes, how many were used or wasted, and how many wait for use."""
        return {}

    def pin(self, owner: str, cube_id: str, *, pinned: bool = True) -> None:  # noqa: B027 - nothing to do without KV
        """Keep an activation cube of ``owner`` in memory once loaded, or let it go like others; until ``close``."""

    @abstractmethod
    def drop(self, owner: str, cube_ids: Sequence[str] | None = None) -> None:
        """Forget what is kept in memory of these activation cubes, or of everything of ``owner``."""

    @abstractmethod
    def close(self) -> None:
        """Stop the scheduling thread. Idempotent; the engine restarts it when it is used again."""

    def generate(self, request: EngineRequest) -> Reply:
        """Generate and return the whole reply. Raises what ``stream`` raises."""
        for chunk in self.stream(request):
            if chunk.reply is not None:
                return chunk.reply
        raise RuntimeError("the engine ended its stream without a reply")

    async def agenerate(self, request: EngineRequest) -> Reply:
        """``generate`` for asyncio."""
        async for chunk in self.astream(request):
            if chunk.reply is not None:
                return chunk.reply
        raise RuntimeError("the engine ended its stream without a reply")

    async def aprefill(self, block: MemoryBlock, activations: ActivationStore) -> BuiltActivation:
        """``prefill`` for asyncio."""
        return await asyncio.to_thread(self.prefill, block, activations)


def nothing_to_bring() -> Future[int]:
    """Return the answer to reading ahead where there is nothing to do."""
    nothing: Future[int] = Future()
    nothing.set_result(0)
    return nothing
