"""What grants cost a search: for users without any, with one among many memories of their own, and with nothing else.

    python benchmarks/sharing.py [--sizes 1000 5000] [--out FILE]

The vectors are given, as in ``latency.py``. Users take turns, so that other work on the machine hits all alike; the
time is that of the processor, and each is told as a ratio to a user who owns as many memories and has no grants.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

from latency import GivenVectors
from surroundings import surroundings

from memos_core import MemOS, Scope

RESULT = Path(__file__).parent / "results" / "sharing.json"
WORDS = ["river", "garden", "kettle", "paper", "window", "market", "harbour", "lantern", "cherry", "ladder", "winter"]
ROUNDS = 60
SEED = 2026


def text(random: Random) -> str:
    return " ".join(random.choice(WORDS) for _ in range(12))


def filled(memos: MemOS, user: str, size: int) -> Scope:
    scope, random = memos.scope(user=user), Random(f"{SEED} {user}")
    scope.add_many([{"text": f"{text(random)} {number}", "session": f"S{number // 20}"} for number in range(size)])
    return scope


def seconds(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def measured(size: int) -> dict[str, dict[str, float]]:
    with tempfile.TemporaryDirectory() as folder, MemOS.open(folder, embedder=GivenVectors()) as memos:
        owner, writer = filled(memos, "owner", size), filled(memos, "writer", size)
        alone, one = filled(memos, "alone", size), filled(memos, "one", size)
        everything, changing, edited = (memos.scope(user=user) for user in ("everything", "changing", "edited"))
        editor = filled(memos, "editor", size)
        old = [cube.id for cube in editor.list(limit=ROUNDS)]
        owner.grant("one", cube_id=owner.list(limit=1)[0].id)
        owner.grant("everything", whole_scope=True)
        writer.grant("changing", whole_scope=True)
        editor.grant("edited", whole_scope=True)
        scopes = {"no grants": alone, "one granted": one, "all granted": everything}
        scopes |= {"all granted, one new": changing, "all granted, one edited": edited}
        times: dict[str, list[float]] = {name: [] for name in scopes}
        random = Random(SEED)
        for number in range(ROUNDS):
            query = text(random)
            writer.add(f"{query} new {number}")
            editor.update(old[number], f"{query} edited {number}")
            for name, scope in scopes.items():
                took = seconds(lambda scope=scope, query=query: scope.search(query, k=10))  # type: ignore[misc]
                if number >= ROUNDS // 6:
                    times[name].append(took)
        middle = {name: statistics.median(each) for name, each in times.items()}
    base = middle["no grants"]
    return {
        name: {"milliseconds": round(1000 * each, 3), "ratio": round(each / base, 2)} for name, each in middle.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 5000])
    parser.add_argument("--out", type=Path, default=RESULT, help="Where the result goes.")
    asked = parser.parse_args()
    sizes = asked.sizes
    found = {f"{size} memories": measured(size) for size in sizes}
    workload = {"sizes": sizes, "searches": ROUNDS - ROUNDS // 6, "k": 10, "seed": SEED, "time": "processor, median"}
    asked.out.write_text(json.dumps({**surroundings(workload), "search": found}, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
