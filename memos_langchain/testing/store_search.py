"""The part of the conformance suite that is about searching."""

from __future__ import annotations

from typing import Any

from memos_core.errors import MissingExtra
from memos_langchain.testing.embeddings import WordEmbeddings
from memos_langchain.testing.store_fixtures import StoreFixtures

try:
    import pytest
except ImportError as error:
    raise MissingExtra("pytest", extra="testing") from error

try:
    from langgraph.store.base import (
        BaseStore,
        SearchItem,
    )
except ImportError as error:
    raise MissingExtra("langgraph", extra="langchain") from error

__all__ = ["SearchTests"]


class SearchTests(StoreFixtures):
    """Pages, filters and search by meaning."""

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
