"""What is worth least goes first: by cost for each byte, by use, and with old fame fading."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memos_core.engine.kv.eviction import GreedyDual


def order_of(entries: GreedyDual[str]) -> list[str]:
    return [entries.evict() for _ in range(len(entries))]


def test_what_costs_least_for_each_byte_goes_first() -> None:
    entries: GreedyDual[str] = GreedyDual()
    entries.add("dear", cost=100, size_bytes=10)
    entries.add("cheap", cost=1, size_bytes=10)
    entries.add("large", cost=100, size_bytes=100)
    assert order_of(entries) == ["cheap", "large", "dear"]


def test_what_is_used_often_stays() -> None:
    entries: GreedyDual[str] = GreedyDual()
    for name in "abc":
        entries.add(name, cost=1, size_bytes=1)
    entries.use("a")
    assert order_of(entries) == ["b", "c", "a"]


def test_of_equal_worth_the_least_recently_used_goes_first() -> None:
    entries: GreedyDual[str] = GreedyDual()
    for name in "abc":
        entries.add(name, cost=1, size_bytes=1)
    entries.remove("a")
    entries.add("a", cost=1, size_bytes=1)
    assert order_of(entries) == ["b", "c", "a"]


def test_what_was_popular_long_ago_does_not_stay_for_ever() -> None:
    entries: GreedyDual[str] = GreedyDual()
    entries.add("old", cost=1, size_bytes=1)
    for _ in range(20):
        entries.use("old")
    gone = []
    for step in range(40):
        entries.add(f"new{step}", cost=1, size_bytes=1)
        entries.use(f"new{step}")
        gone.append(entries.evict())
    assert "old" in gone
    assert len(entries) == 1


def test_nothing_to_evict_is_an_error_and_nothing_to_remove_is_none() -> None:
    entries: GreedyDual[str] = GreedyDual()
    entries.remove("a")
    with pytest.raises(KeyError):
        entries.evict()


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(1, 9), st.integers(0, 9)), max_size=40))
def test_every_entry_is_evicted_exactly_once(steps: list[tuple[str, int, int]]) -> None:
    entries: GreedyDual[str] = GreedyDual()
    held: set[str] = set()
    for name, cost, size in steps:
        entries.add(name, cost=cost, size_bytes=size)
        held.add(name)
    assert sorted(order_of(entries)) == sorted(held)


def test_what_is_to_be_kept_stays_whatever_it_is_worth() -> None:
    entries: GreedyDual[str] = GreedyDual()
    entries.add("kept", cost=0, size_bytes=1)
    entries.add("dear", cost=9, size_bytes=1)
    assert entries.evict(keep={"kept"}) == "dear"
    with pytest.raises(KeyError, match="nothing to evict"):
        entries.evict(keep={"kept"})
    assert len(entries) == 1
