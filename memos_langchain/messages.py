"""LangChain's messages in the core's words, and the core's replies in LangChain's."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from memos_core import Message, Reply, ToolCall, Usage
from memos_core.errors import MissingExtra, UnsupportedOption

try:
    from langchain_core.messages import (
        AIMessage,
        AIMessageChunk,
        BaseMessage,
        ChatMessage,
        HumanMessage,
        SystemMessage,
        ToolMessage,
    )
    from langchain_core.messages.ai import InputTokenDetails, UsageMetadata
    from langchain_core.messages.tool import tool_call, tool_call_chunk
    from langchain_core.outputs import ChatGenerationChunk
except ImportError as error:
    raise MissingExtra("langchain-core", extra="langchain") from error

__all__ = ["as_core_messages", "last_chunk", "reply_message", "text_chunk"]

ROLES: dict[type[BaseMessage], str] = {
    SystemMessage: "system",
    HumanMessage: "user",
    AIMessage: "assistant",
    ToolMessage: "tool",
}

TEXT_BLOCKS = frozenset({"text", "input_text", "output_text"})
BESIDE_TEXT = frozenset({"tool_call", "tool_use", "function_call", "reasoning", "thinking", "redacted_thinking"})
"""Blocks of a model's answer that say nothing to anyone else: calls are taken from ``tool_calls``."""


def as_core_messages(messages: Sequence[BaseMessage]) -> list[Message]:
    """Return ``messages`` in OpenAI's words, with tool calls and the marks of recalled memory.

    Raises:
        UnsupportedOption: One holds something other than text, or is of a kind that has no place in a prompt.
    """
    return [as_core_message(message) for message in messages]


def as_core_message(message: BaseMessage) -> Message:
    extra: dict[str, Any] = {}
    if message.name:
        extra["name"] = message.name
    if isinstance(message, AIMessage) and message.tool_calls:
        extra["tool_calls"] = [
            ToolCall(call["name"], call["args"], call["id"] or "").as_openai() for call in message.tool_calls
        ]
    if isinstance(message, ToolMessage):
        extra["tool_call_id"] = message.tool_call_id
    if "memos" in message.additional_kwargs:
        extra["memos"] = message.additional_kwargs["memos"]
    return Message(role=role_of(message), content=text_of(message), **extra)


def role_of(message: BaseMessage) -> str:
    if isinstance(message, ChatMessage):
        return message.role
    for kind, role in ROLES.items():
        if isinstance(message, kind):
            return role
    raise UnsupportedOption(f"a message of type {message.type!r} has no place in a prompt")


def text_of(message: BaseMessage) -> str:
    """Return the text of a message, whose content is a str or a list of blocks."""
    if isinstance(message.content, str):
        return message.content
    texts = []
    for block in message.content:
        if isinstance(block, str):
            texts.append(block)
        elif block.get("type") in TEXT_BLOCKS:
            texts.append(str(block.get("text", "")))
        elif not (isinstance(message, AIMessage) and block.get("type") in BESIDE_TEXT):
            raise UnsupportedOption(f"the model reads text only, and a message holds a {block.get('type')!r} block")
    return "\n".join(texts)


def reply_message(reply: Reply, model: str) -> AIMessage:
    """Return a whole reply as a message."""
    return AIMessage(
        content=reply.text,
        tool_calls=[tool_call(name=call.name, args=dict(call.arguments), id=call.id) for call in reply.tool_calls],
        usage_metadata=usage_of(reply.usage),
        response_metadata=metadata_of(reply, model),
    )


def text_chunk(text: str) -> ChatGenerationChunk:
    """Return a piece of an answer."""
    return ChatGenerationChunk(message=AIMessageChunk(content=text))


def last_chunk(reply: Reply, model: str) -> ChatGenerationChunk:
    """Return the piece that ends an answer: no text, the tools it calls, and all that is known of the whole."""
    calls = [
        tool_call_chunk(name=call.name, args=json.dumps(call.arguments, ensure_ascii=False), id=call.id, index=number)
        for number, call in enumerate(reply.tool_calls)
    ]
    message = AIMessageChunk(
        content="",
        tool_call_chunks=calls,
        usage_metadata=usage_of(reply.usage),
        response_metadata=metadata_of(reply, model),
        chunk_position="last",
    )
    return ChatGenerationChunk(message=message)


def usage_of(usage: Usage) -> UsageMetadata:
    return UsageMetadata(
        input_tokens=usage.prompt_tokens,
        output_tokens=usage.completion_tokens,
        total_tokens=usage.prompt_tokens + usage.completion_tokens,
        input_token_details=InputTokenDetails(cache_read=usage.memory_tokens),
    )


def metadata_of(reply: Reply, model: str) -> dict[str, Any]:
    return {
        "model_name": model,
        "model_provider": "memos",
        "finish_reason": reply.finish_reason,
        "memos": reply.report,
    }
