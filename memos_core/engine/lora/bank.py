"""The adapters that are kept loaded between requests."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence

from memos_core.engine.lora.adapter import Adapter

__all__ = ["AdapterBank"]

Key = tuple[str, str]
"""Owner and cube id."""


class AdapterBank:
    """Loaded adapters, least recently used ones let go above a budget. Thread-safe.

    Nothing is shared across owners, and the caller says with each request which adapters may be used: the bank grants
    nothing. An adapter that is let go stays usable for the requests that hold it.

    Args:
        max_bytes: Budget for loaded tensors. A single adapter above it is used and not kept.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._held: OrderedDict[Key, Adapter] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    @property
    def loaded_bytes(self) -> int:
        """Bytes of tensors held now."""
        return self._bytes

    def get(self, owner: str, cube_id: str, digest: str, make: Callable[[], Adapter]) -> Adapter:
        """Return the adapter of that cube and content, from memory or made by ``make`` and then kept."""
        key = (owner, cube_id)
        with self._lock:
            held = self._held.get(key)
            if held is not None and held.digest == digest:
                self._held.move_to_end(key)
                return held
        made = make()  # outside of the lock: two threads may load the same, and keep one
        with self._lock:
            self._discard(key)
            if made.size_bytes <= self.max_bytes:
                self._held[key] = made
                self._bytes += made.size_bytes
                while self._bytes > self.max_bytes:
                    self._discard(next(iter(self._held)))
        return made

    def drop(self, owner: str, cube_ids: Sequence[str] | None = None) -> None:
        """Let go of these adapters of ``owner``, or of all of them."""
        with self._lock:
            gone = [key for key in self._held if key[0] == owner and (cube_ids is None or key[1] in set(cube_ids))]
            for key in gone:
                self._discard(key)

    def _discard(self, key: Key) -> None:
        held = self._held.pop(key, None)
        if held is not None:
            self._bytes -= held.size_bytes
