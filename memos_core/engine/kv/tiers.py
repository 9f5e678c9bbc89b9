"""Where loaded KV lies: on the device, beside it in the host's memory, and on the disk; each with a budget in bytes.

What is let go on a device goes to the host's memory, and from there it is forgotten, since the disk has it. On a CPU
the device is the host's memory: there is one tier and nothing is copied. Pinned KV is never let go.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import torch

from memos_core.engine.kv.codec import KVBlob
from memos_core.engine.kv.eviction import GreedyDual

__all__ = ["DEVICE", "DISK", "RAM", "Place", "Tier", "Tiers", "to_host"]

DEVICE, RAM, DISK = "device", "RAM", "disk"
Key = TypeVar("Key", bound=Hashable)
Move = Callable[[KVBlob], KVBlob]


@dataclass(frozen=True, slots=True)
class Place:
    """A device on which a model computes, and what KV may take there.

    Attributes:
        device: As torch names it.
        max_bytes: Most bytes of KV that stay on it between requests.
        host_bytes: Most bytes of KV that were let go there and stay in the host's memory. Of no use on a CPU.
    """

    device: torch.device
    max_bytes: int
    host_bytes: int = 0

    @property
    def is_host(self) -> bool:
        return self.device.type == "cpu"


@dataclass(slots=True, eq=False)
class Tier(Generic[Key]):
    """KV in one kind of memory. Not thread-safe.

    Attributes:
        name: As plans name it.
        max_bytes: Its budget. A single blob above it does not fit.
    """

    name: str
    max_bytes: int
    size_bytes: int = 0
    _held: dict[Key, KVBlob] = field(default_factory=dict)
    _worth: GreedyDual[Key] = field(default_factory=GreedyDual)

    def __contains__(self, key: Key) -> bool:
        return key in self._held

    def keys(self) -> set[Key]:
        return set(self._held)

    def peek(self, key: Key) -> KVBlob | None:
        """Return what is held, without counting a use."""
        return self._held.get(key)

    def use(self, key: Key) -> KVBlob:
        """Return what is held and count a use. Raises ``KeyError`` if it is not there."""
        self._worth.use(key)
        return self._held[key]

    def add(self, key: Key, blob: KVBlob, pinned: set[Key]) -> dict[Key, KVBlob] | None:
        """Hold ``blob`` and return what was let go for it; None, and nothing has changed, where it does not fit."""
        self.discard(key)
        fixed = sum(blob.size_bytes for other, blob in self._held.items() if other in pinned)
        if fixed + blob.size_bytes > self.max_bytes:
            return None
        gone = self.shrink(self.size_bytes + blob.size_bytes - self.max_bytes, pinned)
        self._held[key] = blob
        self.size_bytes += blob.size_bytes
        self._worth.add(key, cost=rebuild_cost(blob.tokens), size_bytes=blob.size_bytes)
        return gone

    def shrink(self, size_bytes: int, pinned: set[Key]) -> dict[Key, KVBlob]:
        """Let go of what is worth least until so much is freed, or only what is pinned is left; return it."""
        gone: dict[Key, KVBlob] = {}
        while size_bytes > 0 and not self._held.keys() <= pinned:
            key = self._worth.evict(keep=pinned)
            gone[key] = self._held.pop(key)
            self.size_bytes -= gone[key].size_bytes
            size_bytes -= gone[key].size_bytes
        return gone

    def discard(self, key: Key) -> None:
        """Forget a blob; one that is not there is no error."""
        blob = self._held.pop(key, None)
        self._worth.remove(key)
        self.size_bytes -= 0 if blob is None else blob.size_bytes


class Tiers(Generic[Key]):
    """All tiers of one device above the disk. Not thread-safe.

    Args:
        place: The device and the budgets.
        lower: Brings a blob from the device into the host's memory.
        raise_: Brings it back.
    """

    def __init__(self, place: Place, *, lower: Move, raise_: Move) -> None:
        self.device: Tier[Key] = Tier(RAM if place.is_host else DEVICE, place.max_bytes)
        self.host: Tier[Key] = Tier(RAM, 0 if place.is_host else place.host_bytes)
        self.pinned: set[Key] = set()
        self._lower = lower
        self._raise = raise_

    def __contains__(self, key: Key) -> bool:
        return key in self.device or key in self.host

    def keys(self) -> set[Key]:
        return self.device.keys() | self.host.keys()

    def peek(self, key: Key) -> KVBlob | None:
        """Return what is held, wherever it lies, without counting a use."""
        return self.device.peek(key) or self.host.peek(key)

    def get(self, key: Key) -> tuple[KVBlob, str]:
        """Return a blob on the device and the tier in which it lay. Raises ``KeyError`` if it lies in none."""
        if key in self.device:
            return self.device.use(key), self.device.name
        blob = self._raise(self.host.use(key))
        self.put(key, blob)
        return blob, self.host.name

    def put(self, key: Key, blob: KVBlob) -> bool:
        """Hold a blob that is on the device; tell whether it fits there beside what is pinned."""
        gone = self.device.add(key, blob, self.pinned)
        if gone is None:
            return False
        self.host.discard(key)
        for other, let_go in gone.items():
            self._demote(other, let_go)
        return True

    def release(self, size_bytes: int) -> int:
        """Free memory of the device, least worth first; return the bytes freed. What is pinned stays."""
        before = self.device.size_bytes
        for key, blob in self.device.shrink(size_bytes, self.pinned).items():
            self._demote(key, blob)
        return before - self.device.size_bytes

    def discard(self, key: Key) -> None:
        """Forget a blob in every tier, pinned or not."""
        self.device.discard(key)
        self.host.discard(key)

    def _demote(self, key: Key, blob: KVBlob) -> None:
        if blob.size_bytes <= self.host.max_bytes:  # copying what does not fit would be for nothing
            self.host.add(key, self._lower(blob), self.pinned)


def to_host(blob: KVBlob) -> KVBlob:
    """Return ``blob`` in the host's memory; page-locked where it came from CUDA, so that it can be copied back fast."""
    moved = blob.to(torch.device("cpu"))
    if blob.keys[0].device.type != "cuda":
        return moved
    keys, values = (tuple(each.pin_memory() for each in tensors) for tensors in (moved.keys, moved.values))
    return KVBlob(blob.token_ids, keys, values, blob.layer_types, blob.fingerprint)


def rebuild_cost(tokens: int) -> float:
    """Return what computing a prefix again takes, in units of one token of a short prompt.

    Attention makes later tokens dearer; 4,000 is about where it costs as much as the rest of a small model.
    """
    return tokens * (1 + tokens / 4000)
