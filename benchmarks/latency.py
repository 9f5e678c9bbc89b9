"""Time to store and to find memories, beside other libraries, in one run with the same vectors.

    python benchmarks/latency.py [--sizes 1000 10000 100000] [--slow]

Texts of some twelve words in 100 scopes; the vectors are given (a table of made-up ones), so that no model's time is in
any figure. First every system stores all of them; then each question is asked of one system after the other, so that
all meet the same noise, in turn over the scopes and while memories keep arriving: before every tenth question one is
added to the scope that is asked. On a machine that does other work too, only processor time tells systems apart.

Every system must find what has arrived (``fresh``): the retrievers of LangChain and LlamaIndex, which are made of the
texts that there are, are made anew after an arrival. mem0 runs without its keyword search, which takes a model for
sparse vectors from the network. What MiniLM takes for a question stands apart. The peers that the project
does not declare come with ``pip install mem0ai txtai faiss-cpu llama-index-retrievers-bm25``; ``--systems`` leaves
some out. 100,000 memories take some twenty minutes, a million (``--slow``) hours. ``growth.py`` tells how a search
grows with the number of scopes and within one.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import psutil
from peers import (
    Chroma,
    Document,
    LangChainEnsemble,
    LangGraphStore,
    LlamaIndexFusion,
    LlamaIndexIndex,
    Mem0,
    Peer,
    Txtai,
)
from surroundings import surroundings

from memos_core import MemOS
from memos_core.embedding import MiniLM
from memos_core.embedding.base import Embedder, Vectors

RESULT = Path(__file__).parent / "results" / "latency.json"
SCOPES = 100
QUERIES = 300
SINGLES = 500
SEED = 2026
SLOW = 1_000_000
MOST = {"mem0": 1000, **dict.fromkeys(("llamaindex index", "llamaindex fusion", "langchain ensemble"), 100_000)}
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


LIBRARIES = (Chroma, LangGraphStore, LlamaIndexIndex, LlamaIndexFusion, LangChainEnsemble, Txtai, Mem0)
SYSTEMS: dict[str, type[Peer]] = {one.name: one for one in (Ours, *LIBRARIES)}


def main() -> None:
    """Measures every system at every size and keeps the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = [1000, 10_000, 100_000]
    parser.add_argument("--sizes", type=int, nargs="+", default=sizes, help="memories in all scopes together")
    parser.add_argument("--slow", action="store_true", help="also with a million memories")
    parser.add_argument("--out", type=Path, default=RESULT, help="file to write the figures to")
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS), choices=list(SYSTEMS), help="which to measure")
    options = parser.parse_args()
    apart = {"minilm_cpu_ms_per_text": embedding_ms()}
    figures: list[dict[str, Any]] = []
    for size in [*options.sizes, *([SLOW] if options.slow else [])]:
        kinds = [SYSTEMS[name] for name in options.systems if size <= MOST.get(name, size)]
        for name, found in measured(kinds, size).items():
            figures.append({"memories": size, "system": name, **found})
            print(figures[-1], flush=True)
        sizes = sorted({one["memories"] for one in figures})
        work = {"sizes": sizes, "scopes": SCOPES, "queries": QUERIES, "seed": SEED, "k": 10}
        options.out.write_text(json.dumps({**surroundings(work), "apart": apart, "figures": figures}, indent=2) + "\n")


def measured(kinds: Sequence[type[Peer]], size: int) -> dict[str, dict[str, Any]]:
    """Return the figures of each system."""
    rng = Random(SEED)
    texts = [Document(f"user{n % SCOPES}", str(n), sentence(rng)) for n in range(size)]
    questions = [sentence(rng) for _ in range(QUERIES)]
    figures: dict[str, dict[str, Any]] = {}
    with ExitStack() as stack:
        peers = []
        for kind in kinds:
            folder = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
            before = resident()
            peers.append(kind(Path(folder), GivenVectors().vector))
            figures[kind.name] = {**stored(peers[-1], texts), **first_searches(peers[-1], questions)}
            figures[kind.name]["grown_rss_mb"] = round((resident() - before) / 2**20)
        for name, found in searched(peers, questions, rng).items():
            figures[name].update(found)
    return figures


def stored(peer: Peer, texts: Sequence[Document]) -> dict[str, float]:
    """Store some one by one, the rest in batches of one scope each."""
    single = texts[: min(len(texts) // 10, SINGLES)]
    one_by_one = np.array([timed(lambda one=one: peer.add([one])) for one in single])
    batches = list(by_user(texts[len(single) :]))
    in_batches = np.array([timed(lambda batch=batch: peer.add(batch)) for batch in batches]).sum(axis=0)
    return {
        **quantiles("add", one_by_one),
        "adds_per_cpu_second": round(len(single) / float(one_by_one[:, 1].sum())),
        "batch_adds_per_cpu_second": round((len(texts) - len(single)) / float(in_batches[1])),
    }


def first_searches(peer: Peer, questions: Sequence[str]) -> dict[str, float]:
    """Search each scope for the first time."""
    taken = [timed(lambda n=n: peer.search(f"user{n}", questions[n], 10)) for n in range(SCOPES)]
    return quantiles("first_search", np.array(taken))


def searched(peers: Sequence[Peer], questions: Sequence[str], rng: Random) -> dict[str, dict[str, Any]]:
    """Ask every question of every system in turn, while memories arrive."""
    taken: dict[str, list[tuple[float, float]]] = {peer.name: [] for peer in peers}
    fresh = {peer.name: True for peer in peers}
    for number, question in enumerate(questions):
        user = f"user{number % SCOPES}"
        arrived = Document(user, f"late{number}", sentence(rng)) if number % 10 == 0 else None
        for peer in peers:
            if arrived is not None:
                peer.add([arrived])
            taken[peer.name].append(timed(lambda peer=peer, user=user, q=question: peer.search(user, q, 10)))
            if arrived is not None:
                fresh[peer.name] &= arrived.ref in peer.search(user, arrived.text, 10)
    return {name: {**quantiles("search", np.array(seconds)), "fresh": fresh[name]} for name, seconds in taken.items()}


def embedding_ms() -> dict[str, float]:
    """Return what MiniLM takes for a text, alone and of a batch: in none of the other figures."""
    rng, model = Random(SEED), MiniLM()
    texts = [sentence(rng) for _ in range(64)]
    model.embed(texts[:2])
    alone = [timed(lambda text=text: model.embed([text]))[1] for text in texts[:20]]
    return {
        "alone": round(float(np.median(alone)) * 1000, 2),
        "in_a_batch": round(timed(lambda: model.embed(texts))[1] * 1000 / len(texts), 2),
    }


def resident() -> int:
    """Return the bytes of memory that the process holds now."""
    gc.collect()
    return int(psutil.Process().memory_info().rss)


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
