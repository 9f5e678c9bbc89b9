"""Items: JSON values under keys, as durable, governed and isolated as all memory."""

from __future__ import annotations

import json
import math
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memos_core import (
    DeleteItem,
    FindItems,
    GetItem,
    Item,
    ItemIndex,
    Items,
    ListPaths,
    MemOS,
    PathPattern,
    PutItem,
    Scope,
)
from memos_core.errors import CubeFrozen, CubeNotFound, EmbedderMismatch, InvalidInput, QuotaReached
from memos_core.infrastructure.vault import MemVault, migrate
from memos_core.infrastructure.vault.rows import headers
from memos_core.item import texts_at
from memos_core.operation.item_filters import matches
from memos_core.testing import FakeClock, HashEmbedder

Opener = Callable[..., MemOS]


@pytest.fixture
def open_memos(tmp_path: Path, clock: FakeClock, embedder: HashEmbedder) -> Iterator[Opener]:
    opened: list[MemOS] = []

    def open_one(**options: Any) -> MemOS:
        opened.append(MemOS.open(tmp_path / "vault", **{"embedder": embedder, "clock": clock, **options}))
        return opened[-1]

    yield open_one
    for memos in opened:
        memos.close()


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


# Keeping


def test_a_value_comes_back_as_it_was_put_also_in_another_process(items, open_memos):
    value = {"z": 1, "a": [1.5, None, True, {"ü": "日本語 🐈"}], "empty": {}}
    put = items.put(("users", "ada"), "prefs", value)
    assert value_of(items.get(("users", "ada"), "prefs")) == value
    other = open_memos().scope(user="ada").items()
    assert other.get(("users", "ada"), "prefs") == put
    assert list(value_of(put)) == ["z", "a", "empty"]


def test_what_is_returned_shares_nothing_with_what_was_put(items):
    value = {"list": [1]}
    put = items.put(("a",), "k", value)
    value["list"].append(2)
    value_of(put)["list"].append(3)
    assert value_of(items.get(("a",), "k")) == {"list": [1]}


def test_what_is_not_there_is_none(items):
    assert items.get(("a",), "k") is None
    assert items.search(("a",)) == []
    assert items.paths() == []
    assert items.delete(("a",), "k") is False


def test_putting_again_keeps_the_earlier_version_and_when_it_began(items, ada, clock):
    first = items.put(("a",), "k", {"n": 1})
    clock.advance(60)
    second = items.put(("a",), "k", {"n": 2})
    assert (second.cube_id, second.version, second.created) == (first.cube_id, 2, first.created)
    assert second.updated > first.updated
    assert [json.loads(record.text) for record in ada.history(first.cube_id)] == [{"n": 1}, {"n": 2}]


def test_without_history_only_the_newest_version_stays(ada, memos):
    items = ada.items(history=False)
    for n in range(5):
        last = items.put(("a",), "k", {"n": n})
    assert last.version == 5
    assert [record.version for record in ada.history(last.cube_id)] == [5]
    memos.verify()
    assert value_of(ada.items().put(("a",), "k", {"n": 9})) == {"n": 9}
    assert [record.version for record in ada.history(last.cube_id)] == [5, 6]
    memos.verify()


def test_the_same_key_at_another_path_is_another_item(items):
    items.put(("a",), "k", 1)
    items.put(("a", "b"), "k", 2)
    items.put(("ab",), "k", 3)
    assert [value_of(items.get(path, "k")) for path in (("a",), ("a", "b"), ("ab",))] == [1, 2, 3]


@pytest.mark.parametrize(
    "value", [{1: "x"}, {"a": math.nan}, b"bytes", {"a": object()}, "\ud800", {"a": {"b": {2: 3}}}, {"a": {1, 2}}]
)
def test_what_is_no_json_is_refused(items, value):
    with pytest.raises(InvalidInput):
        items.put(("a",), "k", value)
    assert items.paths() == []


@pytest.mark.parametrize("path", [(), ("",), ("a", ""), ("a\x1fb",), ("a", 3), "abc", ("x" * 2000,), ("a",) * 40])
def test_a_malformed_path_is_refused(items, path):
    with pytest.raises((InvalidInput, TypeError)):
        items.batch([PutItem(path, "k", {})])
    assert items.paths() == []


