"""The messages of a conversation: what they say, how long they are, and where an old part may be cut off."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from memos_core import Message
from memos_core.errors import MissingExtra

try:
    from llama_index.core.base.llms.types import (
        AudioBlock,
        CachePoint,
        ChatMessage,
        CitableBlock,
        CitationBlock,
        ContentBlock,
        DocumentBlock,
        ImageBlock,
        MessageRole,
        TextBlock,
        ThinkingBlock,
        ToolCallBlock,
        VideoBlock,
    )
except ImportError as error:
    raise MissingExtra("llama-index-core", extra="llamaindex") from error

__all__ = ["MARK", "as_said", "block_tokens", "last_question", "message_tokens", "messages_to_archive", "text_of"]

MARK = "memos"
"""Key of ``additional_kwargs`` under which a message names the memories that it stands for."""

SPEAKERS = {
    MessageRole.USER: "user",
    MessageRole.ASSISTANT: "assistant",
    MessageRole.CHATBOT: "assistant",
    MessageRole.MODEL: "assistant",
}
"""Roles that say something worth remembering."""

CountTokens = Callable[[str], int]


def text_of(message: ChatMessage) -> str:
    """Return the text of a message, without pictures, tool calls and thoughts."""
    return "\n".join(block.text for block in message.blocks if isinstance(block, TextBlock) and block.text)


def last_question(messages: Sequence[ChatMessage]) -> str:
    """Return what the user said last; empty if nothing."""
    asked = (text_of(message).strip() for message in reversed(messages) if message.role == MessageRole.USER)
    return next((text for text in asked if text), "")


def as_said(message: ChatMessage, assistant: str | None = None) -> Message:
    """Return a message as the core remembers it: role, text, speaker, and the mark of recalled memory.

    Args:
        message: The message.
        assistant: Who speaks as the assistant, if the message does not name anyone.
    """
    kept = {key: message.additional_kwargs[key] for key in (MARK, "name") if key in message.additional_kwargs}
    role = SPEAKERS.get(message.role, message.role.value)
    if role == "assistant" and assistant:
        kept.setdefault("name", assistant)
    return Message(role=role, content=text_of(message), **kept)


def message_tokens(message: ChatMessage, count: CountTokens, media: Mapping[type[Any], int]) -> int:
    """Return how many tokens a message takes: its blocks, and what else it carries but marks of memory.

    Args:
        message: The message.
        count: Counts the tokens of a text.
        media: What a block of each kind is taken to need.
    """
    extra = {key: value for key, value in message.additional_kwargs.items() if key != MARK}
    return sum(block_tokens(block, count, media) for block in message.blocks) + (count(str(extra)) if extra else 0)


def block_tokens(block: ContentBlock, count: CountTokens, media: Mapping[type[Any], int]) -> int:
    """Return how many tokens a block takes. Tool calls and thoughts are read by a model too, so they count."""
    match block:
        case TextBlock():
            tokens = count(block.text)
        case ThinkingBlock():
            tokens = block.num_tokens or count(block.content or "")
        case CitableBlock():
            tokens = sum(block_tokens(part, count, media) for part in block.content)
        case CitationBlock():
            tokens = block_tokens(block.cited_content, count, media)
        case CachePoint():
            tokens = 0
        case ImageBlock() | AudioBlock() | VideoBlock() | DocumentBlock():
            tokens = media[type(block)]
        case ToolCallBlock():
            tokens = count(block.model_dump_json())
    return tokens


def messages_to_archive(messages: Sequence[ChatMessage], tokens: Sequence[int], *, limit: float, at_least: int) -> int:
    """Return how many of the oldest messages are to leave a conversation that has outgrown ``limit`` tokens.

    What remains begins with a user message and holds the last turn whole, however long that is. System messages do not
    count as said, and a conversation that nobody opened keeps its last message.

    Args:
        messages: The conversation, oldest first.
        tokens: What each takes.
        limit: What may remain.
        at_least: Tokens that are to leave if any do, so that this does not happen with every message.
    """
    total = sum(tokens)
    if total <= limit:
        return 0
    leaving = max(total - limit, at_least)
    turns = [index for index, message in enumerate(messages) if message.role == MessageRole.USER]
    cuts = turns or [len(messages) - 1]
    said = [0 if message.role == MessageRole.SYSTEM else size for message, size in zip(messages, tokens, strict=True)]
    gone = [(cut, sum(said[:cut])) for cut in cuts]
    enough = [cut for cut, left in gone if left >= leaving]
    useful = [cut for cut, left in gone if left > 0]
    return enough[0] if enough else (useful[-1] if useful else 0)
