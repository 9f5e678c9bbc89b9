"""Every policy of the scheduler on the same questions and under the same budget: right answers, evidence, tokens, time.

    python benchmarks/policy_answers.py [--talks 2] [--budget 300]

Long conversations made by program; the bundled reader answers what was said of single facts. An answer is right if it
holds the value. A quarter of the questions is asked before anything is measured, so that the policies that go by use
have something to go by. Evidence is counted in the plan that the answer was made from.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from surroundings import surroundings

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from memos_core import HFEngine, MemOS, Reply
from memos_core.interface.reader import MemReader
from memos_core.operation.policies import POLICIES
from memos_core.operation.scheduler import MemScheduler, SchedulerSettings
from tools.ranker.examples import KeptVectors
from tools.ranker.talks import Asked, Talk, make_talk

RESULT = Path(__file__).parent / "results" / "policy_answers.json"
CANDIDATES = 30


def main() -> None:
    """Lets the reader answer every question under every policy, and keeps the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--talks", type=int, default=2, help="conversations to make by program")
    parser.add_argument("--questions", type=int, default=24, help="questions of each that are measured, at most")
    parser.add_argument("--budget", type=int, default=300, help="tokens that memory may take")
    parser.add_argument("--vectors", type=Path, default=Path("recall-vectors.npz"), help="where to keep vectors")
    parser.add_argument("--out", type=Path, default=RESULT, help="file to write the figures to")
    options = parser.parse_args()
    embedder = KeptVectors(options.vectors)
    talks = [make_talk(seed, sessions=20) for seed in range(201, 201 + options.talks)]
    with tempfile.TemporaryDirectory() as folder, closing(HFEngine.from_pretrained("memos-reader")) as engine:
        prepare(Path(folder) / "vault", talks, embedder)
        embedder.save()
        figures = {
            name: measured(Path(folder), name, talks, embedder, engine=engine, options=options)
            for name in sorted(POLICIES)
        }
    print(json.dumps(figures, indent=1))
    work = {
        "talks": options.talks,
        "turns": [len(talk.turns) for talk in talks],
        "questions": options.questions,
        "budget_tokens": options.budget,
        "candidates": CANDIDATES,
        "seed": 201,
    }
    options.out.write_text(json.dumps({**surroundings(work), "policies": figures}, indent=2) + "\n")


def prepare(path: Path, talks: Sequence[Talk], embedder: KeptVectors) -> None:
    """Store the conversations and ask every fourth question, so that memories have been used."""
    with MemOS.open(path, embedder=embedder) as memos:
        for talk in talks:
            scope = memos.scope(talk.name)
            scope.add_many([asdict(turn) for turn in talk.turns])
            for asked in answerable(talk)[::4]:
                scope.search(asked.text, k=5)


def answerable(talk: Talk) -> list[Asked]:
    return [asked for asked in talk.questions if asked.answer]


def measured(
    folder: Path, name: str, talks: Sequence[Talk], embedder: KeptVectors, *, engine: HFEngine, options: Any
) -> dict[str, float]:
    """Return what one policy comes to, on a copy of the vault: asking leaves traces that others must not see."""
    copy = folder / name
    shutil.copytree(folder / "vault", copy)
    scheduler = MemScheduler(SchedulerSettings(policy=name))
    found: list[tuple[bool, float, Reply, float]] = []
    with MemOS.open(
        copy, embedder=embedder, engine=engine, scheduler=scheduler, reader=MemReader(k=CANDIDATES)
    ) as memos:
        for talk in talks:
            scope = memos.scope(talk.name)
            rest = [asked for number, asked in enumerate(answerable(talk)) if number % 4]
            for asked in rest[: options.questions]:
                started = time.process_time()
                reply = scope.chat(asked.text, inject="text", memory_budget=options.budget, max_tokens=16)
                seconds = time.process_time() - started
                refs = {memory.cube.ref for memory in reply.plan.memories}
                right = asked.answer.casefold() in reply.text.casefold()
                found.append((right, len(refs.intersection(asked.gold)) / len(asked.gold), reply, seconds))
    mean: Any = lambda values: round(float(np.mean(list(values))), 4)  # noqa: E731
    return {
        "questions": len(found),
        "right": mean(right for right, _, _, _ in found),
        "evidence_in_plan": mean(share for _, share, _, _ in found),
        "right_where_evidence_is": mean([right for right, share, _, _ in found if share] or [0.0]),
        "memories": mean(len(reply.plan.memories) for _, _, reply, _ in found),
        "prompt_tokens": mean(reply.usage.prompt_tokens for _, _, reply, _ in found),
        "cpu_ms": round(1000 * float(np.mean([seconds for *_, seconds in found])), 1),
    }


if __name__ == "__main__":
    main()
