"""What the MemCube path costs over direct access, stage by stage, and where the time of a whole request goes.

    python benchmarks/overhead.py [--memories 2000] [--repeats 200]

Direct access is what one would write without MemOS: an SQLite table with text and vector, a matrix of vectors, a Chroma
collection with a filter, a safetensors file. Both sides have the same texts and vectors, which are given, so that no
embedder is in any figure but *embed*. A request is asked of the bundled reader; its parts are timed one after another,
and the vector of its question is made anew. All times are processor time, medians; calls alternate between both sides.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import chromadb
import numpy as np
from latency import GivenVectors
from safetensors.numpy import load, save_file
from surroundings import surroundings

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from memos_core import HFEngine, MemOS
from memos_core.calls import MemoryCall
from memos_core.embedding.minilm import MiniLM
from memos_core.infrastructure.vault import Visibility
from memos_core.interface.chat import ChatCall
from memos_core.interface.reader import as_messages
from memos_core.principal import Principal

RESULT = Path(__file__).parent / "results" / "overhead.json"
MINILM = MiniLM()
PARTS = ("read", "embed", "search", "plan", "prepare", "inject and first token", "further tokens", "finish")
THINGS = ("cat", "dog", "boat", "house", "piano", "tractor", "ladder", "kettle")

T = TypeVar("T")
Pair = tuple[Callable[[int], Any], Callable[[int], Any]]


def main() -> None:
    """Measures every stage and every part, and keeps the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--memories", type=int, default=2000, help="memories of the scope")
    parser.add_argument("--repeats", type=int, default=200, help="calls of each stage")
    parser.add_argument("--requests", type=int, default=30, help="whole requests")
    parser.add_argument("--out", type=Path, default=RESULT, help="file to write the figures to")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        stages = dict(measured(Path(folder), options.memories, options.repeats))
        parts = {inject: request_parts(Path(folder) / inject, inject, options.requests) for inject in ("text", "kv")}
    print(json.dumps({"stages": stages, "request": parts}, indent=1))
    work = {"memories": options.memories, "repeats": options.repeats, "requests": options.requests, "seed": 2026}
    options.out.write_text(json.dumps({**surroundings(work), "stages": stages, "request": parts}, indent=2) + "\n")


def sentence(number: int) -> str:
    thing = THINGS[number % len(THINGS)]
    return f"Note {number}: the {thing} of number {number * 7 % 1009} was moved to room {number % 97}."


