"""From word counts and similarities to one score: BM25, min-max normalisation, weighted fusion.

Statistics come from what the asking scope can see and from nothing else, so no score tells of another's memory.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["bm25", "bm25_matrix", "bm25_scores", "fuse", "idf_from", "idf_of", "min_max", "norm_of"]

K1 = 1.2
B = 0.75


class Match(Protocol):
    """A passage that holds some of the words."""

    @property
    def passage_id(self) -> int: ...

    @property
    def length(self) -> int: ...

    @property
    def counts(self) -> Mapping[str, int]: ...


def bm25(matches: Sequence[Match], *, passages: int, mean_length: float) -> dict[int, float]:
    """Return the BM25 score of each matching passage (Robertson and Zaragoza, 2009, with Lucene's idf).

    Args:
        matches: Passages that hold at least one word of the question, all that are visible.
        passages: How many passages are visible in all.
        mean_length: Their mean length in words.
    """
    document_frequency = Counter(word for match in matches for word in match.counts)
    idf = {
        word: math.log(1 + (max(passages, frequency) - frequency + 0.5) / (frequency + 0.5))
        for word, frequency in document_frequency.items()
    }
    scores = {}
    for match in matches:
        norm = K1 * (1 - B + B * match.length / (mean_length or 1.0))
        scores[match.passage_id] = sum(
            idf[word] * count * (K1 + 1) / (count + norm) for word, count in match.counts.items()
        )
    return scores


def idf_of(counts: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return Lucene's idf of each word, from its counts of shape ``[words, passages]``."""
    return idf_from((counts > 0).sum(axis=1), counts.shape[1])


def idf_from(holding: NDArray[np.int64], passages: int) -> NDArray[np.float32]:
    """Return Lucene's idf of words from how many of the passages hold each."""
    idf: NDArray[np.float32] = np.log1p((passages - holding + 0.5) / (holding + 0.5)).astype(np.float32)
    return idf


def bm25_matrix(
    counts: NDArray[np.float32], lengths: NDArray[np.float32], idf: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return the BM25 score of every passage, as ``bm25`` does, from counts of shape ``[words, passages]``."""
    return bm25_scores(counts, norm_of(lengths), idf)


def norm_of(lengths: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return what BM25 sets against the counts of each passage, by its length."""
    mean = float(lengths.mean()) if len(lengths) else 0.0
    return (K1 * (1 - B + B * lengths / (mean or 1.0))).astype(np.float32)


def bm25_scores(
    counts: NDArray[np.float32], norm: NDArray[np.float32], idf: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return the BM25 score of every passage from counts of shape ``[words, passages]`` and ``norm_of`` lengths."""
    scores: NDArray[np.float32] = idf @ (counts * np.float32(K1 + 1) / (counts + norm))
    return scores


def min_max(scores: Mapping[int, float]) -> dict[int, float]:
    """Return the scores stretched to [0, 1]; all equal become 1."""
    if not scores:
        return {}
    low, high = min(scores.values()), max(scores.values())
    span = high - low
    return {key: (score - low) / span if span > 0 else 1.0 for key, score in scores.items()}


def fuse(parts: Sequence[tuple[float, Mapping[int, float]]]) -> dict[int, float]:
    """Return the weighted mean of several scores in [0, 1]; a part that has no entry for a key counts as 0 there."""
    total = sum(weight for weight, scores in parts if scores) or 1.0
    keys = {key for _, scores in parts for key in scores}
    return {key: sum(weight * scores.get(key, 0.0) for weight, scores in parts) / total for key in keys}
