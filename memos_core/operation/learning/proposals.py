"""What use says about the shape of memories: which are always used together, and which are used only in part.

Rules over requests that were noted, as numbers and ids; they propose and change nothing. What they make of the same
requests and memories is always the same. No text is invented: a merge puts texts side by side, a split cuts one.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, pairwise
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from memos_core.cube import MemCube, canonical_json
from memos_core.infrastructure.vault.learning import Recall
from memos_core.operation.learning.experience import Use
from memos_core.render import NOTES_V1, render_memory

__all__ = ["Proposal", "RestructuringPolicy", "merges_of", "proposed", "splits_of"]

BARE = replace(NOTES_V1, bullet="", indent="")
"""A memory as it is quoted, on lines of its own."""


class RestructuringPolicy(BaseModel):
    """When use is reason enough to merge memories, or to split one. Only different questions count, each once.

    Attributes:
        least_questions: Questions that it takes.
        together: Share of the questions that used one of two memories that must have used both, for a merge.
        max_group: Most memories of one merge.
        max_chars: Longest text of a merge: a longer one is found less well.
        min_chars: A shorter memory is not split.
        used: Share of a memory that all answers together may have used, for a split that cuts out that one part; where
            they used several parts, each by itself, there is no such limit.
        max_parts: Most parts of a split.
        max_changes: Changes of one user's memories in one run.
        every_seconds: How often background work looks.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    least_questions: int = Field(default=3, ge=1)
    together: float = Field(default=0.8, gt=0, le=1)
    max_group: int = Field(default=4, ge=2)
    max_chars: int = Field(default=800, ge=1)
    min_chars: int = Field(default=400, ge=1)
    used: float = Field(default=0.5, gt=0, lt=1)
    max_parts: int = Field(default=4, ge=2)
    max_changes: int = Field(default=4, ge=1)
    every_seconds: float = Field(default=86400.0, gt=0)


@dataclass(frozen=True, slots=True)
class Proposal:
    """One change of shape, and why.

    Attributes:
        user: Whose memory.
        action: ``merge`` or ``split``.
        sources: The memories that it takes the place of, with the version of each that it was made for.
        texts: What there would be in their place.
        reason: In words, with the figures that it was decided by.
        questions: How many questions speak for it.
    """

    user: str
    action: Literal["merge", "split"]
    sources: tuple[tuple[str, int], ...]
    texts: tuple[str, ...]
    reason: str
    questions: int

    @property
    def id(self) -> str:
        """The same for the same change of the same versions."""
        return hashlib.sha256(canonical_json([self.action, self.sources, self.texts])).hexdigest()[:12]

    @property
    def cube_ids(self) -> tuple[str, ...]:
        return tuple(cube_id for cube_id, _ in self.sources)


Questions = Mapping[str, set[str]]
"""Memory to the digests of the questions whose answers used it."""

Span = tuple[int, int]


def proposed(
    user: str, recalls: Sequence[Recall], uses: Iterable[Use], cubes: Sequence[MemCube], policy: RestructuringPolicy
) -> tuple[Proposal, ...]:
    """Return what use proposes, best supported first.

    Args:
        user: Whose memories.
        recalls: Requests, oldest first.
        uses: Which memories they used; they tell of recalls by their place.
        cubes: The memories that may change, as they are now; what was used before their last edit does not count.
    """
    known = {cube.id: cube for cube in cubes if changeable(cube)}
    used = [
        (recalls[use.recall], known[use.cube_id])
        for use in uses
        if use.used and use.cube_id in known and recalls[use.recall].at >= known[use.cube_id].header.descriptive.updated
    ]
    found = [*merges_of(user, used, policy), *splits_of(user, used, policy)]
    return tuple(sorted(found, key=lambda each: (-each.questions, each.sources)))


def changeable(cube: MemCube) -> bool:
    """Tell whether rules may change a memory. What ends by itself would take along what it is merged with."""
    what, rules = cube.header.descriptive, cube.header.governance
    ends = rules.retention.expires_at is not None or what.valid_until is not None
    elsewhere = what.item is not None or what.collection is not None or rules.shared
    return not (ends or elsewhere or rules.frozen)


# Merges


def merges_of(user: str, used: Sequence[tuple[Recall, MemCube]], policy: RestructuringPolicy) -> Iterator[Proposal]:
    """Yield the groups of memories that are used together; a memory is in one group at most."""
    questions: defaultdict[str, set[str]] = defaultdict(set)
    cubes: dict[str, MemCube] = {}
    for recall, cube in used:
        if cube.header.descriptive.lineage.pathway != "split":  # nothing is cut and put together in turns
            questions[cube.id].add(recall.question)
            cubes[cube.id] = cube
    pairs = paired(questions, policy)
    groups: dict[str, frozenset[str]] = {}
    for pair in pairs:
        group = frozenset().union(*(groups.get(cube_id, frozenset([cube_id])) for cube_id in pair))
        if all(each in pairs for each in combinations(sorted(group), 2)) and fits(
            [cubes[key] for key in group], policy
        ):
            groups |= dict.fromkeys(group, group)
    for group in sorted(set(groups.values()), key=sorted):
        yield merge_of(user, [cubes[key] for key in group], questions)


