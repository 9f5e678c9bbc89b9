"""Answers keep to the form that was asked for, whatever the model would say by itself, and are whole."""

from __future__ import annotations

import json
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from engine_parts import ask, cubes, engine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memos_core import MemOS
from memos_core.engine import HFEngine
from memos_core.engine.grammar import SPACING, tidied
from memos_core.engine.loading import LoadedModel, MemorySource
from memos_core.errors import InvalidInput, MissingExtra, UnsupportedOption
from memos_core.records import Reply
from memos_core.testing import HashEmbedder
from memos_core.testing.models import DictActivations, tiny_model

CAT = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0},
        "kind": {"enum": ["cat", "dog"]},
        "likes": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["name", "age", "kind"],
}
TREE = {
    "$ref": "#/$defs/Node",
    "$defs": {
        "Node": {
            "type": "object",
            "properties": {"v": {"type": "string"}, "kids": {"type": "array", "items": {"$ref": "#/$defs/Node"}}},
            "required": ["v", "kids"],
        }
    },
}


@pytest.fixture(scope="module")
def reader() -> Iterator[HFEngine]:
    made = HFEngine.from_pretrained("memos-reader")
    yield made
    made.close()


@pytest.fixture(scope="module")
def noise() -> Iterator[HFEngine]:
    """A random model: the worst writer there is."""
    made = engine()
    yield made
    made.close()


def held_to(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


def answer(model: HFEngine, form: dict[str, Any], **options: Any) -> Reply:
    return model.generate(ask("off", [], response_format=form, **{"max_tokens": 64, **options}))


# What comes out


def test_an_answer_has_the_properties_of_its_schema(reader: HFEngine) -> None:
    value = json.loads(answer(reader, held_to(CAT)).text)
    assert {"name", "age", "kind"} <= value.keys() <= CAT["properties"].keys()  # type: ignore[attr-defined]
    assert len(value["name"]) <= 12
    assert value["age"] >= 0
    assert value["kind"] in ("cat", "dog")


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("schema", [CAT, TREE, {"type": "object"}, {"type": "array"}, {"type": "string"}, {}])
def test_even_noise_is_valid_json_within_its_tokens(noise: HFEngine, schema: dict[str, Any], seed: int) -> None:
    reply = answer(noise, held_to(schema), temperature=1.5, seed=seed, max_tokens=64)
    json.loads(reply.text)
    assert reply.usage.completion_tokens <= 64
    if reply.finish_reason == "length":
        assert "closed early" in reply.plan.notes[-1]


def shortest(model: HFEngine, schema: dict[str, Any]) -> int:
    with pytest.raises(InvalidInput, match="at least") as told:
        answer(model, held_to(schema), max_tokens=1)
    found = re.search(r"at least (\d+) tokens", str(told.value))
    assert found
    return int(found[1])


@pytest.mark.parametrize("schema", [CAT, TREE])
def test_the_answer_is_whole_in_every_room_that_holds_the_shortest_one(noise: HFEngine, schema: dict[str, Any]) -> None:
    least = shortest(noise, schema)
    for room in range(least, least + 24):
        reply = answer(noise, held_to(schema), temperature=1.0, seed=room, max_tokens=room)
        json.loads(reply.text)
        assert reply.usage.completion_tokens <= room


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "pattern": "^[a-z]+@[a-z]+\\.(com|org)$"},
        {"type": "string", "pattern": "^[0-9]*;$"},
        {"type": "string", "format": "date"},
        {"type": "string", "format": "uuid"},
        {"type": "string", "minLength": 20, "maxLength": 25},
        {"type": "integer", "minimum": 1000, "maximum": 1100},
        {"type": "array", "items": {"type": "integer"}, "minItems": 3, "maxItems": 4},
        {"anyOf": [{"type": "null"}, CAT]},
        {"const": "été 漢字 😀"},
    ],
    ids=str,
)
def test_bounds_patterns_and_formats_hold_to_the_end_of_the_room(noise: HFEngine, schema: dict[str, Any]) -> None:
    for seed in range(4):
        value = json.loads(answer(noise, held_to(schema), temperature=1.5, seed=seed, max_tokens=80).text)
        if "pattern" in schema:
            assert re.search(schema["pattern"], value)
        if "minimum" in schema:
            assert 1000 <= value <= 1100
        if "minItems" in schema:
            assert 3 <= len(value) <= 4
        if "minLength" in schema:
            assert 20 <= len(value) <= 25
        if "const" in schema:
            assert value == schema["const"]


