"""Do merges and splits that use speaks for help? Annotated questions with right feedback, and with an adversary.

    python benchmarks/restructuring.py --input locomo-dev.json.gz

For the first two thirds of each user's questions, in a random order, the evidence counts as used, and of a long memory
the part that the annotated answer is made of. Everything that is proposed is adopted, more than background work would
do. Then all questions are asked, of the memory as it was and of the reshaped one: ``new`` are those of the last third,
``again`` those that were learned from. Of a merged memory all its sources count as found, of a split one its source.
The adversary is the first user of a file, whose answers always use the same four wrong memories; nobody else's hits may
change by a bit. Intervals are of 1,000 bootstrap samples over questions.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from surroundings import surroundings

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from memos_core import LearningSettings, MemOS, Scope
from memos_core.infrastructure.vault import learning as rows
from memos_core.infrastructure.vault.learning import Recall, RecalledCube
from memos_core.interface.evidence import Evidence, Question, read_evidence
from memos_core.interface.ingest import ingest
from memos_core.interface.reader import MemReader
from memos_core.operation.learning.used import span_used
from memos_core.principal import Principal
from memos_core.testing import FakeClock
from tools.ranker.examples import KeptVectors, refs_of

RESULT = Path(__file__).parent / "results" / "restructuring.json"
DEPTH = 10
WRONG = 4
NOTED = LearningSettings(enabled=True, max_requests=10_000)


@dataclass(frozen=True, slots=True)
class Found:
    """What a search brought for one question: recall, characters of it, and the hits with their scores."""

    recall: float
    chars: int
    hits: tuple[tuple[str, float], ...]


def main() -> None:
    """Replays every file and keeps the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, action="append", required=True, help="annotated conversations")
    parser.add_argument("--vectors", type=Path, default=Path("recall-vectors.npz"), help="where to keep vectors")
    parser.add_argument("--out", type=Path, default=RESULT, help="file to write the figures to")
    options = parser.parse_args()
    embedder = KeptVectors(options.vectors)
    files = {path.name: replayed(path, embedder) for path in options.input}
    embedder.save()
    work = {"files": [path.name for path in options.input], "depth": DEPTH, "wrong memories": WRONG, "seed": 0}
    options.out.write_text(json.dumps({**surroundings(work), "files": files}, indent=2) + "\n")
    print(json.dumps(files, indent=1))


def replayed(path: Path, embedder: KeptVectors) -> dict[str, Any]:
    """Return what restructuring did to the recall of one file, and what an adversary did to the others."""
    evidence, clock = read_evidence(path), FakeClock()
    embedder.embed([question.text for question in evidence.questions])
    with (
        tempfile.TemporaryDirectory() as folder,
        MemOS.open(folder, embedder=embedder, clock=clock, learning=NOTED) as memos,
    ):
        ingest(memos, path)
        refs = {user: refs_of(memos.scope(user)) for user in evidence.turns}
        before = asked(memos, evidence, refs)
        adversary = next(iter(refs))
        attack(memos, adversary, evidence, refs, clock)
        theirs = adopted(memos.scope(adversary))
        attacked = asked(memos, evidence, refs)
        for cube_id in theirs:
            memos.scope(adversary).revert(cube_id)
        with memos._layers.vault.write() as session:
            rows.prune_recalls(session, adversary, keep=0, before=session.now)
        learned = teach(memos, evidence, refs, clock)
        made = {user: adopted(memos.scope(user)) for user in refs}
        after = asked(memos, evidence, refs)
    others = [number for number, one in enumerate(evidence.questions) if one.user != adversary]
    own = [number for number, one in enumerate(evidence.questions) if one.user == adversary]
    again = [number for number in range(len(evidence.questions)) if number in learned]
    new = [number for number in range(len(evidence.questions)) if number not in learned]
    return {
        "questions": len(evidence.questions),
        "memories": sum(map(len, refs.values())),
        "changes": sum(map(len, made.values())),
        "again": gain(before, after, again),
        "new": gain(before, after, new),
        "adversary": {
            "changes": len(theirs),
            "own": gain(before, attacked, own),
            "hits of others that changed": sum(before[n].hits != attacked[n].hits for n in others),
        },
    }


def asked(memos: MemOS, evidence: Evidence, refs: Mapping[str, Mapping[str, str | None]]) -> list[Found]:
    """Ask every question, without counting it as a use."""
    return [found(memos, evidence, question, refs[question.user]) for question in evidence.questions]


