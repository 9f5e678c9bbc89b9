"""StoreConformanceTests: what every LangGraph store should do, as a pytest class.

    from memos_langchain.testing import StoreConformanceTests

    class TestMyStore(StoreConformanceTests):
        @pytest.fixture
        def make_store(self):
            def make(index=None, ttl=None):
                return MyStore(index=index, ttl=ttl)  # a fresh, empty one
            return make

A test that a store is known to fail is named in ``known_failures`` with the reason. A number in a docstring is an issue
of github.com/langchain-ai/langgraph.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from memos_core.errors import MissingExtra
from memos_langchain.testing.store_fixtures import MakeStore, namespaces, value_of
from memos_langchain.testing.store_items import ItemTests
from memos_langchain.testing.store_search import SearchTests

try:
    import pytest
except ImportError as error:
    raise MissingExtra("pytest", extra="testing") from error

try:
    from langgraph.store.base import (
        BaseStore,
        GetOp,
        ListNamespacesOp,
        MatchCondition,
        PutOp,
        SearchOp,
    )
except ImportError as error:
    raise MissingExtra("langgraph", extra="langchain") from error

__all__ = ["StoreConformanceTests"]


class StoreConformanceTests(ItemTests, SearchTests):
    """Behaviours of a ``BaseStore``. A subclass gives the fixture ``make_store`` and says what the store can do."""

    # Batches

    def test_reads_see_the_state_before_the_puts_of_their_batch(self, store: BaseStore) -> None:
        store.put(("a",), "old", {"n": 1})
        results: list[Any] = store.batch(
            [
                PutOp(("a",), "new", {"n": 2}),
                PutOp(("a",), "old", None),
                PutOp(("b",), "k", {}),
                GetOp(("a",), "new"),
                GetOp(("a",), "old"),
                SearchOp(("a",)),
                ListNamespacesOp(match_conditions=(MatchCondition("prefix", ("b",)),)),
            ]
        )
        assert results[:4] == [None, None, None, None]
        assert value_of(results[4]) == {"n": 1}
        assert [item.key for item in results[5]] == ["old"]
        assert results[6] == []
        assert store.get(("a",), "old") is None
        assert value_of(store.get(("a",), "new")) == {"n": 2}

    def test_the_last_put_of_a_batch_counts(self, store: BaseStore) -> None:
        store.batch([PutOp(("a",), "k", {"n": n}) for n in range(3)])
        store.batch([PutOp(("a",), "gone", {"n": 1}), PutOp(("a",), "gone", None)])
        store.batch([PutOp(("a",), "back", None), PutOp(("a",), "back", {"n": 1})])
        assert value_of(store.get(("a",), "k")) == {"n": 2}
        assert store.get(("a",), "gone") is None
        assert value_of(store.get(("a",), "back")) == {"n": 1}

    def test_the_last_put_of_a_batch_is_the_one_that_is_indexed(self, indexed: BaseStore) -> None:
        indexed.batch([PutOp(("a",), "k", {"text": "cat"}), PutOp(("a",), "k", {"text": "dog"})])
        indexed.put(("a",), "other", {"text": "cat food"})
        assert indexed.search(("a",), query="cat")[0].key == "other"

    def test_an_empty_batch_answers_nothing(self, store: BaseStore) -> None:
        assert store.batch([]) == []

    def test_a_batch_from_an_iterator(self, store: BaseStore) -> None:
        store.batch(PutOp(("a",), str(n), {"n": n}) for n in range(3))
        assert len(store.search(("a",))) == 3

    def test_threads_lose_nothing(self, store: BaseStore) -> None:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda n: store.put(("a", str(n % 4)), str(n), {"n": n}), range(40)))
        assert {item.value["n"] for item in store.search(("a",), limit=100)} == set(range(40))

    # Time to live

    def test_an_item_expires(self, timed: BaseStore) -> None:
        timed.put(("a",), "k", {}, ttl=10)
        timed.put(("a",), "stays", {})
        self.advance(11)
        assert timed.get(("a",), "k") is None
        assert [item.key for item in timed.search(("a",))] == ["stays"]

    def test_reading_prolongs_unless_told_otherwise(self, timed: BaseStore) -> None:
        for key in ("read", "found", "left"):
            timed.put(("a", key), "k", {}, ttl=10)
        self.advance(6)
        timed.get(("a", "read"), "k")
        timed.search(("a", "found"))
        timed.get(("a", "left"), "k", refresh_ttl=False)
        self.advance(6)
        assert namespaces(timed.search(("a",))) == {("a", "read"), ("a", "found")}

    def test_a_put_without_a_time_to_live_takes_it_away(self, timed: BaseStore) -> None:
        timed.put(("a",), "k", {"n": 1}, ttl=10)
        timed.put(("a",), "k", {"n": 2}, ttl=None)
        self.advance(11)
        assert value_of(timed.get(("a",), "k")) == {"n": 2}

    def test_the_default_time_to_live(self, make_store: MakeStore) -> None:
        if not self.has_ttl:
            pytest.skip("items of this store do not expire")
        store = make_store(index=None, ttl={"default_ttl": 10, "refresh_on_read": False, "omit_expired": True})
        store.put(("a",), "default", {})
        store.put(("a",), "own", {}, ttl=None)
        self.advance(6)
        store.get(("a",), "default")
        self.advance(6)
        assert [item.key for item in store.search(("a",))] == ["own"]

    # Async

    async def test_the_async_methods_answer_like_the_others(self, astore: BaseStore) -> None:
        await astore.aput(("a",), "k", {"n": 1})
        await astore.aput(("a", "b"), "k", {"n": 2})
        assert value_of(await astore.aget(("a",), "k")) == {"n": 1}
        assert [item.key for item in await astore.asearch(("a",), filter={"n": {"$gt": 1}})] == ["k"]
        assert await astore.alist_namespaces(prefix=("a",)) == [("a",), ("a", "b")]
        await astore.adelete(("a",), "k")
        results = await astore.abatch([PutOp(("c",), "k", {}), GetOp(("a",), "k"), GetOp(("c",), "k")])
        assert results == [None, None, None]

    async def test_the_async_search_by_meaning(self, indexed: BaseStore) -> None:
        if not self.has_async:
            pytest.skip("this store is not asynchronous")
        await indexed.aput(("a",), "dog", {"text": "the dog barks"})
        await indexed.aput(("a",), "cat", {"text": "the cat sleeps"})
        assert [item.key for item in await indexed.asearch(("a",), query="cat sleeps")] == ["cat", "dog"]
