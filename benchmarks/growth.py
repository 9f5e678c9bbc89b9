"""How a search grows: with the number of scopes in a vault, and with what one scope holds.

    python benchmarks/growth.py [--held 25000 50000 100000]

Scopes: vaults of 10, 100 and 1,000 scopes of 100 memories, asked in turn. One scope: memories are added, and at each
size the same questions are asked of all passages and of the short list (``index/shortlist.py``), one after the other;
before every tenth a memory arrives. ``agreement`` is the share of the ten best of all passages that are among the ten
best of the short list. The vector of a text is the sum of directions of its words, so that texts of like words are
near; a question takes half of its words from a memory. Times are of the processor, in milliseconds.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import numpy as np
from latency import SEED, GivenVectors, Ours, by_user, resident, sentence, timed
from peers import Document
from surroundings import surroundings

from memos_core import MemOS
from memos_core.infrastructure.vault.index import shortlist
from memos_core.operation.operator import MemOperator

RESULT = Path(__file__).parent / "results" / "growth.json"
EACH = 100
SCOPES = (10, 100, 1000)
HELD = (25_000, 50_000, 100_000)
QUERIES = 100
BATCH = 1000


class WordVectors(GivenVectors):
    """The sum of a direction for each word, rare words longer."""

    name = "words"

    @lru_cache(maxsize=10_000)  # noqa: B019 - one of these lives as long as the benchmark
    def direction(self, word: str) -> Any:
        rarity = np.log1p(int(word.removeprefix("word")))
        return (rarity * super().vector(word)).astype(np.float32)

    def vector(self, text: str) -> Any:
        mixed = np.sum([self.direction(word) for word in text.split()], axis=0)
        return mixed / np.linalg.norm(mixed)


class Grown(Ours):
    """MemOS with these vectors."""

    def __init__(self, folder: Path) -> None:
        self.memos = MemOS.open(folder, embedder=WordVectors())

    def fill(self, documents: Sequence[Document]) -> None:
        """Store documents of one user without comparing each with all others, which would take most of the time."""
        with patch.object(MemOperator, "near", lambda _self, _principal, drafts: [()] * len(drafts)):
            for start in range(0, len(documents), BATCH):
                self.add(documents[start : start + BATCH])


def main() -> None:
    """Measures both kinds of growth and keeps the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--held", type=int, nargs="+", default=HELD, help="memories that one scope holds")
    parser.add_argument("--scopes", type=int, nargs="+", default=SCOPES, help="scopes of a vault")
    parser.add_argument("--out", type=Path, default=RESULT, help="file to write the figures to")
    options = parser.parse_args()
    work = {"scopes": options.scopes, "each": EACH, "held": options.held, "queries": QUERIES, "seed": SEED, "k": 10}
    outcome: dict[str, Any] = surroundings(work)
    outcome["one_scope"] = []
    for figures in in_one_scope(sorted(options.held)):
        outcome["one_scope"].append(figures)
        print(figures, flush=True)
        options.out.write_text(json.dumps(outcome, indent=2) + "\n")
    outcome["scopes"] = over_scopes(options.scopes)
    print(outcome["scopes"])
    options.out.write_text(json.dumps(outcome, indent=2) + "\n")


def in_one_scope(sizes: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Yield the figures at each size of one scope that grows."""
    rng, before = Random(SEED), resident()
    held: list[Document] = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        ours = Grown(Path(folder))
        for size in sizes:
            fresh = [Document("ada", str(n), sentence(rng)) for n in range(len(held), size)]
            ours.fill(fresh)
            held += fresh
            yield {"memories": size, **asked(ours, held, rng), "grown_rss_mb": round((resident() - before) / 2**20)}


def asked(ours: Grown, held: list[Document], rng: Random) -> dict[str, Any]:
    """Ask all passages and the short list in turn, while memories arrive."""
    ways = {"all": sys.maxsize, "short_list": 0}
    times: dict[str, list[float]] = {way: [] for way in ways}
    late: dict[str, list[float]] = {way: [] for way in ways}
    agreed, found = [], True
    figures = {}
    for way, least in ways.items():
        with shortlist_from(least):
            figures[f"{way}_first_ms"] = round(timed(lambda: ours.search("ada", "word1", 10))[1] * 1000, 1)
    for number in range(QUERIES):
        question = half_of(held[rng.randrange(len(held))].text, rng)
        best = {}
        for way in ways if number % 2 else reversed(ways):
            if number % 10 == 0:
                held.append(Document("ada", f"late{len(held)}", f"{sentence(rng)} word{10_000 + len(held)}"))
                ours.add(held[-1:])
            with shortlist_from(ways[way]):
                answer: list[list[str]] = []
                seconds = timed(lambda answer=answer, q=question: answer.append(ours.search("ada", q, 10)))[1]
                (late if number % 10 == 0 else times)[way].append(seconds)
                best[way] = answer[0]
                if number % 10 == 0:
                    found &= held[-1].ref in ours.search("ada", held[-1].text, 10)
        agreed.append(len(set(best["all"]) & set(best["short_list"])) / max(1, len(best["all"])))
    for way in ways:
        for name, taken in (("", times[way]), ("_after_an_arrival", late[way])):
            figures[f"{way}{name}_p50_ms"] = round(float(np.median(taken)) * 1000, 2)
        figures[f"{way}_p95_ms"] = round(float(np.percentile(times[way] + late[way], 95)) * 1000, 2)
    return {**figures, "agreement": round(float(np.mean(agreed)), 4), "fresh": found}


@contextmanager
def shortlist_from(least: int) -> Iterator[None]:
    """Let searches look at a short list from so many passages on."""
    usual, shortlist.SHORTLIST_FROM = shortlist.SHORTLIST_FROM, least
    try:
        yield
    finally:
        shortlist.SHORTLIST_FROM = usual


def half_of(text: str, rng: Random) -> str:
    """Return half of the words of a text among others."""
    words = text.split()
    return " ".join([*rng.sample(words, len(words) // 2), *sentence(rng).split()[: len(words) // 4]])


def over_scopes(counts: Sequence[int]) -> list[dict[str, Any]]:
    """Return the time of a search in vaults of so many scopes, each of which holds as much as the others."""
    rng = Random(SEED)
    with ExitStack() as stack:
        vaults = {}
        for count in counts:
            vaults[count] = Grown(Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))))
            texts = [Document(f"user{n % count}", str(n), sentence(rng)) for n in range(count * EACH)]
            for batch in by_user(texts):
                vaults[count].add(batch)
        for count, ours in vaults.items():
            for user in range(count):
                ours.search(f"user{user}", "word1", 10)
        times: dict[int, list[float]] = {count: [] for count in counts}
        for _ in range(QUERIES):
            question = sentence(rng)
            for count, ours in vaults.items():
                user = f"user{rng.randrange(count)}"
                times[count].append(timed(lambda o=ours, u=user, q=question: o.search(u, q, 10))[1] * 1000)
    return [
        {
            "scopes": count,
            "search_p50_ms": round(float(np.median(taken)), 2),
            "search_p95_ms": round(float(np.percentile(taken, 95)), 2),
        }
        for count, taken in times.items()
    ]


if __name__ == "__main__":
    main()
