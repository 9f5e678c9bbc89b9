"""A cache around any embedder, by content."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

from memos_core.embedding.base import Embedder, Vector, Vectors

__all__ = ["CachedEmbedder"]


class CachedEmbedder(Embedder):
    """Remembers the vectors of texts that were embedded last. Keeps digests, not texts. Thread-safe.

    Args:
        inner: Makes the vectors.
        max_entries: Vectors kept; those not used for longest go first.
    """

    def __init__(self, inner: Embedder, *, max_entries: int = 10_000) -> None:
        self.inner = inner
        self.max_entries = max_entries
        self._kept: OrderedDict[bytes, Vector] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def dimension(self) -> int:
        return self.inner.dimension

    def embed(self, texts: Sequence[str]) -> Vectors:
        keys = [key("text", text) for text in texts]
        found = self._look_up(keys)
        missing = {k: text for k, text in zip(keys, texts, strict=True) if k not in found}
        if missing:
            fresh = dict(zip(missing, self.inner.embed(list(missing.values())), strict=True))
            self._keep(fresh)
            found.update(fresh)
        vectors: Vectors = np.empty((len(texts), self.dimension), dtype=np.float32)
        for row, k in enumerate(keys):
            vectors[row] = found[k]
        return vectors

    def embed_query(self, text: str) -> Vector:
        # A model may embed questions in another way, so they are kept apart.
        k = key("query", text)
        found = self._look_up([k])
        if k not in found:
            found[k] = self.inner.embed_query(text)
            self._keep(found)
        return found[k].copy()

    def passages(self, text: str) -> list[tuple[int, int]]:
        return self.inner.passages(text)

    def clear(self) -> None:
        """Forget all vectors."""
        with self._lock:
            self._kept.clear()

    def _look_up(self, keys: Sequence[bytes]) -> dict[bytes, Vector]:
        found = {}
        with self._lock:
            for k in keys:
                if k in self._kept:
                    self._kept.move_to_end(k)
                    found[k] = self._kept[k]
        return found

    def _keep(self, vectors: dict[bytes, Vector]) -> None:
        with self._lock:
            for k, vector in vectors.items():
                self._kept[k] = np.array(vector, dtype=np.float32)  # a copy: a row would keep its whole batch alive
            while len(self._kept) > self.max_entries:
                self._kept.popitem(last=False)


def key(kind: str, text: str) -> bytes:
    return hashlib.sha256(f"{kind}:{text}".encode("utf-8", "surrogatepass")).digest()
