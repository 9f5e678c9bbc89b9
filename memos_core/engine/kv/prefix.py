"""Which stored chain covers most of a prompt, and the chains that are kept in memory."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from memos_core.engine.base import StoredActivation
from memos_core.engine.kv.codec import RAW, KVBlob, TokenIds, read_token_ids, token_digest
from memos_core.engine.kv.eviction import GreedyDual

__all__ = ["PrefixCache"]

MAX_READ_FOR_IDS = 32
"""Blobs that one request reads only to learn their token ids; the next requests learn the others."""

Key = tuple[str, str]
"""Owner and cube id."""


@dataclass(frozen=True, slots=True)
class Chain:
    """The token ids of a stored KV cache, and their digest."""

    digest: str
    token_ids: TokenIds


class PrefixCache:
    """Knows the stored chains of each owner and keeps those loaded that are worth most. Thread-safe.

    Nothing is shared across owners, and a chain that the owner's store does not name any more is never used: what may
    be used is asked of the store in each request.

    Args:
        max_bytes: Budget for loaded tensors. A single blob above it is used and not kept.
        window: Narrowest sliding window of the model; a chain as long or longer serves as a whole or not at all.
    """

    def __init__(self, max_bytes: int, window: int | None = None) -> None:
        self.max_bytes = max_bytes
        self.window = window
        self._chains: dict[str, dict[str, Chain]] = {}
        self._loaded: dict[Key, KVBlob] = {}
        self._worth: GreedyDual[Key] = GreedyDual()
        self._bytes = 0
        self._lock = threading.Lock()

    @property
    def loaded_bytes(self) -> int:
        """Bytes of tensors held now."""
        return self._bytes

    def longest(
        self,
        owner: str,
        stored: Sequence[StoredActivation],
        token_ids: TokenIds,
        read: Callable[[StoredActivation], bytes],
        *,
        exact: bool = False,
    ) -> tuple[StoredActivation, int] | None:
        """Return the chain of ``stored`` that shares the longest usable prefix with ``token_ids``, and its length.

        Of equally long ones, one that is stored bit for bit goes before one that is not. At least one token of the
        prompt is left over, since a model needs one to go on from.

        Args:
            stored: Every chain that ``owner`` may use now; others of the same owner are forgotten here.
            read: Reads a blob; called only for chains whose ids are unknown and may share more than the best so far.
            exact: Only chains that are stored bit for bit count.
        """
        self._keep_only(owner, {each.cube_id: each.payload.token_digest for each in stored})
        stored = [each for each in stored if each.payload.codec == RAW or not exact]
        limit = len(token_ids) - 1
        best: tuple[StoredActivation, int] | None = None
        best_rank = (0, False)
        whole = whole_prefixes(stored, token_ids, limit)
        if whole:
            best = whole[-1], whole[-1].payload.token_count
            best_rank = rank(*best)
        examined = {each.cube_id for each in whole}
        reads = 0
        for each in stored:
            reach = min(each.payload.token_count, limit)
            if each.cube_id in examined or rank(each, reach) <= best_rank or not self._divisible(each):
                continue
            chain = self._known(owner, each)
            if chain is None:
                if reads == MAX_READ_FOR_IDS:
                    continue
                reads += 1
                chain = self._learn(owner, each.cube_id, read_token_ids(read(each), each.payload))
            shared = shared_length(chain.token_ids, token_ids, limit)
            if shared and rank(each, shared) > best_rank:
                best, best_rank = (each, shared), rank(each, shared)
        return best

    def holds(self, owner: str, stored: StoredActivation) -> bool:
        """Tell whether the blob of ``stored`` is in memory."""
        blob = self._loaded.get((owner, stored.cube_id))
        return blob is not None and same(blob, stored)

    def load(self, owner: str, stored: StoredActivation, make: Callable[[], KVBlob]) -> KVBlob:
        """Return the blob of ``stored`` from memory, or made by ``make`` and then kept."""
        key = (owner, stored.cube_id)
        with self._lock:
            blob = self._loaded.get(key)
            if blob is not None and same(blob, stored):
                self._worth.use(key)
                return blob
        blob = make()
        self.keep(owner, stored.cube_id, blob)
        return blob

    def keep(self, owner: str, cube_id: str, blob: KVBlob) -> None:
        """Hold ``blob`` in memory, and let go of what is worth least above the budget; remember its ids."""
        self._learn(owner, cube_id, blob.token_ids)
        if blob.size_bytes > self.max_bytes:
            return
        key = (owner, cube_id)
        with self._lock:
            self._discard(key)
            while self._bytes + blob.size_bytes > self.max_bytes:
                self._discard(self._worth.evict())
            self._loaded[key] = blob
            self._bytes += blob.size_bytes
            self._worth.add(key, cost=rebuild_cost(blob.tokens), size_bytes=blob.size_bytes)

    def release(self, size_bytes: int) -> int:
        """Let go of what is worth least until ``size_bytes`` are freed or nothing is left; return what was freed."""
        with self._lock:
            before = self._bytes
            while self._loaded and before - self._bytes < size_bytes:
                self._discard(self._worth.evict())
            return before - self._bytes

    def drop(self, owner: str, cube_ids: Sequence[str] | None = None) -> None:
        """Forget these chains of ``owner``, or all of them."""
        with self._lock:
            chains = self._chains.get(owner, {})
            gone = set(cube_ids) if cube_ids is not None else {*chains, *(c for o, c in self._loaded if o == owner)}
            self._forget(owner, gone)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._chains.clear()
            self._loaded.clear()
            self._worth = GreedyDual()
            self._bytes = 0

    def _keep_only(self, owner: str, live: dict[str, str]) -> None:
        with self._lock:
            chains = self._chains.get(owner, {})
            known = {*chains, *(cube_id for each, cube_id in self._loaded if each == owner)}
            changed = {cube_id for cube_id, chain in chains.items() if live.get(cube_id) != chain.digest}
            self._forget(owner, (known - live.keys()) | changed)

    def _forget(self, owner: str, cube_ids: set[str]) -> None:
        chains = self._chains.get(owner, {})
        for cube_id in cube_ids:
            chains.pop(cube_id, None)
            self._discard((owner, cube_id))
        if not chains:
            self._chains.pop(owner, None)

    def _discard(self, key: Key) -> None:
        blob = self._loaded.pop(key, None)
        self._worth.remove(key)
        if blob is not None:
            self._bytes -= blob.size_bytes

    def _divisible(self, stored: StoredActivation) -> bool:
        return self.window is None or stored.payload.token_count < self.window

    def _known(self, owner: str, stored: StoredActivation) -> Chain | None:
        with self._lock:
            return self._chains.get(owner, {}).get(stored.cube_id)

    def _learn(self, owner: str, cube_id: str, token_ids: TokenIds) -> Chain:
        chain = Chain(token_digest(token_ids), token_ids)
        with self._lock:
            self._chains.setdefault(owner, {})[cube_id] = chain
        return chain


def rebuild_cost(tokens: int) -> float:
    """Return what computing a prefix again takes, in units of one token of a short prompt.

    Attention makes later tokens dearer; 4,000 is about where it costs as much as the rest of a small model.
    """
    return tokens * (1 + tokens / 4000)


def rank(stored: StoredActivation, length: int) -> tuple[int, bool]:
    """Return the order of preference of a chain that serves ``length`` tokens: length, then exactness."""
    return length, stored.payload.codec == RAW


def whole_prefixes(stored: Sequence[StoredActivation], token_ids: TokenIds, limit: int) -> list[StoredActivation]:
    """Return the chains that ``token_ids`` begins with, the preferred last, told by their digests alone."""
    found = []
    digest = hashlib.sha256()
    done = 0
    for each in sorted(stored, key=lambda item: rank(item, item.payload.token_count)):
        count = each.payload.token_count
        if count > limit:
            break
        digest.update(token_ids[done:count].tobytes())
        done = count
        if digest.hexdigest() == each.payload.token_digest:
            found.append(each)
    return found


def same(blob: KVBlob, stored: StoredActivation) -> bool:
    """Tell whether ``blob`` is what ``stored`` speaks of: a cube may get other tensors while it is loaded."""
    payload = stored.payload
    return blob.fingerprint == payload.fingerprint and token_digest(blob.token_ids) == payload.token_digest


def shared_length(left: TokenIds, right: TokenIds, limit: int) -> int:
    """Return how many tokens two sequences share from the start, at most ``limit``."""
    length = min(len(left), len(right), limit)
    differ = np.flatnonzero(left[:length] != right[:length])
    return int(differ[0]) if len(differ) else length
