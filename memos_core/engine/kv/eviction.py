"""Which loaded KV goes first when the budget is spent: Greedy-Dual-Size-Frequency.

Each entry is worth what computing it again would cost for each byte that it takes, times how often it was used, on top
of a floor that rises to the worth of whatever was let go last. So a large prefix of little use goes before a small
one that is used often, and what was popular long ago does not stay for ever.

Source: L. Cherkasova, "Improving WWW Proxies Performance with Greedy-Dual-Size-Frequency Caching Policy", HP Labs
HPL-98-69R1, 1998; used for KV of documents by RAGCache, arXiv 2404.12457, section 5.
"""

from __future__ import annotations

from collections.abc import Hashable, Set
from dataclasses import dataclass
from typing import Generic, TypeVar

__all__ = ["GreedyDual"]

Key = TypeVar("Key", bound=Hashable)


@dataclass(slots=True)
class Entry:
    """How much an entry is worth: ``cost`` is what making it again takes, in any unit; ``turn`` its last use."""

    cost: float
    size_bytes: int
    uses: int
    worth: float
    turn: int


class GreedyDual(Generic[Key]):
    """Keeps the order of eviction; the things themselves lie elsewhere. Not thread-safe.

    Eviction looks at every entry, which is nothing beside loading KV for the few hundred that fit into a memory.
    """

    def __init__(self) -> None:
        self._entries: dict[Key, Entry] = {}
        self._floor = 0.0
        self._turn = 0

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, key: Key, *, cost: float, size_bytes: int) -> None:
        """Take in an entry, which counts as its first use."""
        self._entries[key] = Entry(cost, max(1, size_bytes), 0, 0.0, 0)
        self.use(key)

    def use(self, key: Key) -> None:
        """Count a use."""
        entry = self._entries[key]
        entry.uses += 1
        self._turn += 1
        entry.worth, entry.turn = self._floor + entry.uses * entry.cost / entry.size_bytes, self._turn

    def remove(self, key: Key) -> None:
        """Forget an entry. One that is not there is no error."""
        self._entries.pop(key, None)

    def evict(self, keep: Set[Key] = frozenset()) -> Key:
        """Return the least worthy entry, of equal ones the least recently used, and forget it.

        Args:
            keep: Entries that stay.

        Raises:
            KeyError: There is none that may go.
        """
        going = [key for key in self._entries if key not in keep]
        if not going:
            raise KeyError("there is nothing to evict")
        key = min(going, key=lambda each: (self._entries[each].worth, self._entries[each].turn))
        self._floor = self._entries.pop(key).worth
        return key
