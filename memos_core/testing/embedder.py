"""A deterministic embedder: no model, the same vectors on every machine."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

import numpy as np

from memos_core.embedding.base import Embedder, Vector, Vectors

__all__ = ["HashEmbedder"]

WORD = re.compile(r"\w+")


class HashEmbedder(Embedder):
    """Each word has a direction that follows from its sha256; a text is the sum of its words, scaled to length 1.

    Texts that share words are similar, texts that share none nearly orthogonal. An empty text is the first axis.
    """

    def __init__(self, dimension: int = 64, *, name: str | None = None) -> None:
        self._dimension = dimension
        self._name = name or f"hash-{dimension}"

    @property
    def name(self) -> str:
        return self._name

    @property
    def dimension(self) -> int:
        return self._dimension

    def embed(self, texts: Sequence[str]) -> Vectors:
        vectors = np.zeros((len(texts), self._dimension), dtype=np.float32)
        for row, text in enumerate(texts):
            vectors[row] = self._vector(text)
        return vectors

    def _vector(self, text: str) -> Vector:
        total = np.zeros(self._dimension, dtype=np.float64)
        for word in WORD.findall(text.casefold()):
            total += self._direction(word)
        length = float(np.linalg.norm(total))
        if length == 0:
            total[0] = length = 1.0
        vector: Vector = (total / length).astype(np.float32)
        return vector

    def _direction(self, word: str) -> Vector:
        blocks = -(-self._dimension // 32)
        digests = b"".join(hashlib.sha256(f"{block}:{word}".encode()).digest() for block in range(blocks))
        direction: Vector = np.frombuffer(digests, dtype=np.uint8)[: self._dimension].astype(np.float32) - 127.5
        return direction
