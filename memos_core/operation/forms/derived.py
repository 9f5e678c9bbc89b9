"""What forms of memories were made from, what they take, and what making them has cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from memos_core.cube import MemCube, MemoryType, PlaintextPayload
from memos_core.transform import CARTRIDGE

__all__ = ["Rates", "age", "bytes_of", "coolest", "fits", "is_kv", "made_from", "rates", "span"]


@dataclass(frozen=True, slots=True)
class Rates:
    """What one character has cost in earlier builds of KV: bytes and seconds; 0 where there were none."""

    bytes_each: float = 0.0
    seconds_each: float = 0.0

    @property
    def known(self) -> bool:
        return self.bytes_each > 0


def rates(derived: Sequence[MemCube], texts: Mapping[str, MemCube]) -> Rates:
    """Return what KV has cost, by the builds whose sources are at hand."""
    built = [
        cube for cube in derived if is_kv(cube) and made_from(cube) and all(key in texts for key, _ in made_from(cube))
    ]
    chars = sum(len(texts[key].text) for cube in built for key, _ in made_from(cube))
    if not chars:
        return Rates()
    seconds = sum(float(cube.header.descriptive.lineage.parameters.get("seconds", 0.0)) for cube in built)
    return Rates(sum(bytes_of(cube) for cube in built) / chars, seconds / chars)


def coolest(cube: MemCube, sources: Mapping[str, MemCube], now: datetime) -> float:
    """Return the least heat among what ``cube`` was made from: it serves only where all of them are wanted."""
    below = (sources[key].header.behaviour.heat_at(now) for key, _ in made_from(cube) if key in sources)
    return min(below, default=0.0)


def fits(cube: MemCube, model: str) -> bool:
    return not isinstance(cube.payload, PlaintextPayload) and cube.payload.model == model


def is_kv(cube: MemCube) -> bool:
    """Tell whether it is exact KV and no cartridge."""
    return cube.type is MemoryType.ACTIVATION and cube.header.descriptive.kind != CARTRIDGE


def made_from(cube: MemCube) -> tuple[tuple[str, int], ...]:
    return cube.header.descriptive.lineage.sources


def bytes_of(cube: MemCube) -> int:
    return 0 if isinstance(cube.payload, PlaintextPayload) else cube.payload.blob.size_bytes


def age(cube: MemCube, now: datetime) -> float:
    """Return for how many seconds the text of ``cube`` has not changed."""
    return (now - cube.header.descriptive.updated).total_seconds()


def span(seconds: float) -> str:
    """Return a length of time in words."""
    for size, name in ((86400.0, "days"), (3600.0, "hours"), (60.0, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {name}"
    return f"{seconds:.0f} seconds"
