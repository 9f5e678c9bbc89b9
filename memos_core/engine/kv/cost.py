"""Load stored KV or compute it anew: decided by what both have cost on this device so far.

Reading KV pays where bytes per token / bandwidth is less than the time to compute a token. On a CPU it is less by a
factor of 30 to 100; on a large GPU with a small model, reading from a disk loses. So it is measured, not assumed.
KV that is in memory already is always used.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

__all__ = ["CostModel", "Verdict"]

MIN_TOKENS = 32
"""A shorter prompt says more about the cost of a call than about that of a token."""

WEIGHT = 0.3
"""Share of the newest measurement in the running mean."""

RETRY_EVERY = 32
"""One in so many refused loads is done all the same, so that a disk that became fast is noticed."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether to load, and what both ways are expected to take; None: not measured yet."""

    load: bool
    load_seconds: float | None = None
    prefill_seconds: float | None = None

    @property
    def why(self) -> str:
        if self.load_seconds is None or self.prefill_seconds is None:
            return "not measured yet"
        better = "loading" if self.load else "computing"
        return (
            f"{better} is cheaper here: {self.load_seconds * 1000:.1f} ms to load, "
            f"{self.prefill_seconds * 1000:.1f} ms to compute"
        )


class CostModel:
    """Running means of seconds per byte loaded and seconds per token computed, of one model on one device.

    Thread-safe. The first measurements count in full; until both are known, stored KV is loaded.
    """

    def __init__(self) -> None:
        self._seconds_per_byte: float | None = None
        self._seconds_per_token: float | None = None
        self._refused = 0
        self._lock = threading.Lock()

    def loaded(self, size_bytes: int, seconds: float) -> None:
        """Take in that reading, checking and placing ``size_bytes`` took ``seconds``."""
        if size_bytes > 0:
            with self._lock:
                self._seconds_per_byte = blended(self._seconds_per_byte, seconds / size_bytes)

    def computed(self, tokens: int, seconds: float) -> None:
        """Take in that prefilling ``tokens`` took ``seconds``."""
        if tokens >= MIN_TOKENS:
            with self._lock:
                self._seconds_per_token = blended(self._seconds_per_token, seconds / tokens)

    def verdict(self, size_bytes: int, tokens: int) -> Verdict:
        """Say whether to load a blob of ``size_bytes`` that spares computing ``tokens``."""
        with self._lock:
            if self._seconds_per_byte is None or self._seconds_per_token is None:
                return Verdict(load=True)
            load_seconds = size_bytes * self._seconds_per_byte
            prefill_seconds = tokens * self._seconds_per_token
            load = load_seconds <= prefill_seconds
            if not load:
                self._refused += 1
                load = self._refused % RETRY_EVERY == 0
            return Verdict(load, load_seconds, prefill_seconds)


def blended(mean: float | None, value: float) -> float:
    return value if mean is None else (1 - WEIGHT) * mean + WEIGHT * value
