"""What the metadata of documents holds beside their headers narrows an answer down, and never changes it."""

import sqlite3
from itertools import count

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from memos_core import AllOf, AnyOf, Compare, Document, MemOS, NoneOf
from memos_core.errors import VaultDamaged
from memos_core.infrastructure.vault import migrate, schema
from memos_core.infrastructure.vault.selecting import LARGEST, LONGEST, MOST, field_values, narrowed
from memos_core.testing import HashEmbedder

LONG = "x" * LONGEST
VALUES = [
    *(None, True, False, 0, 1, 1.0, -1, -0.0, 0.5, 2**53, 2**53 + 1, -(10**400), 10**400, 2**80),
    *("", "a", "b", "ab", "A", "é", "\U0001f408", "\uffff", LONG, LONG + "a", LONG + "b"),
    *([], [1], ["a"], ["a", "b"], ["a", None], [[1]], [True], list(range(MOST + 1)), {}, {"a": 1}),
]
"""Each is what a field holds, and what it is compared with."""

ONE = ("eq", "ne", "gt", "gte", "lt", "lte", "contains", "text_match", "text_match_insensitive", "is_empty", "exists")
MANY = ("in", "nin", "any", "all")
NUMBERS = count()


@pytest.fixture
def memos(tmp_path, clock, embedder):
    with MemOS.open(tmp_path / "memory", embedder=embedder, clock=clock) as memos:
        yield memos


def points(memos, metadata):
    """Return a collection of documents with vectors of their own, far more than a first step looks at."""
    collection = memos.scope(user="ada").collection(f"points {next(NUMBERS)}", embedder="given")
    vectors = np.random.default_rng(5).normal(size=(len(metadata), 8))
    collection.upsert(
        Document(f"tea {number}", id=f"d{number}", metadata=held, vector=vector.tolist())
        for number, (held, vector) in enumerate(zip(metadata, vectors, strict=True))
    )
    return collection, vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture
def every_value(memos):
    metadata = [{"v": value, "n": number} for number, value in enumerate(VALUES)]
    return *points(memos, [*metadata, *({"n": number} for number in range(100))]), metadata


def nearest(vectors, query, names):
    order = np.argsort(-(vectors @ query), kind="stable")
    return [f"d{row}" for row in order if f"d{row}" in names]


def check(collection, vectors, condition, metadata):
    """Compare every way of asking with what the condition says of each document."""
    everything = [*metadata, *({"n": number} for number in range(len(vectors) - len(metadata)))]
    names = [f"d{number}" for number, held in enumerate(everything) if condition.accepts(held)]
    assert [one.id for one in collection.list(where=condition, limit=1000)] == names
    assert collection.count(where=condition) == len(names)
    for query in np.eye(8)[:1]:
        found = [hit.id for hit in collection.query(vector=query.tolist(), where=condition, k=5)]
        assert found == nearest(vectors, query, set(names))[:5]
    words = collection.query("tea", mode="words", where=condition, k=1000)
    assert sorted(hit.id for hit in words) == sorted(names)


@pytest.mark.parametrize("operator", ONE)
def test_every_operator_means_what_it_means_of_a_mapping(every_value, operator):
    collection, vectors, metadata = every_value
    for value in VALUES:
        check(collection, vectors, Compare("v", operator, value), metadata)


@pytest.mark.parametrize("operator", MANY)
def test_every_operator_on_lists_means_what_it_means_of_a_mapping(every_value, operator):
    collection, vectors, metadata = every_value
    for value in ([], [None], [1], ["a"], ["a", 1], [[1]], ["a", "b"], [{"a": 1}, LONG + "b"], list(range(MOST + 1))):
        check(collection, vectors, Compare("v", operator, value), metadata)


LEAVES = st.one_of(
    st.builds(Compare, st.sampled_from(["v", "n", "absent"]), st.sampled_from(ONE), st.sampled_from(VALUES)),
    st.builds(Compare, st.just("v"), st.sampled_from(MANY), st.lists(st.sampled_from(VALUES), max_size=3)),
)
CONDITIONS = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3).map(tuple).flatmap(lambda c: st.sampled_from([AllOf(c), AnyOf(c), NoneOf(c)]))
    ),
    max_leaves=6,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(condition=CONDITIONS)
def test_groups_of_conditions_mean_what_they_mean_of_a_mapping(every_value, condition):
    collection, vectors, metadata = every_value
    check(collection, vectors, condition, metadata)


def test_a_rare_document_is_found_without_reading_the_others(memos):
    collection, vectors = points(memos, [{"code": number} for number in range(400)])
    farthest = nearest(vectors, vectors[7], {f"d{number}" for number in range(400)})[-1]
    with memos._layers.vault.ledger.write() as connection:  # what is not looked at is not found damaged
        others = schema.cubes.c.ref != farthest
        connection.execute(schema.cubes.update().where(others).values(header_digest="0" * 64))
        connection.execute(schema.cubes.delete().where(others, schema.cubes.c.ref == "none"))
    (held,) = collection.list(where={"code": int(farthest[1:])})
    assert held.id == farthest


