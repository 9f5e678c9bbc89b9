"""What reading KV ahead of turns comes to: several users in one vault, whose KV does not fit into memory all at once.

Each asks for the context of his question, thinks, and chats, every fourth time about something else. A random model;
the vault is on the disk, whose files the system holds in memory. With reading ahead after the context and without.

    python benchmarks/kv_read_ahead.py --clock cpu --out benchmarks/results/kv_read_ahead.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from kv_prefetch import SHAPE
from surroundings import surroundings

from memos_core import MemOS, Scope
from memos_core.engine import HFEngine
from memos_core.testing import HashEmbedder
from memos_core.testing.models import tiny_model

USERS, TOPICS, SHARE = 3, ("The red box", "The green shelf"), 0.4
"""Of each user there is a chain for each topic; ``SHARE`` of their bytes stay in memory."""
BUDGET, K = 400, 8
"""Tokens of memory, and memories that a search may find, of contexts as of chats."""
MODES = {"off": 0, "on": 2**28}


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=4, help="in each of which every user asks about each topic")
    parser.add_argument("--clock", default="wall", choices=["wall", "cpu"], help="cpu: on a shared core")
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--out", type=Path, help="JSON file for the result; without it, it is only printed")
    return parser.parse_args()


def turns(options: argparse.Namespace) -> dict[str, Any]:
    """Return what the turns of some users take with reading ahead and without."""
    with tempfile.TemporaryDirectory() as folder:
        model, tokenizer = tiny_model("llama", seed=options.seed, **SHAPE)
        builder = HFEngine.from_model(model, tokenizer)
        with MemOS.open(folder, engine=builder, embedder=HashEmbedder()) as memos:
            for user, topic in people(memos):
                user.add_many([f"{topic} {number} holds {number * 7} screws and a lamp." for number in range(20)])
            for user, topic in people(memos):
                user.chat(topic, inject="kv", max_tokens=1, memory_budget=BUDGET)
            size = builder._prefixes().loaded_bytes
        builder.close()
        modes = {name: taken(folder, (model, tokenizer), options, size, ahead) for name, ahead in MODES.items()}
    return {"users": USERS, "topics": len(TOPICS), "kv_bytes": size, "share_in_memory": SHARE, "modes": modes}


def people(memos: MemOS) -> list[tuple[Scope, str]]:
    """Return each user with each of his topics, in the order in which they ask."""
    return [(memos.scope(user=f"user{number}"), topic) for topic in TOPICS for number in range(USERS)]


def taken(
    folder: str, parts: tuple[Any, Any], options: argparse.Namespace, size: int, read_ahead_bytes: int
) -> dict[str, Any]:
    """Return the median of the seconds that a chat takes, and from where its KV came."""
    clock = time.perf_counter if options.clock == "wall" else time.process_time
    engine = HFEngine.from_model(*parts, kv_memory_bytes=int(SHARE * size), read_ahead_bytes=read_ahead_bytes)
    _ = engine.fingerprint
    seconds, from_ram, count = [], 0, 0
    with MemOS.open(folder, engine=engine, embedder=HashEmbedder()) as memos:
        for turn in range(options.rounds):
            for user, topic in people(memos):
                user.context(topic, max_tokens=BUDGET, k=K)
                engine._ahead.submit(lambda: 0, 0).result()  # he thinks
                count += 1
                asked = topic if count % 4 else next(each for each in TOPICS if each != topic)
                started = clock()
                reply = user.chat(asked, inject="kv", max_tokens=1, memory_budget=BUDGET)
                if turn:
                    seconds.append(clock() - started)
                    from_ram += any("from RAM" in note for note in reply.plan.notes)
    counts = engine.read_ahead_counts
    engine.close()
    return {"seconds": statistics.median(seconds), "turns": len(seconds), "from_ram": from_ram, "ahead": counts}


def main() -> None:
    """Measure, print and write."""
    options = parse()
    torch.set_num_threads(1)
    run_with = {name: value for name, value in vars(options).items() if name != "out"}
    result = {**surroundings(run_with), **turns(options)}
    print(json.dumps(result, indent=2))
    if options.out is not None:
        options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
