"""Filters reach every field of the header, and mean in the ledger what they mean of a mapping."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memos_core import MemOS, Scope
from memos_core.cube import Behaviour, Descriptive, Governance, MemCube, Sensitivity, Source, Trust
from memos_core.errors import InvalidInput, UnknownField
from memos_core.filters import parse_where
from memos_core.infrastructure.vault.header_filters import FIELDS

MARCH, APRIL = datetime(2026, 3, 2, 9, 30, tzinfo=UTC), datetime(2026, 4, 1, tzinfo=UTC)


@pytest.fixture
def memos(open_memos: Callable[..., MemOS]) -> MemOS:
    return open_memos()


@pytest.fixture
def ada(memos: MemOS) -> Scope:
    scope = memos.scope(user="ada")
    scope.add("one", speaker="Ben", session="S1", at=MARCH, ref="D1", tags=["plans", "work"], title="Eins")
    scope.add("two", speaker="Eva", at=APRIL, tags=["plans"], language="de", sensitivity=Sensitivity.SECRET)
    scope.add("three", role="user", kind="note", trust=Trust.VERIFIED, ttl_seconds=86400)
    scope.freeze(scope.add("four", uri="file.md", valid_from=datetime(2025, 1, 1, tzinfo=UTC)).cube_id or "")
    return scope


def texts(scope: Scope, filters: dict[str, Any]) -> set[str]:
    found = {cube.text for cube in scope.list(filters=filters)}
    assert scope.count(filters=filters) == len(found)
    assert {hit.text for hit in scope.search("one two three four", k=10, filters=filters)} == found
    context = scope.context("one two three four", max_tokens=1000, filters=filters)
    assert {hit.text for hit in context.hits} == found
    return found


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, "one two three four"),
        ({"speaker": "Ben"}, "one"),
        ({"speaker": ["Ben", "Eva"]}, "one two"),
        ({"speaker": None}, "three four"),
        ({"speaker": ["Ben", None]}, "one three four"),
        ({"speaker": {"$ne": "Ben"}}, "two three four"),
        ({"speaker": {"$exists": True}}, "one two"),
        ({"speaker": {"$exists": False}}, "three four"),
        ({"title": {"$contains": "in"}}, "one"),
        ({"title": {"$is_empty": True}}, "two three four"),
        ({"at": {"$gte": MARCH, "$lt": APRIL}}, "one"),
        ({"at": {"$gt": "2026-03-02T09:30:00+00:00"}}, "two"),
        ({"at": "2026-03-02T09:30:00"}, "one"),
        ({"valid_from": {"$lte": MARCH}}, "four"),
        ({"tags": "plans"}, "one two"),
        ({"tags": {"$all": ["plans", "work"]}}, "one"),
        ({"tags": {"$nin": ["work"]}}, "two three four"),
        ({"tags": {"$exists": False}}, "three four"),
        ({"kind": "note"}, "three"),
        ({"language": "de", "speaker": "Eva"}, "two"),
        ({"sensitivity": "secret"}, "two"),
        ({"trust": {"$in": ["verified", "untrusted"]}}, "three"),
        ({"frozen": True}, "four"),
        ({"frozen": {"$ne": True}}, "one two three"),
        ({"ttl_seconds": {"$gte": 3600}}, "three"),
        ({"expires_at": {"$exists": True}}, "three"),
        ({"owner": "ada", "version": 1, "type": "plaintext"}, "one two three four"),
        ({"$or": [{"speaker": "Ben"}, {"frozen": True}]}, "one four"),
        ({"$and": [{"tags": "plans"}, {"$not": {"speaker": "Ben"}}]}, "two"),
        ({"$nor": [{"tags": "plans"}, {"kind": "note"}]}, "four"),
        ({"$not": {"at": {"$lt": APRIL}}}, "two three four"),
        ({"speaker": []}, ""),
    ],
)
def test_what_passes(ada: Scope, filters: dict[str, Any], expected: str) -> None:
    assert texts(ada, filters) == set(expected.split())


def test_behavioural_fields_see_uses_that_wait_in_memory(ada: Scope) -> None:
    (one,) = ada.list(filters={"speaker": "Ben"})
    before = ada.count(filters={"reads": 0})
    ada.search("one", k=1, filters={"speaker": "Ben"})
    assert before == 4
    assert [cube.id for cube in ada.list(filters={"reads": {"$gte": 1}})] == [one.id]
    ada.feedback(one.id, good=False)
    assert [cube.id for cube in ada.list(filters={"feedback": {"$lt": 0}})] == [one.id]
    assert [cube.id for cube in ada.list(filters={"last_used": {"$exists": True}, "heat": {"$gt": 0.5}})] == [one.id]


def test_relations_between_memories_are_fields(ada: Scope) -> None:
    one, two = (next(iter(ada.list(filters={"speaker": name}))).id for name in ("Ben", "Eva"))
    ada.link(one, two, "caused_by")
    assert texts(ada, {"links": two}) == {"one"}
    assert texts(ada, {"relations": "caused_by"}) == {"one"}
    merged = ada.merge([one, two], "one and two").cube_id
    assert [cube.id for cube in ada.list(filters={"sources": one})] == [merged]


def test_updated_is_when_the_version_was_committed(ada: Scope, clock: Any) -> None:
    clock.advance(60)
    now = clock.now()
    (one,) = ada.list(filters={"speaker": "Ben"})
    ada.update(one.id, "one again")
    assert [cube.id for cube in ada.list(filters={"updated": {"$gte": now}})] == [one.id]
    assert [cube.id for cube in ada.list(filters={"version": 2})] == [one.id]


def test_what_a_grantee_does_not_see_cannot_be_asked_for(memos: MemOS, ada: Scope) -> None:
    bob = memos.scope(user="bob")
    bob.add("five")
    (one,) = ada.list(filters={"speaker": "Ben"})
    (two,) = ada.list(filters={"speaker": "Eva"})
    ada.link(one.id, two.id, "caused_by")
    ada.search("one", k=4)  # counts reads
    ada.grant("bob", "read", cube_id=one.id)

    def found(filters: dict[str, Any]) -> set[str]:
        hits = {hit.text for hit in bob.search("one five", filters=filters)}
        assert {cube.text for cube in bob.list(include_shared=True, filters=filters)} == hits
        assert bob.count(include_shared=True, filters=filters) == len(hits)
        return hits

    assert found({}) == {"one", "five"}
    assert found({"speaker": "Ben"}) == {"one"}
    assert found({"links": two.id}) == set()
    assert found({"relations": {"$exists": False}}) == {"one", "five"}
    counted = ada.get(one.id).header.behaviour.reads
    assert counted > 0
    assert found({"reads": counted}) == set()
    assert "one" in found({"reads": {"$ne": counted}})
    assert "one" not in found({"last_used": {"$exists": True}})
    assert "one" in found({"$not": {"heat": {"$gt": 0}}})


def test_an_unknown_field_lists_the_known_ones(ada: Scope) -> None:
    for filters in ({"colour": "red"}, {"$or": [{"speaker": "Ben"}, {"colour": {"$gt": 1}}]}):
        with pytest.raises(UnknownField) as caught:
            ada.search("one", filters=filters)
        assert caught.value.field == "colour"
        assert {"speaker", "trust", "heat"}.issubset(caught.value.known)
        with pytest.raises(UnknownField):
            ada.list(filters=filters)


@pytest.mark.parametrize(
    "filters",
    [
        {"speaker": 1},
        {"at": "yesterday"},
        {"reads": "many"},
        {"reads": True},
        {"frozen": "yes"},
        {"trust": "boundless"},
        {"trust": {"$gt": "normal"}},
        {"tags": {"$gt": "a"}},
        {"speaker": {"$near": "Ben"}},
        {"speaker": {"$in": "Ben"}},
        {"speaker": {"Ben": 1}},
        {"title": {"$text_match_insensitive": "x"}},
        {"$xor": []},
        {"speaker": "Ben' OR 1=1 --", "at": {"$gt": None}},
    ],
)
def test_what_makes_no_sense_is_refused_even_in_an_empty_scope(memos: MemOS, filters: dict[str, Any]) -> None:
    empty = memos.scope(user="nobody")
    for call in (empty.list, empty.count):
        with pytest.raises(InvalidInput):
            call(filters=filters)
    with pytest.raises(InvalidInput):
        empty.search("one", filters=filters)


def test_every_field_of_the_header_can_be_asked_for() -> None:
    elsewhere = {"namespace", "grants", "shared", "retention", "source", "lineage", "item", "collection", "metadata"}
    named = [*Descriptive.model_fields, *Governance.model_fields, *Behaviour.model_fields, *Source.model_fields]
    assert set(named) - elsewhere <= set(FIELDS)


NAMES = ["speaker", "title", "kind", "version", "frozen", "reads", "at"]
VALUES = {
    "speaker": st.sampled_from(["Ben", "Eva", "X", None]),
    "title": st.sampled_from(["Eins", "", None]),
    "kind": st.sampled_from(["note", "turn"]),
    "version": st.integers(0, 2),
    "frozen": st.booleans(),
    "reads": st.integers(-1, 1),
    "at": st.sampled_from([MARCH.isoformat(), APRIL.isoformat()]),
}


@st.composite
def compares(draw: Any) -> dict[str, Any]:
    name = draw(st.sampled_from(NAMES))
    value = VALUES[name]
    operators = ["$eq", "$ne", "$in", "$nin", "$exists"]
    if name not in ("frozen", "kind"):
        operators += ["$gt", "$gte", "$lt", "$lte"]
    operator = draw(st.sampled_from(operators))
    if operator in ("$in", "$nin"):
        return {name: {operator: draw(st.lists(value.filter(lambda each: each is not None), max_size=2))}}
    if operator == "$exists":
        return {name: {operator: draw(st.booleans())}}
    return {name: {operator: draw(value.filter(lambda each: each is not None))}}


WHERE = st.recursive(
    compares(),
    lambda inner: st.one_of(
        *(st.lists(inner, max_size=3).map(lambda parts, key=key: {key: parts}) for key in ("$and", "$or", "$nor"))
    ),
    max_leaves=6,
)


def flat(cube: MemCube) -> dict[str, Any]:
    """Return some fields of a header as the mapping that a condition may be asked of."""
    at = cube.at.isoformat() if cube.at else None
    what, rules = cube.header.descriptive, cube.header.governance
    own = {"version": cube.version, "frozen": rules.frozen, "reads": cube.header.behaviour.reads, "at": at}
    return {"speaker": cube.speaker, "title": what.title, "kind": what.kind, **own}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=WHERE)
def test_the_ledger_agrees_with_the_language(ada: Scope, where: dict[str, Any]) -> None:
    condition = parse_where(where)
    cubes = list(ada.list(limit=100))
    expected = {cube.id for cube in cubes if condition is None or condition.accepts(flat(cube))}
    assert {cube.id for cube in ada.list(limit=100, filters=where)} == expected
