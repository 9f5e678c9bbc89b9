"""What is added to a ranker's weights for one user, fitted to that user's feedback.

Logistic regression on pairs of memories of one request (Burges et al., "Learning to Rank using Gradient Descent", ICML
2005), with what ships as its centre: a ridge pulls back to it, a ball bounds how far one may go, and what does not
predict the user's own feedback better than what ships, on requests that it did not see, is not used at all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memos_core.operation.finding.ranker import Ranker
from memos_core.operation.finding.signals import SIGNALS
from memos_core.operation.learning.experience import ALL_SIGNALS
from memos_core.operation.learning.lessons import Lesson

__all__ = ["Fit", "Trust", "fitted"]

FOLDS = 5
STEPS = 20
LEAST_SCALE = 0.3
"""The slope of noisy feedback is flat; dividing by less than this would take noise for a strong wish."""

Weights = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Trust:
    """How far feedback is followed.

    Attributes:
        radius: Longest that what is added may be, as a share of the length of the shipped plain weights.
        pull: Ridge on what is added to the weights of shipped signals.
        pull_own: Ridge on the weights of the signals of experience.
        sure: Standard errors by which held-out feedback must be predicted better.
    """

    radius: float = 0.25
    pull: float = 30.0
    pull_own: float = 1.0
    sure: float = 1.0


@dataclass(frozen=True, slots=True)
class Fit:
    """What a fit came to.

    Attributes:
        added: To the weight of each signal, shape ``[signals]``; zeros where the fit was refused.
        gain: By how much more of the held-out pairs are in the right order than by what ships.
        error: Its standard error.
        accepted: Whether that is enough.
    """

    added: Weights
    gain: float
    error: float
    accepted: bool


def fitted(lessons: Sequence[Lesson], ranker: Ranker, trust: Trust) -> Fit:
    """Return what to add for these lessons. Deterministic; takes milliseconds for some hundred lessons."""
    nothing = np.zeros(len(ALL_SIGNALS))
    if len(lessons) < FOLDS:
        return Fit(nothing, 0.0, 0.0, accepted=False)
    pairs = [Pairs.of(lesson, ranker) for lesson in lessons]
    gains = np.array([gain for fold in range(FOLDS) for gain in held_out(pairs, fold, ranker, trust)])
    gain, error = float(gains.mean()), float(gains.std() / math.sqrt(len(gains)))
    if gain <= trust.sure * error or gain <= 0:
        return Fit(nothing, gain, error, accepted=False)
    return Fit(solved(pairs, ranker, trust), gain, error, accepted=True)


@dataclass(frozen=True, slots=True)
class Pairs:
    """A lesson, with the margin by which what ships puts each pair in order already, shape ``[pairs]``."""

    apart: Weights
    margin: Weights
    weight: float

    @classmethod
    def of(cls, lesson: Lesson, ranker: Ranker) -> Pairs:
        margin = lesson.apart[:, : len(SIGNALS)] @ ranker.weights(lesson.situation).astype(np.float64)
        return cls(lesson.apart, margin, lesson.weight)


def held_out(pairs: Sequence[Pairs], fold: int, ranker: Ranker, trust: Trust) -> list[float]:
    """Return, for each request of a fold, what a fit to the others gains on it; a doubtful request counts less."""
    added = solved([one for number, one in enumerate(pairs) if number % FOLDS != fold], ranker, trust)
    return [
        one.weight * float(np.mean(one.margin + one.apart @ added > 0) - np.mean(one.margin > 0))
        for one in pairs[fold::FOLDS]
    ]


def solved(pairs: Sequence[Pairs], ranker: Ranker, trust: Trust) -> Weights:
    """Return the minimum of logistic loss and ridge, by Newton's method, drawn into the ball.

    The margin of what ships has a factor of its own, so that noisy feedback makes it flatter and not the rest steeper.
    """
    design = np.concatenate([np.column_stack([one.margin, one.apart]) for one in pairs])
    weight = np.concatenate([np.full(len(one.margin), one.weight / len(one.margin)) for one in pairs])
    own = len(ALL_SIGNALS) - len(SIGNALS)
    ridge = np.r_[5.0, np.full(len(SIGNALS), trust.pull), np.full(own, trust.pull_own)]
    centre = np.r_[1.0, np.zeros(len(ALL_SIGNALS))]
    theta = centre.copy()
    for _ in range(STEPS):
        missed = 1 / (1 + np.exp(np.clip(design @ theta, -30, 30)))
        slope = ridge * (theta - centre) - design.T @ (weight * missed)
        curve = (design * (weight * missed * (1 - missed))[:, None]).T @ design + np.diag(ridge)
        step = np.linalg.solve(curve, slope)
        theta = theta - step
        if np.abs(step).max() < 1e-5:
            break
    return within_ball(theta[1:] / max(theta[0], LEAST_SCALE), trust.radius * float(np.linalg.norm(ranker.table[:, 0])))


def within_ball(added: Weights, radius: float) -> Weights:
    """Return ``added``, shortened to ``radius`` where it is longer."""
    length = float(np.linalg.norm(added))
    return added if length <= radius else added * (radius / length)
