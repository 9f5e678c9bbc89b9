"""Learns the weights of the search's ranker and writes them with what they reach.

    python tools/train_ranker.py --learn realmem-dev.json.gz --tune locomo-dev.json.gz

``--learn`` names annotated conversations whose licence lets weights made from them be passed on; conversations made by
program are learned from as well. From ``--tune`` ten numbers are taken and nothing else: by how much to multiply the
plain weights of ten signals. Recall on what is learned from is measured with each user held out in turn.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from memos_core.operation.finding.ranker import Ranker
from memos_core.operation.finding.signals import SIGNALS, SITUATION
from tools.ranker.examples import Example, KeptVectors, examples_of_file, examples_of_talks
from tools.ranker.fit import CUTOFFS, Penalty, fit, recall
from tools.ranker.talks import make_talk
from tools.ranker.tune import stretch, tune

OUT = Path(__file__).resolve().parents[1] / "memos_core" / "operation" / "finding" / "data" / "ranker.json"
PENALTY = Penalty(plain=1e-3, bent=3e-2)
SHARES = {"learn": 1.0, "talks": 0.3}
TRAINED_ON = (
    "RealMem (Apache-2.0) and {talks} conversations made by tools/ranker/talks.py; ten plain weights multiplied by "
    "numbers tuned on LoCoMo; see docs/search.md"
)


def main() -> None:
    """Learns, tunes, measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--learn", type=Path, required=True, help="annotated conversations to learn from")
    parser.add_argument("--tune", type=Path, required=True, help="annotated conversations to tune ten numbers on")
    parser.add_argument("--talks", type=int, default=10, help="conversations to make by program")
    parser.add_argument("--vectors", type=Path, default=Path("ranker-vectors.npz"), help="where to keep vectors")
    parser.add_argument("--out", type=Path, default=OUT, help="file of the weights")
    options = parser.parse_args()
    torch.set_num_threads(1)
    embedder = KeptVectors(options.vectors)
    learn = examples_of_file(options.learn, embedder)
    dev = examples_of_file(options.tune, embedder)
    talks = examples_of_talks([make_talk(seed) for seed in range(1, options.talks + 1)], embedder)
    ranker = fit({"learn": learn, "talks": talks}, SHARES, PENALTY)
    folds = held_out(learn, talks)
    factors = tune(lambda tried: worth(ranker, folds, dev, tried))
    options.out.write_text(json.dumps(described(stretch(ranker, factors), options.talks), indent=1) + "\n")
    report = {
        "factors": factors,
        "learned from, users held out": table([recall(stretch(one, factors), e) for one, part in folds for e in part]),
        "tuned on": table([recall(stretch(ranker, factors), one) for one in dev]),
        "tuned on, before tuning": table([recall(ranker, one) for one in dev]),
        "talks": table([recall(stretch(ranker, factors), one) for one in talks]),
    }
    print(json.dumps(report, indent=1))


Fold = tuple[Ranker, list[Example]]


def held_out(learn: Sequence[Example], talks: Sequence[Example]) -> list[Fold]:
    """Return for each user the ranker that never saw that user, with the user's questions."""
    folds = []
    for user in sorted({one.group for one in learn}):
        seen = [one for one in learn if one.group != user]
        ranker = fit({"learn": seen, "talks": talks}, SHARES, PENALTY)
        folds.append((ranker, [one for one in learn if one.group == user]))
    return folds


def worth(ranker: Ranker, folds: Sequence[Fold], dev: Sequence[Example], factors: Mapping[str, float]) -> float:
    """Return what the factors are worth: recall on what is tuned on, and on users held out."""
    tuned = np.mean([recall(stretch(ranker, factors), one) for one in dev], axis=0)
    held = np.mean([recall(stretch(one, factors), e) for one, part in folds for e in part], axis=0)
    return float(tuned[2] + 0.5 * tuned[1] + 0.5 * tuned[0] + held[2] + 0.3 * held[1])


def table(recalls: Sequence[Sequence[float]]) -> dict[str, float]:
    means = np.mean(recalls, axis=0)
    return {
        "questions": len(recalls),
        **{f"recall@{k}": round(float(m), 4) for k, m in zip(CUTOFFS, means, strict=True)},
    }


def described(ranker: Ranker, talks: int) -> dict[str, Any]:
    """Return a ranker as its file holds it."""
    return {
        "format": 1,
        "trained_on": TRAINED_ON.format(talks=talks),
        "centre": named(ranker.centre),
        "scale": named(ranker.scale),
        "table": {signal: named(row) for signal, row in zip(SIGNALS, ranker.table, strict=True)},
    }


def named(row: Any) -> dict[str, float]:
    return {name: round(float(value), 4) for name, value in zip(SITUATION, row, strict=True)}


if __name__ == "__main__":
    main()
