"""What was decided about a request, as the scheduling thread needs it."""

from __future__ import annotations

from dataclasses import dataclass

from memos_core.engine.base import EngineRequest, StoredActivation
from memos_core.engine.constraint import Constraint
from memos_core.engine.kv.assembly import Recipe
from memos_core.engine.kv.codec import RAW, KVBlob, TokenIds
from memos_core.engine.lora.plan import LoRAPlan
from memos_core.engine.lora.serve import NO_ADAPTERS, Adapted
from memos_core.engine.prompt import Prompt

__all__ = ["Reuse", "Work"]


@dataclass(frozen=True, slots=True)
class Reuse:
    """A stored prefix that serves a request.

    Attributes:
        stored: Its cube; None if there is none.
        blob: Its tensors, on the model's device.
        length: Positions taken from it.
        notes: What was found on the way, such as damaged blobs.
        tier: Where its tensors lay: on the device, in RAM or on the disk.
        declined: Why a stored prefix that fits was left alone; empty if none was.
    """

    stored: StoredActivation | None = None
    blob: KVBlob | None = None
    length: int = 0
    notes: tuple[str, ...] = ()
    declined: str = ""
    tier: str = ""

    @property
    def approximate(self) -> bool:
        """Whether its tensors were rounded to be stored."""
        return self.stored is not None and self.stored.payload.codec != RAW


@dataclass(frozen=True, slots=True)
class Work:
    """A request as the scheduling thread needs it.

    Attributes:
        request: What was asked.
        prompt: What the model reads.
        token_ids: The same ids as an array.
        reuse: The stored prefix that serves.
        build_to: Positions after which the cache is kept for the store; 0: nothing is built.
        max_tokens: Most tokens of the reply that fit.
        fingerprint: Of the model, if KV plays a part.
        fallback: Why memory that is not served from KV goes as text.
        seconds: What resolving took.
        recipe: What the prefix is put together from, approximately, where more than one chain serves. Nothing is built
            for the store then.
        constraint: Holds the reply to the form that was asked for.
        adapted: The adapters that act, and the memories that they carry instead of the prompt.
        lora: How they act on this prompt; None: none does.
    """

    request: EngineRequest
    prompt: Prompt
    token_ids: TokenIds
    reuse: Reuse
    build_to: int
    max_tokens: int
    fingerprint: str
    fallback: str
    seconds: float
    recipe: Recipe | None = None
    constraint: Constraint | None = None
    adapted: Adapted = NO_ADAPTERS
    lora: LoRAPlan | None = None

    @property
    def stored_tokens(self) -> int:
        """Positions whose keys and values come from stored KV."""
        return self.reuse.length + (self.recipe.kept if self.recipe is not None else 0)