def measured(folder: Path, memories: int, repeats: int) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield each stage with the medians of both sides in milliseconds of the processor."""
    embedder = GivenVectors()
    texts = [sentence(number) for number in range(memories)]
    vectors = embedder.embed(texts)
    with MemOS.open(folder / "vault", embedder=embedder, index="exact") as memos, closing(bare_table(folder)) as table:
        scope = memos.scope(user="ada")
        ids = [str(receipt.cube_id) for receipt in scope.add_many(texts)]
        for number, text in enumerate(texts):
            table.execute("INSERT INTO notes VALUES (?, ?, ?)", (ids[number], text, vectors[number].tobytes()))
        table.commit()
        collection = chromadb.PersistentClient(str(folder / "chroma")).create_collection("notes")
        collection.add(ids=ids, embeddings=vectors, metadatas=[{"user": "ada"}] * memories, documents=texts)
        scope.search("warm", k=10)

        def insert(number: int) -> None:
            text = sentence(memories + number)
            row = (f"new-{number}", text, embedder.embed([text])[0].tobytes())
            table.execute("INSERT INTO notes VALUES (?, ?, ?)", row)
            table.commit()

        def vault_search(number: int) -> None:
            seen = memos._layers.governance.search_filter(Principal("ada"), MemoryCall(query="any"))
            memos._layers.vault.vector_search(seen, embedder.embed([sentence(number)])[0], 10)

        def chroma(number: int) -> None:
            vector = embedder.embed([sentence(number)])
            collection.query(query_embeddings=vector, n_results=10, where={"user": "ada"})

        def cube(number: int) -> None:
            with memos._layers.vault.read() as session:
                session.cube(Visibility("ada"), ids[number % memories])

        def product(number: int) -> None:
            scores = vectors @ embedder.embed([sentence(number)])[0]
            np.argpartition(-scores, 10)[:10]

        fetch = "SELECT text FROM notes WHERE id = ?"
        stages: dict[str, Pair] = {
            "add, against an INSERT": (lambda n: scope.add(sentence(memories + n)), insert),
            "get, against a SELECT": (
                lambda n: scope.get(ids[n % memories]),
                lambda n: table.execute(fetch, (ids[n % memories],)).fetchone(),
            ),
            "read of a cube, against a SELECT": (cube, lambda n: table.execute(fetch, (ids[n % memories],)).fetchone()),
            "vector search of the vault, against one matrix product": (vault_search, product),
            "search, against one matrix product": (lambda n: scope.search(sentence(n), k=10), product),
            "search, against Chroma with a filter": (lambda n: scope.search(sentence(n), k=10), chroma),
        }
        for name, pair in stages.items():
            yield name, compared(pair, repeats)
        yield "tensors, a blob against a file", compared(tensors(folder, memos), repeats)


def bare_table(folder: Path) -> sqlite3.Connection:
    table = sqlite3.connect(folder / "bare.sqlite3")
    table.execute("PRAGMA journal_mode=WAL")
    table.execute("PRAGMA synchronous=FULL")
    table.execute("CREATE TABLE notes (id TEXT PRIMARY KEY, text TEXT, vector BLOB)")
    return table


def tensors(folder: Path, memos: MemOS) -> Pair:
    """Return the reading of some tensors as a blob, digest checked, and as a plain file."""
    values = {f"layer {number}": np.ones((2, 500, 64), np.float32) * number for number in range(12)}
    path = folder / "plain.safetensors"
    save_file(values, path)
    data, vault = path.read_bytes(), memos._layers.vault
    with vault.write() as session:
        reference = vault.blobs.put(data, session.ensure_namespace("ada").salt)
    with vault.read() as session:
        space = session.namespace("ada")
        assert space is not None
    return lambda _: load(vault.blobs.read(reference.address, space.salt)), lambda _: load(path.read_bytes())


def compared(pair: Pair, repeats: int) -> dict[str, float]:
    """Return the medians of both sides and their ratio; calls alternate."""
    took: tuple[list[float], list[float]] = ([], [])
    for number in range(repeats):
        for side, call in enumerate(pair):
            started = time.process_time_ns()
            call(number)
            took[side].append((time.process_time_ns() - started) / 1e6)
    ours, direct = (float(np.median(side)) for side in took)
    return {"memos_ms": round(ours, 4), "direct_ms": round(direct, 4), "ratio": round(ours / max(direct, 1e-6), 2)}


def request_parts(path: Path, inject: Any, requests: int) -> dict[str, float]:
    """Return the median time of each part of a request in milliseconds, and the shares of the whole."""
    took: defaultdict[str, list[float]] = defaultdict(list)
    with closing(HFEngine.from_pretrained("memos-reader")) as engine, MemOS.open(path, engine=engine) as memos:
        scope = memos.scope(user="ada")
        scope.add_many([sentence(number) for number in range(500)])
        for number in range(requests + 3):
            asked = question(number)
            scope.chat(asked, inject=inject, max_tokens=8, memory_budget=200)  # KV is built here, and serves below
            for name, seconds in timed_request(memos, engine, asked, inject).items():
                if number >= 3:  # the first ones load and prepare
                    took[name].append(seconds * 1000)
    medians = {name: round(float(np.median(took[name])), 3) for name in PARTS}
    whole = sum(medians.values())
    return {
        **medians,
        "whole": round(whole, 3),
        **{f"share of {name}": round(medians[name] / whole, 4) for name in PARTS},
    }


def question(number: int) -> str:
    return f"In which room is the {THINGS[number % 8]} of number {number * 7 % 1009}?"


def timed_request(memos: MemOS, engine: HFEngine, asked: str, inject: Any) -> dict[str, float]:
    """Ask one question part by part, as ``Scope.chat`` does, and return the seconds of each part."""
    chat, principal = memos._layers.chat, Principal("ada")
    messages, now = as_messages(asked), chat.governance.clock.now()
    call, read = timed(lambda: chat.reader.parse(messages, now=now, max_tokens=200))
    assert call is not None
    _, embedded = timed(lambda: MINILM.embed_query(asked))
    chat.operator.search(principal, call)  # leaves the vector in the cache
    hits, searched = timed(lambda: chat.operator.search(principal, call))
    count = engine.count_tokens
    _, planned = timed(lambda: chat.scheduler.plan(hits, inject=inject, budget_tokens=200, count_tokens=count))
    options = ChatCall(inject=inject, max_tokens=8, memory_budget=200)
    request, prepared = timed(lambda: chat.prepare(principal, asked, options))
    reply, generated = timed(lambda: engine.generate(request))
    first = generated * reply.usage.ttft_seconds / max(reply.usage.total_seconds, 1e-9)
    _, finished = timed(lambda: chat.finish(principal, messages, reply, remember=False))
    rest = max(0.0, prepared - read - searched - planned)
    return dict(zip(PARTS, (read, embedded, searched, planned, rest, first, generated - first, finished), strict=True))


def timed(call: Callable[[], T]) -> tuple[T, float]:
    started = time.process_time()
    result = call()
    return result, time.process_time() - started


if __name__ == "__main__":
    main()
