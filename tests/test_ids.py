"""Ids sort by the time at which they were made."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memos_core.ids import UlidFactory, is_ulid, ulid_time

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@given(st.lists(st.datetimes(datetime(1971, 1, 1), datetime(2500, 1, 1), timezones=st.just(UTC)), max_size=30))
def test_each_id_is_greater_than_those_before_even_if_the_clock_goes_back(moments):
    factory = UlidFactory()
    made = [factory.new(moment) for moment in moments]
    assert made == sorted(set(made))
    assert all(map(is_ulid, made))


@given(st.datetimes(datetime(1971, 1, 1), datetime(2500, 1, 1), timezones=st.just(UTC)))
def test_an_id_tells_its_time_to_the_millisecond(moment):
    assert abs(ulid_time(UlidFactory().new(moment)) - moment) <= timedelta(milliseconds=1)


def test_ids_of_many_threads_differ():
    factory, made = UlidFactory(), []
    threads = [threading.Thread(target=lambda: made.extend([factory.new(NOW) for _ in range(500)])) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 4000


def test_ids_of_two_factories_differ():
    assert UlidFactory().new(NOW) != UlidFactory().new(NOW)


@pytest.mark.parametrize(
    "text", ["", "0" * 25, "0" * 27, "8" + "0" * 25, "I" * 26, "0" * 25 + "u", "0" * 26 + "\n", None, 5, b"0" * 26]
)
def test_what_is_no_ulid_is_told_apart(text):
    assert not is_ulid(text)


def test_the_range_ends_are_ulids():
    assert is_ulid("0" * 26)
    assert is_ulid("7" + "Z" * 25)
