"""Items: JSON values under keys, as durable, governed and isolated as all memory."""

from __future__ import annotations

import json
import math
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
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
from memos_core.errors import CubeFrozen, CubeNotFound, InvalidInput, QuotaReached
from memos_core.infrastructure.vault import MemVault, migrate
from memos_core.infrastructure.vault.rows import headers

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


def test_what_a_value_takes_the_place_of_makes_room_for_it(open_memos):
    items = open_memos(max_bytes=100).scope(user="ada").items(history=False)
    for n in range(5):
        items.put(("a",), "k", str(n) * 80)
    assert value_of(items.get(("a",), "k")) == "4" * 80
    with pytest.raises(QuotaReached):
        items.put(("a",), "other", "x" * 80)


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


def test_pending_work_erases_what_has_expired_for_everyone_and_nothing_else(memos, clock):
    stores = [memos.scope(user="ada").items(), memos.scope(user="ada", agent="cook").items(), memos.items()]
    for store in stores:
        store.put(("a",), "gone", {"n": 1}, ttl_seconds=10)
        store.put(("a",), "stays", {"n": 1})
    memory = memos.scope(user="ada").add("A memory is not swept.", ttl_seconds=10)
    clock.advance(11)
    memos.run_pending()
    assert [[found.item.key for found in store.search()] for store in stores] == [["stays"]] * 3
    assert memos.verify().cubes == len(stores) + 1
    assert memos.scope(user="ada").get(memory.cube_id).state == "expired"


@pytest.mark.parametrize("seconds", [0, -1, math.nan, math.inf, 1e30])
def test_an_impossible_time_to_live_is_refused(items, seconds):
    with pytest.raises(InvalidInput):
        items.put(("a",), "k", {}, ttl_seconds=seconds)
    assert items.get(("a",), "k") is None


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
