"""Working memory: what a session has pinned, so that it is in every prompt until it is let go."""

from __future__ import annotations

import threading
from collections import OrderedDict

from memos_core.errors import InvalidInput
from memos_core.principal import Principal

__all__ = ["WorkingMemory"]

MAX_PINS = 32
"""Pins of one session: what is always there must stay little."""

MAX_SESSIONS = 10_000
"""Sessions that pins are kept for; those not used for longest go first."""

Place = tuple[str, str | None, str | None]


class WorkingMemory:
    """The pins of each session, in the order in which they were set. Lives as long as the open vault. Thread-safe."""

    def __init__(self) -> None:
        self._pins: OrderedDict[Place, dict[str, None]] = OrderedDict()
        self._lock = threading.Lock()

    def pin(self, principal: Principal, cube_id: str) -> None:
        """Pin a memory; twice is once.

        Raises:
            InvalidInput: The session has too many pins.
        """
        with self._lock:
            pins = self._pins.setdefault(place(principal), {})
            if cube_id not in pins and len(pins) >= MAX_PINS:
                raise InvalidInput(f"a session pins at most {MAX_PINS} memories; unpin one first")
            pins[cube_id] = None
            self._pins.move_to_end(place(principal))
            while len(self._pins) > MAX_SESSIONS:
                self._pins.popitem(last=False)

    def unpin(self, principal: Principal, cube_id: str) -> None:
        """Let a memory go; one that is not pinned stays so."""
        with self._lock:
            self._pins.get(place(principal), {}).pop(cube_id, None)

    def pins(self, principal: Principal) -> list[str]:
        """Return the ids of what is pinned, in the order of pinning. Whether they may be seen is for the ledger."""
        with self._lock:
            return list(self._pins.get(place(principal), ()))


def place(principal: Principal) -> Place:
    return principal.namespace, principal.agent, principal.session
