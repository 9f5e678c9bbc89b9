"""MemReader: times, events, names, speakers and intent of a prompt, without a model."""

from datetime import UTC, date, datetime
from time import perf_counter

import pytest

from memos_core.interface.arguments import memory_call
from memos_core.interface.reader import MemReader
from memos_core.interface.times import find_times
from memos_core.records import Message

NOW = datetime(2026, 3, 4, 10, tzinfo=UTC)  # a Wednesday


def days(text: str) -> list[tuple[date, date]]:
    return [(found.since.date(), found.until.date()) for found in find_times(text, NOW)]


@pytest.mark.parametrize(
    ("text", "since", "until"),
    [
        ("What did I do yesterday?", date(2026, 3, 3), date(2026, 3, 4)),
        ("last night's dinner", date(2026, 3, 3), date(2026, 3, 4)),
        ("last Tuesday", date(2026, 3, 3), date(2026, 3, 4)),
        ("on Friday", date(2026, 2, 27), date(2026, 2, 28)),
        ("last week", date(2026, 2, 23), date(2026, 3, 2)),
        ("this month", date(2026, 3, 1), date(2026, 4, 1)),
        ("next year", date(2027, 1, 1), date(2028, 1, 1)),
        ("last weekend", date(2026, 2, 28), date(2026, 3, 2)),
        ("in May 2023", date(2023, 5, 1), date(2023, 6, 1)),
        ("on 7 May 2023", date(2023, 5, 7), date(2023, 5, 8)),
        ("on May 7th, 2023", date(2023, 5, 7), date(2023, 5, 8)),
        ("2023-05-07", date(2023, 5, 7), date(2023, 5, 8)),
        ("in 2023", date(2023, 1, 1), date(2024, 1, 1)),
        ("a couple of days ago", date(2026, 3, 2), date(2026, 3, 3)),
        ("3 weeks ago", date(2026, 2, 7), date(2026, 2, 15)),
        ("the last two weeks", date(2026, 2, 18), date(2026, 3, 5)),
        ("since May 2025", date(2025, 5, 1), date(2026, 3, 4)),
        ("before 2024", date(1, 1, 1), date(2024, 1, 1)),
        ("after 7 May 2023", date(2023, 5, 8), date(9998, 12, 31)),
    ],
)
def test_a_time_becomes_a_stretch_of_absolute_time(text: str, since: date, until: date) -> None:
    assert days(text) == [(since, until)]


@pytest.mark.parametrize(
    "text", ["I may go", "march on", "31 June 2023", "2026-13-45", "room 2024b", "the second one", ""]
)
def test_what_is_no_date_gives_none(text: str) -> None:
    assert days(text) == []


def test_a_month_without_a_year_means_that_month_of_any_year() -> None:
    (may,) = find_times("What happened in May?", NOW)
    assert may.yearly
    assert [since.date() for since, _ in may.occurrences(2022, 2023)] == [date(2022, 5, 1), date(2023, 5, 1)]


def test_the_29th_of_february_has_a_place_in_every_year() -> None:
    (leap,) = find_times("on 29 February", NOW)
    assert [since.day for since, _ in leap.occurrences(2023, 2024)] == [28, 28]


@pytest.mark.parametrize(
    ("text", "intent"),
    [
        ("What is my cat called?", "ask"),
        ("remind me where the keys are", "ask"),
        ("My cat is called Biscuit.", "tell"),
        ("Actually, my cat is called Rex.", "correct"),
        ("No, I meant Tuesday", "correct"),
        ("That's wrong", "correct"),
        ("Please forget my address", "forget"),
        ("Don't remember this", "forget"),
        ("Don't forget to water the plants", "tell"),
        ("thanks!", "none"),
        ("👍", "none"),
        ("你叫什么名字？", "ask"),
    ],
)
def test_intent_is_read_from_the_form(text: str, intent: str) -> None:
    assert MemReader().read(text, now=NOW).intent == intent


def test_names_speakers_and_events_are_found() -> None:
    call = MemReader().read("What did you recommend for Maria Lopez before we moved to Bergen?", now=NOW)
    assert call.entities == ("Maria Lopez", "Bergen")
    assert call.speakers == ("assistant",)
    assert [(event.relation, event.text) for event in call.events] == [("before", "we moved to Bergen")]
    assert MemReader().read("What did I say about tea?", now=NOW).speakers == ("user",)


def test_who_asks_as_of_a_moment_means_the_time_before_that_moment() -> None:
    past = datetime(2024, 5, 15, 12, tzinfo=UTC)
    told = memory_call(MemReader(), NOW, query="What did I do yesterday?", before=past)
    assert [found.since.date() for found in told.times] == [date(2024, 5, 14)]
    to_come = memory_call(MemReader(), NOW, query="What did I do yesterday?", before=NOW.replace(year=2030))
    assert to_come.times == MemReader().read("What did I do yesterday?", now=NOW).times


def messages(*texts: str) -> list[Message]:
    return [
        Message(role=role, content=text) for role, text in zip(["user", "assistant"] * len(texts), texts, strict=False)
    ]


def test_a_short_follow_up_is_read_with_the_message_before_it() -> None:
    reader = MemReader(k=3)
    call = reader.parse(messages("What is Ada's cat called?", "Biscuit.", "And his?"), now=NOW, max_tokens=9)
    assert call is not None
    assert call.query == "What is Ada's cat called?\nAnd his?"
    assert (call.k, call.max_tokens) == (3, 9)
    alone = reader.parse(messages("Hi", "Hello.", "Where does Ben live?"), now=NOW)
    assert alone is not None
    assert alone.query == "Where does Ben live?"
    assert reader.parse([], now=NOW) is None


def test_it_is_deterministic_and_takes_any_text() -> None:
    reader = MemReader()
    for text in ["a" * 100_000, "last " * 20_000, "\u200b", "(((((", "before the " * 5_000, "1" * 10_000, "Ω≈ç√ 日本"]:
        started = perf_counter()
        assert reader.read(text, now=NOW) == reader.read(text, now=NOW)
        assert perf_counter() - started < 5  # no pattern runs away
