"""Tools: what a model may call, whether it must, and the calls that stand in what it wrote.

Tools and calls are OpenAI's in shape. A call in a model's text is JSON, ``{"name": ..., "arguments": {...}}``, between
``<tool_call>`` and ``</tool_call>`` or bare; Llama's ``parameters`` for ``arguments`` is understood too.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import JsonValue

from memos_core.errors import InvalidInput

__all__ = [
    "CALL_CLOSE",
    "CALL_OPEN",
    "CallWatch",
    "ToolCall",
    "ToolChoice",
    "as_calls",
    "as_tool_choice",
    "as_tools",
    "read_calls",
    "tool_name",
]

CALL_OPEN, CALL_CLOSE = "<tool_call>", "</tool_call>"
BARE = tuple(opening + '{"name"' for opening in ("", "["))
"""How a call without tags begins, spaces aside."""

Mode = Literal["auto", "none", "required"]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call that a model asks for.

    Attributes:
        name: Of the tool.
        arguments: By name.
        id: Names this call in the chat; the tool's answer refers to it.
    """

    name: str
    arguments: Mapping[str, JsonValue]
    id: str = field(default_factory=lambda: f"call_{uuid.uuid4().hex[:24]}")

    def as_openai(self) -> dict[str, Any]:
        """Return the call as it stands in a message of the assistant."""
        arguments = json.dumps(self.arguments, ensure_ascii=False)
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": arguments}}


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """Whether a model must call a tool, and which.

    Attributes:
        mode: ``auto`` (it decides), ``none`` (it is shown no tools) or ``required``.
        name: The one tool that it must call; None: any.
    """

    mode: Mode = "auto"
    name: str | None = None


def as_tools(tools: Sequence[Mapping[str, Any]] | None) -> tuple[dict[str, Any], ...]:
    """Return tools in OpenAI's form, ``{"type": "function", "function": {"name", "description", "parameters"}}``.

    Raises:
        InvalidInput: One is not of that form, or two have one name.
    """
    checked = []
    for number, tool in enumerate(tools or ()):
        function = tool.get("function") if isinstance(tool, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str) or not function["name"]:
            raise InvalidInput(f'tool {number} is not of the form {{"type": "function", "function": {{"name": ...}}}}')
        if not isinstance(function.get("parameters", {}), Mapping):
            raise InvalidInput(f"the parameters of tool {function['name']!r} are no JSON schema")
        checked.append({"type": "function", **tool, "function": dict(function)})
    names = [tool_name(tool) for tool in checked]
    if twice := {name for name in names if names.count(name) > 1}:
        raise InvalidInput(f"several tools are called {', '.join(sorted(twice))}")
    return tuple(checked)


def tool_name(tool: Mapping[str, Any]) -> str:
    return str(tool["function"]["name"])


def as_tool_choice(choice: str | bool | Mapping[str, Any] | None, tools: Sequence[Mapping[str, Any]]) -> ToolChoice:
    """Return what ``choice`` means for ``tools``.

    Args:
        choice: None, ``auto``, ``none``, ``required`` or ``any``, the name of a tool, OpenAI's ``{"type": "function",
            "function": {"name": ...}}``, Anthropic's ``{"type": "tool", "name": ...}``, or True (the only tool).
        tools: As ``as_tools`` returns them.

    Raises:
        InvalidInput: It means nothing, or there is no such tool.
    """
    names = [tool_name(tool) for tool in tools]
    wanted = named(choice, names)
    if wanted in ("auto", "none") and wanted not in names:
        return ToolChoice(mode="none" if wanted == "none" else "auto")
    if not names:
        raise InvalidInput(f"tool_choice {choice!r} needs tools, and none were given")
    if wanted in ("required", "any") and wanted not in names:
        return ToolChoice(mode="required")
    if wanted not in names:
        raise InvalidInput(f"tool_choice names {wanted!r}, and the tools are {', '.join(names)}")
    return ToolChoice(mode="required", name=wanted)


