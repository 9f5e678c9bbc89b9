"""What is kept when only a part of the memories may stay: the evidence of later questions, by the order of what goes.

    python benchmarks/importance.py --input locomo-dev.json.gz --input realmem-dev.json.gz

Each conversation is stored, ``Scope.tidy`` archives what is over a share of it, and the annotated questions are asked
of what is left. ``worth`` knows importance, and nothing else here, since nothing was used yet; ``age`` keeps the
newest. ``area`` is the chance that a turn that is evidence was given more importance than one that is not. Intervals
are of 1,000 bootstrap samples over questions. Time is that of the processor, for one text.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from surroundings import surroundings

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from memos_core import MemOS, RetentionPolicy, Scope
from memos_core.cube import MemCube
from memos_core.interface.evidence import Evidence, Question, TurnOrder, read_evidence
from memos_core.interface.ingest import ingest
from memos_core.operation.importance import importance_of
from tools.ranker.examples import KeptVectors
from tools.ranker.talks import Talk, make_talk

RESULT = Path(__file__).parent / "results" / "importance.json"
Order = Literal["age", "worth"]
ORDERS: tuple[Order, ...] = ("age", "worth")
SHARES = (0.5, 0.25)
DEPTH = 10


def main() -> None:
    """Measures every file and keeps the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, action="append", default=[], help="annotated conversations")
    parser.add_argument("--talks", type=int, default=6, help="conversations to make by program")
    parser.add_argument("--vectors", type=Path, default=Path("recall-vectors.npz"), help="where to keep vectors")
    parser.add_argument("--out", type=Path, default=RESULT, help="file to write the figures to")
    options = parser.parse_args()
    embedder = KeptVectors(options.vectors)
    files = {}
    for path in options.input:
        evidence = read_evidence(path)
        embedder.embed([question.text for question in evidence.questions])
        files[path.name] = measured(evidence, partial(ingest, path=path), embedder)
    if options.talks:
        talks = [make_talk(seed) for seed in range(101, 101 + options.talks)]
        files["made by program"] = measured(told(talks), partial(tell, talks=talks), embedder)
    embedder.save()
    work = {"files": [path.name for path in options.input], "talks": options.talks, "depth": DEPTH, "seed": 0}
    options.out.write_text(json.dumps({**surroundings(work), "files": files}, indent=2) + "\n")
    print(json.dumps(files, indent=1))


Fill = Callable[[MemOS], object]


def tell(memos: MemOS, talks: Sequence[Talk]) -> None:
    for talk in talks:
        memos.scope(talk.name).add_many([asdict(turn) for turn in talk.turns])


def told(talks: Sequence[Talk]) -> Evidence:
    """Return the questions of conversations made by program."""
    orders = {
        talk.name: TurnOrder(
            {turn.ref: number for number, turn in enumerate(talk.turns)}, {turn.ref: turn.at for turn in talk.turns}
        )
        for talk in talks
    }
    asked = [
        Question(one.text, talk.name, one.gold, "all", None, one.answer) for talk in talks for one in talk.questions
    ]
    return Evidence(tuple(asked), orders)


def measured(evidence: Evidence, fill: Fill, embedder: KeptVectors) -> dict[str, Any]:
    """Return what each order keeps of each share, and what the numbers are like."""
    gold = {(one.user, ref) for one in evidence.questions for ref in one.gold}
    with vault(fill, embedder) as memos:
        cubes = [(user, cube) for user in evidence.turns for cube in everything(memos.scope(user))]
    numbers = [(cube.header.descriptive.importance or 0.0, (user, cube.ref) in gold) for user, cube in cubes]
    kept = {
        f"{share:.2f}": {order: figures(evidence, fill, embedder, order, share) for order in ORDERS} for share in SHARES
    }
    gains = {share: gain(of["age"].pop("each"), of["worth"].pop("each")) for share, of in kept.items()}
    return {
        "memories": len(numbers),
        "evidence": sum(is_gold for _, is_gold in numbers),
        "questions": len(evidence.questions),
        "area": area(numbers),
        "microseconds a text": microseconds([cube.text for _, cube in cubes]),
        "kept": kept,
        f"gain of recall@{DEPTH}": gains,
    }


@contextmanager
def vault(fill: Fill, embedder: KeptVectors) -> Iterator[MemOS]:
    with tempfile.TemporaryDirectory() as folder, MemOS.open(folder, embedder=embedder) as memos:
        fill(memos)
        yield memos


def figures(evidence: Evidence, fill: Fill, embedder: KeptVectors, order: Order, share: float) -> dict[str, Any]:
    """Return the share of the evidence that stays, and recall of the questions, where ``share`` of all stays."""
    with vault(fill, embedder) as memos:
        staying = set()
        for user in evidence.turns:
            scope = memos.scope(user)
            scope.tidy(policy=RetentionPolicy(max_memories=round(share * scope.count()), order=order, slack=0))
            staying |= {(user, cube.ref) for cube in everything(scope)}
        recall = np.array([evidence.recall(memos, one, DEPTH).recall(DEPTH) for one in evidence.questions])
    wanted = [(one.user, ref) in staying for one in evidence.questions for ref in one.gold]
    return {
        "evidence kept": round(sum(wanted) / len(wanted), 4),
        f"recall@{DEPTH}": round(float(recall.mean()), 4),
        "each": recall,
    }


def gain(before: NDArray[np.float64], after: NDArray[np.float64]) -> list[float]:
    """Return the mean gain with its interval."""
    gains, rng = after - before, np.random.default_rng(0)
    samples = [gains[rng.integers(0, len(gains), len(gains))].mean() for _ in range(1000)]
    return [round(float(value), 4) for value in (gains.mean(), *np.percentile(samples, [2.5, 97.5]))]


def everything(scope: Scope) -> Iterator[MemCube]:
    cursor = None
    while True:
        page = scope.list(limit=1000, cursor=cursor)
        yield from page
        cursor = page.cursor
        if cursor is None:
            return


def area(numbers: Sequence[tuple[float, bool]]) -> float:
    values = np.array([number for number, _ in numbers])
    is_gold = np.array([flag for _, flag in numbers])
    apart = values[is_gold][:, None] - values[~is_gold][None, :]
    return round(float((apart > 0).mean() + (apart == 0).mean() / 2), 4)


def microseconds(texts: Sequence[str]) -> float:
    """Return the least processor time of five rounds, for one text."""
    rounds = []
    for _ in range(5):
        started = time.process_time()
        for text in texts:
            importance_of(text)
        rounds.append(time.process_time() - started)
    return round(1e6 * min(rounds) / len(texts), 1)


if __name__ == "__main__":
    main()