def test_few_are_compared_one_by_one_and_score_as_they_do_among_all(memos):
    collection, vectors = points(memos, [{"code": number // 4} for number in range(400)])
    query = vectors[0].tolist()
    everything = {hit.id: hit.score for hit in collection.query(vector=query, k=400)}
    found = collection.query(vector=query, where={"code": 99}, k=10)
    assert [hit.id for hit in found] == nearest(vectors, vectors[0], {"d396", "d397", "d398", "d399"})
    assert [hit.score for hit in found] == pytest.approx([everything[hit.id] for hit in found], abs=1e-6)
    named = collection.query(vector=query, ids=["d399", "d3", "absent"], k=10)
    assert {hit.id for hit in named} == {"d3", "d399"}


def test_products_of_vectors_rank_few_documents_too(memos):
    collection = memos.scope(user="ada").collection("dots", embedder="given", metric="dot")
    collection.upsert(
        Document(f"t{n}", id=f"d{n}", metadata={"rare": n < 2}, vector=[1.0, n / 100]) for n in range(300)
    )
    found = collection.query(vector=[0.0, -1.0], where={"rare": True}, k=5)
    assert [(hit.id, round(hit.score, 4)) for hit in found] == [("d0", 0.0), ("d1", -0.01)]


def test_a_new_version_an_expired_and_an_erased_document_are_asked_for_anew(memos, clock):
    collection, _ = points(memos, [{"code": number} for number in range(200)])
    collection.upsert([Document("other", id="d5", metadata={"code": 1000}, vector=[1.0] * 8)])
    assert collection.count(where={"code": 5}) == 0
    assert [one.id for one in collection.list(where={"code": 1000})] == ["d5"]
    brief = Document("brief", id="d6", metadata={"code": 1001}, vector=[1.0] * 8, ttl_seconds=60)
    collection.upsert([brief])
    clock.advance(61)
    assert collection.query(vector=[1.0] * 8, where={"code": 1001}, k=5) == []
    assert len(collection.delete(where={"code": 1001}).cube_ids) == 1
    collection.delete(where={"code": {"$lt": 100}})
    assert collection.count(where={"code": {"$lt": 1000}}) == 100
    memos.verify()


def test_another_scope_with_a_collection_of_that_name_is_not_asked(memos):
    mine, _ = points(memos, [{"code": number} for number in range(100)])
    name = mine.name
    theirs = memos.scope(user="ben").collection(name, embedder="given")
    theirs.upsert([Document("secret", id="d7", metadata={"code": 7}, vector=[1.0] * 8)])
    assert [one.text for one in mine.list(where={"code": 7})] == ["tea 7"]
    assert [one.text for one in theirs.query(vector=[1.0] * 8, where={"code": 7}, k=5)] == ["secret"]


def test_a_condition_that_is_too_long_for_the_ledger_is_answered_all_the_same(memos):
    collection, _ = points(memos, [{"code": number} for number in range(100)])
    long = AnyOf(tuple(Compare("code", "eq", number) for number in range(90, 90 + 2 * LARGEST)))
    assert narrowed("any", long) is None
    assert collection.count(where=long) == 10
    assert len(collection.query(vector=[1.0] * 8, where=long, k=20)) == 10


def test_memories_and_documents_without_metadata_leave_nothing(memos):
    memos.scope(user="ada").add("My cat is called Biscuit.", tags=["pets"])
    memos.scope(user="ada").collection("bare").upsert([Document("tea"), Document("rain", metadata={"a": None})])
    with memos._layers.vault.ledger.read() as connection:
        assert connection.execute(select(schema.document_fields)).all() == []


@given(st.lists(st.one_of(st.integers(), st.floats(allow_nan=False), st.booleans()), min_size=2, max_size=2))
def test_numbers_are_kept_in_their_order(pair):
    (_, low), (_, high) = [next(field_values({"v": value})) for value in sorted(pair)]
    assert low <= high


def test_what_is_kept_is_what_the_headers_say(memos, tmp_path):
    points(memos, [{"code": number} for number in range(3)])
    memos.verify()
    with sqlite3.connect(tmp_path / "memory" / "ledger.sqlite3") as ledger:
        ledger.execute("UPDATE document_fields SET value = 'tother'")
    with pytest.raises(VaultDamaged, match="document_fields is not what its header says"):
        memos.verify()


def test_a_vault_of_an_earlier_release_is_filled_in_when_it_is_opened(tmp_path, clock):
    with MemOS.open(tmp_path, embedder=HashEmbedder(), clock=clock) as memos:
        collection, _ = points(memos, [{"code": number, "tags": ["a", "b"]} for number in range(30)])
        memos.scope(user="ada").add("a memory")
        name = collection.name
    with sqlite3.connect(tmp_path / "ledger.sqlite3") as ledger:
        kept = ledger.execute("SELECT * FROM document_fields ORDER BY 1, 2, 3").fetchall()
        ledger.execute("DROP TABLE document_fields")
        for column in ("span_start", "span_end"):  # came later
            ledger.execute(f"ALTER TABLE recall_cubes DROP COLUMN {column}")
        ledger.execute("UPDATE alembic_version SET version_num = '0009'")
    with MemOS.open(tmp_path, embedder=HashEmbedder(), clock=clock) as memos:
        memos.verify()
        found = memos.scope(user="ada").collection(name, embedder="given").list(where={"code": 7})
    assert [one.id for one in found] == ["d7"]
    with sqlite3.connect(tmp_path / "ledger.sqlite3") as ledger:
        assert ledger.execute("SELECT * FROM document_fields ORDER BY 1, 2, 3").fetchall() == kept
        assert ledger.execute("SELECT version_num FROM alembic_version").fetchone() == (migrate.HEAD,)
