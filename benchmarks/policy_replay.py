"""Policies of evolution replayed on one trace of requests: time, what KV served, room taken, what is lost.

The trace names small sets of memories, some far more often than others; what is popular changes every few days, and now
and then a memory is edited. Each policy replays it on a fresh vault with the bundled reader. Requests and background
work are timed apart, in processor time of this process. Nothing is lost if at the end each memory says what the trace
last said. Memories of one sentence show what a policy costs where there is little to save, longer ones what it saves.

    python benchmarks/policy_replay.py
    python benchmarks/policy_replay.py --days 30 --requests 200
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from surroundings import surroundings

from memos_core import EvolutionPolicy, HFEngine, MemOS, Scope
from memos_core.events import Event
from memos_core.operation.policies import ReusePreference
from memos_core.operation.scheduler import MemScheduler
from memos_core.testing import FakeClock, HashEmbedder

ROOT = Path(__file__).resolve().parents[1]
HOUR, DAY = 3600.0, 86400.0
AGGRESSIVE = EvolutionPolicy(hot=1, cold=0.3, settle_seconds=0, keep_seconds=HOUR, min_chars=0, build="queue")
CONSERVATIVE = EvolutionPolicy(hot=6, cold=0.5, settle_seconds=DAY, keep_seconds=3 * DAY, build="queue")


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the trace: a request that names memories by number, or an edit of one, and what it is about then."""

    day: int
    memories: tuple[int, ...]
    about: str | None = None


@dataclass(slots=True)
class Tally:
    """What one replay came to."""

    request_seconds: float = 0.0
    background_seconds: float = 0.0
    prompt_tokens: int = 0
    served_tokens: int = 0
    requests_served: int = 0
    requests: int = 0
    builds: int = 0
    peak_blob_bytes: int = 0
    lost: int = 0
    answers: list[str] = field(default_factory=list)

    def told(self, event: Event) -> None:
        """Count what was built."""
        self.builds += event.name == "kv.built"


def note(number: int, what: str, sentences: int) -> str:
    """Return a memory of some sentences."""
    more = (
        f"In part {part} of it, {what} goes on about the blue folder in room {part}." for part in range(1, sentences)
    )
    return " ".join([f"Note {number}: {what} is about project {number} and was moved to room {100 + number}.", *more])


def trace(options: argparse.Namespace) -> list[Step]:
    """Return the steps: a few sets of memories are asked for again and again, and others take their place."""
    chance, steps = random.Random(options.seed), []
    for day in range(options.days):
        if day % 4 == 0:
            sets = [tuple(sorted(chance.sample(range(options.memories), chance.randint(1, 4)))) for _ in range(12)]
        weights = [1 / (rank + 1) for rank in range(len(sets))]
        for _ in range(options.requests):
            if chance.random() < 0.02:
                number = chance.randrange(options.memories)
                steps.append(Step(day, (number,), f"the plan of day {day} and {chance.randrange(1000)}"))
            steps.append(Step(day, chance.choices(sets, weights)[0]))
    return steps


def replay(
    policy: EvolutionPolicy | None, kv_after: int, steps: list[Step], sentences: int, options: argparse.Namespace
) -> Tally:
    """Replay the trace under a policy; None: every request carries its memories as text."""
    tally, clock = Tally(), FakeClock()
    scheduler = MemScheduler(preference=ReusePreference(kv_after=kv_after))
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(HFEngine.from_pretrained("memos-reader")) as engine,
        MemOS.open(
            folder,
            engine=engine,
            embedder=HashEmbedder(),
            clock=clock,
            scheduler=scheduler,
            evolution=policy,
            on_event=tally.told,
        ) as memos,
    ):
        scope = memos.scope(user="ada")
        said = [note(number, "the meeting", sentences) for number in range(options.memories)]
        ids = [receipt.cube_id or "" for receipt in scope.add_many(said)]
        scope.chat("Which room?", memory_ids=ids[:1], inject="text", max_tokens=1)  # loads the model
        for number, step in enumerate(steps):
            clock.advance(DAY / options.requests)
            if step.about is not None:
                changed = step.memories[0]
                said[changed] = note(changed, step.about, sentences)
                scope.update(ids[changed], said[changed])
                continue
            ask(scope, [ids[each] for each in step.memories], policy is not None, tally)
            if number % 10 == 9:
                look_after(memos, tally)
        tally.lost = sum(scope.get(cube_id).text != text for cube_id, text in zip(ids, said, strict=True))
        memos.verify()
    return tally