def test_a_value_may_be_large_and_a_key_long(items):
    big = {"text": "x" * 1_000_000}
    items.put(("a",), "k" * 50_000, big)
    assert value_of(items.get(("a",), "k" * 50_000)) == big
    with pytest.raises(InvalidInput):
        items.put(("a",), "k" * 200_000, {})


def test_a_full_namespace_refuses_and_keeps_what_it_has(open_memos):
    items = open_memos(max_bytes=100).scope(user="ada").items()
    items.put(("a",), "k", "x" * 50)
    with pytest.raises(QuotaReached):
        items.batch([PutItem(("a",), "k1", "y"), PutItem(("a",), "k2", "y" * 80)])
    assert keys(items.search()) == ["k"]


# Letting go


def test_a_deleted_item_is_gone_with_its_versions_and_the_key_is_free(items, ada, memos):
    put = items.put(("a",), "k", {"n": 1})
    items.put(("a",), "k", {"n": 2})
    assert items.delete(("a",), "k") is True
    assert items.get(("a",), "k") is None
    with pytest.raises(CubeNotFound):
        ada.get(put.cube_id)
    again = items.put(("a",), "k", {"n": 3})
    assert (again.version, again.cube_id != put.cube_id) == (1, True)
    memos.verify()


def test_after_many_deletions_the_last_traces_leave_the_disk(items, memos, tmp_path):
    for n in range(20):
        items.put(("a",), str(n), {"secret": f"Xylophone{n}"})
        items.delete(("a",), str(n))
    assert memos.run_pending() == ()
    everything = b"".join(file.read_bytes() for file in (tmp_path / "vault").rglob("*") if file.is_file())
    assert b"Xylophone" not in everything


def test_forgetting_the_memory_of_an_item_forgets_the_item(items, ada):
    put = items.put(("a",), "k", {"n": 1})
    assert ada.forget(put.cube_id).complete
    assert items.get(("a",), "k") is None


def test_an_item_expires_and_reading_may_prolong_it(items, clock):
    items.put(("a",), "k", {"n": 1}, ttl_seconds=60)
    clock.advance(40)
    assert items.get(("a",), "k", refresh=True).expires_at == clock.now() + timedelta(seconds=60)
    clock.advance(40)
    assert keys(items.search(("a",), refresh=True)) == ["k"]
    clock.advance(50)
    assert items.get(("a",), "k") is not None
    clock.advance(20)
    assert items.get(("a",), "k", refresh=True) is None
    assert items.search() == []
    assert items.paths() == []


def test_an_expired_key_begins_anew_and_a_sweep_erases_the_rest(items, memos, clock):
    old = items.put(("a",), "k", {"n": 1}, ttl_seconds=10)
    items.put(("a",), "other", {"n": 1}, ttl_seconds=10)
    clock.advance(11)
    new = items.put(("a",), "k", {"n": 2})
    assert (new.version, new.created > old.created, new.expires_at) == (1, True, None)
    assert items.sweep() == 1
    assert memos.verify().cubes == 1


@pytest.mark.parametrize("seconds", [0, -1, math.nan, math.inf, 1e30])
def test_an_impossible_time_to_live_is_refused(items, seconds):
    with pytest.raises(InvalidInput):
        items.put(("a",), "k", {}, ttl_seconds=seconds)
    assert items.get(("a",), "k") is None


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


# Batches and transactions


def test_questions_of_a_batch_see_what_was_before_it_and_the_last_change_counts(searched):
    searched.put(("a",), "old", {"text": "cat"})
    results = searched.batch(
        [
            PutItem(("a",), "new", {"text": "cat", "n": 1}),
            GetItem(("a",), "new"),
            FindItems(("a",), query="cat"),
            ListPaths((PathPattern("prefix", ("b",)),)),
            PutItem(("b",), "x", {}),
            DeleteItem(("a",), "old"),
            PutItem(("a",), "new", {"text": "dog", "n": 2}),
            GetItem(("a",), "old"),
        ]
    )
    assert results[1] is None
    assert keys(results[2]) == ["old"]
    assert results[3] == []
    assert value_of(results[7]) == {"text": "cat"}
    assert results[5] is True
    assert value_of(searched.get(("a",), "new")) == {"text": "dog", "n": 2}
    assert searched.get(("a",), "old") is None


def test_a_batch_with_one_wrong_value_changes_nothing(items):
    with pytest.raises(InvalidInput):
        items.batch([PutItem(("a",), "k", 1), PutItem(("a",), "k2", {1: 2})])
    assert items.paths() == []