def named(choice: str | bool | Mapping[str, Any] | None, names: Sequence[str]) -> str:
    """Return the word or the name that ``choice`` comes down to."""
    if choice is None or choice is False:
        return "auto"
    if choice is True:
        if len(names) != 1:
            raise InvalidInput(f"tool_choice True means the only tool, and there are {len(names)}")
        return names[0]
    if isinstance(choice, str):
        return choice
    function = choice.get("function", choice)
    name = function.get("name") if isinstance(function, Mapping) else None
    word = choice.get("type")
    if isinstance(name, str):
        return name
    if isinstance(word, str) and word in ("auto", "none", "required", "any"):
        return word
    raise InvalidInput(f"tool_choice {dict(choice)!r} names no tool")


def as_calls(calls: Any) -> tuple[ToolCall, ...]:
    """Return the calls of a message in OpenAI's form, whose ``arguments`` are JSON in a str or an object.

    Raises:
        InvalidInput: They are not of that form.
    """
    found = []
    for call in calls or ():
        function = call.get("function") if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping):
            raise InvalidInput(f"{call!r} is no call of a tool in OpenAI's form")
        arguments = function.get("arguments") or {}
        try:
            arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
        except ValueError as error:
            raise InvalidInput(f"the arguments of the call of {function.get('name')!r} are no JSON") from error
        if not isinstance(function.get("name"), str) or not isinstance(arguments, Mapping):
            raise InvalidInput(f"{call!r} is no call of a tool in OpenAI's form")
        found.append(ToolCall(function["name"], arguments, str(call.get("id") or "")))
    return tuple(found)


def read_calls(text: str, names: Sequence[str]) -> tuple[str, tuple[ToolCall, ...]]:
    """Return the text around the calls in ``text``, and the calls.

    Between tags any name counts, since the model said that it calls. Bare JSON is a call if it is all of the text and
    names one of ``names``. What is no well-formed call stays text.
    """
    if CALL_OPEN in text:
        return tagged_calls(text)
    calls = calls_of(text.strip())
    if calls and all(call.name in names for call in calls):
        return "", calls
    return text, ()


def tagged_calls(text: str) -> tuple[str, tuple[ToolCall, ...]]:
    before, *segments = text.split(CALL_OPEN)
    kept = [before]
    calls: list[ToolCall] = []
    for segment in segments:
        inside, closed, after = segment.partition(CALL_CLOSE)
        found = calls_of(inside.strip())
        calls += found
        kept.append(after if found else CALL_OPEN + inside + closed + after)
    rest = "".join(kept)
    return (rest.strip() if calls else text), tuple(calls)


def calls_of(source: str) -> tuple[ToolCall, ...]:
    """Return the calls that a piece of JSON holds: one, or a list of them; none if it is anything else."""
    if not source.startswith(("{", "[")):
        return ()
    try:
        value = json.loads(source)
    except (ValueError, RecursionError):
        return ()
    found = [call_of(item) for item in (value if isinstance(value, list) else [value])]
    return tuple(call for call in found if call is not None) if all(found) else ()


def call_of(value: Any) -> ToolCall | None:
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return None
    arguments = value.get("arguments", value.get("parameters"))
    return ToolCall(value["name"], arguments) if isinstance(arguments, dict) else None


class CallWatch:
    """Holds back what may be a call while a reply grows, so that a stream never shows one.

    Args:
        names: The tools that may be called. None of them: nothing is held back.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = tuple(names)
        self._held = ""
        self._begun = False  # whether text was let through
        self.calls: tuple[ToolCall, ...] = ()

    def add(self, text: str) -> str:
        """Return the text that is now safe to show."""
        if not self._names:
            return text
        self._held += text
        shown = len(self._held) - self._suspect()
        piece, self._held = self._held[:shown], self._held[shown:]
        self._begun = self._begun or bool(piece.strip())
        return piece

    def flush(self) -> str:
        """Return what was held back and is no call, once the reply has ended; ``calls`` then holds the calls."""
        names = () if self._begun else self._names
        text, self.calls = read_calls(self._held, names)
        self._held = ""
        return text

    def _suspect(self) -> int:
        """Return the length of the end of the held text that is, or may become, a call."""
        start = self._held.find(CALL_OPEN)
        if start >= 0:
            return len(self._held) - start
        squeezed = "".join(self._held.split())
        if not self._begun and any(squeezed.startswith(bare) or bare.startswith(squeezed) for bare in BARE):
            return len(self._held)
        longest = min(len(CALL_OPEN) - 1, len(self._held))
        return next((size for size in range(longest, 0, -1) if CALL_OPEN.startswith(self._held[-size:])), 0)
