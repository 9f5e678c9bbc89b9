"""Every policy of the scheduler on the same questions and under the same budget: evidence in the plan, tokens, time.

    python benchmarks/policy.py --input CONVERSATIONS.json.gz [--budget 400]

The candidates are the first 30 hits of each question. A quarter of the questions is asked before anything is measured,
so that the policies that go by use have something to go by. Tokens are counted as four characters each.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from surroundings import surroundings

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from memos_core import Hit, MemOS
from memos_core.interface.evidence import Evidence, Question, read_evidence
from memos_core.interface.ingest import ingest
from memos_core.operation.policies import POLICIES
from memos_core.operation.scheduler import MemScheduler, SchedulerSettings
from tools.ranker.examples import KeptVectors

RESULT = Path(__file__).parent / "results" / "policy.json"
CANDIDATES = 30


def main() -> None:
    """Plans every question by every policy and keeps the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, action="append", required=True, help="annotated conversations")
    parser.add_argument("--budget", type=int, default=400, help="tokens that memory may take")
    parser.add_argument("--vectors", type=Path, default=Path("recall-vectors.npz"), help="where to keep vectors")
    parser.add_argument("--out", type=Path, default=RESULT, help="file to write the figures to")
    options = parser.parse_args()
    embedder = KeptVectors(options.vectors)
    files = {}
    for path in options.input:
        evidence = read_evidence(path)
        with tempfile.TemporaryDirectory() as folder, MemOS.open(folder, embedder=embedder) as memos:
            ingest(memos, path)
            found = [(one, hits(memos, evidence, one)) for one in asked_first(memos, evidence)]
            files[path.name] = {name: planned(name, found, options.budget) for name in POLICIES}
        print(path.name, json.dumps(files[path.name], indent=1), flush=True)
    work = {"files": [path.name for path in options.input], "budget_tokens": options.budget, "candidates": CANDIDATES}
    options.out.write_text(json.dumps({**surroundings(work), "files": files}, indent=2) + "\n")


def asked_first(memos: MemOS, evidence: Evidence) -> Sequence[Question]:
    """Ask every fourth question, so that memories have been used, and return the others."""
    for question in evidence.questions[::4]:
        memos.scope(question.user).search(question.text, k=5)
    memos.run_pending()
    return [one for number, one in enumerate(evidence.questions) if number % 4]


def hits(memos: MemOS, evidence: Evidence, question: Question) -> list[Hit]:
    order = evidence.turns[question.user]
    before, extra = order.window(question.before)
    found = memos.scope(question.user).search(question.text, k=CANDIDATES + extra, before=before)
    return [hit for hit in found if order.exists(hit.ref, question.before)][:CANDIDATES]


def planned(name: str, found: Sequence[tuple[Question, list[Hit]]], budget: int) -> dict[str, float]:
    """Return what one policy comes to."""
    scheduler = MemScheduler(SchedulerSettings(policy=name))
    shares, tokens, memories, seconds = [], [], [], 0.0
    for question, candidates in found:
        started = time.process_time()
        plan = scheduler.plan(candidates, inject="text", budget_tokens=budget, count_tokens=quarter)
        seconds += time.process_time() - started
        refs = {memory.cube.ref for memory in plan.memories}
        shares.append(len(refs.intersection(question.gold)) / len(question.gold))
        tokens.append(plan.tokens)
        memories.append(len(plan.memories))
    mean: Any = lambda values: round(float(np.mean(values)), 4)  # noqa: E731
    return {
        "questions": len(found),
        "evidence_in_plan": mean(shares),
        "tokens": mean(tokens),
        "memories": mean(memories),
        "cpu_ms": round(seconds / len(found) * 1000, 3),
    }


def quarter(text: str) -> int:
    return -(-len(text) // 4)


if __name__ == "__main__":
    main()
