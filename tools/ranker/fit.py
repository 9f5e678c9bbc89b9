"""The fit: which weights put the evidence first.

Loss: cross entropy between the softmax over a question's candidates and the evidence among them (ListNet, Cao et al.,
ICML 2007), averaged over the questions of each set, plus squares of the weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from memos_core.operation.finding.ranker import Ranker
from memos_core.operation.finding.signals import SIGNALS, SITUATION
from tools.ranker.examples import Example

__all__ = ["CUTOFFS", "Penalty", "fit", "recall", "recall_table"]

CUTOFFS = (1, 5, 10)
CANDIDATES = 128
FIRST_LOOK = [SIGNALS.index(name) for name in ("words", "coverage", "meaning", "around")]


@dataclass(frozen=True, slots=True)
class Penalty:
    """How much the squares of weights cost.

    Attributes:
        plain: Of the weights that do not depend on the situation.
        bent: Of those that do; None: there are none.
    """

    plain: float = 1e-4
    bent: float | None = 1e-2


def fit(sets: Mapping[str, Sequence[Example]], shares: Mapping[str, float], penalty: Penalty | None = None) -> Ranker:
    """Return the ranker that fits the examples of all ``sets``, each weighed by its share."""
    penalty = penalty or Penalty()
    situations = np.concatenate([np.stack([one.situation for one in examples]) for examples in sets.values()])
    centre, scale = situations.mean(axis=0), np.maximum(situations.std(axis=0), 1e-2)
    centre[0], scale[0] = 0.0, 1.0
    packed = [(shares[name], *pack(examples, centre, scale)) for name, examples in sets.items()]
    table = torch.zeros(len(SIGNALS), len(SITUATION), requires_grad=True)
    free = torch.ones_like(table)
    if penalty.bent is None:
        free[:, 1:] = 0
    optimiser = torch.optim.LBFGS([table], max_iter=150, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        used = table * free
        loss = sum(share * listwise(used, *rest) for share, *rest in packed)
        loss = loss + penalty.plain * used[:, 0].square().sum() + (penalty.bent or 0) * used[:, 1:].square().sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    return Ranker(
        (table * free).detach().numpy().astype(np.float32), centre.astype(np.float32), scale.astype(np.float32)
    )


def listwise(table: torch.Tensor, signals: torch.Tensor, gold: torch.Tensor, held: torch.Tensor, where: torch.Tensor):
    weights = where @ table.T  # [questions, signals]
    scores = (signals * weights[:, None, :]).sum(dim=2).masked_fill(~held, -1e9)
    return -(torch.log_softmax(scores, dim=1) * gold).sum(dim=1).mean()


def pack(examples: Sequence[Example], centre: NDArray[np.float32], scale: NDArray[np.float32]) -> list[torch.Tensor]:
    """Return signals, share of the evidence, which rows count, and situations of the questions with evidence."""
    kept = [one for one in examples if one.gold.any()]
    signals = np.zeros((len(kept), CANDIDATES, len(SIGNALS)), np.float32)
    gold = np.zeros((len(kept), CANDIDATES), np.float32)
    held = np.zeros((len(kept), CANDIDATES), np.bool_)
    for number, one in enumerate(kept):
        first = np.argsort(-(one.signals[:, FIRST_LOOK].sum(axis=1) + 10 * one.gold), kind="stable")[:CANDIDATES]
        signals[number, : len(first)] = one.signals[first]
        gold[number, : len(first)] = one.gold[first] / one.gold.sum()
        held[number, : len(first)] = True
    ruler = Ranker(np.zeros((len(SIGNALS), len(SITUATION)), np.float32), centre, scale)
    situations = np.stack([ruler.placed(one.situation) for one in kept])
    return [torch.from_numpy(array) for array in (signals, gold, held, situations.astype(np.float32))]


def recall(ranker: Ranker, example: Example) -> list[float]:
    """Return recall@k of one question for each of ``CUTOFFS``; equal scores in the order given."""
    scores = example.signals @ ranker.weights(example.situation)
    order = np.argsort(-scores, kind="stable")
    _, first = np.unique(example.cubes[order], return_index=True)  # a memory counts as its best passage
    order = order[np.sort(first)]
    return [float(example.gold[order[:k]].sum()) / example.wanted for k in CUTOFFS]


def recall_table(ranker: Ranker, examples: Sequence[Example]) -> list[float]:
    """Return the mean recall@k over questions."""
    means: list[float] = np.mean([recall(ranker, one) for one in examples], axis=0).round(4).tolist()
    return means
