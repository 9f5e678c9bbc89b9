"""A clock that stands still until it is told to move."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from memos_core.clock import as_utc

__all__ = ["FakeClock"]


class FakeClock:
    """Implements ``memos_core.clock.Clock``.

    Args:
        start: What it shows first; naive is UTC.
    """

    def __init__(self, start: datetime = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)) -> None:
        self._now = as_utc(start)

    def now(self) -> datetime:
        return self._now

    def advance(self, seconds: float) -> datetime:
        """Move on by ``seconds`` and return the new time."""
        self._now += timedelta(seconds=seconds)
        return self._now
