"""Learns the weights of the search's ranker and writes them with what they reach.

    python tools/train_ranker.py --learn realmem-dev.json.gz --tune locomo-dev.json.gz

``--learn`` names annotated conversations whose licence lets weights made from them be passed on; conversations made by
program are learned from as well. From ``--tune`` ten numbers are taken and nothing else: by how much to multiply the
plain weights of ten signals. Recall on what is learned from is measured with each user held out in turn, of the weights
and of the ten numbers; ``--held-out`` keeps those weights for the benchmarks.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from memos_core.operation.finding.ranker import Ranker
from memos_core.operation.finding.signals import SIGNALS, SITUATION
from tools.ranker.assistance import make_assistance
from tools.ranker.examples import Example, KeptVectors, examples_of_file, examples_of_talks
from tools.ranker.fit import CUTOFFS, Packed, Penalty, fitted, packed
from tools.ranker.talks import make_talk
from tools.ranker.tune import stretch, tune

OUT = Path(__file__).resolve().parents[1] / "memos_core" / "operation" / "finding" / "data" / "ranker.json"
PENALTY = Penalty(plain=1e-3, bent=3e-2)
SHARES = {"learn": 1.0, "talks": 0.5, "talks without speakers": 0.2, "assistance": 0.1}
TALKS, CHATS = 10, 8
TRAINED_ON = (
    "RealMem (Apache-2.0) and conversations made by tools/ranker/talks.py and assistance.py; ten plain weights "
    "multiplied by numbers tuned on LoCoMo; see docs/search.md"
)


def main() -> None:
    """Learns, tunes, measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--learn", type=Path, required=True, help="annotated conversations to learn from")
    parser.add_argument("--tune", type=Path, required=True, help="annotated conversations to tune ten numbers on")
    parser.add_argument("--vectors", type=Path, default=Path("ranker-vectors.npz"), help="where to keep vectors")
    parser.add_argument("--out", type=Path, default=OUT, help="file of the weights")
    parser.add_argument("--held-out", type=Path, help="folder to write weights to that never saw one user, for each")
    options = parser.parse_args()
    torch.set_num_threads(1)
    embedder = KeptVectors(options.vectors)
    learning = Learning(
        packed(examples_of_file(options.learn, embedder)),
        {name: packed(examples) for name, examples in made_sets(embedder).items()},
        packed(examples_of_file(options.tune, embedder)),
    )
    ranker = learning.ranker()
    write(options.out, ranker)
    strangers = {user: learning.ranker(user) for user in learning.users}
    if options.held_out:
        options.held_out.mkdir(parents=True, exist_ok=True)
        for user, one in strangers.items():
            write(options.held_out / f"{user}.json", one)
    held_out = [learning.learn.of(learning.learn.groups == user).recalls(one) for user, one in strangers.items()]
    report = {
        "learned from, users held out of weights and factors": table(np.concatenate(held_out)),
        "tuned on": table(learning.dev.recalls(ranker)),
        **{name: table(of.recalls(ranker)) for name, of in learning.made.items()},
    }
    print(json.dumps(report, indent=1))


def write(path: Path, ranker: Ranker) -> None:
    path.write_text(json.dumps(described(ranker), indent=1) + "\n")


def made_sets(embedder: KeptVectors) -> dict[str, list[Example]]:
    """Return the questions of conversations made by program, by their kind."""
    talks = [make_talk(seed) for seed in range(1, TALKS + 1)]
    chats = [make_assistance(seed) for seed in range(1, CHATS + 1)]
    return {
        "talks": examples_of_talks(talks, embedder),
        "talks without speakers": examples_of_talks(talks, embedder, "no speakers"),
        "assistance": examples_of_talks(chats, embedder),
    }


class Learning:
    """What the ranker is made from.

    Attributes:
        learn: What is learned from, by users that can be held out.
        made: What else is.
        dev: What the factors are tuned on.
    """

    def __init__(self, learn: Packed, made: Mapping[str, Packed], dev: Packed) -> None:
        self.learn = learn
        self.made = made
        self.dev = dev

    @property
    def users(self) -> list[str]:
        return [str(user) for user in np.unique(self.learn.groups)]

    def ranker(self, stranger: str | None = None) -> Ranker:
        """Return a ranker of which neither the weights nor the factors saw the stranger."""
        seen = self.learn.of(self.learn.groups != stranger)
        plain = fitted({"learn": seen, **self.made}, SHARES, PENALTY)
        return stretch(plain, tune(lambda factors: self.worth(stretch(plain, factors), seen)))

    def worth(self, ranker: Ranker, seen: Packed) -> float:
        """Return what a ranker is worth: recall on what is tuned on, and on what was learned from."""
        tuned, learned = (of.recalls(ranker).mean(axis=0) for of in (self.dev, seen))
        return float(tuned[2] + 0.5 * tuned[1] + 0.5 * tuned[0] + learned[2] + 0.3 * learned[1])


def table(recalls: NDArray[np.float32]) -> dict[str, float]:
    means = {f"recall@{k}": round(float(mean), 4) for k, mean in zip(CUTOFFS, recalls.mean(axis=0), strict=True)}
    return {"questions": len(recalls), **means}


def described(ranker: Ranker) -> dict[str, Any]:
    """Return a ranker as its file holds it."""
    return {
        "format": 1,
        "trained_on": TRAINED_ON,
        "centre": named(ranker.centre),
        "scale": named(ranker.scale),
        "table": {signal: named(row) for signal, row in zip(SIGNALS, ranker.table, strict=True)},
    }


def named(row: Any) -> dict[str, float]:
    return {name: round(float(value), 4) for name, value in zip(SITUATION, row, strict=True)}


if __name__ == "__main__":
    main()
