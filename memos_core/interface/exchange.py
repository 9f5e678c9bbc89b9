"""What of a chat is worth remembering, as turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from memos_core.interface.reader import as_messages
from memos_core.records import Message, Turn
from memos_core.render import is_recalled

__all__ = ["chat_turns"]


def chat_turns(
    messages: Sequence[Message | Mapping[str, Any]],
    *,
    user: str,
    assistant: str | None = None,
    session: str | None = None,
    at: datetime | None = None,
) -> list[Turn]:
    """Return what user and assistant said. Left out: other roles, empty text, and memory that was recalled.

    Args:
        messages: The chat, OpenAI-style.
        user: Speaker of user messages that name none.
        assistant: Speaker of assistant messages that name none; by default ``assistant``.
        session: Conversation that they belong to.
        at: When they were said.
    """
    speakers = {"user": user, "assistant": assistant or "assistant"}
    turns = []
    for message in as_messages(messages) if messages else []:
        extra = message.model_extra or {}
        if message.role not in speakers or not message.content.strip() or is_recalled(message.content):
            continue
        if extra.get("memos"):
            continue
        turns.append(
            Turn(
                text=message.content,
                speaker=extra.get("name") or speakers[message.role],
                role=message.role,
                kind="turn" if message.role == "user" else "reply",
                session=session,
                at=at,
            )
        )
    return turns