LEAVES = st.sampled_from([{"type": kind} for kind in ("string", "integer", "number", "boolean", "null")])
NAMES = st.text('abcé"\\ ', min_size=1, max_size=6)


def objects(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    properties = st.dictionaries(NAMES, inner, max_size=3)
    return properties.flatmap(
        lambda named: (
            st.lists(st.sampled_from(sorted(named)), unique=True).map(
                lambda required: {"type": "object", "properties": named, "required": required}
            )
            if named
            else st.just({"type": "object", "properties": {}})
        )
    )


def arrays(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return inner.map(lambda items: {"type": "array", "items": items})


SCHEMAS = st.recursive(LEAVES, lambda inner: st.one_of(objects(inner), arrays(inner)))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(schema=SCHEMAS, seed=st.integers(0, 10), room=st.integers(1, 120))
def test_any_schema_gives_whole_json_or_a_plain_refusal(
    noise: HFEngine, schema: dict[str, Any], seed: int, room: int
) -> None:
    try:
        reply = answer(noise, held_to(schema), temperature=1.2, seed=seed, max_tokens=room)
    except InvalidInput:
        assert room < shortest(noise, schema)
        return
    assert fits(json.loads(reply.text), schema)
    assert reply.usage.completion_tokens <= room


def fits(value: Any, schema: dict[str, Any]) -> bool:
    kinds = {"string": str, "integer": int, "number": (int, float), "boolean": bool, "null": type(None)}
    if schema["type"] == "object":
        inner = schema["properties"]
        return set(schema.get("required", ())) <= value.keys() <= inner.keys() and all(
            fits(value[name], inner[name]) for name in value
        )
    if schema["type"] == "array":
        return all(fits(item, schema["items"]) for item in value)
    return isinstance(value, kinds[schema["type"]])  # type: ignore[arg-type]


def test_json_object_and_regex(noise: HFEngine) -> None:
    assert isinstance(json.loads(answer(noise, {"type": "json_object"}).text), dict)
    reply = answer(noise, {"type": "regex", "regex": "(yes|no), [0-9]{3}"})
    assert re.fullmatch("(yes|no), [0-9]{3}", reply.text)
    assert reply.finish_reason == "stop"
    assert answer(noise, {"type": "text"}).text == noise.generate(ask("off", [], max_tokens=64)).text


def test_what_is_forced_is_computed_in_one_go_and_counts(noise: HFEngine) -> None:
    reply = answer(noise, held_to({"const": "a long text that leaves no choice at all"}))
    assert reply.text == '"a long text that leaves no choice at all"'
    assert reply.usage.completion_tokens > 5
    assert reply.finish_reason == "stop"


def test_the_pieces_of_a_stream_make_up_the_answer(noise: HFEngine) -> None:
    *pieces, last = noise.stream(ask("off", [], response_format=held_to(CAT), max_tokens=64))
    assert last.reply is not None
    assert "".join(piece.text for piece in pieces) == last.reply.text
    assert len(pieces) > 5


def test_a_greedy_answer_repeats_and_a_seed_repeats_a_drawn_one(noise: HFEngine) -> None:
    assert answer(noise, held_to(CAT)).text == answer(noise, held_to(CAT)).text
    drawn = [answer(noise, held_to(CAT), temperature=1.0, seed=seed).text for seed in (3, 3, 4)]
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize("family", ["llama", "qwen3", "mistral", "gpt_neox"])
def test_text_and_kv_give_the_same_answer(family: str) -> None:
    runner, store, memories = engine(family), DictActivations(), cubes()
    form = held_to(CAT)
    replies = [
        runner.generate(ask(inject, memories, store=store, response_format=form, max_tokens=48))
        for inject in ("text", "kv", "kv")  # type: ignore[arg-type]
    ]
    assert len({reply.text for reply in replies}) == 1
    assert replies[2].usage.memory_tokens > 0
    runner.close()


def test_many_threads_share_one_compiled_schema(noise: HFEngine) -> None:
    texts: list[str] = []
    threads = [
        threading.Thread(target=lambda: texts.append(answer(noise, held_to(CAT), max_tokens=40).text)) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(texts) == 8
    assert len(set(texts)) == 1


def test_a_model_with_more_logits_than_tokens_never_leaves_its_vocabulary() -> None:
    padded = engine("llama", vocab_size=512)
    json.loads(answer(padded, held_to(CAT), temperature=2.0, seed=1).text)
    padded.close()


def test_an_answer_to_which_no_end_is_known_may_be_cut_and_says_so(noise: HFEngine) -> None:
    reply = answer(noise, held_to({"type": "array", "items": {"type": "integer"}, "minItems": 3000}))
    assert reply.finish_reason == "length"
    assert "may cut it" in reply.plan.notes[-1]


# What is refused, before a token is made


@pytest.mark.parametrize(
    ("form", "told"),
    [
        (held_to({"type": "array", "uniqueItems": True}), "uniqueItems"),
        (held_to({"type": "colour"}), "Invalid type"),
        (held_to({"$ref": "https://example.com/schema"}), "not present|retriev"),
        (held_to({"type": "string", "pattern": "a(?=b)"}), "look-around"),
        (held_to({"type": "object", "properties": {"a": {"type": "object"}}, "x": {1, 2}}), "written as JSON"),
        ({"type": "regex", "regex": "(a"}, "regex"),
        (held_to({"$ref": "#"}), "too complex"),
        (held_to({"type": "object", "properties": {f"p{number}": {} for number in range(3000)}}), "too complex"),
        (held_to({"type": "integer", "minimum": 5, "maximum": 4}), "greater than"),
        ({"type": "regex"}, "response_format is"),
        ({"type": "json_schema"}, "JSON schema is an object"),
        ({"type": "json_schema", "json_schema": []}, "JSON schema is an object"),
        ({}, "response_format is"),
        ("json", "response_format is"),
    ],
    ids=str,
)
def test_a_form_that_cannot_be_kept_is_refused(noise: HFEngine, form: Any, told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        answer(noise, form)


def test_a_model_with_a_slow_tokenizer_or_without_an_end_is_told() -> None:
    model, tokenizer = tiny_model()
    loaded = LoadedModel(MemorySource(model, tokenizer, "slow"))
    loaded.tokens._backend = None
    with pytest.raises(UnsupportedOption, match="slow"):
        _ = loaded.constraints
    model, tokenizer = tiny_model()
    model.generation_config.eos_token_id = None
    tokenizer.eos_token = None
    with pytest.raises(UnsupportedOption, match="ends a turn"):
        _ = LoadedModel(MemorySource(model, tokenizer, "endless")).constraints


def test_a_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(MissingExtra) as told:
        _ = LoadedModel(MemorySource(*tiny_model(), "tiny")).constraints
    assert told.value.extra == "local"


# How a schema is read


def test_objects_hold_what_is_named_and_annotations_demand_nothing() -> None:
    schema = {
        "type": "object",
        "properties": {
            "path": {"type": "string", "format": "path"},
            "when": {"type": "string", "format": "date"},
            "inner": {"type": "object", "properties": {"a": True}, "additionalProperties": {"type": "string"}},
            "free": {"type": "object"},
            "properties": {"const": {"properties": {"a": 1}}},
        },
    }
    before = json.dumps(schema)
    made = tidied(schema)
    assert json.dumps(schema) == before
    inner = made["properties"]
    assert made["additionalProperties"] is False
    assert inner["path"] == {"type": "string"}
    assert inner["when"]["format"] == "date"
    assert inner["inner"]["additionalProperties"] == {"type": "string"}
    assert inner["free"] == {"type": "object"}
    assert inner["properties"] == {"const": {"properties": {"a": 1}}}
    assert made["x-guidance"] == SPACING


def test_joined_schemas_stay_open_to_each_other(noise: HFEngine) -> None:
    part = {name: {"type": "object", "properties": {name: {"type": "null"}}, "required": [name]} for name in "ab"}
    value = json.loads(answer(noise, held_to({"allOf": list(part.values())}), max_tokens=200).text)
    assert {"a", "b"} <= value.keys()


# Through a scope


def test_a_scope_answers_in_a_form_with_memory(tmp_path: Path, reader: HFEngine) -> None:
    with MemOS.open(tmp_path / "memory", engine=reader, embedder=HashEmbedder()) as memos:
        ada = memos.scope(user="ada")
        ada.add("Biscuit is the cat of Ada.")
        form = held_to({"type": "object", "properties": {"cat": {"type": "string"}}, "required": ["cat"]})
        replies = [
            ada.chat("What is the cat of Ada called?", inject=inject, response_format=form, max_tokens=32)
            for inject in ("text", "kv", "kv")  # type: ignore[arg-type]
        ]
        assert len({reply.text for reply in replies}) == 1
        assert list(json.loads(replies[0].text)) == ["cat"]
        assert replies[2].usage.memory_tokens > 0
