"""What memory does, told through LlamaIndex's instrumentation. No event carries the text of a memory or a question.

from llama_index.core.instrumentation import get_dispatcher

watch = MemosEventHandler(on_event=lambda event: print(event.model_dump_json()))
get_dispatcher().add_event_handler(watch)
...
print(watch.totals)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from pydantic import JsonValue

from memos_core import Erasure, MemoryContext, Receipt, Scope
from memos_core.errors import MissingExtra

try:
    from llama_index.core.bridge.pydantic import Field, PrivateAttr
    from llama_index.core.instrumentation import get_dispatcher  # type: ignore[attr-defined]
    from llama_index.core.instrumentation.event_handlers import BaseEventHandler
    from llama_index.core.instrumentation.events import BaseEvent
except ImportError as error:
    raise MissingExtra("llama-index-core", extra="llamaindex") from error

__all__ = [
    "MemosEvent",
    "MemosEventHandler",
    "MemosForgetEvent",
    "MemosInjectEvent",
    "MemosRecallEvent",
    "MemosWriteEvent",
    "tell_forgotten",
    "tell_injected",
    "tell_recalled",
    "tell_written",
]

dispatcher = get_dispatcher("memos_llamaindex")


class MemosEvent(BaseEvent):
    """What all events of memory have in common. JSON-safe.

    Attributes:
        cube_ids: The memories it is about.
        user: Whose memory.
        agent: The agent that asked, if the scope is bound to one.
        session: The conversation, if it is known.
    """

    cube_ids: list[str] = Field(default_factory=list)
    user: str | None = None
    agent: str | None = None
    session: str | None = None

    @classmethod
    def class_name(cls) -> str:
        return cls.__name__


class MemosRecallEvent(MemosEvent):
    """Memories were chosen for a prompt.

    Attributes:
        tokens: What they take.
        left_out: How many that were found did not make it.
        kept: How many were there already in the turn before.
    """

    tokens: int = 0
    left_out: int = 0
    kept: int = 0


class MemosWriteEvent(MemosEvent):
    """Something was to be remembered.

    Attributes:
        outcomes: How many were ``committed``, ``duplicate``, ``superseded`` or ``rejected``.
    """

    outcomes: dict[str, int] = Field(default_factory=dict)


class MemosForgetEvent(MemosEvent):
    """Memories were erased. ``complete``: every trace has left the disk."""

    complete: bool = True


class MemosInjectEvent(MemosEvent):
    """A model that runs here was asked, with memory or without.

    Attributes:
        placed: Memory to how it went in: ``text``, ``kv`` or ``lora``.
        prompt_tokens: Tokens of the prompt.
        memory_tokens: Of these, the ones that stored KV served.
        completion_tokens: Tokens of the answer.
        ttft_seconds: Time to the first token.
        notes: What was done with the prompt, and why.
    """

    placed: dict[str, str] = Field(default_factory=dict)
    prompt_tokens: int = 0
    memory_tokens: int = 0
    completion_tokens: int = 0
    ttft_seconds: float = 0.0
    notes: list[str] = Field(default_factory=list)


class MemosEventHandler(BaseEventHandler):
    """Passes on the events of memory alone, and adds them up.

    Args:
        on_event: Is told of each event. What it raises reaches whoever caused the event.
    """

    on_event: Callable[[MemosEvent], None] | None = Field(default=None, exclude=True)

    _totals: Counter[str] = PrivateAttr(default_factory=Counter)

    @classmethod
    def class_name(cls) -> str:
        return "MemosEventHandler"

    @property
    def totals(self) -> dict[str, int]:
        """Sums so far: ``recalls``, ``recalled``, ``writes``, ``committed``, ``injections``, ``memory_tokens`` ..."""
        return dict(self._totals)

    def handle(self, event: BaseEvent, **kwargs: Any) -> None:
        if not isinstance(event, MemosEvent):
            return
        self._totals.update(counts_of(event))
        if self.on_event is not None:
            self.on_event(event)


def counts_of(event: MemosEvent) -> dict[str, int]:
    """Return what an event adds to the totals."""
    match event:
        case MemosRecallEvent():
            return {"recalls": 1, "recalled": len(event.cube_ids), "recalled_tokens": event.tokens}
        case MemosWriteEvent():
            return {"writes": 1, **event.outcomes}
        case MemosForgetEvent():
            return {"erasures": 1, "forgotten": len(event.cube_ids)}
        case MemosInjectEvent():
            tokens = {"prompt_tokens": event.prompt_tokens, "memory_tokens": event.memory_tokens}
            return {"injections": 1, "injected": len(event.cube_ids), **tokens}
        case _:
            return {}


def tell_recalled(scope: Scope, context: MemoryContext, *, session: str | None, before: Sequence[str] = ()) -> None:
    """Tell that ``context`` was made, where ``before`` was in the prompt of the turn before."""
    ids = list(context.plan.cube_ids)
    dispatcher.event(
        MemosRecallEvent(
            cube_ids=ids,
            tokens=context.tokens,
            left_out=len(context.plan.left_out),
            kept=len(set(ids).intersection(before)),
            **owner(scope, session),
        )
    )


def tell_written(scope: Scope, receipts: Sequence[Receipt], *, session: str | None = None) -> None:
    """Tell what became of a write."""
    ids = [receipt.cube_id for receipt in receipts if receipt.cube_id]
    outcomes = dict(Counter(str(receipt.outcome) for receipt in receipts))
    dispatcher.event(MemosWriteEvent(cube_ids=ids, outcomes=outcomes, **owner(scope, session)))


def tell_forgotten(scope: Scope, erasure: Erasure, *, session: str | None = None) -> None:
    """Tell what was erased."""
    ids = list(erasure.cube_ids)
    dispatcher.event(MemosForgetEvent(cube_ids=ids, complete=erasure.complete, **owner(scope, session)))


def tell_injected(report: dict[str, JsonValue]) -> None:
    """Tell what a reply's report says (``Reply.report``)."""
    known = {name: report[name] for name in MemosInjectEvent.model_fields if name in report}
    dispatcher.event(MemosInjectEvent.model_validate(known))


def owner(scope: Scope, session: str | None) -> dict[str, Any]:
    return {"user": scope.user, "agent": scope.agent, "session": session or scope.session}
