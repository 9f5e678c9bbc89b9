"""Does the ranking get better by what was used? Streams of questions replayed with noisy feedback, learning on and off.

    python benchmarks/improvement.py --input locomo-dev.json.gz --input realmem-dev.json.gz \\
        --held-out realmem-dev.json.gz

Each user's questions come in several random orders. After a question the first ``SHOWN`` memories are given to a model,
so to speak, and the evidence among them counts as used; for ``--wrong`` of the requests another memory counts instead.
Every ``EVERY`` requests the scope learns, by the code that a job runs. Recall of the same questions with and without
learning is compared in thirds of each stream; intervals are of 1,000 bootstrap samples over questions. Conversations
made by program ask each question three times, in other words. An adversary gives inverted feedback.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray
from surroundings import surroundings

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from memos_core import MemOS
from memos_core.infrastructure.vault.learning import Recall, RecalledCube
from memos_core.interface.evidence import read_evidence
from memos_core.interface.ingest import ingest
from memos_core.interface.reader import MemReader
from memos_core.operation.finding.ranker import Ranker
from memos_core.operation.finding.search import Look
from memos_core.operation.learning.experience import Experience, past_of
from memos_core.operation.learning.fitting import Trust, fitted
from memos_core.operation.learning.lessons import lessons_of, uses_of
from memos_core.principal import Principal
from tools.ranker.examples import KeptVectors, examples_of_file, examples_of_talks, refs_of
from tools.ranker.talks import make_talk

RESULT = Path(__file__).parent / "results" / "improvement.json"
CUTOFFS = (1, 5, 10)
SHOWN = 8
EVERY = 20
KEPT = 120
"""Passages of a look that are kept for the replay: the first by the shipped weights."""


@dataclass(frozen=True)
class Asked:
    """One question with everything that its ranking rests on.

    Attributes:
        signals: Shape ``[passages, signals]``.
        situation: Shape ``[situation]``.
        vector: Of the question.
        cubes: Id of each passage's memory.
        gold: Ids of the memories that hold the evidence.
        wanted: How many pieces of evidence there are.
    """

    signals: NDArray[np.float32]
    situation: NDArray[np.float32]
    vector: NDArray[np.float32] | None
    cubes: tuple[str, ...]
    gold: frozenset[str]
    wanted: int


@dataclass(frozen=True)
class Noise:
    """How wrong feedback is.

    Attributes:
        wrong: Share of the requests that are misread.
        flips: Instead of one other memory per misread request, each single memory is misread with this chance.
        inverted: Everything is the other way round.
        learns: Whether anything is learned.
    """

    wrong: float = 0.2
    flips: float = 0.0
    inverted: bool = False
    learns: bool = True


def main() -> None:
    """Replays every stream and keeps the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, action="append", default=[], help="annotated conversations")
    parser.add_argument("--held-out", type=Path, action="append", default=[], help="which of them to hold users out of")
    parser.add_argument("--talks", type=int, default=6, help="conversations to make by program")
    parser.add_argument("--orders", type=int, default=3, help="random orders of each stream")
    parser.add_argument("--wrong", type=float, default=0.2, help="share of requests whose feedback is wrong")
    parser.add_argument("--vectors", type=Path, default=Path("recall-vectors.npz"), help="where to keep vectors")
    parser.add_argument("--out", type=Path, default=RESULT, help="file to write the figures to")
    options = parser.parse_args()
    embedder = KeptVectors(options.vectors)
    streams = {path.name: dict(streams_of_file(path, embedder, path in options.held_out)) for path in options.input}
    if options.talks:
        streams["made by program, each fact asked three times"] = dict(streams_of_talks(options.talks, embedder))
    embedder.save()
    files: dict[str, Any] = {}
    for name, users in streams.items():
        kinds = {
            "learning": Noise(options.wrong),
            "learning, feedback right": Noise(0.0),
            "learning, each memory misread with this chance": Noise(0.0, flips=options.wrong),
            "adversary": Noise(0.0, inverted=True),
        }
        files[name] = {kind: measured(users, noise, options.orders) for kind, noise in kinds.items()}
        print(name, json.dumps(files[name], indent=1), flush=True)
    work = {
        "files": [path.name for path in options.input],
        "users_held_out_of_the_shipped_weights": [path.name for path in options.held_out],
        "talks": options.talks,
        "orders": options.orders,
        "wrong": options.wrong,
        "shown": SHOWN,
        "learns_every": EVERY,
        "trust": asdict(Trust()),
        "seed": 0,
    }
    options.out.write_text(json.dumps({**surroundings(work), "streams": files}, indent=2) + "\n")


