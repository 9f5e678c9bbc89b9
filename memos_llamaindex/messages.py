"""LlamaIndex's messages in the core's words, and the core's replies in LlamaIndex's."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from memos_core import Message, Reply, ReplyChunk, ToolCall
from memos_core.errors import MissingExtra, UnsupportedOption
from memos_llamaindex.events import tell_injected

try:
    from llama_index.core.base.llms.types import (
        CachePoint,
        ChatMessage,
        ChatResponse,
        CompletionResponse,
        MessageRole,
        TextBlock,
        ThinkingBlock,
        ToolCallBlock,
    )
except ImportError as error:
    raise MissingExtra("llama-index-core", extra="llamaindex") from error

__all__ = ["Cumulative", "as_completion", "as_core_messages"]

ROLES = {
    MessageRole.DEVELOPER: "system",
    MessageRole.CHATBOT: "assistant",
    MessageRole.MODEL: "assistant",
    MessageRole.FUNCTION: "tool",
}
"""Roles that go by another name in OpenAI's words."""

KEPT = ("memos", "name", "tool_call_id")
"""Of a message's ``additional_kwargs``, what the core or a chat template can use."""


def as_core_messages(messages: Sequence[ChatMessage]) -> list[Message]:
    """Return ``messages`` in OpenAI's words, with tool calls and the marks of recalled memory.

    Raises:
        UnsupportedOption: One holds something other than text.
    """
    return [as_core_message(message) for message in messages]


def as_core_message(message: ChatMessage) -> Message:
    texts, calls = [], []
    for block in message.blocks:
        if isinstance(block, TextBlock):
            texts.append(block.text)
        elif isinstance(block, ToolCallBlock):
            calls.append(openai_call(block))
        elif not isinstance(block, CachePoint | ThinkingBlock):
            raise UnsupportedOption(f"the model reads text only, and a message holds a {block.block_type!r} block")
    extra: dict[str, Any] = {key: message.additional_kwargs[key] for key in KEPT if key in message.additional_kwargs}
    # Histories from before there were blocks for calls keep them in OpenAI's own form.
    earlier = message.additional_kwargs.get("tool_calls") or ()
    calls = calls or [dict(call) for call in earlier if isinstance(call, Mapping)]
    if calls:
        extra["tool_calls"] = calls
    return Message(role=ROLES.get(message.role, message.role.value), content="\n".join(texts), **extra)


def openai_call(block: ToolCallBlock) -> dict[str, Any]:
    arguments = block.tool_kwargs
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    function = {"name": block.tool_name, "arguments": arguments}
    return {"id": block.tool_call_id, "type": "function", "function": function}


class Cumulative:
    """Turns the chunks of one reply into responses that hold all text so far.

    Args:
        model: Name of the model.
    """

    def __init__(self, model: str) -> None:
        self.model = model
        self.text = ""

    def add(self, chunk: ReplyChunk) -> ChatResponse:
        """Return the response after ``chunk``."""
        self.text += chunk.text
        return self.whole(chunk.reply, delta=chunk.text)

    def whole(self, reply: Reply | None, *, delta: str | None = None) -> ChatResponse:
        """Return the response, with what is known of the whole reply once that is there."""
        text = self.text if reply is None else reply.text
        if reply is None:
            return ChatResponse(message=ChatMessage(role=MessageRole.ASSISTANT, content=text), delta=delta)
        tell_injected(reply.report)
        blocks = [TextBlock(text=text)] if text or not reply.tool_calls else []
        message = ChatMessage(role=MessageRole.ASSISTANT, blocks=[*blocks, *map(call_block, reply.tool_calls)])
        return ChatResponse(message=message, delta=delta, raw=raw_of(reply, self.model), additional_kwargs=told(reply))


def call_block(call: ToolCall) -> ToolCallBlock:
    return ToolCallBlock(tool_call_id=call.id, tool_name=call.name, tool_kwargs=dict(call.arguments))


def raw_of(reply: Reply, model: str) -> dict[str, Any]:
    """Return a reply as JSON values, with the usage where LlamaIndex's token counters look for it."""
    return {
        "model": model,
        "finish_reason": reply.finish_reason,
        "tool_calls": [call.as_openai() for call in reply.tool_calls],
        "usage": counts(reply),
        "memos": reply.report,
    }


def told(reply: Reply) -> dict[str, Any]:
    return {**counts(reply), "memos": reply.report}


def counts(reply: Reply) -> dict[str, int]:
    used = reply.usage
    return {
        "prompt_tokens": used.prompt_tokens,
        "completion_tokens": used.completion_tokens,
        "total_tokens": used.prompt_tokens + used.completion_tokens,
    }


def as_completion(response: ChatResponse) -> CompletionResponse:
    """Return a response to a chat as one to a prompt."""
    return CompletionResponse(
        text=response.message.content or "",
        delta=response.delta,
        raw=response.raw,
        additional_kwargs=response.additional_kwargs,
    )
