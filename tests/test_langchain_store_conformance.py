"""The conformance suite for LangGraph stores over ours, and over upstream's, with what they are known to fail."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from langgraph.store.base import BaseStore
from langgraph.store.memory import InMemoryStore
from langgraph.store.sqlite import SqliteStore

from memos_core import MemOS
from memos_core.testing import FakeClock, HashEmbedder
from memos_langchain import MemosStore
from memos_langchain.testing import StoreConformanceTests


class TestMemosStore(StoreConformanceTests):
    clock: FakeClock

    @pytest.fixture
    def make_store(self, tmp_path: Path, empty_ledger: Path) -> Iterator[Callable[..., BaseStore]]:
        type(self).clock = FakeClock()
        (tmp_path / "vault").mkdir()
        shutil.copy(empty_ledger, tmp_path / "vault")
        with MemOS.open(tmp_path / "vault", embedder=HashEmbedder(32), clock=self.clock) as memos:
            yield lambda index=None, ttl=None: MemosStore(memos, index=index, ttl=ttl)
            memos.verify()

    def advance(self, minutes: float) -> None:
        self.clock.advance(60 * minutes)


class TestMemosStoreOfAScope(StoreConformanceTests):
    """The same over a session's scope and the Chroma index."""

    has_ttl = False

    @pytest.fixture
    def make_store(self, tmp_path: Path, empty_ledger: Path) -> Iterator[Callable[..., BaseStore]]:
        (tmp_path / "vault").mkdir()
        shutil.copy(empty_ledger, tmp_path / "vault")
        with MemOS.open(tmp_path / "vault", embedder=HashEmbedder(32), index="chroma") as memos:
            scope = memos.scope(user="ada", agent="scout", session="S")
            yield lambda index=None, ttl=None: MemosStore(scope, index=index, ttl=ttl, history=False)


class TestInMemoryStore(StoreConformanceTests):
    has_ttl = False
    known_failures: ClassVar = {
        "test_putting_again_keeps_when_the_item_was_created": "created_at is the time of the last put",
        "test_a_returned_value_is_the_callers_own": "values are copied one level deep, and returned without a copy",
        "test_a_namespace_without_items_is_not_listed": "a deletion leaves the namespace, and a get makes it",
        "test_a_missing_field_is_in_no_order_to_anything": "langgraph #7880, #8365: float(None) raises TypeError",
        "test_pages_of_scored_and_unscored_items_meet": "offset passes over scored items alone, so pages overlap",
        "test_a_put_without_the_field_leaves_no_stale_vector": "langgraph #8214: the old vector stays",
    }

    @pytest.fixture
    def make_store(self) -> Callable[..., BaseStore]:
        return lambda index=None, ttl=None: InMemoryStore(index=index)


class TestSqliteStore(StoreConformanceTests):
    has_ttl = False  # its times are SQLite's own and cannot be moved
    has_async = False
    has_index = False  # needs a Python whose sqlite3 loads extensions
    known_failures: ClassVar = {
        "test_a_missing_field_is_different": "langgraph #8366: a missing field is NULL, which is not different in SQL",
        "test_a_filter_compares_nested_values": "an object in a filter is taken for operators",
    }

    @pytest.fixture
    def make_store(self) -> Iterator[Callable[..., BaseStore]]:
        opened: list[sqlite3.Connection] = []

        def make(index: Any = None, ttl: Any = None) -> BaseStore:
            opened.append(sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None))
            store = SqliteStore(opened[-1], index=index, ttl=ttl)
            store.setup()
            return store

        yield make
        for connection in opened:
            connection.close()
