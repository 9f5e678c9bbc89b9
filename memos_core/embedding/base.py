"""The contract of an embedder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["Embedder", "Vector", "Vectors"]

Vector = NDArray[np.float32]
"""Shape ``[dimension]``."""

Vectors = NDArray[np.float32]
"""Shape ``[texts, dimension]``."""


class Embedder(ABC):
    """Turns texts into vectors of unit length.

    An embedder is identified by ``name``: two embedders of one name must give the same vectors, since a collection
    keeps the name and refuses vectors of another.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """Identity, with a version or digest: ``all-MiniLM-L6-v2@53aa5117``."""

    @property
    @abstractmethod
    def dimension(self) -> int:
        """Length of a vector."""

    @abstractmethod
    def embed(self, texts: Sequence[str]) -> Vectors:
        """Return one unit vector for each text, float32 of shape ``[len(texts), dimension]``. Thread-safe."""

    def embed_query(self, text: str) -> Vector:
        """Return the vector of a question; the same as of a text unless the model tells them apart."""
        vector: Vector = self.embed([text])[0]
        return vector

    def passages(self, text: str) -> list[tuple[int, int]]:
        """Return the ``(start, end)`` character spans into which ``text`` is cut so that each fits the model.

        By default windows of some 1,000 characters that overlap by 100 and end at white space where there is some.
        """
        return windows(text, size=1000, overlap=100)


def windows(text: str, *, size: int, overlap: int) -> list[tuple[int, int]]:
    """Return overlapping spans of at most ``size`` characters that cover ``text``, cut at white space if possible."""
    spans = []
    start = 0
    while True:
        end = min(len(text), start + size)
        if end < len(text):
            space = max(text.rfind(" ", start + overlap + 1, end), text.rfind("\n", start + overlap + 1, end))
            end = space if space > 0 else end
        spans.append((start, end))
        if end >= len(text):
            return spans
        start = end - overlap
