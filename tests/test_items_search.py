"""Items are found by path, by what they hold, and by meaning."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any

import pytest

from memos_core import (
    Item,
    ItemIndex,
    Items,
    MemOS,
    PutItem,
    Scope,
)
from memos_core.errors import EmbedderMismatch, InvalidInput
from memos_core.item import texts_at
from memos_core.operation.items.filters import matches
from memos_core.testing import HashEmbedder

Opener = Callable[..., MemOS]


@pytest.fixture
def memos(open_memos: Opener) -> MemOS:
    return open_memos()


@pytest.fixture
def ada(memos: MemOS) -> Scope:
    return memos.scope(user="ada")


@pytest.fixture
def items(ada: Scope) -> Items:
    return ada.items()


@pytest.fixture
def searched(ada: Scope) -> Items:
    return ada.items(index=ItemIndex(fields=("text",)))


def keys(found: Any) -> list[str]:
    return [one.item.key for one in found]


def value_of(item: Item | None) -> Any:
    assert item is not None
    return item.value


# Asking


def test_items_are_found_below_a_path_segment_by_segment_in_the_order_of_their_first_put(items):
    for path in (("users", "b"), ("users", "a"), ("users", "ab"), ("usersx",), ("users",)):
        items.put(path, "k", {})
    items.put(("users", "b"), "k", {"again": True})
    found = [one.item.path for one in items.search(("users",))]
    assert found == [("users", "b"), ("users", "a"), ("users", "ab"), ("users",)]
    assert [one.item.path for one in items.search(("users", "a"))] == [("users", "a")]
    assert len(items.search(())) == 5


@pytest.mark.parametrize("segment", ["%", "_", "*", "?", "[a]", "'", '"', "\\", "ä", "🐈", "/", "\U0010fffd"])
def test_no_character_of_a_segment_means_more_than_itself(items, segment):
    items.put(("x", segment), "k", 1)
    items.put(("x", "plain"), "k", 2)
    assert [one.item.value for one in items.search(("x", segment))] == [1]


def test_pages_meet_without_gap_or_overlap(items):
    items.batch([PutItem(("a",), str(n), {"n": n, "even": n % 2 == 0}) for n in range(25)])
    pages = [keys(items.search(("a",), limit=10, offset=offset)) for offset in (0, 10, 20)]
    assert list(chain(*pages)) == [str(n) for n in range(25)]
    even = [keys(items.search(("a",), filter={"even": True}, limit=5, offset=offset)) for offset in (0, 5, 10, 15)]
    assert list(chain(*even)) == [str(n) for n in range(0, 25, 2)]
    assert items.search(("a",), limit=0) == []


def test_all_items_at_once(searched):
    searched.batch([PutItem(("a",), str(n), {"text": "cat"} if n % 2 else {}) for n in range(30)])
    assert len(searched.search(("a",), limit=None)) == 30
    assert len(searched.search(("a",), limit=None, offset=25)) == 5
    assert len(searched.search(("a",), query="cat", limit=None)) == 30
    assert len(searched.search(("a",), query="cat", filter={"text": "cat"}, limit=None)) == 15


def test_a_text_is_no_path(items):
    for call in (
        lambda: items.put("settings", "k", 1),
        lambda: items.get("settings", "k"),
        lambda: items.delete("settings", "k"),
        lambda: items.search("settings"),
        lambda: items.paths(prefix="settings"),
    ):
        with pytest.raises(InvalidInput, match="sequence of names"):
            call()


def test_paths_are_listed_by_pattern_and_depth(items):
    for path in (("a", "b", "c"), ("a", "b", "d", "e"), ("a", "b", "d", "i"), ("a", "b", "f"), ("a", "c", "f")):
        items.put(path, "k", {})
    assert items.paths(prefix=("a", "b"), max_depth=3) == [("a", "b", "c"), ("a", "b", "d"), ("a", "b", "f")]
    assert items.paths(suffix=("f",)) == [("a", "b", "f"), ("a", "c", "f")]
    assert items.paths(prefix=("a", "*", "f")) == [("a", "b", "f"), ("a", "c", "f")]
    assert items.paths(limit=2, offset=1) == [("a", "b", "d", "e"), ("a", "b", "d", "i")]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({"n": 2}, True),
        ({"n": 3}, False),
        ({"n": {"$eq": 2}}, True),
        ({"n": {"$ne": 2}}, False),
        ({"n": {"$gt": 1, "$lt": 3}}, True),
        ({"n": {"$gte": 2.0, "$lte": 2}}, True),
        ({"n": {"$gt": "1"}}, False),
        ({"tags": {"$contains": "a"}}, True),
        ({"tags": {"$all": ["a", "c"]}}, False),
        ({"name": {"$text_match": "11"}}, True),
        ({"missing": {"$is_empty": True}}, True),
        ({"tags": {"$eq": ["a", "b"]}}, True),
        ({"missing": {"$gt": 0}}, False),
        ({"missing": {"$lte": 0}}, False),
        ({"missing": {"$ne": 1}}, True),
        ({"missing": None}, True),
        ({"none": None}, True),
        ({"none": {"$exists": True}}, True),
        ({"missing": {"$exists": True}}, False),
        ({"name": {"$gte": "2026-01-01"}}, True),
        ({"name": {"$gt": 3}}, False),
        ({"tags": ["a", "b"]}, True),
        ({"tags": ["a"]}, False),
        ({"deep": {"x": {"$lt": 2}}}, True),
        ({"deep": {"x": 2}}, False),
        ({"n": {"$in": [1, 2]}}, True),
        ({"n": {"$nin": [1, 2]}}, False),
        ({"flag": {"$eq": True}}, True),
        ({}, True),
    ],
)
def test_every_operator(wanted, expected):
    value = {
        "n": 2,
        "none": None,
        "name": "2026-11-25",
        "tags": ["a", "b"],
        "deep": {"x": 1},
        "flag": True,
    }
    assert matches(value, wanted) is expected


@pytest.mark.parametrize(
    "wanted",
    [
        {"n": {"$like": 1}},
        {"$gt": 1},
        {"n": {"$in": 3}},
        {"n": {"$gt": None}},
        {"n": {"$gt": 1, "x": 2}},
        {"n": {"$exists": 1}},
        {"n": [{"$no": 1}]},
        "n",
    ],
)
def test_a_wrong_filter_is_refused_also_where_there_is_nothing(items, wanted):
    with pytest.raises(InvalidInput):
        items.search(filter=wanted)


def test_a_filter_on_a_value_that_is_no_object_finds_nothing(items):
    items.put(("a",), "k", [1, 2])
    assert items.search(filter={"n": 1}) == []


# By meaning


def test_the_nearest_come_first_and_what_is_not_searched_comes_last_without_a_score(searched):
    searched.put(("a",), "plain", {"n": 1})
    searched.put(("a",), "off", {"text": "cat"}, fields=())
    searched.put(("a",), "dog", {"text": "the dog barks"})
    searched.put(("a",), "cat", {"text": "the cat sleeps"})
    found = searched.search(("a",), query="cat")
    assert keys(found) == ["cat", "dog", "plain", "off"]
    assert found[0].score > found[1].score
    assert [one.score for one in found[2:]] == [None, None]
    pages = [keys(searched.search(("a",), query="cat", limit=1, offset=n)) for n in range(5)]
    assert pages == [["cat"], ["dog"], ["plain"], ["off"], []]


def test_a_filter_and_a_query_together(searched):
    searched.batch([PutItem(("a",), str(n), {"text": f"cat number {n}", "n": n}) for n in range(300)])
    found = searched.search(("a",), query="cat number 7", filter={"n": {"$gte": 290}}, limit=20)
    assert sorted(one.item.value["n"] for one in found) == list(range(290, 300))
    scores = [one.score for one in found]
    assert scores == sorted(scores, reverse=True)


def test_an_item_counts_once_by_its_nearest_part(ada):
    items = ada.items(index=ItemIndex(fields=("chapters[*].title", "name")))
    items.put(("a",), "book", {"name": "Animals", "chapters": [{"title": "the cat"}, {"title": "the dog"}]})
    items.put(("a",), "other", {"name": "the cat and the fish"})
    found = items.search(query="the cat")
    assert keys(found) == ["book", "other"]
    assert found[0].score == pytest.approx(1.0, abs=1e-5)


def test_a_put_without_the_field_leaves_no_stale_vector(searched):
    searched.put(("a",), "k", {"text": "cat"})
    searched.put(("a",), "k", {"other": "dog"})
    assert [one.score for one in searched.search(query="cat")] == [None]


def test_fields_of_a_put_take_the_place_of_those_of_the_index(searched):
    searched.put(("a",), "k", {"text": "dog", "note": "cat"}, fields=["note"])
    assert searched.search(query="cat")[0].score == pytest.approx(1.0, abs=1e-5)


def test_an_embedder_of_the_users_has_a_collection_of_its_own(ada, memos):
    mine = ada.items(index=ItemIndex(("text",), HashEmbedder(16, name="mine")))
    own = ada.items(index=ItemIndex(("text",)))
    mine.put(("a",), "k1", {"text": "cat"})
    own.put(("a",), "k2", {"text": "cat"})
    assert [(one.item.key, one.score is None) for one in mine.search(query="cat")] == [("k1", False), ("k2", True)]
    assert [(one.item.key, one.score is None) for one in own.search(query="cat")] == [("k2", False), ("k1", True)]
    memos.verify()
    with pytest.raises(EmbedderMismatch):
        ada.items(index=ItemIndex(("text",), HashEmbedder(32, name="mine"))).put(("a",), "k3", {"text": "cat"})


def test_an_index_needs_an_embedder(open_memos):
    scope = open_memos(embedder=None).scope(user="ada")
    with pytest.raises(InvalidInput):
        scope.items(index=ItemIndex())
    scope.items().put(("a",), "k", {"text": "cat"})
    assert keys(scope.items().search(query="cat")) == ["k"]


def test_items_move_to_another_embedder_by_their_fields(searched, memos, open_memos):
    newer = HashEmbedder(32, name="newer")
    searched.put(("a",), "k", {"text": "cat", "noise": "dog dog dog"})
    assert memos.reembed("items", embedder=newer) == 1
    again = open_memos(embedder=newer).scope(user="ada").items(index=ItemIndex(fields=("text",)))
    assert again.search(query="cat")[0].score == pytest.approx(1.0, abs=1e-5)
    memos.verify()


@pytest.mark.parametrize(
    ("where", "texts"),
    [
        ("title", ["T"]),
        ("author.name", ["Ada"]),
        ("tags[0]", ["x"]),
        ("tags[-1]", ["y"]),
        ("tags[9]", []),
        ("tags[*]", ["x", "y"]),
        ("parts[*].text", ["one", "two"]),
        ("*.name", ["Ada"]),
        ("{title,author.name}", ["T", "Ada"]),
        ("parts", ['[{"text": "one"}, {"text": "two"}]']),
        ("n", ["3"]),
        ("none", []),
        ("missing.field", []),
    ],
)
def test_the_language_of_fields(where, texts):
    value: Any = {
        "title": "T",
        "author": {"name": "Ada"},
        "tags": ["x", "y"],
        "parts": [{"text": "one"}, {"text": "two"}],
        "n": 3,
        "none": None,
    }
    assert texts_at(value, where) == texts


def test_a_malformed_field_is_refused(searched):
    with pytest.raises(InvalidInput):
        searched.put(("a",), "k", {"text": "x"}, fields=["a[b"])
