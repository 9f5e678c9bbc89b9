"""MemReader: what a prompt asks of memory."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from memos_core.errors import InvalidInput, InvalidMemory
from memos_core.records import MemoryCall, Message, Turn

__all__ = ["MemReader", "as_messages", "as_turn"]

NAME = re.compile(r"(?<!^)(?<![.!?]\s)\b[A-Z][\w'-]+(?:\s+[A-Z][\w'-]+)*")
TEXT_PARTS = frozenset({"text", "input_text", "output_text"})


class MemReader:
    """Turns a prompt into a ``MemoryCall``. Reads the last user message; no model is asked."""

    def __init__(self, k: int = 8) -> None:
        self.k = k

    def parse(self, messages: Sequence[Message], *, max_tokens: int | None = None) -> MemoryCall | None:
        """Return the call, or None where no user message says anything to search for."""
        asked = [message.content for message in messages if message.role == "user" and message.content.strip()]
        if not asked:
            return None
        query = asked[-1].strip()
        names = dict.fromkeys(match.group() for match in NAME.finditer(query))
        return MemoryCall(query=query, k=self.k, entities=tuple(names), max_tokens=max_tokens)


def as_messages(prompt: str | Sequence[Message | Mapping[str, Any]]) -> list[Message]:
    """Return a prompt as messages: a str is one user message, mappings are OpenAI-style.

    Raises:
        InvalidInput: It is empty or an item is no message.
    """
    if isinstance(prompt, str):
        if not prompt.strip():
            raise InvalidInput("the prompt is empty")
        return [Message(role="user", content=prompt)]
    messages = []
    for number, item in enumerate(prompt):
        if isinstance(item, Message):
            messages.append(item)
        elif isinstance(item, Mapping) and isinstance(item.get("role"), str):
            content = content_text(item.get("content"), number)
            messages.append(Message(**{**item, "content": content}))
        else:
            raise InvalidInput(f"message {number} is no message: it needs a role and content")
    if not messages:
        raise InvalidInput("the prompt has no messages")
    return messages


def content_text(content: object, number: int) -> str:
    """Return the text of OpenAI-style content: a str, None, or a list of text parts."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence):
        texts = []
        for part in content:
            if isinstance(part, str):
                texts.append(part)
            elif isinstance(part, Mapping) and part.get("type") in TEXT_PARTS:
                texts.append(str(part.get("text", "")))
            else:
                kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
                raise InvalidInput(f"message {number} holds a part of type {kind!r}; only text parts are understood")
        return "\n".join(texts)
    raise InvalidInput(f"the content of message {number} is a {type(content).__name__}, not text")


def as_turn(item: Turn | Mapping[str, Any] | str, number: int | None) -> Turn:
    """Return one item of ``add_many`` as a Turn: a Turn, a str, a dict of its fields, or ``{"role", "content"}``.

    A chat message keeps its role and, as speaker, its ``name`` or else the role.

    Raises:
        InvalidMemory: It is none of these.
    """
    if isinstance(item, Turn):
        return item
    if isinstance(item, str):
        return Turn(text=item)
    if not isinstance(item, Mapping):
        raise InvalidMemory(f"cannot remember a {type(item).__name__}", index=number)
    fields = dict(item)
    if "content" in fields and "text" not in fields:
        try:
            fields["text"] = content_text(fields.pop("content"), number or 0)
        except InvalidInput as error:
            raise InvalidMemory(str(error), index=number) from error
        name = fields.pop("name", None)
        fields.setdefault("speaker", name or fields.get("role"))
    try:
        return Turn.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "item"
        raise InvalidMemory(f"{where}: {first['msg']}", index=number) from error
