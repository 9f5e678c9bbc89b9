"""What the policies know of a memory's past, as numbers between 0 and 1."""

from __future__ import annotations

import math
from datetime import datetime

from memos_core.cube import MemCube, Trust

__all__ = ["frequency", "freshness", "since_used", "standing"]

HALF_LIFE_DAYS = 30.0
TRUST = {Trust.UNTRUSTED: 0.0, Trust.NORMAL: 0.5, Trust.VERIFIED: 1.0}


def decay(moment: datetime, now: datetime, half_life_days: float) -> float:
    days = max((now - moment).total_seconds(), 0.0) / 86_400
    return float(0.5 ** (days / half_life_days))


def freshness(cube: MemCube, now: datetime, half_life_days: float = HALF_LIFE_DAYS) -> float:
    """Return 1 for what was said now, halved with each half-life since."""
    return decay(cube.at or cube.created, now, half_life_days)


def since_used(cube: MemCube, now: datetime) -> float:
    """Return 1 for what was used now, halved with each day since; what was never used counts from its commit."""
    return decay(cube.header.behaviour.last_used or cube.created, now, 1.0)


def frequency(cube: MemCube) -> float:
    """Return how often it was found or injected, on a scale that ends at some 1,000 times."""
    use = cube.header.behaviour
    times = use.reads + use.injected_text + use.injected_kv + use.injected_lora
    return min(math.log1p(times) / math.log1p(1000), 1.0)


def standing(cube: MemCube) -> float:
    """Return how good its name is: the trust in its source and what was said of it, each for a half."""
    return 0.5 * TRUST[cube.header.governance.trust] + 0.5 / (1 + math.exp(-cube.header.behaviour.feedback))
