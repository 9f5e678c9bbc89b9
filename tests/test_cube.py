"""A cube is a value: frozen, compared by content, and the same after a round trip through JSON."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from memos_core import cube as module
from memos_core.cube import (
    ActivationPayload,
    Behaviour,
    BlobRef,
    Descriptive,
    Governance,
    Grant,
    Header,
    Lineage,
    Link,
    MemCube,
    ParametricPayload,
    PlaintextPayload,
    Retention,
    Sensitivity,
    Source,
    State,
    Trust,
    canonical_json,
    normalised,
)

# Text without lone surrogates: they are no Unicode text and have no UTF-8.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
maybe = st.none() | texts
zones = st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30)), timezone(timedelta(hours=-8))])
moments = st.datetimes(datetime(1971, 1, 2), datetime(2200, 1, 1), timezones=zones)
maybe_moments = st.none() | moments
counts = st.integers(0, 2**40)
ids = st.text("0123456789ABCDEFGHJKMNPQRSTVWXYZ", min_size=26, max_size=26)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
mappings = st.dictionaries(texts, json_values, max_size=3)
blobs = st.builds(BlobRef, address=st.text("0123456789abcdef", min_size=64, max_size=64), size_bytes=counts)
payloads = st.one_of(
    st.builds(PlaintextPayload, text=texts),
    st.builds(
        ActivationPayload,
        blob=blobs,
        fingerprint=texts,
        token_digest=texts,
        token_count=st.integers(1, 10**6),
        model=texts,
        codec=texts,
    ),
    st.builds(ParametricPayload, blob=blobs, fingerprint=texts, model=texts, peft_config=mappings),
)
sources = st.builds(Source, speaker=maybe, role=maybe, session=maybe, at=maybe_moments, ref=maybe, uri=maybe)
lineages = st.builds(
    Lineage,
    sources=st.lists(st.tuples(ids, st.integers(1, 99)), max_size=3).map(tuple),
    pathway=maybe,
    parameters=mappings,
)
governances = st.builds(
    Governance,
    owner=texts,
    namespace=texts,
    agent=maybe,
    grants=st.lists(st.builds(Grant, grantee=texts, right=st.sampled_from(["read", "write"]), until=maybe_moments)).map(
        tuple
    ),
    sensitivity=st.sampled_from(Sensitivity),
    retention=st.builds(Retention, ttl_seconds=st.none() | st.floats(0.001, 1e9), expires_at=maybe_moments),
    trust=st.sampled_from(Trust),
    frozen=st.booleans(),
)
behaviours = st.builds(
    Behaviour,
    reads=counts,
    last_used=maybe_moments,
    injected_text=counts,
    injected_kv=counts,
    injected_lora=counts,
    tokens_saved=counts,
    feedback=st.floats(-1e6, 1e6),
    contribution=st.none() | st.floats(0, 1),
)


@st.composite
def cubes(draw):
    payload = draw(payloads)
    descriptive = draw(
        st.builds(
            Descriptive,
            id=ids,
            type=st.just(payload.type),
            title=maybe,
            kind=texts,
            created=moments,
            updated=moments,
            valid_from=maybe_moments,
            valid_until=maybe_moments,
            source=sources,
            lineage=lineages,
            language=maybe,
            tags=st.lists(texts, unique=True, max_size=3).map(tuple),
            links=st.lists(st.builds(Link, target=ids, relation=texts), max_size=2).map(tuple),
        )
    )
    header = Header(descriptive=descriptive, governance=draw(governances), behaviour=draw(behaviours))
    return MemCube(
        header=header, payload=payload, version=draw(st.integers(1, 10**6)), state=draw(st.sampled_from(State))
    )


@settings(max_examples=150, deadline=None)
@given(cubes())
def test_a_cube_survives_json(cube):
    again = MemCube.from_json(cube.to_json())
    assert again == cube
    assert again.digest == cube.digest
    assert again.to_json() == cube.to_json()


@settings(max_examples=60, deadline=None)
@given(payloads, payloads)
def test_equal_payloads_and_only_those_have_equal_digests(one, two):
    def digest(payload):
        return module.hashlib.sha256(canonical_json(payload.model_dump(mode="json"))).hexdigest()

    assert (digest(one) == digest(two)) == (one == two)


def plain(text="a", **fields):
    now = datetime(2026, 1, 1)
    descriptive = Descriptive(id="0" * 26, type="plaintext", created=now, updated=now, **fields)
    header = Header(descriptive=descriptive, governance=Governance(owner="ada", namespace="ada"))
    return MemCube(header=header, payload=PlaintextPayload(text=text))


def test_a_cube_cannot_be_changed():
    cube = plain()
    with pytest.raises(ValidationError):
        cube.version = 2
    with pytest.raises(ValidationError):
        cube.header.governance.frozen = True


@pytest.mark.parametrize(
    "change",
    [{"format": 2}, {"surprise": 1}, {"version": 0}, {"state": "lost"}, {"payload": {"type": "music", "notes": ""}}],
)
def test_what_is_no_cube_or_of_a_later_format_is_refused(change):
    value = {**json.loads(plain().to_json()), **change}
    with pytest.raises(ValidationError):
        MemCube.from_json(json.dumps(value))


def test_a_naive_moment_is_utc_and_others_are_moved_to_it():
    assert plain().created == datetime(2026, 1, 1, tzinfo=UTC)
    east = datetime(2026, 1, 1, 5, 30, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    assert plain(valid_from=east).header.descriptive.valid_from.utcoffset() == timedelta(0)


def test_a_cube_prints_as_one_line_however_long_its_text_is():
    cube = plain()
    long = cube.model_copy(update={"payload": cube.payload.model_copy(update={"text": "word\n" * 1000})})
    for each in (cube, long):
        assert each.id in repr(each)
        assert each.text[:4] in str(each)
        assert len(str(each)) < 180
        assert "\n" not in str(each)


def test_cubes_without_text_are_named_by_their_title():
    payload = ActivationPayload(
        blob=BlobRef(address="0" * 64, size_bytes=1), fingerprint="f", token_digest="d", token_count=1, model="m"
    )
    cube = plain().model_copy(update={"payload": payload})
    assert cube.id in cube.text


@pytest.mark.parametrize(
    ("one", "two"),
    [("Hello  World", "hello world"), ("STRASSE", "straße"), ("ﬁne", "fine"), ("é", "e\u0301"), (" a\n", "a")],
)
def test_texts_that_differ_in_form_only_are_the_same(one, two):
    assert normalised(one) == normalised(two)