def found(memos: MemOS, evidence: Evidence, question: Question, refs: Mapping[str, str | None]) -> Found:
    layers, order = memos._layers, evidence.turns[question.user]
    before, extra = order.window(question.before)
    now = before or max(moment for moment in order.times.values() if moment is not None)
    read = MemReader().read(question.text, now=now)  # whatever time it is by now: "last week" means the same again
    call = read.model_copy(update={"k": DEPTH + extra, "before": before})
    hits = [
        (hit, {refs.get(cube_id) for cube_id, _ in hit.header.descriptive.lineage.sources} or {hit.ref})
        for hit in layers.operator.search(Principal(question.user), call)
    ]
    exist = [(hit, held) for hit, held in hits if any(order.exists(ref, question.before) for ref in held)][:DEPTH]
    held = {ref for _, own in exist for ref in own}
    recall = len(held.intersection(question.gold)) / len(question.gold)
    return Found(recall, sum(len(hit.text) for hit, _ in exist), tuple((hit.id, hit.score) for hit, _ in exist))


def teach(memos: MemOS, evidence: Evidence, refs: Mapping[str, Mapping[str, str | None]], clock: FakeClock) -> set[int]:
    """Note the first two thirds of each user's questions as answered from their evidence; return which these are."""
    learned: set[int] = set()
    for user in refs:
        ids = {ref: cube_id for cube_id, ref in refs[user].items()}
        numbers = [number for number, one in enumerate(evidence.questions) if one.user == user]
        order = Random(0).sample(numbers, len(numbers))[: len(numbers) * 2 // 3]
        learned |= set(order)
        noted = [(evidence.questions[n], [ids[ref] for ref in evidence.questions[n].gold if ref in ids]) for n in order]
        note(memos.scope(user), [(one, own) for one, own in noted if own], clock)
    return learned


def attack(
    memos: MemOS, user: str, evidence: Evidence, refs: Mapping[str, Mapping[str, str | None]], clock: FakeClock
) -> None:
    """Let every answer of a user use the same memories, short ones of one session, so that they may be merged."""
    scope = memos.scope(user)
    session = scope.get(min(refs[user])).session
    together = sorted(scope.list(limit=1000, filters={"session": session}), key=lambda cube: len(cube.text))
    wrong = [cube.id for cube in together[:WRONG]]
    note(scope, [(one, wrong) for one in evidence.questions if one.user == user], clock)


def note(scope: Scope, answered: Sequence[tuple[Question, Sequence[str]]], clock: FakeClock) -> None:
    """Write requests down whose answers used these memories."""
    layers, features = scope._layers, scope._layers.learning.features
    noted = []
    for question, cube_ids in answered:
        clock.advance(3600)
        cubes = tuple(used(scope, cube_id, question, len(cube_ids)) for cube_id in cube_ids)
        identity = layers.feedback.ids.new(clock.now())
        noted.append(Recall(identity, Principal(scope.user), clock.now(), question.text, "ask", features, (), cubes))
    with layers.vault.write() as session:
        rows.insert_recalls(session, noted)
    clock.advance(3600)


def used(scope: Scope, cube_id: str, question: Question, among: int) -> RecalledCube:
    text = scope.get(cube_id).text
    return RecalledCube(cube_id, (), 1 / among, span=span_used(question.answer, text, question.text))


def adopted(scope: Scope) -> list[str]:
    """Carry out all that is proposed, and return one memory that each change made."""
    made: list[str] = []
    touched: set[str] = set()
    for proposal in scope.proposals():
        if touched.isdisjoint(proposal.cube_ids):
            made.append(str(scope.adopt(proposal.id)[0].cube_id))
            touched.update(proposal.cube_ids)
    return made


def gain(before: Sequence[Found], after: Sequence[Found], numbers: Iterable[int]) -> dict[str, Any]:
    """Return how recall changed, with its interval, and how much longer what is found has become."""
    chosen = list(numbers)
    gains = np.array([after[n].recall - before[n].recall for n in chosen])
    rng = np.random.default_rng(0)
    samples = [gains[rng.integers(0, len(gains), len(gains))].mean() for _ in range(1000)]
    chars = sum(after[n].chars for n in chosen) / sum(before[n].chars for n in chosen)
    return {
        f"recall@{DEPTH}": round(float(np.mean([before[n].recall for n in chosen])), 4),
        "gain": [round(float(value), 4) for value in (gains.mean(), *np.percentile(samples, [2.5, 97.5]))],
        "questions changed": int(np.count_nonzero(gains)),
        "characters found": round(chars, 4),
    }


if __name__ == "__main__":
    main()
