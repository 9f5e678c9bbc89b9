"""What can be learned from requests: which memories should have stood before which others.

An answer that used a memory speaks for it and against those that were given beside it and not used. What the user did
next may turn that round: thumbs down, a correction, the same question again, or an edit of a memory that was just used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from memos_core.infrastructure.vault.learning import Recall, RecalledCube
from memos_core.operation.learning.experience import Use
from memos_core.principal import Principal

__all__ = ["Edits", "Lesson", "lessons_of", "turns_of", "uses_of"]

EXPLICIT, CORRECTED, REPEATED = 2.0, -1.0, -0.5
"""How much a judgement, a correction and a repeated question count, where an answer's use of a memory counts 1."""

Edits = Mapping[str, Sequence[datetime]]
"""The moments at which memories got another text."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """One request as pairs of memories.

    Attributes:
        apart: Signals of one that should stand higher minus those of one that should stand lower, ``[pairs, signals]``.
        situation: Shape ``[situation]``.
        weight: How much it counts; all its pairs together.
    """

    apart: NDArray[np.float64]
    situation: NDArray[np.float32]
    weight: float


def lessons_of(recalls: Sequence[Recall], edits: Edits, *, features: str, follow_seconds: float) -> Iterator[Lesson]:
    """Yield what ``recalls``, given oldest first, teach; those with other signals and those that tell nothing do not.

    Args:
        features: The signals that count; older recalls may have been noted with others.
        follow_seconds: How long after a request a correction, an edit or the same question belongs to it.
    """
    turned = turns_of(recalls, follow_seconds=follow_seconds)
    for recall in recalls:
        if recall.features != features:
            continue
        better, worse, weight = sides(recall, edited(recall, edits, follow_seconds), turned.get(recall.id, 1.0))
        if better and worse:
            high, low = matrix(better), matrix(worse)
            apart = (high[:, None, :] - low[None, :, :]).reshape(-1, high.shape[1])
            yield Lesson(apart, np.array(recall.situation, np.float32), weight)


def uses_of(recalls: Sequence[Recall], edits: Edits, *, follow_seconds: float) -> Iterator[Use]:
    """Yield which memories were used for which question, as far as it is known; recalls are told of by their place."""
    turned = turns_of(recalls, follow_seconds=follow_seconds)
    for number, recall in enumerate(recalls):
        better, worse, _ = sides(recall, edited(recall, edits, follow_seconds), turned.get(recall.id, 1.0))
        yield from (Use(number, cube.cube_id, used=True) for cube in better if cube.share or (cube.verdict or 0) > 0)
        yield from (Use(number, cube.cube_id, used=False) for cube in worse)


Sides = tuple[list[RecalledCube], list[RecalledCube], float]


def sides(recall: Recall, edited_ids: set[str], turn: float) -> Sides:
    """Return the memories of a request that should have stood higher, those that should have stood lower, how sure.

    What the caller said of single memories goes before an edit, an edit before what came next, and that before use.
    """
    given = {cube.verdict for cube in recall.cubes}
    if len(given) > 1:
        liked = [cube for cube in recall.cubes if (cube.verdict or 0) > 0]
        disliked = [cube for cube in recall.cubes if (cube.verdict or 0) < 0]
        rest = [cube for cube in recall.cubes if cube.verdict is None]
        return liked or rest, disliked or rest, EXPLICIT
    if edited_ids:
        standing = [cube for cube in recall.cubes if cube.cube_id not in edited_ids]
        return standing, [cube for cube in recall.cubes if cube.cube_id in edited_ids], abs(CORRECTED)
    verdict = next(iter(given), None)
    turn = turn if verdict is None else EXPLICIT * verdict
    used, unused = by_use(recall.cubes)
    return (used, unused, turn) if turn > 0 else (unused, used, -turn)


def by_use(cubes: Sequence[RecalledCube]) -> tuple[list[RecalledCube], list[RecalledCube]]:
    """Return what an answer used and what it did not; what it used a little of is in neither."""
    most = max((cube.share or 0.0 for cube in cubes), default=0.0)
    used = [cube for cube in cubes if cube.share and cube.share >= most / 2]
    return used, [cube for cube in cubes if cube.share == 0]


def edited(recall: Recall, edits: Edits, follow_seconds: float) -> set[str]:
    """Return the memories of a request that the answer may have used and that were edited soon after it."""
    until = recall.at + timedelta(seconds=follow_seconds)
    return {
        cube.cube_id
        for cube in recall.cubes
        if cube.share != 0 and any(recall.at < moment <= until for moment in edits.get(cube.cube_id, ()))
    }


def turns_of(recalls: Sequence[Recall], *, follow_seconds: float) -> dict[str, float]:
    """Return what the user's next step said of requests, by id: a correction, or the same question again."""
    found: dict[str, float] = {}
    last: dict[Principal, Recall] = {}
    asked: dict[tuple[Principal, str], Recall] = {}
    for recall in recalls:
        before, same = last.get(recall.principal), asked.get((recall.principal, recall.question))
        if recall.intent == "correct" and before is not None and follows(recall, before, follow_seconds):
            found[before.id] = CORRECTED
        elif same is not None and follows(recall, same, follow_seconds):
            found.setdefault(same.id, REPEATED)
        last[recall.principal] = asked[recall.principal, recall.question] = recall
    return found


def follows(recall: Recall, before: Recall, follow_seconds: float) -> bool:
    return (recall.at - before.at).total_seconds() <= follow_seconds


def matrix(cubes: Sequence[RecalledCube]) -> NDArray[np.float64]:
    return np.array([cube.signals for cube in cubes], np.float64)
