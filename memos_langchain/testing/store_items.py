"""The part of the conformance suite that is about items and namespaces."""

from __future__ import annotations

from typing import Any

from memos_core.errors import MissingExtra
from memos_langchain.testing.store_fixtures import StoreFixtures, namespaces, value_of

try:
    import pytest
except ImportError as error:
    raise MissingExtra("pytest", extra="testing") from error

try:
    from langgraph.store.base import (
        BaseStore,
        GetOp,
        InvalidNamespaceError,
        Item,
        SearchOp,
    )
except ImportError as error:
    raise MissingExtra("langgraph", extra="langchain") from error

__all__ = ["ItemTests"]


class ItemTests(StoreFixtures):
    """Items under keys, and the namespaces that they lie in."""

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
