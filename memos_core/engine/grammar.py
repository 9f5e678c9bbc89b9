"""What an answer must look like, from the words of an API to a grammar. No model is needed here.

The grammar is written for llguidance: a JSON schema, a regular expression, or Lark rules that hold several schemas.
JSON is written as Python's ``json.dumps`` does, ``{"a": 1, "b": [2, 3]}``, with no freedom in its spaces: a weak model
would fill an answer with them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from memos_core.errors import InvalidInput
from memos_core.tools import ToolChoice, tool_name

__all__ = ["Grammar", "answer_grammar", "grammar_for"]

SPACING = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
ANY_OBJECT = {"type": "object"}
NO_ARGUMENTS: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}

FORMATS = frozenset({
    "date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "time", "unknown", "uri", "uuid",
})  # fmt: skip
"""Values of ``format`` that are enforced. Any other is an annotation, as JSON Schema has it, and says nothing."""

BOUNDS = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "enum", "const"})
WIDEST = 9 * 10**18
"""An integer without bounds is held to (nearly) 64 bits: a weak model goes on writing digits."""

INSIDE_MAP = frozenset({"properties", "patternProperties", "$defs", "definitions"})
INSIDE = frozenset({"items", "additionalProperties", "prefixItems", "anyOf", "oneOf", "allOf"})
"""Keywords below which further schemas stand, by name or directly."""

OPEN = frozenset({
    "additionalProperties", "patternProperties", "unevaluatedProperties", "allOf", "anyOf", "oneOf", "$ref",
})  # fmt: skip
"""Keywords beside ``properties`` that say, or may say, what else an object holds."""


@dataclass(frozen=True, slots=True)
class Grammar:
    """A grammar in one of the notations of llguidance. Equal ones are compiled once."""

    kind: Literal["json_schema", "regex", "lark"]
    source: str


def grammar_for(
    response_format: Mapping[str, Any] | None, tools: Sequence[Mapping[str, Any]], choice: ToolChoice
) -> Grammar | None:
    """Return the grammar of what may be written, or None where anything may.

    A required tool makes it a call. Tools that may be called beside a JSON format make it a call or the answer.

    Raises:
        InvalidInput: ``response_format`` is malformed.
    """
    answer = answer_grammar(response_format)
    if choice.mode == "none" or not tools:
        return answer
    if choice.mode == "required":
        return either_grammar([tool for tool in tools if choice.name in (None, tool_name(tool))], None)
    # A regular expression cannot stand beside JSON in one answer that is read back, so it rules alone.
    if answer is None or answer.kind != "json_schema":
        return answer
    return either_grammar(tools, json.loads(answer.source))


def answer_grammar(response_format: Mapping[str, Any] | None) -> Grammar | None:
    """Return the grammar that ``response_format`` asks for; see ``ChatOptions.response_format``.

    Raises:
        InvalidInput: It is malformed.
    """
    if response_format is None:
        return None
    kind = response_format.get("type") if isinstance(response_format, Mapping) else None
    if kind == "text":
        return None
    if kind == "json_object":
        return schema_grammar(response_format.get("schema", ANY_OBJECT))
    if kind == "json_schema":
        inner = response_format.get("json_schema", response_format)
        return schema_grammar(inner.get("schema") if isinstance(inner, Mapping) else None)
    if kind == "regex" and isinstance(response_format.get("regex"), str):
        return Grammar("regex", response_format["regex"])
    raise InvalidInput(
        'response_format is {"type": "json_object"}, {"type": "json_schema", "json_schema": {"schema": {...}}}, '
        f'{{"type": "regex", "regex": "..."}} or {{"type": "text"}}, not {response_format!r}'
    )


def schema_grammar(schema: Any) -> Grammar:
    return Grammar("json_schema", json.dumps(tidied(schema), sort_keys=False))


def tidied(schema: Any) -> dict[str, Any]:
    """Return a JSON schema as it is compiled: closed objects, and no annotations that look like demands.

    Raises:
        InvalidInput: It is no schema.
    """
    if not isinstance(schema, Mapping):
        raise InvalidInput(f"a JSON schema is an object, not {type(schema).__name__}")
    try:
        plain = json.loads(json.dumps(schema))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInput(f"the JSON schema cannot be written as JSON: {error}") from error
    joined = any(len(each["allOf"]) > 1 for each in schemas(plain) if isinstance(each.get("allOf"), list))
    for each in schemas(plain):
        if each.get("format") not in FORMATS:
            each.pop("format", None)
        if each.get("type") == "integer" and not BOUNDS & each.keys():
            each |= {"minimum": -WIDEST, "maximum": WIDEST}
        # Nobody who names properties wants invented ones. Only where schemas are joined may one name what others have.
        if "properties" in each and not joined and not OPEN & each.keys():
            each["additionalProperties"] = not set(each.get("required", ())) <= set(each["properties"])
    plain["x-guidance"] = SPACING
    return dict(plain)


def schemas(root: Any) -> list[dict[str, Any]]:
    """Return ``root`` and every schema below it, the objects themselves."""
    found, waiting = [], [root]
    while waiting:
        schema = waiting.pop()
        if not isinstance(schema, dict):
            continue
        found.append(schema)
        for key, value in schema.items():
            if key in INSIDE_MAP and isinstance(value, dict):
                waiting += value.values()
            elif key in INSIDE:
                waiting += value if isinstance(value, list) else [value]
    return found


def either_grammar(tools: Sequence[Mapping[str, Any]], answer: Mapping[str, Any] | None) -> Grammar:
    """Return the grammar of a call of one of ``tools``, or else of ``answer``."""
    names = [f"call_{number}" for number, _ in enumerate(tools)]
    rules = ["start: " + " | ".join([*names, *(["answer"] if answer is not None else [])])]
    for name, tool in zip(names, tools, strict=True):
        opening = f'{{"name": {json.dumps(tool_name(tool))}, "arguments": '
        parameters = tidied(tool["function"].get("parameters") or NO_ARGUMENTS)
        rules += [f'{name}: {json.dumps(opening)} {name}_arguments "}}"']
        rules += [f"{name}_arguments: %json {json.dumps(parameters)}"]
    if answer is not None:
        rules.append(f"answer: %json {json.dumps(answer)}")
    return Grammar("lark", "\n".join(rules))
