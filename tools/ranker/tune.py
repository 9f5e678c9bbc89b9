"""Ten numbers: by how much to multiply plain weights, tuned on conversations that nothing else is learned from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from memos_core.operation.finding.ranker import Ranker
from memos_core.operation.finding.signals import SIGNALS

__all__ = ["TUNED", "stretch", "tune"]

TUNED = (
    "words",
    "coverage",
    "meaning",
    "around",
    "session",
    "two_before",
    "length",
    "speaker",
    "tells_when",
    "recent",
)
"""The signals whose weight is tuned; no more than ten."""

GAIN = 1e-3
"""What a change must be worth: less is noise."""

STEPS = (0.5, 0.7, 0.85, 1.2, 1.4, 2.0)
LEAST, MOST = 0.5, 3.0
"""No signal is taken out or made to rule by one set of conversations."""


def stretch(ranker: Ranker, factors: Mapping[str, float]) -> Ranker:
    """Return ``ranker`` with the plain weights of some signals multiplied; how they bend stays."""
    column = np.array([factors.get(name, 1.0) for name in SIGNALS], np.float32)
    table = ranker.table.copy()
    table[:, 0] *= column
    return replace(ranker, table=table)


def tune(worth: Callable[[Mapping[str, float]], float], rounds: int = 2) -> dict[str, float]:
    """Return the factors that make ``worth`` greatest, found by changing one after the other."""
    best: dict[str, float] = dict.fromkeys(TUNED, 1.0)
    most = worth(best)
    for _ in range(rounds):
        for name in TUNED:
            for step in STEPS:
                tried = {**best, name: round(min(max(best[name] * step, LEAST), MOST), 3)}
                value = worth(tried)
                if value > most + GAIN:
                    best, most = tried, value
    return best
