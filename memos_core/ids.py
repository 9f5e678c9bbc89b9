"""Identifiers that sort by the time at which they were made: ULIDs.

A ULID is 48 bits of milliseconds and 80 random bits, written as 26 characters of Crockford's base 32
(https://github.com/ulid/spec). Within one millisecond of one process the random part counts up, so the order of
ids is the order of creation.
"""

from __future__ import annotations

import re
import secrets
import threading
from datetime import UTC, datetime

from memos_core.errors import InvalidInput

__all__ = ["UlidFactory", "checked_cursor", "is_ulid", "ulid_time"]

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
PATTERN = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")
RANDOM_BITS = 80


class UlidFactory:
    """Makes ids in increasing order. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = 0

    def new(self, moment: datetime) -> str:
        """Return a new id for ``moment``, greater than every id that this factory made for that time or earlier."""
        fresh = int(moment.timestamp() * 1000) << RANDOM_BITS | secrets.randbits(RANDOM_BITS)
        with self._lock:
            same_or_earlier = fresh >> RANDOM_BITS <= self._last >> RANDOM_BITS
            self._last = self._last + 1 if same_or_earlier else fresh
            return encode(self._last)


def encode(number: int) -> str:
    """Return the 26 characters of a 128-bit number."""
    return "".join([ALPHABET[number >> shift & 31] for shift in range(125, -1, -5)])


def is_ulid(text: object) -> bool:
    """Tell whether ``text`` is a well-formed ULID."""
    return isinstance(text, str) and PATTERN.fullmatch(text) is not None


def checked_cursor(cursor: str | None) -> str | None:
    """Return a page's cursor, which is the id that the page ended with.

    Raises:
        InvalidInput: It is none.
    """
    if cursor is not None and not is_ulid(cursor):
        raise InvalidInput(f"cursor must be that of an earlier page, not {cursor!r}")
    return cursor


def ulid_time(ulid: str) -> datetime:
    """Return the moment at which ``ulid`` was made, to the millisecond, in UTC."""
    number = 0
    for character in ulid:
        number = number * 32 + ALPHABET.index(character)
    return datetime.fromtimestamp((number >> RANDOM_BITS) / 1000, tz=UTC)
