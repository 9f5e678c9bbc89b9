"""A model without memory, in the words of a ``Scope``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any, Unpack

from memos_core.engine.base import Engine, EngineRequest
from memos_core.errors import InjectionUnavailable, InvalidInput
from memos_core.interface.chat import ChatCall, ChatOptions
from memos_core.interface.reader import as_messages
from memos_core.records import InjectionPlan, Message, Reply, ReplyChunk

__all__ = ["EngineChat"]

Prompt = str | Sequence[Message | Mapping[str, Any]]


class EngineChat:
    """Asks an engine with no memory attached. Takes the options of ``Scope.chat``; thread-safe.

    Args:
        engine: Runs the model.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def chat(self, messages: Prompt, **options: Unpack[ChatOptions]) -> Reply:
        """Ask the model.

        Raises:
            InvalidInput: An option is out of range, or asks for something to be read from or written to memory.
            InjectionUnavailable: ``strict=True`` and memory as KV or LoRA.
            ContextOverflow: The messages do not fit the model.
        """
        return self.engine.generate(self.request(messages, options))

    def stream(self, messages: Prompt, **options: Unpack[ChatOptions]) -> Iterator[ReplyChunk]:
        """``chat``, piece by piece. The last chunk has empty text and carries the whole ``reply``."""
        return self.engine.stream(self.request(messages, options))

    async def achat(self, messages: Prompt, **options: Unpack[ChatOptions]) -> Reply:
        return await self.engine.agenerate(self.request(messages, options))

    def astream(self, messages: Prompt, **options: Unpack[ChatOptions]) -> AsyncIterator[ReplyChunk]:
        return self.engine.astream(self.request(messages, options))

    def request(self, messages: Prompt, options: ChatOptions) -> EngineRequest:
        """Return the request: the messages, and a plan that says that there is no memory."""
        call = ChatCall(**options)
        if call.memory_ids or call.remember:
            raise InvalidInput("memory_ids and remember need memory, and none is attached")
        if call.adapter is not None:
            raise InvalidInput("an adapter is a memory, and no memory is attached")
        if call.strict and call.inject in ("kv", "lora"):
            raise InjectionUnavailable(call.inject, {})
        plan = InjectionPlan(inject="off", notes=("no memory is attached",))
        return call.request(as_messages(messages), plan)