def ask(scope: Scope, cube_ids: list[str], evolves: bool, tally: Tally) -> None:
    """Send one request and book it."""
    started = time.process_time()
    inject = "auto" if evolves else "text"
    reply = scope.chat("Which room?", memory_ids=cube_ids, inject=inject, max_tokens=1)
    tally.request_seconds += time.process_time() - started
    tally.requests += 1
    tally.prompt_tokens += reply.usage.prompt_tokens
    tally.served_tokens += reply.usage.memory_tokens
    tally.requests_served += reply.usage.memory_tokens > 0
    tally.answers.append(reply.text)


def look_after(memos: MemOS, tally: Tally) -> None:
    """Let a worker do what is due."""
    started = time.process_time()
    memos.run_pending()
    tally.background_seconds += time.process_time() - started
    tally.peak_blob_bytes = max(tally.peak_blob_bytes, int(str(memos.stats()["blob_bytes"])))


def figures(tally: Tally, base: Tally) -> dict[str, Any]:
    """Return what one replay came to, against the replay with text alone."""
    total = tally.request_seconds + tally.background_seconds
    same = sum(one == other for one, other in zip(tally.answers, base.answers, strict=True))
    return {
        "requests": tally.requests,
        "request_seconds": tally.request_seconds,
        "background_seconds": tally.background_seconds,
        "requests_to_text_alone": tally.request_seconds / base.request_seconds,
        "total_to_text_alone": total / (base.request_seconds + base.background_seconds),
        "share_of_requests_served_by_kv": tally.requests_served / tally.requests,
        "share_of_prompt_tokens_served_by_kv": tally.served_tokens / tally.prompt_tokens,
        "builds": tally.builds,
        "peak_blob_bytes": tally.peak_blob_bytes,
        "memories_lost": tally.lost,
        "answers_as_with_text": same / tally.requests,
    }


def main() -> None:
    """Replays all policies and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=int, default=6, help="simulated days")
    parser.add_argument("--requests", type=int, default=30, help="requests of a simulated day")
    parser.add_argument("--memories", type=int, default=40)
    parser.add_argument("--sentences", type=int, nargs="+", default=[1, 12], help="lengths of a memory")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "policy_replay.json")
    options = parser.parse_args()
    console, steps = Console(), trace(options)
    policies = {"text alone": (None, 2), "conservative": (CONSERVATIVE, 4), "aggressive": (AGGRESSIVE, 1)}
    shown = {name: policy.model_dump(mode="json") for name, (policy, _) in policies.items() if policy}
    result: dict[str, Any] = surroundings({**vars(options), "out": None, "policies": shown})
    result["sentences"] = {}
    for sentences in options.sentences:
        tallies = {name: replay(*policies[name], steps, sentences, options) for name in policies}
        replays = {name: figures(tally, tallies["text alone"]) for name, tally in tallies.items()}
        result["sentences"][sentences] = replays
        table = Table("figure", *replays, title=f"memories of {sentences} sentences", title_justify="left")
        for name in replays["text alone"]:
            cells = [replays[policy][name] for policy in replays]
            table.add_row(name, *(f"{cell:.3f}" if isinstance(cell, float) else f"{cell:,}" for cell in cells))
        console.print(table)
    options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    console.print(f"written to {options.out}")


if __name__ == "__main__":
    main()
