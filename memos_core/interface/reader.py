"""MemReader: what a prompt asks of memory."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from memos_core.calls import EventRange, EventRelation, Intent, MemoryCall
from memos_core.errors import InvalidInput, InvalidMemory
from memos_core.interface.times import find_times
from memos_core.records import Message, Turn

__all__ = ["MemReader", "Reader", "as_messages", "as_turn", "events_in", "intent_of", "names_in"]

MAX_QUERY = 4000
"""Characters of a prompt that are looked at for names and intent."""

MAX_FOLLOW_UP = 8
"""Words of the longest follow-up."""

FOLLOW_UP = re.compile(
    r"(?:and|but|or|so|also|what about|how about|why|since when|where|when|who|which one|really|else|him|her|it|they)\b"
    r"(?=.*\b(?:and|it|its|he|him|his|she|hers?|they|them|their|theirs|that|those|this|one|ones|about|why)\b)",
    re.IGNORECASE,
)
ASKS_ASSISTANT = re.compile(
    r"\b(?:did|have|had|do|would|were|can) you (?:\w+ )?(?:say|said|tell|told|suggest|recommend|advise|mention|give|"
    r"given|propose|explain|provide|list)\w*\b|\byou (?:said|told|suggested|recommended|advised|mentioned|gave|"
    r"proposed|explained|provided|listed)\b|\byour (?:advice|suggestion|recommendation|answer|list)s?\b",
    re.IGNORECASE,
)
ASKS_SELF = re.compile(
    r"\b(?:did|do|have|had|am|was|were|should|could|would) I\b|\bI (?:said|told|mentioned|asked)\b"
    r"|\b(?:is|are|was|were) my\b|\bmy\b.*\?",
    re.IGNORECASE,
)
EVENT = re.compile(
    r"\b(before|after|since|when|while|during|until)\s+"
    r"((?:(?:I|we|you|he|she|they)\s|(?:my|our|your|his|her|their|the)\s)[^,.;:?!\n]{3,80})",
    re.IGNORECASE,
)
RELATIONS: Mapping[str, EventRelation] = {
    "before": "before",
    "until": "before",
    "after": "after",
    "since": "after",
    "when": "during",
    "while": "during",
    "during": "during",
}
INTENTS: tuple[tuple[Intent, re.Pattern[str]], ...] = (
    (
        "forget",
        re.compile(
            r"^(?:please |can you |could you |i want you to )*(?:forget|delete|erase|remove)\b(?! to\b)"
            r"|\b(?:don't|do not|stop) remember",
            re.IGNORECASE,
        ),
    ),
    (
        "correct",
        re.compile(
            r"^(?:no[,.]|actually\b|correction\b|sorry[,.] (?:i meant|it's|it is)|wait[,.])|\bi meant\b"
            r"|\b(?:that's|that is|that was|you're|you are) (?:wrong|not (?:right|true|correct)|incorrect|outdated)\b"
            r"|\b(?:no longer|not any ?more)\b",
            re.IGNORECASE,
        ),
    ),
    (
        "none",
        re.compile(
            r"^(?:hi|hello|hey|thanks?(?: you)?(?: so much| a lot)?|thx|ok(?:ay)?|great|cool|bye|good (?:morning|night|"
            r"evening|afternoon)|yes|yeah|yep|no|nope|sure|perfect|nice|lol)[\s!.,)]*$",
            re.IGNORECASE,
        ),
    ),
    (
        "ask",
        re.compile(
            r"[?\u061f\uff1f]\s*$|^(?:what|who|whom|whose|when|where|which|why|how|is|are|was|were|do|does|did|can|could"
            r"|would|should|will|has|have|had|am|remind me|tell me|show me|list|find|give me|help|explain|describe)\b",
            re.IGNORECASE,
        ),
    ),
)
"""Tried in this order; what fits none tells something."""

NAME = re.compile(r"(?<!^)(?<![.!?]\s)\b[A-Z][\w'-]+(?:\s+[A-Z][\w'-]+)*")
TEXT_PARTS = frozenset({"text", "input_text", "output_text"})


class Reader(ABC):
    """Reads prompts: ``MemOS.open(..., reader=...)`` takes one of yours, such as one that asks a model.

    Args:
        k: How many memories a prompt asks for.
    """

    def __init__(self, k: int = 8) -> None:
        self.k = k

    @abstractmethod
    def read(self, query: str, *, now: datetime) -> MemoryCall:
        """Return what one text asks of memory. Must be thread-safe.

        Args:
            query: What the user says; not empty.
            now: What "yesterday" is relative to.
        """

    def parse(self, messages: Sequence[Message], *, now: datetime, max_tokens: int | None = None) -> MemoryCall | None:
        """Return what the last user message asks for, or None where no user message says anything.

        A short follow-up ("And hers?") is searched for together with the user message before it.

        Args:
            messages: The chat so far.
            now: What "yesterday" is relative to.
            max_tokens: Budget for what will be injected.
        """
        asked = [message.content.strip() for message in messages if message.role == "user" and message.content.strip()]
        if not asked:
            return None
        query = asked[-1]
        if len(asked) > 1 and follows_up(query):
            query = f"{asked[-2]}\n{query}"
        return self.read(query, now=now).model_copy(update={"k": self.k, "max_tokens": max_tokens})


class MemReader(Reader):
    """Reads by patterns: the same prompt always gives the same call. No model is asked."""

    def read(self, query: str, *, now: datetime) -> MemoryCall:
        return MemoryCall(
            query=query,
            entities=names_in(query),
            speakers=speakers_meant(query),
            times=find_times(query, now),
            events=events_in(query),
            intent=intent_of(query),
        )


def names_in(text: str) -> tuple[str, ...]:
    """Return the names that a text mentions: words with a capital that do not begin a sentence, each once."""
    return tuple(dict.fromkeys(match.group() for match in NAME.finditer(text[:MAX_QUERY]) if match.group() != "I"))


def speakers_meant(text: str) -> tuple[str, ...]:
    """Return the chat roles that would have said what is asked for."""
    head = text[:MAX_QUERY]
    if ASKS_ASSISTANT.search(head):
        return ("assistant",)
    return ("user",) if ASKS_SELF.search(head) else ()


def events_in(text: str) -> tuple[EventRange, ...]:
    """Return the events that a text names as bounds in time: "before we moved"."""
    return tuple(
        EventRange(relation=RELATIONS[match.group(1).casefold()], text=match.group(2).strip())
        for match in EVENT.finditer(text[:MAX_QUERY])
    )


def intent_of(text: str) -> Intent:
    """Return what a text wants of memory, by its form."""
    head = text.strip()[:MAX_QUERY]
    for intent, pattern in INTENTS:
        if pattern.search(head):
            return intent
    return "tell" if any(character.isalnum() for character in head) else "none"


def follows_up(text: str) -> bool:
    """Tell whether a text leans on what was said before it."""
    words = text.split()
    return len(words) <= MAX_FOLLOW_UP and bool(FOLLOW_UP.match(text))


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