Stream = tuple[Ranker, list[Asked]]


def streams_of_file(path: Path, embedder: KeptVectors, held_out: bool) -> Iterator[tuple[str, Stream]]:
    """Yield each user's questions with the ranker that serves them; held out, one that never saw the user."""
    evidence = read_evidence(path)
    embedder.embed([question.text for question in evidence.questions])
    rankers = dict(held_out_rankers(path, embedder)) if held_out else {}
    with tempfile.TemporaryDirectory() as folder, MemOS.open(folder, embedder=embedder) as memos:
        ingest(memos, path)
        for user, order in evidence.turns.items():
            ids = {ref: cube_id for cube_id, ref in refs_of(memos.scope(user)).items()}
            ranker, asked = rankers.get(user, Ranker.load()), []
            times = [moment for moment in order.times.values() if moment is not None]
            for question in (one for one in evidence.questions if one.user == user):
                before, _ = order.window(question.before)
                call = MemReader().read(question.text, now=before or max(times)).model_copy(update={"before": before})
                look = memos._layers.operator.finder.look(Principal(user), call)
                exists = {ids[ref] for ref in order.order if order.exists(ref, question.before) and ref in ids}
                gold = frozenset(ids[ref] for ref in question.gold if ref in ids)
                asked.append(asked_of(look, ranker, gold, len(question.gold), exists))
            yield user, (ranker, asked)


def held_out_rankers(path: Path, embedder: KeptVectors) -> Iterator[tuple[str, Ranker]]:
    from tools.ranker.fit import fit
    from tools.train_ranker import PENALTY, SHARES

    learn = examples_of_file(path, embedder)
    talks = examples_of_talks([make_talk(seed) for seed in range(1, 11)], embedder)
    for user in sorted({one.group for one in learn}):
        yield user, fit({"learn": [one for one in learn if one.group != user], "talks": talks}, SHARES, PENALTY)


def streams_of_talks(count: int, embedder: KeptVectors) -> Iterator[tuple[str, Stream]]:
    """Yield conversations whose questions are each asked three times, in other words where there are any."""
    ranker = Ranker.load()
    for seed in range(101, 101 + count):
        versions = [make_talk(seed, sessions=20, wording=wording) for wording in range(3)]
        with tempfile.TemporaryDirectory() as folder, MemOS.open(folder, embedder=embedder) as memos:
            scope = memos.scope(f"talk-{seed}")
            scope.add_many([asdict(turn) for turn in versions[0].turns])
            ids = {ref: cube_id for cube_id, ref in refs_of(scope).items()}
            asked = []
            for question in (one for version in versions for one in version.questions):
                call = MemReader().read(question.text, now=versions[0].turns[-1].at + timedelta(days=1))
                look = memos._layers.operator.finder.look(Principal(scope.user), call)
                gold = frozenset(ids[ref] for ref in question.gold)
                asked.append(asked_of(look, ranker, gold, len(question.gold), set(ids.values())))
            yield scope.user, (ranker, asked)


def asked_of(look: Look, ranker: Ranker, gold: frozenset[str], wanted: int, exists: set[str]) -> Asked:
    """Return what of a look is kept: the first passages by the shipped weights, of what exists yet."""
    survey = look.survey
    cubes = [survey.cube_ids[number] for number in survey.rows["cube"].tolist()]
    scores = look.signals @ ranker.weights(look.situation)
    order = [row for row in np.argsort(-scores, kind="stable").tolist() if cubes[row] in exists][:KEPT]
    kept = tuple(cubes[row] for row in order)
    return Asked(look.signals[order], look.situation, look.vector, kept, gold, wanted)


