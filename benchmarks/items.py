"""What keeping values under keys takes, beside LangGraph's own stores: 10,000 items, one process.

    python benchmarks/items.py

Each operation is timed on the same values in one run, in processor time: a single put also waits for the disk, once in
each store that has one. ``ratio`` is our time divided by that of SqliteStore, or of InMemoryStore where that one cannot
be asked.
"""

from __future__ import annotations

import argparse
import json
import random
import sqlite3
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from langgraph.store.base import BaseStore, PutOp
from langgraph.store.memory import InMemoryStore
from langgraph.store.sqlite import SqliteStore
from surroundings import surroundings

from memos_core import MemOS
from memos_langchain import MemosStore
from memos_langchain.testing import WordEmbeddings

RESULT = Path(__file__).parent / "results" / "items.json"
SEED = 7
COLOURS = ("red", "green", "blue", "black", "white", "grey", "pink")


def main() -> None:
    """Runs every operation on every store and keeps the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=10_000, help="items in each store")
    parser.add_argument("--repeats", type=int, default=200, help="how often a single operation is run")
    parser.add_argument("--out", type=Path, default=RESULT, help="file to write the figures to")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = measured(Path(folder), count=options.items, repeats=options.repeats)
    workload = {"items": options.items, "repeats": options.repeats, "dimension": 384, "seed": SEED}
    outcome = {
        **surroundings(workload),
        "unit": "milliseconds of processor time for one operation",
        "results": rows(figures),
    }
    options.out.write_text(json.dumps(outcome, indent=2) + "\n")
    for row in outcome["results"]:
        print(row)


def measured(folder: Path, *, count: int, repeats: int) -> dict[str, dict[str, float]]:
    """Returns milliseconds by operation and store."""
    values = values_of(count)
    memos = MemOS.open(folder / "vault", embedder=None)
    connection = sqlite3.connect(folder / "store.sqlite3", check_same_thread=False, isolation_level=None)
    sqlite_store = SqliteStore(connection)
    sqlite_store.setup()
    plain: dict[str, BaseStore] = {
        "MemosStore": MemosStore(memos.scope(user="ada")),
        "MemosStore, no history": MemosStore(memos.scope(user="ben"), history=False),
        "SqliteStore": sqlite_store,
        "InMemoryStore": InMemoryStore(),
    }
    figures = {name: by_key(store, values, repeats) for name, store in plain.items()}
    index: Any = {"embed": WordEmbeddings(384), "dims": 384, "fields": ["text"]}
    searched: dict[str, BaseStore] = {
        "MemosStore": MemosStore(memos.scope(user="cleo"), index=index),
        "InMemoryStore": InMemoryStore(index=index),
    }
    for name, store in searched.items():
        figures[name] |= by_meaning(store, values, max(1, repeats // 20))
    memos.close()
    connection.close()
    return figures


def values_of(count: int) -> list[tuple[tuple[str, ...], str, dict[str, Any]]]:
    """Returns namespace, key and value of each item."""
    draw = random.Random(SEED)
    words = [f"word{n}" for n in range(500)]
    return [
        (
            ("docs", str(number % 10)),
            str(number),
            {"text": " ".join(draw.choices(words, k=12)), "n": number, "colour": draw.choice(COLOURS)},
        )
        for number in range(count)
    ]


def by_key(store: BaseStore, values: list[Any], repeats: int) -> dict[str, float]:
    """Returns the times of what needs no vectors."""
    picked = random.Random(SEED).sample(values, min(repeats, len(values)))
    few = picked[: max(1, repeats // 20)]
    return {
        "put, in one batch": timed(lambda: store.batch([PutOp(*value) for value in values]), len(values)),
        "put": timed(lambda: [store.put(("more",), key, value) for _, key, value in picked], len(picked)),
        "put again": timed(lambda: [store.put(("more",), key, value) for _, key, value in picked], len(picked)),
        "get": timed(lambda: [store.get(namespace, key) for namespace, key, _ in picked], len(picked)),
        "first page": timed(lambda: [store.search(("docs",)) for _ in few], len(few)),
        "filter, one in seven": timed(
            lambda: [store.search(("docs",), filter={"colour": "red"}) for _ in few], len(few)
        ),
        "filter, one of all": timed(
            lambda: [store.search(("docs",), filter={"n": value["n"]}) for *_, value in few], len(few)
        ),
        "list of namespaces": timed(lambda: [store.list_namespaces() for _ in few], len(few)),
        "delete": timed(lambda: [store.delete(("more",), key) for _, key, _ in picked], len(picked)),
    }


def by_meaning(store: BaseStore, values: list[Any], repeats: int) -> dict[str, float]:
    """Returns the times of searches with vectors; embedding a question is part of each."""
    store.batch([PutOp(*value) for value in values])
    questions = [value["text"] for *_, value in random.Random(SEED).sample(values, repeats)]
    store.search(("docs",), query=questions[0])  # loads the vectors
    red = {"colour": "red"}
    return {
        "search": timed(lambda: [store.search(("docs",), query=text) for text in questions], repeats),
        "search below a prefix": timed(
            lambda: [store.search(("docs", "3"), query=text) for text in questions], repeats
        ),
        "search with a filter": timed(
            lambda: [store.search(("docs",), query=t, filter=red) for t in questions], repeats
        ),
    }


def timed(work: Callable[[], object], count: int) -> float:
    """Returns the milliseconds of processor time that one of ``count`` operations took."""
    started = time.process_time()
    work()
    return round((time.process_time() - started) * 1000 / count, 4)


def rows(figures: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    """Returns a row for each operation, with all stores beside each other."""
    names = list(dict.fromkeys(name for own in figures.values() for name in own))
    found = []
    for name in names:
        times = {store: own[name] for store, own in figures.items() if name in own}
        base = times.get("SqliteStore") or times["InMemoryStore"]
        found.append({"operation": name, "milliseconds": times, "ratio": round(times["MemosStore"] / base, 2)})
    return found


if __name__ == "__main__":
    main()
