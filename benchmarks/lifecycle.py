"""Aggressive expiry under a high volume of updates, for hours of simulated time: size, search speed, recall, leaks.

Memories of low priority come and change all the time and live for minutes; some facts of high priority are there
from the beginning, and as similar to the others as can be. The same stream runs with a retention policy that erases
what has expired, and without one; both hide what has expired from every search. At the end of each hour the ledger is
measured, and questions for the facts are asked and timed, in processor time of this process.

    python benchmarks/lifecycle.py                        four hours, 8 new memories and 8 updates a minute
    python benchmarks/lifecycle.py --hours 24 --rate 60   more of it
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from surroundings import surroundings

from memos_core import MemOS, RetentionPolicy, Scope
from memos_core.testing import FakeClock, HashEmbedder

ROOT = Path(__file__).resolve().parents[1]
MINUTE, HOUR = 60.0, 3600.0
PLACES = (
    "north gate",
    "south gate",
    "boiler room",
    "library",
    "garage",
    "laboratory",
    "archive",
    "canteen",
    "roof",
    "yard",
)
THINGS = (
    "door code",
    "alarm code",
    "locker number",
    "fuse box",
    "spare key",
    "meter reading",
    "contact",
    "opening hour",
)
POLICY = RetentionPolicy(erase_expired_seconds=10 * MINUTE, keep_audit_seconds=30 * MINUTE, every_seconds=10 * MINUTE)


@dataclass(frozen=True, slots=True)
class Hour:
    """How the vault stood at the end of one simulated hour."""

    hour: int
    active: int
    stored: int
    ledger_bytes: int
    search_p50_ms: float
    search_p95_ms: float
    recall_at_1: float
    recall_at_5: float
    expired_found: int


@dataclass(slots=True)
class Stream:
    """Makes memories and keeps the books on them.

    Attributes:
        facts: Question to the id of the memory that answers it.
        fleeting: Ids of memories of low priority and when each expires, in simulated seconds.
    """

    scope: Scope
    clock: FakeClock
    chance: random.Random
    facts: dict[str, str]
    fleeting: dict[str, float]
    now: float = 0.0

    def settle(self, count: int) -> None:
        """Store the facts of high priority."""
        for number in range(count):
            place, thing = f"{self.chance.choice(PLACES)} {number}", self.chance.choice(THINGS)
            text = f"The {thing} of the {place} is {self.chance.randrange(10**6):06d}."
            self.facts[f"What is the {thing} of the {place}?"] = self.store(text, tags=["important"])

    def minute(self, rate: int) -> None:
        """Let one minute pass, with as many new memories as updates of living ones."""
        for _ in range(rate):
            ttl = self.chance.uniform(5, 30) * MINUTE
            self.fleeting[self.store(self.passing(), ttl_seconds=ttl)] = self.now + ttl
        living = [cube_id for cube_id, ends in self.fleeting.items() if ends > self.now]
        for cube_id in self.chance.sample(living, min(rate, len(living))):
            self.scope.update(cube_id, self.passing())
        self.clock.advance(MINUTE)
        self.now += MINUTE

    def passing(self) -> str:
        place, thing = f"{self.chance.choice(PLACES)} {self.chance.randrange(10**4)}", self.chance.choice(THINGS)
        return f"Someone asked for the {thing} of the {place} at {self.chance.randrange(10**9)}."

    def store(self, text: str, **fields: Any) -> str:
        cube_id = self.scope.add(text, **fields).cube_id
        assert cube_id is not None
        return cube_id


def measure(memos: MemOS, stream: Stream, hour: int, questions: int) -> Hour:
    """Ask for facts, and see how the vault stands."""
    asked = stream.chance.sample(sorted(stream.facts), min(questions, len(stream.facts)))
    seconds, ranks, leaks = [], [], 0
    for question in asked:
        started = time.process_time()
        hits = stream.scope.search(question, k=5)
        seconds.append(time.process_time() - started)
        ids = [hit.id for hit in hits]
        ranks.append(ids.index(stream.facts[question]) if stream.facts[question] in ids else len(ids))
        leaks += sum(stream.fleeting.get(each, stream.now + 1) <= stream.now for each in ids)
    stats = memos.stats()
    ordered = sorted(seconds)
    return Hour(
        hour=hour,
        active=stream.scope.count(),
        stored=int(str(stats["cubes"])),
        ledger_bytes=int(str(stats["ledger_bytes"])),
        search_p50_ms=1000 * statistics.median(ordered),
        search_p95_ms=1000 * ordered[int(0.95 * (len(ordered) - 1))],
        recall_at_1=statistics.fmean(rank < 1 for rank in ranks),
        recall_at_5=statistics.fmean(rank < 5 for rank in ranks),
        expired_found=leaks,
    )


def run(policy: RetentionPolicy | None, options: argparse.Namespace, tell: Callable[[Hour], None]) -> dict[str, Any]:
    """Run the stream through a fresh vault and return its hours."""
    clock, hours = FakeClock(), []
    with (
        tempfile.TemporaryDirectory() as folder,
        MemOS.open(folder, embedder=HashEmbedder(), clock=clock, retention=policy) as memos,
    ):
        stream = Stream(memos.scope(user="ada"), clock, random.Random(options.seed), {}, {})
        stream.settle(options.facts)
        started = time.process_time()
        for hour in range(1, options.hours + 1):
            for minute in range(60):
                stream.minute(options.rate)
                if minute % 10 == 9:
                    memos.run_pending()
            hours.append(measure(memos, stream, hour, options.questions))
            tell(hours[-1])
        seconds = time.process_time() - started
        memos.verify()
    changes = 2 * options.rate * 60 * options.hours
    return {
        "hours": [asdict(hour) for hour in hours],
        "size_last_to_first_hour": hours[-1].ledger_bytes / hours[0].ledger_bytes,
        "search_last_to_first_hour": hours[-1].search_p50_ms / hours[0].search_p50_ms,
        "recall_at_1_lowest": min(hour.recall_at_1 for hour in hours),
        "recall_at_5_lowest": min(hour.recall_at_5 for hour in hours),
        "expired_found": sum(hour.expired_found for hour in hours),
        "changes": changes,
        "changes_per_processor_second": changes / seconds,
    }


def main() -> None:
    """Measures both and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=int, default=4, help="simulated hours")
    parser.add_argument("--rate", type=int, default=8, help="new memories, and updates, in a simulated minute")
    parser.add_argument("--facts", type=int, default=200, help="memories of high priority")
    parser.add_argument("--questions", type=int, default=100, help="questions at the end of each hour")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "lifecycle.json")
    options = parser.parse_args()
    console = Console()
    names = list(Hour.__slots__)
    result: dict[str, Any] = surroundings({**vars(options), "out": None, "policy": POLICY.model_dump(mode="json")})
    for name, policy in (("erasing what expired", POLICY), ("hiding what expired", None)):
        table = Table(*names, title=name, title_justify="left")

        def tell(hour: Hour, table: Table = table) -> None:
            cells = (f"{value:.3f}" if isinstance(value, float) else f"{value:,}" for value in asdict(hour).values())
            table.add_row(*cells)

        result[name.replace(" ", "_")] = run(policy, options, tell)
        console.print(table)
    options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    console.print(f"written to {options.out}")


if __name__ == "__main__":
    main()
