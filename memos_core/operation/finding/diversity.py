"""Maximal marginal relevance: what is near a question, and unlike what was taken already."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from memos_core.embedding.base import Vector

__all__ = ["spread"]


def spread(scores: Sequence[float], vectors: Sequence[Vector], *, k: int, balance: float) -> list[int]:
    """Return the rows of up to ``k`` candidates, in the order in which they are taken.

    The next one is that with the greatest ``balance * score - (1 - balance) * similarity`` to the nearest one taken
    (Carbonell and Goldstein, SIGIR 1998); the first is the one with the best score. Of equals the earlier row.

    Args:
        scores: Similarity of each candidate to the question.
        vectors: Their vectors; how alike two are is the cosine.
        balance: 1 goes by the score alone, 0 by variety alone.
    """
    if not scores:
        return []
    matrix = np.asarray(vectors, dtype=np.float32)
    lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
    matrix = np.divide(matrix, lengths, out=np.zeros_like(matrix), where=lengths > 0)
    relevance = np.asarray(scores, dtype=np.float32)
    taken = [int(np.argmax(relevance))]
    nearest = matrix @ matrix[taken[0]]
    while len(taken) < min(k, len(scores)):
        worth = balance * relevance - (1 - balance) * nearest
        worth[taken] = -np.inf
        taken.append(int(np.argmax(worth)))
        nearest = np.maximum(nearest, matrix @ matrix[taken[-1]])
    return taken
