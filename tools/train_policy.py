"""Fits the four numbers of the scheduler's ``learned`` policy and prints them.

    python tools/train_policy.py --learn realmem-dev.json.gz

Logistic regression of "this memory is evidence" on what the policy sees of the first 20 hits of each question, over the
conversations that are named and as many made by program.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from memos_core.operation.finding.ranker import Ranker
from memos_core.operation.policies.learned import WEIGHTS
from tools.ranker.examples import Example, KeptVectors, examples_of_file, examples_of_talks
from tools.ranker.talks import make_talk

DEPTH = 20


def main() -> None:
    """Fits and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--learn", type=Path, required=True, help="annotated conversations to learn from")
    parser.add_argument("--vectors", type=Path, default=Path("ranker-vectors.npz"), help="where to keep vectors")
    options = parser.parse_args()
    torch.set_num_threads(1)
    embedder = KeptVectors(options.vectors)
    learn = examples_of_file(options.learn, embedder)
    talks = examples_of_talks([make_talk(seed) for seed in range(1, 11)], embedder)
    print(dict(zip(WEIGHTS, fitted(*table([*learn, *talks])), strict=True)))


def table(examples: Sequence[Example]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what the policy sees of each hit, and whether it is evidence."""
    ranker, seen, gold = Ranker.load(), [], []
    for one in examples:
        scores = ranker.rank(one.signals, one.situation).scores
        first = np.argsort(-scores, kind="stable")[:DEPTH]
        best = float(scores[first[0]]) or 1.0
        seen += [(1.0, scores[row], scores[row] / best, np.log1p(rank)) for rank, row in enumerate(first)]
        gold += one.gold[first].tolist()
    return torch.tensor(seen, dtype=torch.float32), torch.tensor(gold, dtype=torch.float32)


def fitted(seen: torch.Tensor, gold: torch.Tensor) -> list[float]:
    weights = torch.zeros(seen.shape[1], requires_grad=True)
    optimiser = torch.optim.LBFGS([weights], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(seen @ weights, gold)
        loss = loss + 1e-4 * weights.square().sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    return [round(float(weight), 3) for weight in weights.detach()]


if __name__ == "__main__":
    main()
