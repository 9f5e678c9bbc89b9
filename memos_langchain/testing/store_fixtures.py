"""What every part of the conformance suite for stores stands on: its fixtures, and what a store can do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
        IndexConfig,
        Item,
        SearchItem,
    )
except ImportError as error:
    raise MissingExtra("langgraph", extra="langchain") from error

__all__ = ["MakeStore", "StoreFixtures", "namespaces", "value_of"]

MakeStore = Callable[..., BaseStore]


class StoreFixtures:
    """The stores that the tests ask. A subclass gives the fixture ``make_store`` and says what its store can do."""

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


def value_of(item: Item | None) -> dict[str, Any]:
    """Return the value of an item that is there."""
    assert item is not None
    return item.value


def namespaces(items: list[SearchItem]) -> set[tuple[str, ...]]:
    return {item.namespace for item in items}
