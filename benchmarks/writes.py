"""Time to store memories, beside other libraries, in one run with the same vectors.

    python benchmarks/writes.py [--sizes 1000 10000]

Texts of some twelve words in 100 scopes; the vectors are given, and what MiniLM would take for them stands apart. Each
system is filled, then takes memories one by one, from eight threads, and in batches of one scope each. Time is on the
clock and of the processor: on a machine that does other work too only the latter tells systems apart, and what waiting
for the disk costs stands apart (``fsync``). ``memos`` is durable, duplicate-free and linked when ``add`` returns.
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from latency import SCOPES, SEED, GivenVectors, Ours, embedding_ms, sentence, timed
from peers import Chroma, Document, Mem0, Peer
from surroundings import surroundings

RESULT = Path(__file__).parent / "results" / "writes.json"
BATCHES = {1: 50, 10: 20, 100: 6, 1000: 2}
"""How many memories at a time, and how often."""

THREADS = 8
SINGLES = 100
MOST = {"mem0": 1000}
"""Sizes beyond which a system takes longer than this benchmark may."""


class SqliteItems(Peer):
    """LangGraph's SqliteStore, without vectors: those need a Python whose sqlite3 loads extensions."""

    name = "langgraph SqliteStore, no vectors"

    def __init__(self, folder: Path, embed: Callable[[str], Any]) -> None:
        super().__init__(folder, embed)
        from langgraph.store.base import PutOp
        from langgraph.store.sqlite import SqliteStore

        self.operation = PutOp
        connection = sqlite3.connect(folder / "store.sqlite3", check_same_thread=False, isolation_level=None)
        self.store = SqliteStore(connection)
        self.store.setup()

    def add(self, documents: Sequence[Document]) -> None:
        self.store.batch([self.operation((one.user,), one.ref, {"text": one.text}) for one in documents])

    def search(self, user: str, text: str, k: int) -> list[str]:
        return [item.key for item in self.store.search((user,), limit=k)]


SYSTEMS: dict[str, type[Peer]] = {one.name: one for one in (Ours, Chroma, SqliteItems, Mem0)}


def main() -> None:
    """Measures every system at every size and keeps the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000], help="memories in all scopes together")
    parser.add_argument("--out", type=Path, default=RESULT, help="file to write the figures to")
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS), choices=list(SYSTEMS), help="which to measure")
    options = parser.parse_args()
    work = {"sizes": options.sizes, "scopes": SCOPES, "batches": BATCHES, "threads": THREADS, "seed": SEED}
    outcome: dict[str, Any] = {**surroundings(work), "apart": apart(), "figures": []}
    for size in options.sizes:
        for name in options.systems:
            if size <= MOST.get(name, size):
                outcome["figures"].append({"memories": size, "system": name, **measured(SYSTEMS[name], size)})
                print(outcome["figures"][-1], flush=True)
                options.out.write_text(json.dumps(outcome, indent=2) + "\n")


def apart() -> dict[str, Any]:
    """Return what a wait for the disk and a vector take, which are in none of the other figures of the processor."""
    return {"fsync_ms": fsync_ms(), "minilm_cpu_ms_per_text": embedding_ms()}


def measured(kind: type[Peer], size: int) -> dict[str, Any]:
    """Return the figures of one system that holds ``size`` memories when they begin to be taken."""
    draw = Writer(Random(SEED))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        peer = kind(Path(folder), GivenVectors().vector)
        for user in range(SCOPES):
            peer.add(draw.documents(user, size // SCOPES))
        slow = kind is Mem0
        singles = [draw.documents(number, 1) for number in range(SINGLES // (4 if slow else 1))]
        found: dict[str, Any] = {"one_by_one": rates([timed(lambda own=own: peer.add(own)) for own in singles])}
        if slow:
            return found
        found["threads"] = together(peer, [draw.documents(number, 1) for number in range(SINGLES)])
        for count, times in BATCHES.items():
            batches = [draw.documents(number, count) for number in range(times)]
            found[f"batches_of_{count}"] = rates([timed(lambda own=own: peer.add(own)) for own in batches], count)
        return found


class Writer:
    """Makes documents that were not there before."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.made = 0

    def documents(self, user: int, count: int) -> list[Document]:
        first, self.made = self.made, self.made + count
        return [Document(f"user{user % SCOPES}", str(first + n), sentence(self.rng)) for n in range(count)]


def rates(times: Sequence[tuple[float, float]], count: int = 1) -> dict[str, float]:
    """Return milliseconds for one memory, the median of all calls, and how many a second of the processor takes."""
    clock, cpu = (float(np.median([pair[column] for pair in times])) * 1000 / count for column in (0, 1))
    total = sum(pair[1] for pair in times)
    return {"clock_ms": round(clock, 4), "cpu_ms": round(cpu, 4), "per_cpu_second": round(count * len(times) / total)}


def together(peer: Peer, works: Sequence[list[Document]]) -> dict[str, float]:
    """Return what one memory takes when eight threads add them."""
    with ThreadPoolExecutor(THREADS) as pool:
        clock, cpu = timed(lambda: list(pool.map(peer.add, works)))
    ones = len(works)
    return {
        "clock_ms": round(clock * 1000 / ones, 4),
        "cpu_ms": round(cpu * 1000 / ones, 4),
        "per_cpu_second": round(ones / cpu),
    }


def fsync_ms() -> float:
    """Return the median time that 4 KB take to the disk."""
    times = []
    with tempfile.TemporaryFile() as file:
        for _ in range(50):
            file.write(bytes(4096))
            file.flush()
            started = time.perf_counter()
            os.fsync(file.fileno())
            times.append(time.perf_counter() - started)
    return round(float(np.median(times)) * 1000, 3)


if __name__ == "__main__":
    main()
