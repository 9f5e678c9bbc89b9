"""Times that a text mentions, as stretches of absolute time: "last Tuesday", "in May", "3 weeks ago", "since 2024".

A pattern finds the words; ``dateparser`` says what they mean. It is loaded when the first such words are met, so a
prompt without any costs one search with a pattern.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

from memos_core.calls import TimeRange
from memos_core.clock import as_utc

__all__ = ["find_times"]

MONTH = (
    r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?"
    r"|nov(?:ember)?|dec(?:ember)?)\.?"
)
WEEKDAY = r"(?:mon|tues|wednes|thurs|fri|satur|sun)day"
NUMBER = (
    r"(?:\d{1,3}|an?|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|a\s+couple\s+of|a\s+few|several)"
)
UNIT = r"(?:day|week|month|year)"
YEAR = r"(?:19|20)\d\d"
DAY = r"\d{1,2}(?:st|nd|rd|th)?"

PATTERN = re.compile(
    rf"""\b(?:(?P<open>since|before|after|until|till|by|from)\s+)?(?:
      (?P<iso>{YEAR}-\d\d?-\d\d?)
    | (?P<dmy>(?:the\s+)?{DAY}\s+(?:of\s+)?{MONTH}(?:,?\s+{YEAR})?)
    | (?P<mdy>{MONTH}\s+(?:the\s+)?{DAY}\b(?:,?\s+{YEAR})?)
    | (?P<my>{MONTH},?\s+(?:of\s+)?{YEAR})
    | (?P<ago>{NUMBER}\s+{UNIT}s?\s+ago)
    | (?:the\s+)?(?P<span>(?:last|past)\s+{NUMBER}\s+{UNIT}s?)
    | (?P<rel>(?:last|this|next|past|previous)\s+(?:{UNIT}|weekend|night|{WEEKDAY}|{MONTH}))
    | (?P<near>yesterday|today|tonight|tomorrow)
    | (?P<weekday>{WEEKDAY})
    | (?P<month>(?<=in\s){MONTH}|(?<=since\s){MONTH}|(?<=before\s){MONTH}|(?<=after\s){MONTH}|(?<=during\s){MONTH}
               |(?<=until\s){MONTH})
    | (?P<year>(?<=in\s){YEAR}|(?<=since\s){YEAR}|(?<=before\s){YEAR}|(?<=after\s){YEAR}|(?<=during\s){YEAR}
              |(?<=until\s){YEAR}|(?<=of\s){YEAR})
    )\b""",
    re.IGNORECASE | re.VERBOSE,
)
CHEAP = re.compile(
    rf"\d{{4}}|\bago\b|\b(?:last|past|this|next|previous)\s|yesterday|today|tonight|tomorrow|{WEEKDAY}|\b{MONTH}\b",
    re.IGNORECASE,
)
"""Whether it is worth looking at all."""

WORDS = {"a": 1, "an": 1, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8}
WORDS |= {"nine": 9, "ten": 10, "eleven": 11, "twelve": 12, "a couple of": 2, "a few": 3, "several": 4}
DAYS = {"day": 1, "week": 7, "month": 30, "year": 365}
LONG_AGO = datetime(1, 1, 1, tzinfo=UTC)
FAR_OFF = datetime(9998, 12, 31, tzinfo=UTC)
MAX_TEXT = 4000
"""Characters that are looked at; a longer prompt is no question about a time."""

_parsing = threading.Lock()


def find_times(text: str, now: datetime) -> tuple[TimeRange, ...]:
    """Return the stretches of time that ``text`` mentions, in its order.

    Args:
        text: English; dates in ISO form are understood in any language.
        now: What "yesterday" is relative to.
    """
    text = text[:MAX_TEXT]
    if not CHEAP.search(text):
        return ()
    return tuple(found for match in PATTERN.finditer(text) for found in meant(match, as_utc(now)))


def meant(match: re.Match[str], now: datetime) -> Iterator[TimeRange]:
    """Yield what one match means; nothing if it is no date after all, such as the 31st of June."""
    kind = match.lastgroup or ""
    words = match.group(kind)
    span = SPANS.get(kind, dated)(words.casefold(), now)
    if span is None:
        return
    since, until = span
    yearly = kind in ("month", "dmy", "mdy") and not re.search(YEAR, words)
    opening = (match.group("open") or "").casefold()
    if opening in ("since", "from"):
        until, yearly = max(now, until), False
    elif opening == "after":
        since, until, yearly = until, FAR_OFF, False
    elif opening in ("before", "until", "till", "by"):
        since, until, yearly = LONG_AGO, since if opening == "before" else until, False
    yield TimeRange(since=since, until=until, yearly=yearly, text=match.group().strip())


Span = tuple[datetime, datetime]


def dated(words: str, now: datetime) -> Span | None:
    """Return the day, month or year that a date names."""
    words = re.sub(r"\b(?:the|of)\b|,|\.", " ", words)
    words = re.sub(r"(\d)(?:st|nd|rd|th)\b", r"\1", words)
    words = re.sub(rf"^\s*(\d{{1,2}})\s+({MONTH})", r"\2 \1", words)  # "29 february" would be the year 29
    found = parsed(" ".join(words.split()), now)
    if found is None:
        return None
    moment, period = found
    return around(moment, period)


def iso(words: str, now: datetime) -> Span | None:
    try:
        numbers = [int(part) for part in words.split("-")]
        return around(now.replace(year=numbers[0], month=numbers[1], day=numbers[2]), "day")
    except ValueError:  # 2026-13-45 is no date
        return None


def year(words: str, now: datetime) -> Span:
    return around(now.replace(year=int(words), month=1, day=1), "year")


def ago(words: str, now: datetime) -> Span:
    """Return the time around so many units before now: as wide as one unit."""
    count, unit = counted(words.removesuffix("ago").strip())
    moment = now - timedelta(days=count * DAYS[unit])
    slack = timedelta(days=DAYS[unit] / 2 if unit != "day" else 0)
    since, until = around(moment, "day")
    return since - slack, until + slack


def last_few(words: str, now: datetime) -> Span:
    count, unit = counted(words.split(maxsplit=1)[1])
    return midnight(now - timedelta(days=count * DAYS[unit])), midnight(now) + timedelta(days=1)


def relative(words: str, now: datetime) -> Span | None:
    """Return what "last week", "this month", "next Tuesday" or "last May" names."""
    which, what = words.split(maxsplit=1)
    step = {"next": 1, "this": 0}.get(which, -1)
    months = now.year * 12 + now.month - 1 + step
    moments = {
        "night": lambda: now + timedelta(days=min(step, 0)),
        "day": lambda: now + timedelta(days=step),
        "week": lambda: now + timedelta(weeks=step),
        "month": lambda: now.replace(year=months // 12, month=months % 12 + 1, day=1),
        "year": lambda: now.replace(year=now.year + step, month=1, day=1),
    }
    if what in moments:
        return around(moments[what](), what)
    if what == "weekend":
        saturday = midnight(now) + timedelta(days=5 - now.weekday())
        saturday += timedelta(weeks=step if step >= 0 or now.weekday() < 5 else step + 1)
        return saturday, saturday + timedelta(days=2)
    return dated(f"{'next ' if step > 0 else ''}{what}", now)


def near(words: str, now: datetime) -> Span:
    return around(now + timedelta(days={"yesterday": -1, "tomorrow": 1}.get(words, 0)), "day")


SPANS: Any = {"iso": iso, "year": year, "ago": ago, "span": last_few, "rel": relative, "near": near}


def counted(words: str) -> tuple[int, str]:
    number, unit = " ".join(words.split()).rsplit(maxsplit=1)
    return WORDS[number] if number in WORDS else int(number), unit.rstrip("s")


def around(moment: datetime, period: str) -> Span:
    """Return the day, week, month or year that ``moment`` lies in."""
    day = midnight(moment)
    if period == "year":
        return day.replace(month=1, day=1), day.replace(year=day.year + 1, month=1, day=1)
    if period == "month":
        first = day.replace(day=1)
        return first, (first + timedelta(days=32)).replace(day=1)
    if period == "week":
        monday = day - timedelta(days=day.weekday())
        return monday, monday + timedelta(weeks=1)
    return day, day + timedelta(days=1)


def midnight(moment: datetime) -> datetime:
    return moment.replace(hour=0, minute=0, second=0, microsecond=0)


def parsed(words: str, now: datetime) -> tuple[datetime, str] | None:
    """Return the moment and the period (day, month ...) that dateparser reads, of the past where both are possible."""
    with _parsing:  # it keeps caches of its own that are not made for threads
        found = date_parser(now.date().isoformat()).get_date_data(words)
    return None if found.date_obj is None else (as_utc(found.date_obj), found.period)


@lru_cache(maxsize=4)
def date_parser(today: str) -> Any:
    from dateparser.date import DateDataParser

    settings = {
        "RELATIVE_BASE": datetime.fromisoformat(today),
        "PREFER_DATES_FROM": "past",
        "PREFER_DAY_OF_MONTH": "first",
        "DATE_ORDER": "YMD",
        "TIMEZONE": "UTC",
    }
    return DateDataParser(languages=["en"], settings=settings)
