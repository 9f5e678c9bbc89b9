"""Which stored chain covers most of a prompt, and the chains that are kept in memory."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from memos_core.engine.base import StoredActivation
from memos_core.engine.kv.codec import RAW, KVBlob, TokenIds, read_token_ids, token_digest
from memos_core.engine.kv.tiers import DISK, Place, Tiers, to_host

__all__ = ["Key", "PrefixCache", "whole_prefixes"]

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
        place: The device of the model, and what loaded KV may take there. What does not fit is used and not kept.
        window: Narrowest sliding window of the model; a chain as long or longer serves as a whole or not at all.
    """

    def __init__(self, place: Place, window: int | None = None) -> None:
        self.window = window
        self._place = place
        self._chains: dict[str, dict[str, Chain]] = {}
        self._tiers: Tiers[Key] = self._empty()
        self._lock = threading.Lock()
        self._loading: dict[Key, threading.Lock] = {}

    def _empty(self) -> Tiers[Key]:
        return Tiers(self._place, lower=to_host, raise_=lambda blob: blob.to(self._place.device))

    @property
    def loaded_bytes(self) -> int:
        """Bytes of tensors held now on the device."""
        return self._tiers.device.size_bytes

    def longest(
        self,
        owner: str,
        stored: Sequence[StoredActivation],
        token_ids: TokenIds,
        read: Callable[[StoredActivation], bytes | bytearray],
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
        with self._lock:
            blob = self._tiers.peek((owner, stored.cube_id))
        return blob is not None and same(blob, stored)

    def has(self, key: Key) -> bool:
        """Tell whether anything is in memory under that owner and cube id."""
        with self._lock:
            return key in self._tiers

    def load(self, owner: str, stored: StoredActivation, make: Callable[[], KVBlob]) -> tuple[KVBlob, str]:
        """Return the blob of ``stored`` from memory, or made by ``make`` and then kept; and the tier that it was in.

        Who comes while it is being made waits for that, and does not read the same bytes once more.
        """
        key = (owner, stored.cube_id)
        if (held := self._held(key, stored)) is not None:
            return held
        with self._lock:
            turn = self._loading.setdefault(key, threading.Lock())
        try:
            with turn:
                if (held := self._held(key, stored)) is not None:
                    return held
                blob = make()
                self.keep(owner, stored.cube_id, blob)
                return blob, DISK
        finally:
            with self._lock:
                self._loading.pop(key, None)

    def _held(self, key: Key, stored: StoredActivation) -> tuple[KVBlob, str] | None:
        with self._lock:
            held = self._tiers.peek(key)
            return self._tiers.get(key) if held is not None and same(held, stored) else None

    def keep(self, owner: str, cube_id: str, blob: KVBlob) -> None:
        """Hold ``blob`` in memory, and let go of what is worth least above the budget; remember its ids."""
        self._learn(owner, cube_id, blob.token_ids)
        with self._lock:
            self._tiers.put((owner, cube_id), blob)

    def pin(self, owner: str, cube_id: str, *, pinned: bool = True) -> None:
        """Never let go of a chain once it is loaded, or treat it like others again. Forgetting it ends the pin."""
        with self._lock:
            (self._tiers.pinned.add if pinned else self._tiers.pinned.discard)((owner, cube_id))

    def let_go(self, key: Key) -> None:
        """Let go of what is in memory under that owner and cube id, unless it is pinned; it stays known."""
        with self._lock:
            if key not in self._tiers.pinned:
                self._tiers.discard(key)

    def release(self, size_bytes: int) -> int:
        """Let go of what is worth least until ``size_bytes`` are freed or only what is pinned is left; return how many
        bytes were freed."""
        with self._lock:
            return self._tiers.release(size_bytes)

    def drop(self, owner: str, cube_ids: Sequence[str] | None = None) -> None:
        """Forget these chains of ``owner``, or all of them."""
        with self._lock:
            chains = self._chains.get(owner, {})
            gone = set(cube_ids) if cube_ids is not None else {*chains, *self._of(owner)}
            self._forget(owner, gone)
            self._tiers.pinned -= {(owner, cube_id) for cube_id in gone}

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._chains.clear()
            self._tiers = self._empty()

    def _keep_only(self, owner: str, live: dict[str, str]) -> None:
        with self._lock:
            chains = self._chains.get(owner, {})
            known = {*chains, *self._of(owner)}
            changed = {cube_id for cube_id, chain in chains.items() if live.get(cube_id) != chain.digest}
            self._forget(owner, (known - live.keys()) | changed)

    def _forget(self, owner: str, cube_ids: set[str]) -> None:
        chains = self._chains.get(owner, {})
        for cube_id in cube_ids:
            chains.pop(cube_id, None)
            self._tiers.discard((owner, cube_id))
        if not chains:
            self._chains.pop(owner, None)

    def _of(self, owner: str) -> set[str]:
        return {cube_id for each, cube_id in self._tiers.keys() | self._tiers.pinned if each == owner}

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