def measured(users: Mapping[str, Stream], noise: Noise, orders: int) -> dict[str, Any]:
    """Return recall with and without learning, in thirds of the streams, and how far weights have moved."""
    thirds: list[list[NDArray[np.float64]]] = [[], [], []]
    base, moved = [], []
    for ranker, asked in users.values():
        for seed in range(orders):
            order = Random(seed).sample(asked, len(asked))
            without, _ = replayed(ranker, order, replace(noise, learns=False), seed)
            learned, added = replayed(ranker, order, noise, seed)
            gains = learned - without
            for number in range(3):
                thirds[number].append(gains[len(gains) * number // 3 : len(gains) * (number + 1) // 3])
            base.append(without)
            moved.append(float(np.linalg.norm(added) / np.linalg.norm(ranker.table[:, 0])))
    return {
        "without": named(np.concatenate(base).mean(axis=0)),
        "gain by thirds": [gain_of(np.concatenate(part)) for part in thirds],
        "weights moved by, share of the shipped": round(float(np.mean(moved)), 4),
        "most": round(max(moved), 4),
    }


def replayed(ranker: Ranker, asked: Sequence[Asked], noise: Noise, seed: int) -> tuple[NDArray[np.float64], Any]:
    """Return recall of each question, shape ``[questions, cutoffs]``, and what was added to the weights at last."""
    rng = Random(seed)
    experience, recalls, found = Experience(), [], []
    start = datetime(2026, 1, 1, tzinfo=UTC)
    for number, one in enumerate(asked):
        ranking = experience.rank(ranker, one.signals, one.situation, lambda row, of=one: of.cubes[row], one.vector)
        rows = first_rows(one, ranking.scores)
        refs = [one.cubes[row] for row in rows]
        found.append([len(one.gold.intersection(refs[:k])) / one.wanted for k in CUTOFFS])
        if not noise.learns:
            continue
        used = used_of([ref in one.gold for ref in refs[:SHOWN]], noise, rng)
        cubes = [
            RecalledCube(one.cubes[row], padded(ranking.signals[row]), 1.0 if flag else 0.0)
            for row, flag in zip(rows[:SHOWN], used, strict=False)
        ]
        at = start + timedelta(hours=number)
        recalls.append(
            Recall(
                str(number),
                Principal("u"),
                at,
                str(number),
                "ask",
                "f",
                tuple(one.situation.tolist()),
                tuple(cubes),
                vector=one.vector,
            )
        )
        if (number + 1) % EVERY == 0:
            experience = learned_from(ranker, recalls)
    return np.array(found), experience.added


def learned_from(ranker: Ranker, recalls: Sequence[Recall]) -> Experience:
    """Return what the job would put in use."""
    lessons = list(lessons_of(recalls, {}, features="f", follow_seconds=600))
    fit = fitted(lessons, ranker, Trust())
    return Experience(1, fit.added.astype(np.float32), past_of(recalls, uses_of(recalls, {}, follow_seconds=600)))


def first_rows(one: Asked, scores: NDArray[np.float32]) -> list[int]:
    """Return the first passage of each memory, best first."""
    seen: dict[str, int] = {}
    for row in np.argsort(-scores, kind="stable").tolist():
        seen.setdefault(one.cubes[row], row)
    return list(seen.values())


def used_of(gold: Sequence[bool], noise: Noise, rng: Random) -> list[bool]:
    """Return which of the shown memories count as used."""
    used = [flag != (rng.random() < noise.flips) for flag in gold]
    if gold and rng.random() < noise.wrong:
        other = rng.randrange(len(gold))
        used = [number == other for number in range(len(gold))]
    return [not flag for flag in used] if noise.inverted else used


def padded(signals: NDArray[np.float32]) -> tuple[float, ...]:
    from memos_core.operation.learning.experience import ALL_SIGNALS

    own = signals.tolist()
    return (*own, *[0.0] * (len(ALL_SIGNALS) - len(own)))


def gain_of(gains: NDArray[np.float64]) -> dict[str, Any]:
    """Return the mean gain at each cutoff with its interval."""
    rng = np.random.default_rng(0)
    samples = np.array([gains[rng.integers(0, len(gains), len(gains))].mean(axis=0) for _ in range(1000)])
    low, high = np.percentile(samples, [2.5, 97.5], axis=0)
    return {
        f"recall@{k}": [round(float(gains[:, n].mean()), 4), round(float(low[n]), 4), round(float(high[n]), 4)]
        for n, k in enumerate(CUTOFFS)
    }


def named(values: Any) -> dict[str, float]:
    return {f"recall@{k}": round(float(value), 4) for k, value in zip(CUTOFFS, values, strict=True)}


if __name__ == "__main__":
    main()
