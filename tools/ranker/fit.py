"""The fit: which weights put the evidence first.

Loss: cross entropy between the softmax over a question's candidates and the evidence among them (ListNet, Cao et al.,
ICML 2007), averaged over the questions of each set, plus squares of the weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from numpy.typing import NDArray

from memos_core.operation.finding.ranker import Ranker
from memos_core.operation.finding.signals import SIGNALS, SITUATION
from tools.ranker.examples import Example

__all__ = ["CUTOFFS", "Packed", "Penalty", "fit", "fitted", "packed"]

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
    return fitted({name: packed(examples) for name, examples in sets.items()}, shares, penalty or Penalty())


def fitted(sets: Mapping[str, Packed], shares: Mapping[str, float], penalty: Penalty) -> Ranker:
    """Return the ranker that fits what is packed already."""
    situations = np.concatenate([of.situations for of in sets.values()])
    centre, scale = situations.mean(axis=0), np.maximum(situations.std(axis=0), 1e-2)
    centre[0], scale[0] = 0.0, 1.0
    ruler = Ranker(np.zeros((len(SIGNALS), len(SITUATION)), np.float32), centre, scale)
    given = [(shares[name], *tensors(of, ruler)) for name, of in sets.items()]
    table = torch.zeros(len(SIGNALS), len(SITUATION), requires_grad=True)
    free = torch.ones_like(table)
    if penalty.bent is None:
        free[:, 1:] = 0
    optimiser = torch.optim.LBFGS([table], max_iter=80, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        used = table * free
        loss = sum(share * listwise(used, *rest) for share, *rest in given)
        loss = loss + penalty.plain * used[:, 0].square().sum() + (penalty.bent or 0) * used[:, 1:].square().sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    return replace(ruler, table=(table * free).detach().numpy().astype(np.float32))


def tensors(of: Packed, ruler: Ranker) -> list[torch.Tensor]:
    """Return signals, share of the evidence, which rows count, and situations of the questions with evidence."""
    asked = of.gold.any(axis=1)
    gold = of.gold[asked] / of.gold[asked].sum(axis=1, keepdims=True)
    parts = (of.signals[asked], gold, of.held[asked], ruler.placed(of.situations[asked]))
    return [torch.from_numpy(array) for array in parts]


def listwise(table: torch.Tensor, signals: torch.Tensor, gold: torch.Tensor, held: torch.Tensor, where: torch.Tensor):
    weights = where @ table.T  # [questions, signals]
    scores = torch.bmm(signals, weights[:, :, None])[:, :, 0].masked_fill(~held, -1e9)
    return -(torch.log_softmax(scores, dim=1) * gold).sum(dim=1).mean()


@dataclass(frozen=True, slots=True)
class Packed:
    """Questions with the candidates that may come first, all as arrays.

    Attributes:
        groups: Whose memory each question is about, shape ``[questions]``.
        signals: Shape ``[questions, candidates, signals]``.
        gold: Share of the evidence that each candidate is, shape ``[questions, candidates]``.
        held: Which candidates there are, of the same shape.
        cubes: Number of their memories, of the same shape.
        situations: Shape ``[questions, situation]``.
    """

    groups: NDArray[np.str_]
    signals: NDArray[np.float32]
    gold: NDArray[np.float32]
    held: NDArray[np.bool_]
    cubes: NDArray[np.int32]
    situations: NDArray[np.float32]

    def of(self, chosen: NDArray[np.bool_]) -> Packed:
        """Return some of the questions."""
        return Packed(*(getattr(self, field.name)[chosen] for field in fields(self)))

    def recalls(self, ranker: Ranker) -> NDArray[np.float32]:
        """Return recall@k of each question, shape ``[questions, cutoffs]``; a memory counts as its best passage."""
        weights = ranker.placed(self.situations) @ ranker.table.T
        scores = np.where(self.held, np.einsum("qcs,qs->qc", self.signals, weights), -np.inf)
        order = np.argsort(-scores, axis=1, kind="stable")[:, : 2 * CUTOFFS[-1]]
        cubes, gold = np.take_along_axis(self.cubes, order, 1), np.take_along_axis(self.gold, order, 1)
        again = np.tril(cubes[:, :, None] == cubes[:, None, :], -1).any(axis=2)
        place = np.cumsum(~again, axis=1)
        found = [np.where(again | (place > k), 0, gold).sum(axis=1) for k in CUTOFFS]
        return np.stack(found, axis=1).astype(np.float32)


def packed(examples: Sequence[Example]) -> Packed:
    """Return examples with the candidates that words and meaning put first, and all evidence."""
    shape = (len(examples), CANDIDATES)
    signals, gold = np.zeros((*shape, len(SIGNALS)), np.float32), np.zeros(shape, np.float32)
    held, cubes = np.zeros(shape, np.bool_), np.full(shape, -1, np.int32)
    for number, one in enumerate(examples):
        known = one.gold > 0
        first = np.argsort(-(one.signals[:, FIRST_LOOK].sum(axis=1) + 10 * known), kind="stable")[:CANDIDATES]
        signals[number, : len(first)] = one.signals[first]
        gold[number, : len(first)] = one.gold[first] / one.wanted
        held[number, : len(first)] = True
        cubes[number, : len(first)] = one.cubes[first]
    groups = np.array([one.group for one in examples])
    return Packed(groups, signals, gold, held, cubes, np.stack([one.situation for one in examples]))