def paired(questions: Questions, policy: RestructuringPolicy) -> dict[tuple[str, str], int]:
    """Return the pairs that are used together, with the number of questions, most first."""
    asked: defaultdict[str, set[str]] = defaultdict(set)
    for cube_id, own in questions.items():
        for question in own:
            asked[question].add(cube_id)
    near = {pair for cube_ids in asked.values() for pair in combinations(sorted(cube_ids), 2)}
    counts = {(one, other): len(questions[one] & questions[other]) for one, other in near}
    always = {
        (one, other): count
        for (one, other), count in counts.items()
        if count >= policy.least_questions and count >= policy.together * len(questions[one] | questions[other])
    }
    return dict(sorted(always.items(), key=lambda item: (-item[1], item[0])))


def fits(cubes: Sequence[MemCube], policy: RestructuringPolicy) -> bool:
    """Tell whether memories may become one: few, short, and seen, handled and believed alike."""
    if len(cubes) > policy.max_group or len(joined(cubes)) > policy.max_chars:
        return False
    return len({alike(cube) for cube in cubes}) == 1


def alike(cube: MemCube) -> tuple[object, ...]:
    what, rules = cube.header.descriptive, cube.header.governance
    return rules.agent, what.source.session, what.kind, rules.sensitivity, rules.trust, what.valid_from


def merge_of(user: str, cubes: Sequence[MemCube], questions: Questions) -> Proposal:
    ordered = in_time(cubes)
    together = set.intersection(*(questions[cube.id] for cube in ordered))
    any_of = set.union(*(questions[cube.id] for cube in ordered))
    reason = f"used together in the answers to {len(together)} of {len(any_of)} questions"
    sources = tuple((cube.id, cube.version) for cube in ordered)
    return Proposal(user, "merge", sources, (joined(ordered),), reason, len(together))


def joined(cubes: Sequence[MemCube]) -> str:
    """Return the texts of memories as one, each with its speaker and day where these differ."""
    ordered = in_time(cubes)
    same = len({(cube.speaker, cube.at and cube.at.date()) for cube in ordered}) == 1
    return "\n".join(cube.text.strip() if same else render_memory(cube, BARE) for cube in ordered)


def in_time(cubes: Sequence[MemCube]) -> list[MemCube]:
    return sorted(cubes, key=lambda cube: (cube.at or cube.created, cube.id))


# Splits


def splits_of(user: str, used: Sequence[tuple[Recall, MemCube]], policy: RestructuringPolicy) -> Iterator[Proposal]:
    """Yield the long memories of which answers use one small part, or several parts each by itself."""
    spans: defaultdict[str, dict[str, Span]] = defaultdict(dict)
    cubes = {cube.id: cube for _, cube in used if may_split(cube, policy)}
    unknown = set()
    for recall, cube in used:
        span = next((each.span for each in recall.cubes if each.cube_id == cube.id), None)
        if span is None or span[1] > len(cube.text):
            unknown.add(cube.id)  # an answer used it, and nobody knows which part
        else:
            before = spans[cube.id].get(recall.question, span)
            spans[cube.id][recall.question] = min(before[0], span[0]), max(before[1], span[1])
    for cube_id, cube in sorted(cubes.items()):
        own = spans.get(cube_id, {})
        if cube_id not in unknown and len(own) >= policy.least_questions:
            yield from split_of(user, cube, sorted(own.values()), policy)


def may_split(cube: MemCube, policy: RestructuringPolicy) -> bool:
    return len(cube.text) >= policy.min_chars and cube.header.descriptive.lineage.pathway != "merge"


def split_of(user: str, cube: MemCube, spans: Sequence[Span], policy: RestructuringPolicy) -> Iterator[Proposal]:
    regions = regions_of(spans)
    used = sum(end - start for start, end in regions)
    if len(regions) == 1 and used > policy.used * len(cube.text):
        return
    edges = sorted({0, len(cube.text), *(edge for region in regions for edge in region)})
    texts = tuple(text for start, end in pairwise(edges) if (text := cube.text[start:end].strip()))
    if not 2 <= len(set(texts)) == len(texts) <= policy.max_parts:
        return
    shown = f"one part of {used}" if len(regions) == 1 else f"{len(regions)} parts, each by itself, {used} in all"
    reason = f"of {len(cube.text)} characters the answers to {len(spans)} questions used {shown}"
    yield Proposal(user, "split", ((cube.id, cube.version),), texts, reason, len(spans))


def regions_of(spans: Sequence[Span]) -> list[Span]:
    """Return what spans, given in order, cover together."""
    found: list[Span] = []
    for start, end in spans:
        if found and start < found[-1][1]:
            found[-1] = found[-1][0], max(found[-1][1], end)
        else:
            found.append((start, end))
    return found
