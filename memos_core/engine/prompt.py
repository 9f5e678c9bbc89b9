"""Messages and memory become token ids, once per request, for text and KV alike.

The chat template renders the whole chat to one string, which is tokenised once; where memory lies is found in that
string. So no template needs to know of memory, and KV is nothing but a computed prefix of the same ids.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from jinja2 import TemplateError

from memos_core.engine.tokens import Tokens, common_prefix
from memos_core.errors import InvalidInput, UnsupportedOption
from memos_core.records import Message
from memos_core.render import NOTES_V1, MemoryBlock, spelt_out_calls, with_memory, with_tools

__all__ = ["PLAIN_V1", "PROBE", "PlainTemplate", "Prompt", "PromptBuilder"]

Tools = Sequence[dict[str, Any]] | None

PROBE = Message(role="user", content="?")
"""The chat with which a memory prefix is computed ahead; whatever follows memory in it is cut off."""


@dataclass(frozen=True, slots=True)
class PlainTemplate:
    """The chat template of models that have none. Named and versioned, since stored KV depends on it.

    Attributes:
        name: Name and version.
        source: Jinja source, as transformers uses it.
        stop: Strings by which a base model goes on to the next turn by itself.
    """

    name: str
    source: str
    stop: tuple[str, ...]


PLAIN_V1 = PlainTemplate(
    name="plain/1",
    source=(
        "{% for message in messages %}"
        "{{ message['role'] | capitalize }}: {{ message['content'] }}\n\n"
        "{% endfor %}"
        "{% if add_generation_prompt %}Assistant:{% endif %}"
    ),
    stop=("\nUser:", "\nSystem:"),
)


@dataclass(frozen=True, slots=True)
class Prompt:
    """A chat as the model reads it.

    Attributes:
        token_ids: All of it.
        memory_end: Tokens from the start to the end of the memory block; 0 if there is none or it was not found.
        opens: Whether nothing of the chat itself stands before memory, so that any chat may begin like this.
        ends: Cube id to the tokens from the start to the end of that memory.
        stop: Further stop strings that the template asks for.
        notes: What was done to make the template take it.
        starts: For each memory the tokens before it, in the order of ``ends``.
    """

    token_ids: tuple[int, ...]
    memory_end: int = 0
    opens: bool = False
    ends: tuple[tuple[str, int], ...] = ()
    stop: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    starts: tuple[int, ...] = ()


class PromptBuilder:
    """Renders chats for one tokenizer. Thread-safe."""

    def __init__(self, tokens: Tokens) -> None:
        self.tokens = tokens
        self.has_template = tokens.chat_template() is not None

    @property
    def template(self) -> str:
        """Source of the chat template in use."""
        return self.tokens.chat_template() or PLAIN_V1.source

    def build(self, messages: Sequence[Message], block: MemoryBlock, tools: Tools = None) -> Prompt:
        """Return the prompt for ``messages`` with ``block`` in front.

        Raises:
            InvalidInput: The prompt is empty.
            UnsupportedOption: The chat template refuses these messages in every form that is tried.
        """
        block = self.neutral_block(block)
        chat, tools = self.fitting([self.neutral_message(message) for message in messages], tools)
        chat = with_memory(chat, block)
        rendered, notes = self.render(chat, block, tools)
        start = rendered.find(block.text) if block.text else -1
        if block.text and start < 0:
            notes += ("the chat template changes the memory block, so its place in the prompt is unknown",)
        offsets = [start + offset for offset in (*block.ends, *block.starts)] if start >= 0 else []
        ids, counts = self.tokenise(rendered, offsets)
        counts, starts = counts[: len(counts) // 2], tuple(counts[len(counts) // 2 :])
        ends = tuple(zip(block.cube_ids, counts, strict=True)) if start >= 0 else ()
        stop = () if self.has_template else PLAIN_V1.stop
        if not ids:
            raise InvalidInput("the chat template makes an empty prompt of these messages")
        opens = start >= 0 and rendered[:start] == self.opening(tools)
        return Prompt(tuple(ids), max(counts, default=0), opens, ends, stop, notes, starts)

    def fitting(self, chat: Sequence[Message], tools: Tools) -> tuple[list[Message], Tools]:
        """Return the chat, and the tools that the template is to render, with what it does not know of written out."""
        source = self.tokens.chat_template(tools=bool(tools)) or PLAIN_V1.source
        chat = with_parsed_arguments(chat) if knows(source, "tool_calls") else spelt_out_calls(chat)
        return (chat, tools) if knows(source, "tools") else (with_tools(chat, tools or ()), None)

    def opening(self, tools: Tools) -> str:
        """Return what the template writes before the memory of a chat that has only just begun."""
        mark = MemoryBlock(text=NOTES_V1.heading)
        rendered, _ = self.render(with_memory([PROBE], mark), mark, tools)
        return rendered[: max(0, rendered.find(mark.text))]

    def neutral_block(self, block: MemoryBlock) -> MemoryBlock:
        text, ends = self.tokens.neutralise(block.text, block.ends)
        return MemoryBlock(text=text, ends=ends, cube_ids=block.cube_ids)

    def neutral_message(self, message: Message) -> Message:
        # System and assistant text is the program's own; what people and tools say is data.
        if message.role in {"system", "developer", "assistant"}:
            return message
        text, _ = self.tokens.neutralise(message.content)
        return message.model_copy(update={"content": text})

    def tokenise(self, rendered: str, offsets: Sequence[int]) -> tuple[list[int], list[int]]:
        """Return the ids of ``rendered``, and for each character offset the tokens that end at or before it."""
        # A chat template writes every special token itself, as apply_chat_template(tokenize=True) takes for granted.
        bos = [] if self.has_template else list(self.tokens.leading_bos)
        ids, ends = self.tokens.encode(rendered)
        if ends is None:
            counts = [common_prefix(ids, self.tokens.encode(rendered[:offset])[0]) for offset in offsets]
        else:
            # Up to the first token that ends later, even if a tokenizer gives offsets out of order.
            furthest = list(accumulate(ends, max))
            counts = [bisect_right(furthest, offset) for offset in offsets]
        return bos + ids, [len(bos) + count for count in counts]

    def render(self, chat: Sequence[Message], block: MemoryBlock, tools: Tools) -> tuple[str, tuple[str, ...]]:
        """Return the chat as one string: as it is if the template takes it, else in the nearest form that it takes."""
        system = block.text or (chat[0].content.strip() if chat and chat[0].role == "system" else "")
        fallback: tuple[str, tuple[str, ...]] | None = None
        refused: TemplateError | None = None
        for form, notes in forms(chat):
            try:
                rendered = self.apply(form, tools)
            except TemplateError as error:
                refused = error
                continue
            if system in rendered:
                return rendered, notes
            fallback = fallback or (rendered, notes)
        if fallback is None:
            raise UnsupportedOption(f"the model's chat template refuses these messages: {refused}") from refused
        return fallback

    def apply(self, chat: Sequence[Message], tools: Tools) -> str:
        rendered = self.tokens.tokenizer.apply_chat_template(
            [message.model_dump(exclude_none=True) for message in chat],
            tools=list(tools) if tools else None,
            chat_template=self.tokens.chat_template(tools=bool(tools)) or PLAIN_V1.source,
            tokenize=False,
            add_generation_prompt=True,
        )
        return str(rendered)


def knows(source: str, name: str) -> bool:
    """Tell whether the source of a template uses ``name``."""
    return re.search(rf"\b{name}\b", source) is not None


def with_parsed_arguments(chat: Sequence[Message]) -> list[Message]:
    """Return the chat with the arguments of calls as objects, as chat templates take for granted."""
    return [parsed(message) if message.called else message for message in chat]


def parsed(message: Message) -> Message:
    calls = [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": dict(call.arguments)}}
        for call in message.called
    ]
    return message.model_copy(update={"tool_calls": calls})


def forms(chat: Sequence[Message]) -> Iterator[tuple[list[Message], tuple[str, ...]]]:
    """Yield the chat and then forms of it that stricter templates take, each with a note of what was changed."""
    yield list(chat), ()
    merged = merge_runs(chat)
    if len(merged) < len(chat):
        yield merged, ("messages of one role in a row were joined, since the chat template wants roles to alternate",)
    if chat and chat[0].role == "system":
        note = "memory and system text went in front of the first user message: the chat template has no system role"
        yield merge_runs([chat[0].model_copy(update={"role": "user"}), *chat[1:]]), (note,)


def merge_runs(chat: Sequence[Message]) -> list[Message]:
    """Return the chat with neighbouring messages of the same role joined by an empty line."""
    merged: list[Message] = []
    for message in chat:
        # Each result of a tool is a message of its own, and calls hang on theirs.
        alone = message.role == "tool" or message.called
        if merged and merged[-1].role == message.role and not alone:
            joined = f"{merged[-1].content}\n\n{message.content}"
            merged[-1] = merged[-1].model_copy(update={"content": joined})
        else:
            merged.append(message)
    return merged
