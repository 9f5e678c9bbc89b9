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

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

from memos_core.errors import MissingExtra
from memos_langchain.testing.embeddings import WordEmbeddings

try:
    import pytest
except ImportError as error:
    raise MissingExtra("pytest", extra="testing") from error

try:
    from langgraph.store.base import (
        BaseStore,
        GetOp,
        IndexConfig,
        InvalidNamespaceError,
        Item,
        ListNamespacesOp,
        MatchCondition,
        PutOp,
        SearchItem,
        SearchOp,
    )
except ImportError as error:
    raise MissingExtra("langgraph", extra="langchain") from error

__all__ = ["StoreConformanceTests"]

MakeStore = Callable[..., BaseStore]


class StoreConformanceTests:
    """Behaviours of a ``BaseStore``. A subclass gives the fixture ``make_store`` and says what the store can do."""

    has_index = True
    """Whether ``make_store(index=...)`` makes a store that is searched by meaning."""

    has_ttl = True
    """Whether items expire. Needs ``advance``."""

    has_async = True
    """Whether the same instance answers the async methods."""

    known_failures: ClassVar[Mapping[str, str]] = {}
    """Name of a test to the reason why this store fails it; it must then fail."""

    @pytest.fixture(autouse=True)
    def _expect_known_failures(self, request: pytest.FixtureRequest) -> None:
        reason = self.known_failures.get(request.node.originalname)
        if reason is not None:
            request.applymarker(pytest.mark.xfail(reason=reason, strict=True))

    @pytest.fixture
    def make_store(self) -> MakeStore:
        """Return a function of ``index`` and ``ttl`` (LangGraph's configurations or None) that makes an empty store."""
        pytest.fail("override the fixture make_store")

    def advance(self, minutes: float) -> None:
        """Let time pass for the stores that ``make_store`` made. Override it for the tests of time to live."""
        pytest.skip("this store's time cannot be moved")

    @pytest.fixture
    def store(self, make_store: MakeStore) -> BaseStore:
        return make_store(index=None, ttl=None)

    @pytest.fixture
    def embeddings(self) -> WordEmbeddings:
        return WordEmbeddings()

    @pytest.fixture
    def indexed(self, make_store: MakeStore, embeddings: WordEmbeddings) -> BaseStore:
        if not self.has_index:
            pytest.skip("this store is not searched by meaning")
        index: IndexConfig = {"dims": embeddings.dimension, "embed": embeddings, "fields": ["text"]}
        return make_store(index=index, ttl=None)

    @pytest.fixture
    def timed(self, make_store: MakeStore) -> BaseStore:
        if not self.has_ttl:
            pytest.skip("items of this store do not expire")
        return make_store(index=None, ttl={"refresh_on_read": True, "omit_expired": True})

    @pytest.fixture
    def astore(self, store: BaseStore) -> BaseStore:
        if not self.has_async:
            pytest.skip("this store is not asynchronous")
        return store

    # One item

    def test_a_value_comes_back_as_it_was_put(self, store: BaseStore) -> None:
        value = {"text": "Grüße 🐈", "n": 3, "f": 1.5, "none": None, "yes": True, "deep": {"list": [1, {"a": []}]}}
        store.put(("users", "ada"), "k", value)
        item = store.get(("users", "ada"), "k")
        assert isinstance(item, Item)
        assert (item.namespace, item.key, item.value) == (("users", "ada"), "k", value)

    def test_what_is_not_there_is_none(self, store: BaseStore) -> None:
        assert store.get(("a",), "k") is None
        store.put(("a",), "other", {})
        assert store.get(("a",), "k") is None

    def test_putting_again_replaces_the_value_as_a_whole(self, store: BaseStore) -> None:
        store.put(("a",), "k", {"x": 1, "y": 2})
        store.put(("a",), "k", {"x": 3})
        assert value_of(store.get(("a",), "k")) == {"x": 3}
        assert len(store.search(("a",))) == 1

    def test_putting_again_keeps_when_the_item_was_created(self, store: BaseStore) -> None:
        store.put(("a",), "k", {"x": 1})
        first = store.get(("a",), "k")
        store.put(("a",), "k", {"x": 2})
        second = store.get(("a",), "k")
        assert first is not None
        assert second is not None
        assert second.created_at == first.created_at
        assert second.updated_at >= first.updated_at

    def test_a_returned_value_is_the_callers_own(self, store: BaseStore) -> None:
        given: dict[str, Any] = {"list": [1]}
        store.put(("a",), "k", given)
        given["list"].append(2)
        value_of(store.get(("a",), "k"))["list"].append(3)
        assert value_of(store.get(("a",), "k")) == {"list": [1]}

    def test_a_deleted_item_is_gone(self, store: BaseStore) -> None:
        store.put(("a",), "k", {})
        store.delete(("a",), "k")
        store.delete(("a",), "k")
        assert store.get(("a",), "k") is None
        assert store.search(("a",)) == []

    def test_the_same_key_in_another_namespace_is_another_item(self, store: BaseStore) -> None:
        for number, namespace in enumerate([("a",), ("a", "b"), ("ab",), ("b", "a")]):
            store.put(namespace, "k", {"n": number})
        store.delete(("a",), "k")
        assert store.get(("a",), "k") is None
        assert [value_of(store.get(ns, "k"))["n"] for ns in [("a", "b"), ("ab",), ("b", "a")]] == [1, 2, 3]

    def test_keys_of_any_characters(self, store: BaseStore) -> None:
        keys = ["with.dot", "with/slash", "%", "_", "ключ", "🐈", "a b", "x" * 500]
        for key in keys:
            store.put(("a",), key, {"key": key})
        assert [value_of(store.get(("a",), key))["key"] for key in keys] == keys

    # Namespaces

    @pytest.mark.parametrize("namespace", [(), ("",), ("a", ""), ("a.b",), ("langgraph",), ("langgraph", "x")])
    def test_a_namespace_that_must_not_be_is_refused(self, store: BaseStore, namespace: tuple[str, ...]) -> None:
        with pytest.raises(InvalidNamespaceError):
            store.put(namespace, "k", {})

    def test_a_period_in_an_operation_addresses_no_other_namespace(self, store: BaseStore) -> None:
        """The operations of ``batch`` are not checked by ``BaseStore``."""
        store.put(("foo", "bar"), "k", {"secret": 1})
        try:
            results: list[Any] = store.batch([GetOp(("foo.bar",), "k"), SearchOp(("foo.bar",))])
        except ValueError:
            return
        assert results == [None, []]

    def test_a_prefix_ends_with_a_segment(self, store: BaseStore) -> None:
        """CVE-2026-71433: a prefix must not reach a sibling whose name begins with it."""
        for namespace in [("users", "a"), ("users", "ab"), ("users", "a", "deep"), ("usersx", "a")]:
            store.put(namespace, "k", {})
        assert namespaces(store.search(("users", "a"))) == {("users", "a"), ("users", "a", "deep")}
        assert namespaces(store.search(("users",))) == {("users", "a"), ("users", "ab"), ("users", "a", "deep")}
        assert len(store.search((), limit=10)) == 4

    @pytest.mark.parametrize("label", ["%", "_", "?", "[a]", "a%", "A"])
    def test_no_character_of_a_label_is_a_wildcard(self, store: BaseStore, label: str) -> None:
        """#8300"""
        store.put(("x", label), "k", {"n": 1})
        store.put(("x", "a"), "k", {"n": 2})
        store.put(("x", "ab"), "k", {"n": 3})
        assert [item.value["n"] for item in store.search(("x", label))] == [1]

    def test_namespaces_are_listed_in_order_by_prefix_suffix_and_depth(self, store: BaseStore) -> None:
        for path in ["a b c", "a b d e", "a b d i", "a b f", "a c f"]:
            store.put(tuple(path.split()), "k", {})
        assert store.list_namespaces(prefix=("a", "b"), max_depth=3) == [
            ("a", "b", "c"),
            ("a", "b", "d"),
            ("a", "b", "f"),
        ]
        assert store.list_namespaces(suffix=("f",)) == [("a", "b", "f"), ("a", "c", "f")]
        assert store.list_namespaces(prefix=("a",), suffix=("i",)) == [("a", "b", "d", "i")]
        assert store.list_namespaces(limit=2, offset=1) == [("a", "b", "d", "e"), ("a", "b", "d", "i")]
        assert store.list_namespaces(prefix=("z",)) == []

    def test_a_star_matches_one_segment(self, store: BaseStore) -> None:
        for path in ["users ada prefs", "users ben prefs", "users ben notes", "users prefs"]:
            store.put(tuple(path.split()), "k", {})
        found = store.list_namespaces(prefix=("users", "*", "prefs"))
        assert found == [("users", "ada", "prefs"), ("users", "ben", "prefs")]
        assert store.list_namespaces(suffix=("ben", "*")) == [("users", "ben", "notes"), ("users", "ben", "prefs")]

    def test_a_namespace_without_items_is_not_listed(self, store: BaseStore) -> None:
        store.put(("a",), "k", {})
        store.delete(("a",), "k")
        store.get(("b",), "k")
        store.search(("c",))
        assert store.list_namespaces() == []

    # Search

    def test_a_search_returns_search_items(self, store: BaseStore) -> None:
        store.put(("a",), "k", {"n": 1})
        (found,) = store.search(("a",))
        assert isinstance(found, SearchItem)
        assert (found.namespace, found.key, found.value, found.score) == (("a",), "k", {"n": 1}, None)

    def test_pages_meet_without_gap_or_overlap(self, store: BaseStore) -> None:
        for n in range(25):
            store.put(("a",), str(n), {"n": n})
        assert len(store.search(("a",))) == 10
        pages = [store.search(("a",), limit=10, offset=offset) for offset in (0, 10, 20, 30)]
        assert [len(page) for page in pages] == [10, 10, 5, 0]
        assert {item.value["n"] for page in pages for item in page} == set(range(25))

    @pytest.mark.parametrize(
        ("wanted", "expected"),
        [
            ({"n": 2}, "2"),
            ({"n": {"$eq": 2}}, "2"),
            ({"n": {"$ne": 2}}, "1 10"),
            ({"n": {"$gt": 2}}, "10"),
            ({"n": {"$gte": 2}}, "10 2"),
            ({"n": {"$lt": 2}}, "1"),
            ({"n": {"$lte": 2}}, "1 2"),
            ({"n": {"$gt": 1, "$lt": 10}}, "2"),
            ({"color": "red"}, "1 10"),
            ({"color": "red", "n": {"$gt": 1}}, "10"),
            ({"color": {"$ne": "red"}}, "2"),
            ({"n": 3}, ""),
        ],
    )
    def test_every_operator_of_a_filter(self, store: BaseStore, wanted: dict[str, Any], expected: str) -> None:
        """Numbers are compared as numbers, #7684."""
        for n, color in [(1, "red"), (2, "blue"), (10, "red")]:
            store.put(("a",), str(n), {"n": n, "color": color})
        assert sorted(item.key for item in store.search(("a",), filter=wanted)) == expected.split()

    @pytest.mark.parametrize("operator", ["$gt", "$gte", "$lt", "$lte"])
    def test_a_missing_field_is_in_no_order_to_anything(self, store: BaseStore, operator: str) -> None:
        """#7880, #8365"""
        store.put(("a",), "with", {"n": 2})
        store.put(("a",), "without", {})
        assert {item.key for item in store.search(("a",), filter={"n": {operator: 2}})} <= {"with"}

    def test_a_missing_field_is_different(self, store: BaseStore) -> None:
        """#8366"""
        store.put(("a",), "with", {"n": 2})
        store.put(("a",), "without", {})
        assert [item.key for item in store.search(("a",), filter={"n": {"$ne": 2}})] == ["without"]

    def test_a_filter_compares_nested_values(self, store: BaseStore) -> None:
        store.put(("a",), "k1", {"meta": {"x": 1, "y": 2}, "tags": ["a", "b"]})
        store.put(("a",), "k2", {"meta": {"x": 2}, "tags": ["a"]})
        assert [item.key for item in store.search(("a",), filter={"meta": {"x": 1}})] == ["k1"]
        assert [item.key for item in store.search(("a",), filter={"tags": ["a"]})] == ["k2"]

    def test_an_unknown_operator_is_refused(self, store: BaseStore) -> None:
        store.put(("a",), "k", {"n": 1})
        with pytest.raises(ValueError, match="nonsense"):
            store.search(("a",), filter={"n": {"$nonsense": 1}})

    def test_a_page_of_a_filter(self, store: BaseStore) -> None:
        for n in range(20):
            store.put(("a",), str(n), {"n": n, "even": n % 2 == 0})
        pages = [store.search(("a",), filter={"even": True}, limit=4, offset=offset) for offset in (0, 4, 8)]
        assert [len(page) for page in pages] == [4, 4, 2]
        assert {item.value["n"] for page in pages for item in page} == set(range(0, 20, 2))

    def test_a_query_without_an_index_is_passed_over(self, store: BaseStore) -> None:
        store.put(("a",), "k", {"text": "cat"})
        assert [item.key for item in store.search(("a",), query="dog")] == ["k"]

    # By meaning

    def test_the_nearest_come_first(self, indexed: BaseStore) -> None:
        indexed.put(("a",), "dog", {"text": "the dog barks"})
        indexed.put(("a",), "cat", {"text": "the cat sleeps"})
        found = indexed.search(("a",), query="cat sleeps")
        assert [item.key for item in found] == ["cat", "dog"]
        scores = [item.score for item in found if item.score is not None]
        assert len(scores) == 2
        assert scores[0] > scores[1]

    def test_a_question_is_embedded_as_a_question(self, indexed: BaseStore, embeddings: WordEmbeddings) -> None:
        """#9007"""
        indexed.put(("a",), "k", {"text": "cat"})
        indexed.search(("a",), query="where is it")
        assert embeddings.queries == ["where is it"]

    def test_what_is_not_indexed_comes_last_without_a_score(self, indexed: BaseStore) -> None:
        indexed.put(("a",), "off", {"text": "cat"}, index=False)
        indexed.put(("a",), "absent", {"other": "cat"})
        indexed.put(("a",), "cat", {"text": "cat"})
        found = indexed.search(("a",), query="cat")
        assert found[0].key == "cat"
        assert {(item.key, item.score) for item in found[1:]} == {("off", None), ("absent", None)}

    def test_pages_of_scored_and_unscored_items_meet(self, indexed: BaseStore) -> None:
        for n in range(3):
            indexed.put(("a",), f"scored{n}", {"text": f"cat {n}"})
            indexed.put(("a",), f"plain{n}", {"other": n})
        pages = [indexed.search(("a",), query="cat", limit=2, offset=offset) for offset in (0, 2, 4, 6)]
        found = [item.key for page in pages for item in page]
        assert len(found) == 6
        assert set(found) == {item.key for item in indexed.search(("a",))}

    def test_fields_of_a_put_take_the_place_of_those_of_the_store(self, indexed: BaseStore) -> None:
        indexed.put(("a",), "k1", {"text": "dog", "note": "cat"}, index=["note"])
        indexed.put(("a",), "k2", {"text": "bird"})
        assert indexed.search(("a",), query="cat")[0].key == "k1"

    def test_an_item_counts_once_by_its_nearest_field(self, indexed: BaseStore) -> None:
        parts = [{"t": "the cat"}, {"t": "the dog"}, {"t": "the bird"}]
        indexed.put(("a",), "many", {"parts": parts}, index=["parts[*].t"])
        indexed.put(("a",), "one", {"text": "a cat and more words"})
        assert [item.key for item in indexed.search(("a",), query="the cat")] == ["many", "one"]

    def test_a_put_without_the_field_leaves_no_stale_vector(self, indexed: BaseStore) -> None:
        """#8214"""
        indexed.put(("a",), "k", {"text": "cat"})
        indexed.put(("a",), "k", {"other": "dog"})
        assert all(item.score is None for item in indexed.search(("a",), query="cat"))

    def test_a_deleted_item_is_not_found_by_meaning(self, indexed: BaseStore) -> None:
        indexed.put(("a",), "k", {"text": "cat"})
        indexed.delete(("a",), "k")
        indexed.put(("a",), "k2", {"text": "dog"})
        assert [item.key for item in indexed.search(("a",), query="cat")] == ["k2"]

    def test_a_filter_and_a_query_together(self, indexed: BaseStore) -> None:
        for n in range(30):
            indexed.put(("a", str(n % 2)), str(n), {"text": f"cat number {n}", "n": n})
        found = indexed.search(("a",), query="cat number 3", filter={"n": {"$gte": 27}})
        assert {item.value["n"] for item in found} == {27, 28, 29}
        assert {item.value["n"] for item in indexed.search(("a", "1"), query="cat", filter={"n": {"$gte": 27}})} == {
            27,
            29,
        }

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


def value_of(item: Item | None) -> dict[str, Any]:
    """Return the value of an item that is there."""
    assert item is not None
    return item.value


def namespaces(items: list[SearchItem]) -> set[tuple[str, ...]]:
    return {item.namespace for item in items}
