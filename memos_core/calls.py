"""What a prompt asks of memory, as MemReader reads it and MemOperator searches for it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from memos_core.cube import MemoryType, Moment

__all__ = ["EventRange", "EventRelation", "Intent", "MemoryCall", "TimeRange"]


class TimeRange(BaseModel):
    """A stretch of time that a question mentions.

    Attributes:
        since: Its first moment.
        until: The moment after its last.
        yearly: Whether the same days of any year are meant too: "in May", without a year.
        text: The words that were read so.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    since: Moment
    until: Moment
    yearly: bool = False
    text: str = ""

    def occurrences(self, first_year: int, last_year: int) -> list[tuple[datetime, datetime]]:
        """Return the range itself, or for a yearly one its place in each of the years."""
        if not self.yearly:
            return [(self.since, self.until)]
        spans = []
        for year in range(first_year, last_year + 1):
            # The 29th of February has no place in most years; the day before it has.
            day = min(self.since.day, 28) if self.since.month == 2 else self.since.day
            since = self.since.replace(year=year, day=day)
            spans.append((since, since + (self.until - self.since)))
        return spans


EventRelation = Literal["before", "after", "during"]


class EventRange(BaseModel):
    """An event that a question names as a bound in time: "before we moved".

    Attributes:
        relation: Where the answer lies from it.
        text: The words that name the event.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    relation: EventRelation
    text: str


Intent = Literal["ask", "tell", "correct", "forget", "none"]
"""What a prompt wants of memory."""


class MemoryCall(BaseModel):
    """What a prompt asks of memory.

    Attributes:
        query: The words to search for.
        k: How many hits are wanted.
        before: Only what was said before this moment (``source.at``, else the time of the commit).
        as_of: Only what held at this moment; by default now.
        filters: Conditions on fields of the header in the language of ``memos_core.filters.parse_where``: a value, a
            list of which one must match, operators, groups. ``docs/search.md`` lists the fields.
        entities: Names that the query mentions.
        speakers: Who would have said it, where the query tells.
        times: When it would have been said; what lies outside is not left out, but counts less.
        events: Remembered events that it would lie before, after or around.
        intent: What the prompt wants of memory.
        include_superseded: Whether memories may answer that others took the place of.
        kinds: Memory types that may answer.
        max_tokens: Budget for what will be injected.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    query: str
    k: int = Field(default=10, ge=1)
    before: Moment | None = None
    as_of: Moment | None = None
    filters: Mapping[str, JsonValue] = Field(default_factory=dict)
    entities: tuple[str, ...] = ()
    speakers: tuple[str, ...] = ()
    times: tuple[TimeRange, ...] = ()
    events: tuple[EventRange, ...] = ()
    intent: Intent = "ask"
    include_superseded: bool = False
    kinds: tuple[MemoryType, ...] = (MemoryType.PLAINTEXT,)
    max_tokens: int | None = Field(default=None, ge=0)
