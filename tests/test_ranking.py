"""Scores: BM25 against its definition, normalisation and fusion."""

import math
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memos_core.operation.finding.ranking import bm25, fuse, min_max


@dataclass
class Document:
    passage_id: int
    length: int
    counts: dict[str, int] = field(default_factory=dict)


def slow_bm25(documents: list[Document], total: int, mean: float) -> dict[int, float]:
    """The textbook formula, term by term."""
    scores: dict[int, float] = {}
    for document in documents:
        score = 0.0
        for word, count in document.counts.items():
            holding = sum(1 for other in documents if word in other.counts)
            idf = math.log(1 + (total - holding + 0.5) / (holding + 0.5))
            score += idf * count * 2.2 / (count + 1.2 * (0.25 + 0.75 * document.length / mean))
        scores[document.passage_id] = score
    return scores


@given(st.lists(st.dictionaries(st.sampled_from("abc"), st.integers(1, 5), min_size=1), min_size=1, max_size=6))
def test_bm25_equals_its_definition(counts: list[dict[str, int]]) -> None:
    documents = [Document(number, sum(c.values()) + 3, c) for number, c in enumerate(counts)]
    mean = sum(document.length for document in documents) / len(documents)
    fast = bm25(documents, passages=20, mean_length=mean)
    assert fast == pytest.approx(slow_bm25(documents, 20, mean))


def test_a_rarer_word_counts_more() -> None:
    documents = [Document(1, 5, {"cat": 1}), Document(2, 5, {"the": 1}), Document(3, 5, {"the": 1})]
    scores = bm25(documents, passages=3, mean_length=5)
    assert scores[1] > scores[2]


def test_min_max_spans_zero_to_one_and_keeps_the_order() -> None:
    assert min_max({1: 3.0, 2: 5.0, 3: 4.0}) == {1: 0.0, 2: 1.0, 3: 0.5}
    assert min_max({1: 7.0}) == {1: 1.0}
    assert min_max({}) == {}


def test_fusion_is_a_weighted_mean_over_the_parts_that_answered() -> None:
    assert fuse([(0.5, {1: 1.0}), (0.5, {1: 0.0, 2: 1.0})]) == {1: 0.5, 2: 0.5}
    assert fuse([(0.5, {1: 1.0}), (0.5, {})]) == {1: 1.0}
