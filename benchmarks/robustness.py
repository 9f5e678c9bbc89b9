"""Recall of evidence where what the ranker may lean on is missing or different, beside what plain search reaches there.

    python benchmarks/robustness.py --input CONVERSATIONS.json.gz [--input MORE.json.gz] [--only "no sessions"]

Every variant of ``tools/ranker/variants.py`` is brought to memory and all questions are asked of it. Beside the search
stand MiniLM alone, BM25, and the sum of both, each stretched to [0, 1], over the same texts with the speaker in front.
``--rankers`` names weights for users that the shipped ones were learned from. No texts go into the result.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from surroundings import surroundings

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from memos_core import MemOS, Scope
from memos_core.operation.finding.ranker import Ranker
from memos_core.operation.finding.ranking import bm25_matrix, idf_of
from memos_core.operation.finding.words import query_words, words
from tools.ranker.examples import KeptVectors
from tools.ranker.sources import Annotated, Moment, Posed, brought, of_file
from tools.ranker.variants import VARIANTS, Said, Variant

RESULT = Path(__file__).parent / "results" / "robustness.json"
DEPTH = 10
CUTOFFS = (1, 5, 10)
SYSTEMS = ("memos", "minilm", "bm25", "bm25 + minilm")

Found = dict[str, list[tuple[str, ...]]]
"""The first memories that each system finds, by the ids of the turns that they hold."""


def main() -> None:
    """Asks every variant of every file and keeps the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, action="append", required=True, help="annotated conversations")
    parser.add_argument("--rankers", type=Path, help="the folder that train_ranker.py --held-out wrote")
    parser.add_argument("--only", action="append", help="names of variants; by default all")
    parser.add_argument("--add", action="store_true", help="to the figures that are there")
    parser.add_argument("--vectors", type=Path, default=Path("recall-vectors.npz"), help="where to keep vectors")
    parser.add_argument("--out", type=Path, default=RESULT, help="file to write the figures to")
    options = parser.parse_args()
    embedder = KeptVectors(options.vectors)
    files = json.loads(options.out.read_text(encoding="utf-8"))["files"] if options.add else {}
    for path in options.input:
        sources = of_file(path)
        rankers = kept_rankers(options.rankers, sources)
        asked = sum(len(source.questions) for source in sources)
        kept = files.setdefault(path.name, {"questions": asked, "held_out": bool(rankers), "variants": {}})
        for name in options.only or VARIANTS:
            kept["variants"][name] = found = figures(sources, rankers, VARIANTS[name], embedder)
            embedder.save()
            print(path.name, name, *(f"{system} {of['recall@10']:.3f}" for system, of in found.items()), flush=True)
            work = {"files": list(files), "depth": DEPTH, "vectors": embedder.name}
            options.out.write_text(json.dumps({**surroundings(work), "files": files}, indent=1) + "\n")


def kept_rankers(folder: Path | None, sources: Sequence[Annotated]) -> dict[str, Ranker]:
    """Return the rankers that never saw a user, for the users that there are any for."""
    files = {} if folder is None else {source.user: folder / f"{source.user}.json" for source in sources}
    return {user: Ranker.load(file.read_text(encoding="utf-8")) for user, file in files.items() if file.exists()}


def figures(
    sources: Sequence[Annotated], rankers: Mapping[str, Ranker], variant: Variant, embedder: KeptVectors
) -> dict[str, dict[str, float]]:
    """Return the recall of each system on one variant."""
    recalls: dict[str, list[list[float]]] = {name: [] for name in SYSTEMS}
    embedder.embed([variant.asked(one.text) for source in sources for one in source.questions])
    for source in sources:
        ranker = rankers.get(source.user)
        with tempfile.TemporaryDirectory() as folder, MemOS.open(folder, embedder=embedder, ranker=ranker) as memos:
            scope = memos.scope(source.user)
            for at in brought(scope, source, variant):
                for name, ids in found_at(scope, at, embedder).items():
                    recalls[name].append([recall(ids[:k], at.question) for k in CUTOFFS])
    means = {name: np.mean(of, axis=0).round(4).tolist() for name, of in recalls.items()}
    return {name: {f"recall@{k}": mean for k, mean in zip(CUTOFFS, of, strict=True)} for name, of in means.items()}


def found_at(scope: Scope, at: Moment, embedder: KeptVectors) -> Found:
    """Return what each system finds when a question is asked."""
    hits = scope.search(at.question.text, k=DEPTH, before=at.before)
    return {"memos": [at.held[hit.id] for hit in hits], **PlainSearch.over(at.turns, embedder).found(at.question.text)}


@dataclass(frozen=True, slots=True)
class PlainSearch:
    """What a search over single texts by words, by meaning, or by both finds.

    Attributes:
        turns: What is searched.
        counts: Words of each text.
        vectors: Shape ``[texts, dimension]``.
        embedder: Of questions.
    """

    turns: Sequence[Said]
    counts: Sequence[Counter[str]]
    vectors: NDArray[np.float32]
    embedder: KeptVectors

    @classmethod
    def over(cls, turns: Sequence[Said], embedder: KeptVectors) -> PlainSearch:
        texts = [f"{one.speaker or one.role}: {one.text}" if one.speaker or one.role else one.text for one in turns]
        return cls(turns, [word_counts(text) for text in texts], embedder.embed(texts), embedder)

    def found(self, text: str) -> Found:
        asked = query_words(text)
        counts = np.array([[of[word] for of in self.counts] for word in asked], np.float32).reshape(len(asked), -1)
        lengths = np.array([sum(of.values()) for of in self.counts], np.float32)
        by_words = stretched(bm25_matrix(counts, lengths, idf_of(counts)))
        by_meaning = stretched(self.vectors @ self.embedder.embed([text])[0])
        scores = {"minilm": by_meaning, "bm25": by_words, "bm25 + minilm": by_words + by_meaning}
        return {
            name: [self.turns[row].ids for row in np.argsort(-of, kind="stable")[:DEPTH]] for name, of in scores.items()
        }


def first(scores: NDArray[np.float32]) -> list[int]:
    rows: list[int] = np.argsort(-scores, kind="stable")[:DEPTH].tolist()
    return rows


@cache
def word_counts(text: str) -> Counter[str]:
    return words(text)


def stretched(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return scores stretched to [0, 1]."""
    low, high = float(scores.min()), float(scores.max())
    return (scores - np.float32(low)) / np.float32((high - low) or 1.0)


def recall(found: Sequence[tuple[str, ...]], question: Posed) -> float:
    """Return the share of the evidence that these hold."""
    held = {name for ids in found for name in ids}
    return len(held.intersection(question.gold)) / len(question.gold)


if __name__ == "__main__":
    main()
