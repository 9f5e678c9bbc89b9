"""Tools are shown, calls are read and forced, and a stream shows none of it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from engine_parts import ask, engine
from hypothesis import given
from hypothesis import strategies as st

from memos_core.engine import HFEngine
from memos_core.errors import InvalidInput
from memos_core.interface.engine_chat import EngineChat
from memos_core.tools import CallWatch, ToolCall, ToolChoice, as_calls, as_tool_choice, as_tools, read_calls


def tool(name: str, **parameters: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": parameters, "required": list(parameters)}
    return {"type": "function", "function": {"name": name, "description": "Looks.", "parameters": schema}}


FIND = tool("find", query={"type": "string", "maxLength": 10}, k={"type": "integer", "minimum": 1, "maximum": 9})
BARE = {"type": "function", "function": {"name": "now"}}
TOOLS = as_tools([FIND, BARE])
CALL = '{"name": "find", "arguments": {"query": "cat"}}'
FOUND = ("find", {"query": "cat"})


@pytest.fixture(scope="module")
def noise() -> Iterator[HFEngine]:
    made = engine()
    yield made
    made.close()


def plain(calls: tuple[ToolCall, ...]) -> list[tuple[str, Any]]:
    return [(call.name, dict(call.arguments)) for call in calls]


# Choice


@pytest.mark.parametrize(
    ("choice", "meant"),
    [
        (None, ToolChoice()),
        (False, ToolChoice()),
        ("auto", ToolChoice()),
        ("none", ToolChoice("none")),
        ("required", ToolChoice("required")),
        ("any", ToolChoice("required")),
        ({"type": "any"}, ToolChoice("required")),
        ({"type": "auto"}, ToolChoice()),
        ("now", ToolChoice("required", "now")),
        ({"type": "function", "function": {"name": "now"}}, ToolChoice("required", "now")),
        ({"type": "tool", "name": "now"}, ToolChoice("required", "now")),
    ],
    ids=str,
)
def test_every_form_of_a_choice_is_understood(choice: Any, meant: ToolChoice) -> None:
    assert as_tool_choice(choice, TOOLS) == meant


def test_true_means_the_only_tool_and_a_tool_may_be_called_any() -> None:
    assert as_tool_choice(True, TOOLS[:1]) == ToolChoice("required", "find")
    assert as_tool_choice("any", as_tools([tool("any"), FIND])) == ToolChoice("required", "any")


@pytest.mark.parametrize(
    ("choice", "tools"),
    [
        ("look", TOOLS),
        (True, TOOLS),
        ("required", ()),
        ({"type": "function"}, TOOLS),
        ({"type": "tool", "name": 3}, TOOLS),
    ],
    ids=str,
)
def test_a_choice_that_means_nothing_is_refused(choice: Any, tools: Any) -> None:
    with pytest.raises(InvalidInput):
        as_tool_choice(choice, tools)


@pytest.mark.parametrize(
    "tools",
    [[{"name": "find"}], ["find"], [FIND, FIND], [{"type": "function", "function": {"name": ""}}],
     [{"type": "function", "function": {"name": "a", "parameters": 3}}]],
    ids=str,
)  # fmt: skip
def test_tools_of_another_form_are_refused(tools: Any) -> None:
    with pytest.raises(InvalidInput):
        as_tools(tools)


@pytest.mark.parametrize(
    "calls",
    [["x"], [{"function": {"name": "a", "arguments": "{"}}], [{"function": {"name": "a", "arguments": "[]"}}],
     [{"function": {"arguments": "{}"}}]],
    ids=str,
)  # fmt: skip
def test_calls_of_another_form_are_refused(calls: Any) -> None:
    with pytest.raises(InvalidInput):
        as_calls(calls)


def test_a_call_survives_the_way_into_a_message_and_back() -> None:
    call = ToolCall("find", {"query": "été", "k": 3}, "call_1")
    assert as_calls([call.as_openai()]) == (call,)
    assert ToolCall("find", {}).id != ToolCall("find", {}).id


# Reading


@pytest.mark.parametrize(
    ("text", "rest", "calls"),
    [
        ("Hello", "Hello", []),
        (CALL, "", [FOUND]),
        (f"  [{CALL}, {CALL}]\n", "", [FOUND, FOUND]),
        ('{"name": "find", "parameters": {"query": "cat"}}', "", [FOUND]),
        (f"Wait.\n<tool_call>\n{CALL}\n</tool_call>", "Wait.", [FOUND]),
        (f"<tool_call>{CALL}</tool_call>\n<tool_call>{CALL}</tool_call>", "", [FOUND, FOUND]),
        (f"<tool_call>{CALL}", "", [FOUND]),
        ('<tool_call>{"name": "other", "arguments": {}}</tool_call>', "", [("other", {})]),
        ('{"name": "other", "arguments": {}}', '{"name": "other", "arguments": {}}', []),
        ('{"name": "find"}', '{"name": "find"}', []),
        ("<tool_call>{oops</tool_call>", "<tool_call>{oops</tool_call>", []),
        (f"I would write {CALL}", f"I would write {CALL}", []),
        ("[]", "[]", []),
        ("[" * 100_000, "[" * 100_000, []),
    ],
    ids=range(14),
)
def test_calls_are_read_and_everything_else_stays_text(text: str, rest: str, calls: list[Any]) -> None:
    read, found = read_calls(text, ["find", "now"])
    assert (read, plain(found)) == (rest, calls)


PARTS = st.lists(st.sampled_from(["a", " ", "<", "{", '"name"', "<tool_call>", CALL, "</tool_call>", "\n"]), max_size=8)


@given(PARTS, st.data())
def test_a_stream_shows_what_the_whole_text_would(parts: list[str], data: st.DataObject) -> None:
    text = "".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    watch = CallWatch(["find", "now"])
    shown = "".join(watch.add(text[start:end]) for start, end in itertools.pairwise([0, *cuts, len(text)]))
    shown += watch.flush()
    rest, calls = read_calls(text, ["find", "now"])
    assert shown.split() == rest.split()
    assert plain(watch.calls) == plain(calls)


def test_without_tools_nothing_is_held_back() -> None:
    watch = CallWatch([])
    assert watch.add("<tool_call>") == "<tool_call>"
    assert watch.flush() == ""


# Forced


@pytest.mark.parametrize("seed", range(5))
def test_a_call_that_must_be_made_is_made(noise: HFEngine, seed: int) -> None:
    options: Any = {"temperature": 1.5, "seed": seed, "max_tokens": 64}
    named = noise.generate(ask("off", [], tools=TOOLS, tool_choice=ToolChoice("required", "find"), **options))
    assert [call.name for call in named.tool_calls] == ["find"]
    arguments = named.tool_calls[0].arguments
    assert arguments.keys() == {"query", "k"}
    assert len(str(arguments["query"])) <= 10
    assert named.text == ""
    any_of = noise.generate(ask("off", [], tools=TOOLS, tool_choice=ToolChoice("required"), **options))
    assert [call.name for call in any_of.tool_calls] in (["find"], ["now"])
    assert any_of.finish_reason in ("tool_calls", "length")


def test_schemas_with_definitions_of_one_name_do_not_mix(noise: HFEngine) -> None:
    def of(name: str, value: str) -> dict[str, Any]:
        made = tool(name, value={"$ref": "#/$defs/Value"})
        made["function"]["parameters"]["$defs"] = {"Value": {"const": value}}
        return made

    tools = as_tools([of("one", "1"), of("two", "2")])
    for name, value in (("one", "1"), ("two", "2")):
        reply = noise.generate(ask("off", [], tools=tools, tool_choice=ToolChoice("required", name), max_tokens=64))
        assert plain(reply.tool_calls) == [(name, {"value": value})]


def test_a_stream_of_a_call_shows_no_text(noise: HFEngine) -> None:
    request = ask("off", [], tools=TOOLS, tool_choice=ToolChoice("required", "now"), max_tokens=64)
    chunks = list(noise.stream(request))
    assert [chunk.text for chunk in chunks] == [""]
    assert chunks[-1].reply is not None
    assert plain(chunks[-1].reply.tool_calls) == [("now", {})]
    assert chunks[-1].reply.finish_reason == "tool_calls"


def test_beside_a_form_an_answer_is_a_call_or_has_that_form(noise: HFEngine) -> None:
    form = {"type": "json_schema", "json_schema": {"schema": {"type": "object", "properties": {"a": {"type": "null"}}}}}
    seen = set()
    for seed in range(12):
        reply = noise.generate(
            ask("off", [], tools=TOOLS, response_format=form, temperature=2.0, seed=seed, max_tokens=64)
        )
        assert bool(reply.tool_calls) != (reply.text in ("{}", '{"a": null}'))
        seen.add(bool(reply.tool_calls))
    assert seen == {True, False}


def test_with_choice_none_the_model_is_shown_no_tools(noise: HFEngine) -> None:
    without = noise.generate(ask("off", []))
    none = noise.generate(ask("off", [], tools=TOOLS, tool_choice=ToolChoice("none")))
    auto = noise.generate(ask("off", [], tools=TOOLS))
    assert none.usage.prompt_tokens == without.usage.prompt_tokens < auto.usage.prompt_tokens


def test_a_chat_takes_tools_in_any_words(noise: HFEngine) -> None:
    bare = EngineChat(noise)
    reply = bare.chat("What time is it?", tools=[BARE], tool_choice=True, max_tokens=40)
    assert plain(reply.tool_calls) == [("now", {})]
    history = [
        {"role": "user", "content": "What time is it?"},
        {"role": "assistant", "content": None, "tool_calls": [reply.tool_calls[0].as_openai()]},
        {"role": "tool", "content": "noon", "tool_call_id": reply.tool_calls[0].id},
    ]
    assert bare.chat(history, tools=[BARE], max_tokens=4).usage.prompt_tokens > reply.usage.prompt_tokens
    with pytest.raises(InvalidInput, match="no call of a tool"):
        bare.chat([{"role": "assistant", "content": "", "tool_calls": ["x"]}])
