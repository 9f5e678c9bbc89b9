"""Time to store and to find memories, beside other libraries, in one run with the same vectors.

    python benchmarks/latency.py [--sizes 1000 10000]

Texts of some twelve words in 100 scopes; the vectors are given (a table of made-up ones), so that no model's time is in
any figure. Searches are asked in turn over the scopes while memories keep arriving: one is added before every tenth.
On a machine that does other work too, only the time of the processor tells systems apart.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from peers import Chroma, Document, LangGraphStore, LlamaIndexFusion, Mem0, Peer
from surroundings import surroundings

from memos_core import MemOS
from memos_core.embedding.base import Embedder, Vectors

RESULT = Path(__file__).parent / "results" / "latency.json"
SCOPES = 100
QUERIES = 300
SEED = 2026
MOST = {"mem0": 1000, "llamaindex fusion": 10_000}
"""Sizes beyond which a system takes longer than this benchmark may."""


class GivenVectors(Embedder):
    """A vector for each text at no cost worth mentioning: a direction for each of 64 digests, mixed by digest."""

    name = "given"
    dimension = 384

    def __init__(self) -> None:
        self.directions = np.random.default_rng(SEED).normal(size=(256, self.dimension)).astype(np.float32)

    def vector(self, text: str) -> Any:
        mixed = self.directions[list(hashlib.blake2b(text.encode(), digest_size=8).digest())].sum(axis=0)
        return mixed / np.linalg.norm(mixed)

    def embed(self, texts: Sequence[str]) -> Vectors:
        return np.stack([self.vector(text) for text in texts]) if texts else np.empty((0, 384), np.float32)

    def passages(self, text: str) -> list[tuple[int, int]]:
        return [(0, len(text))]


class Ours(Peer):
    """MemOS: a scope for each user, exact index, everything durable when ``add`` returns."""

    name = "memos"

    def __init__(self, folder: Path, embed: Callable[[str], Any]) -> None:
        super().__init__(folder, embed)
        self.memos = MemOS.open(folder, embedder=GivenVectors())

    def add(self, documents: Sequence[Document]) -> None:
        scope = self.memos.scope(documents[0].user)
        if len(documents) == 1:
            scope.add(documents[0].text, ref=documents[0].ref, session="S1")
        else:
            scope.add_many([{"text": one.text, "ref": one.ref, "session": "S1"} for one in documents])

    def search(self, user: str, text: str, k: int) -> list[str]:
        return [str(hit.ref) for hit in self.memos.scope(user).search(text, k=k)]


SYSTEMS: dict[str, type[Peer]] = {one.name: one for one in (Ours, Chroma, LangGraphStore, LlamaIndexFusion, Mem0)}


def main() -> None:
    """Measures every system at every size and keeps the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000], help="memories in all scopes together")
    parser.add_argument("--out", type=Path, default=RESULT, help="file to write the figures to")
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS), choices=list(SYSTEMS), help="which to measure")
    options = parser.parse_args()
    figures = []
    for size in options.sizes:
        for kind in (SYSTEMS[name] for name in options.systems):
            if size <= MOST.get(kind.name, size):
                figures.append({"memories": size, "system": kind.name, **measured(kind, size)})
                print(figures[-1], flush=True)
    work = {"sizes": options.sizes, "scopes": SCOPES, "queries": QUERIES, "seed": SEED, "k": 10}
    options.out.write_text(json.dumps({**surroundings(work), "figures": figures}, indent=2) + "\n")


def measured(kind: type[Peer], size: int) -> dict[str, float]:
    """Return the figures of one system: a tenth is stored one by one, the rest in batches of one scope each."""
    rng = Random(SEED)
    texts = [Document(f"user{n % SCOPES}", str(n), sentence(rng)) for n in range(size)]
    arriving = (Document(f"user{n % SCOPES}", f"late{n}", sentence(rng)) for n in range(QUERIES))
    questions = [sentence(rng) for _ in range(QUERIES)]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        peer = kind(Path(folder), GivenVectors().vector)
        single = texts[: size // 10]
        one_by_one = np.array([timed(lambda one=one: peer.add([one])) for one in single])
        batches = list(by_user(texts[size // 10 :]))
        in_batches = np.array([timed(lambda batch=batch: peer.add(batch)) for batch in batches]).sum(axis=0)
        first = np.array([timed(lambda n=n: peer.search(f"user{n}", questions[n], 10)) for n in range(SCOPES)])
        searches = []
        for number, question in enumerate(questions):
            if number % 10 == 0:
                peer.add([next(arriving)])
            searches.append(timed(lambda n=number, q=question: peer.search(f"user{n % SCOPES}", q, 10)))
    return {
        **quantiles("add", one_by_one),
        **quantiles("first_search", first),
        **quantiles("search", np.array(searches)),
        "adds_per_cpu_second": round(len(single) / float(one_by_one[:, 1].sum())),
        "batch_adds_per_cpu_second": round((size - len(single)) / float(in_batches[1])),
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def by_user(documents: Sequence[Document]) -> Iterator[list[Document]]:
    of_user: dict[str, list[Document]] = {}
    for one in documents:
        of_user.setdefault(one.user, []).append(one)
    yield from of_user.values()


def sentence(rng: Random) -> str:
    return " ".join(f"word{int(rng.paretovariate(0.6)) % 5000}" for _ in range(12))


def timed(call: Callable[[], Any]) -> tuple[float, float]:
    """Return the seconds on the clock and of the processor, over all threads of the process."""
    started = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - started[0], time.process_time() - started[1]


def quantiles(what: str, seconds: Any) -> dict[str, float]:
    """Return the median and the 95th percentile in milliseconds, on the clock and of the processor."""
    return {
        f"{what}_p{percent}_{kind}_ms": round(float(np.percentile(seconds[:, column], percent)) * 1000, 3)
        for column, kind in enumerate(("clock", "cpu"))
        for percent in (50, 95)
    }


if __name__ == "__main__":
    main()