def test_a_transaction_is_all_or_nothing_and_sees_its_own_changes(items):
    items.put(("log",), "first", 1)
    with pytest.raises(ZeroDivisionError), items.transaction() as change:
        change.append(("log",), [2, 3])
        assert [item.value for item in change.list(("log",))] == [1, 2, 3]
        assert change.delete(("log",), "first", "absent") == 1
        raise ZeroDivisionError
    assert [one.item.value for one in items.search(("log",))] == [1]


def test_fifty_threads_lose_nothing(items):
    def count_up(n: int) -> None:
        items.put(("own",), str(n), {"n": n})
        with items.transaction() as change:
            held = {item.key: item.value for item in change.list(("sum",))}
            change.put(("sum",), "total", held.get("total", 0) + 1)

    with ThreadPoolExecutor(50) as pool:
        list(pool.map(count_up, range(50)))
    assert value_of(items.get(("sum",), "total")) == 50
    assert len(items.search(("own",), limit=100)) == 50


def test_processes_that_count_at_once_lose_nothing(items, tmp_path):
    code = (
        "from memos_core import MemOS\n"
        "items = MemOS.open('vault', embedder=None).scope(user='ada').items()\n"
        "for _ in range(10):\n"
        "    with items.transaction() as change:\n"
        "        held = change.get(('sum',), 'total')\n"
        "        change.put(('sum',), 'total', (held.value if held else 0) + 1)\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path) for _ in range(3)]
    assert [process.wait(timeout=120) for process in running] == [0, 0, 0]
    assert value_of(items.get(("sum",), "total")) == 30


async def test_async_twins(searched):
    await searched.aput(("a",), "k", {"text": "cat"}, ttl_seconds=60)
    assert value_of(await searched.aget(("a",), "k", refresh=True)) == {"text": "cat"}
    assert keys(await searched.asearch(("a",), query="cat")) == ["k"]
    assert await searched.apaths() == [("a",)]
    assert await searched.adelete(("a",), "k")
    assert await searched.asweep() == 0


# As memory


def test_items_are_no_part_of_ordinary_memory(searched, ada, memos):
    searched.put(("a",), "k", {"text": "the cat is called Biscuit"})
    note = ada.add("A dog barks.", session="S")
    assert [hit.id for hit in ada.search("What is the cat called?")] == [note.cube_id]
    assert (ada.count(), len(ada.list())) == (1, 1)
    assert (ada.count(type="any"), len(ada.list(type="any"))) == (2, 2)
    assert "Biscuit" not in ada.context("cat").text


def test_the_scores_of_ordinary_memory_do_not_depend_on_items(ada, searched):
    ada.add("A dog barks.")
    ada.add("The cat sleeps on the mat.")
    before = [(hit.id, hit.score, hit.why) for hit in ada.search("cat mat")]
    searched.batch([PutItem(("a",), str(n), {"text": "cat mat " * n}) for n in range(1, 50)])
    assert [(hit.id, hit.score, hit.why) for hit in ada.search("cat mat")] == before


def test_an_item_can_be_read_as_a_memory_but_not_edited_as_one(items, ada, tmp_path):
    put = items.put(("a",), "k", {"n": 1})
    assert json.loads(ada.get(put.cube_id).text) == {"n": 1}
    with pytest.raises(InvalidInput):
        ada.update(put.cube_id, "text")
    ada.add("a note")
    assert ada.export(tmp_path / "all.jsonl") == 2


def test_an_archived_item_rests_and_comes_back(items, ada):
    put = items.put(("a",), "k", {"n": 1})
    ada.archive(put.cube_id)
    assert items.get(("a",), "k") is None
    ada.archive(put.cube_id, archived=False)
    assert value_of(items.get(("a",), "k")) == {"n": 1}


def test_a_frozen_item_is_not_changed_but_can_be_deleted(items, ada):
    put = items.put(("a",), "k", {"n": 1})
    ada.freeze(put.cube_id)
    with pytest.raises(CubeFrozen):
        items.put(("a",), "k", {"n": 2})
    assert value_of(items.get(("a",), "k")) == {"n": 1}
    assert items.delete(("a",), "k")


def test_every_user_agent_and_session_has_its_own(memos):
    scopes = [
        memos.scope(user="ada"),
        memos.scope(user="ben"),
        memos.scope(user="ada", agent="scout"),
        memos.scope(user="ada", agent="scout", session="S"),
        memos.scope(user="ada", session="S"),
    ]
    for number, scope in enumerate(scopes):
        assert scope.items().get(("a",), "k") is None
        scope.items().put(("a",), "k", number)
    assert [value_of(scope.items().get(("a",), "k")) for scope in scopes] == [0, 1, 2, 3, 4]
    assert [len(scope.items().search()) for scope in scopes] == [1] * 5
    scopes[0].items().delete(("a",), "k")
    assert [value_of(scope.items().get(("a",), "k")) for scope in scopes[1:]] == [1, 2, 3, 4]
    assert memos.items().search() == []


def test_changes_are_audited_without_their_content(items, ada, memos):
    items.put(("a",), "k", {"secret": "Xylophone"})
    items.delete(("a",), "k")
    with memos._layers.vault.read() as session:
        entries = session.audit("ada")
    assert [entry["action"] for entry in entries] == ["forget", "put"]
    assert "Xylophone" not in json.dumps(entries)


def test_a_damaged_value_is_found_and_never_returned(items, memos, tmp_path):
    items.put(("a",), "k", {"n": 1})
    with sqlite3.connect(tmp_path / "vault" / "ledger.sqlite3") as ledger:
        ledger.execute("UPDATE versions SET payload = replace(payload, '1', '2')")
    with pytest.raises(Exception, match="digest"):
        items.get(("a",), "k")
    with pytest.raises(Exception, match="digest"):
        memos.verify()


def test_a_path_in_its_column_must_be_what_the_header_says(items, memos, tmp_path):
    items.put(("a",), "k", {"n": 1})
    with sqlite3.connect(tmp_path / "vault" / "ledger.sqlite3") as ledger:
        ledger.execute("UPDATE cubes SET item_key = 'other'")
    with pytest.raises(Exception, match="item_key is not what its header says"):
        memos.verify()


def test_headers_of_other_memory_are_written_as_before(make):
    assert "item" not in json.loads(headers(make("a note"))[0])["descriptive"]


def test_a_vault_of_the_first_release_is_brought_up_to_date(tmp_path, embedder, monkeypatch):
    from alembic import command

    upgrade = command.upgrade
    with monkeypatch.context() as patch:
        patch.setattr(command, "upgrade", lambda config, _: upgrade(config, "0001"))
        MemVault.open(tmp_path / "old", embedder=None).close()
    with MemOS.open(tmp_path / "old", embedder=embedder) as memos:
        memos.items().put(("a",), "k", 1)
        assert value_of(memos.items().get(("a",), "k")) == 1
    with sqlite3.connect(tmp_path / "old" / "ledger.sqlite3") as ledger:
        assert ledger.execute("SELECT version_num FROM alembic_version").fetchone() == (migrate.HEAD,)


# Against a model

NAMES = st.sampled_from(["a", "b", "ab", "ä"])
PATHS = st.lists(NAMES, min_size=1, max_size=2).map(tuple)
VALUES = st.fixed_dictionaries({"n": st.integers(0, 3)}, optional={"text": st.sampled_from(["cat", "dog", "cat dog"])})
CHANGES = st.lists(
    st.one_of(
        st.builds(PutItem, PATHS, NAMES, VALUES),
        st.builds(DeleteItem, PATHS, NAMES),
    ),
    max_size=6,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=st.lists(CHANGES, max_size=4), prefix=st.lists(NAMES, max_size=2).map(tuple), n=st.integers(0, 3))
def test_a_store_answers_like_a_dict(memos, batches, prefix, n):
    items = memos.items(namespace=("model", str(next(COUNTER))))
    model: dict[tuple[tuple[str, ...], str], Any] = {}
    for batch in batches:
        items.batch(batch)
        for change in {(change.path, change.key): change for change in batch}.values():
            if isinstance(change, PutItem):
                model[change.path, change.key] = change.value
            else:
                model.pop((change.path, change.key), None)
    below = {where: value for where, value in model.items() if where[0][: len(prefix)] == prefix}
    wanted = {where: value for where, value in below.items() if value["n"] >= n}
    found = items.search(prefix, filter={"n": {"$gte": n}}, limit=100)
    assert {(one.item.path, one.item.key): one.item.value for one in found} == wanted
    assert items.paths(prefix=prefix) == sorted({path for path, _ in below})
    memos.verify()


COUNTER = iter(range(10_000))
