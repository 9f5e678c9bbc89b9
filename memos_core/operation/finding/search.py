"""The search of MemOperator: one look at the ledger, one ranking, and the cubes that it puts first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from memos_core.cube import MemCube, normalised
from memos_core.embedding.base import Vector
from memos_core.errors import InvalidInput
from memos_core.infrastructure.governance import MemGovernance
from memos_core.infrastructure.vault import Mask, MemVault, SearchFilter, Survey
from memos_core.operation.finding.ground import Column
from memos_core.operation.finding.ranker import Ranker, Ranking
from memos_core.operation.finding.signals import Question, may_answer, rarity, signals_of, situation_of
from memos_core.operation.finding.words import words
from memos_core.operation.learning.experience import ALL_SIGNALS, Experience, features_of
from memos_core.principal import Principal
from memos_core.records import Hit, MemoryCall, Weighed

__all__ = ["NEAR_DUPLICATE", "Learned", "Look", "MemSearch", "SearchSettings", "nothing_learned"]

NEAR_DUPLICATE = "near_duplicate"
"""The relation from a memory to an older one that says nearly the same."""

FIRST_SORTED = 512
"""Passages that are put in order at once; more only if these do not give enough hits."""

ECHO = 0.25
"""What is left of the score of a memory that asks the same question: it is most like it and tells nothing."""

ECHO_SLACK = 2
"""Words by which it may be longer."""

LABELS = {name: name.replace("_", " ") for name in ALL_SIGNALS}
PERCENT = {number: f"{number:+d}%" for number in range(-100, 101)}

SPARE = 2
"""Candidates that are looked at beyond those asked for, to take the place of near-duplicates."""


class SearchSettings(BaseModel):
    """How memories are found.

    Attributes:
        factors: By how much to multiply the weight of a signal, by its name; 0 takes it out.
        depth: Passages that an approximate index proposes, at least.
        near_duplicate: Similarity from which two memories are linked as saying nearly the same.
        supersede: Whether a short statement of what has one value ("My cat is called Rex.") takes the place of an older
            one with another value, which then holds until the new one was said; see ``Scope.reinstate``.
        diverse: Whether near-duplicates of what is in the list already come after everything else.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    factors: Mapping[str, float] = Field(default_factory=dict)
    depth: int = Field(default=200, gt=0)
    near_duplicate: float = Field(default=0.97, gt=0, le=1)
    supersede: bool = False
    diverse: bool = True


@dataclass(frozen=True, slots=True)
class Found:
    """A candidate: a cube by its best passage."""

    cube_id: str
    row: int


@dataclass(frozen=True, slots=True)
class Look:
    """What a ranking rests on.

    Attributes:
        conditions: What every result meets.
        question: What is asked.
        survey: What the vault knows of the passages that may answer.
        signals: Shape ``[passages, signals]``.
        situation: Shape ``[situation]``.
        vector: Of the question; None where there is no embedder.
    """

    conditions: SearchFilter
    question: Question
    survey: Survey
    signals: NDArray[np.float32]
    situation: Column
    vector: Vector | None = None


Learned = Callable[[Principal, int], Experience]
"""Returns what the ranking of a principal goes by, as of a revision of what is searched."""


def nothing_learned(principal: Principal, revision: int) -> Experience:
    """Everyone is served by what ships."""
    return Experience()


class MemSearch:
    """Finds memories in one vault. Thread-safe.

    Args:
        learned: Tells what a principal's feedback has taught.
    """

    def __init__(
        self,
        vault: MemVault,
        governance: MemGovernance,
        settings: SearchSettings,
        ranker: Ranker,
        learned: Learned = nothing_learned,
    ) -> None:
        self.vault = vault
        self.governance = governance
        self.settings = settings
        self.ranker = ranker.scaled(settings.factors)
        self.learned = learned
        self.features = features_of(vault.embedder.name if vault.embedder else None)

    def search(self, principal: Principal, call: MemoryCall) -> list[Hit]:
        """Return the best memories for ``call``, best first; see ``MemOperator.search``."""
        look = self.look(principal, call)
        if not len(look.survey):
            return []
        ranking = self.rank(look, self.learned(principal, look.survey.revision))
        hits = self.hits(look, ranking)
        return diverse(hits, call.k) if self.settings.diverse else list(islice(hits, call.k))

    def rank(self, look: Look, learned: Experience) -> Ranking:
        """Return the scores of what a look saw."""
        survey = look.survey

        def cube_id(row: int) -> str:
            return survey.cube_ids[int(survey.rows["cube"][row])]

        ranking = learned.rank(self.ranker, look.signals, look.situation, cube_id, look.vector)
        echo = echoes(look.question, survey)
        if echo is None:
            return ranking
        return replace(ranking, scores=np.where(echo, np.float32(ECHO) * ranking.scores, ranking.scores))

    def look(self, principal: Principal, call: MemoryCall) -> Look:
        """Return all that the ranking of ``call`` rests on.

        Raises:
            InvalidInput: The query is empty or a filter is unknown.
        """
        if not call.query.strip():
            raise InvalidInput("the query is empty")
        if "user" in call.speakers:
            call = call.model_copy(update={"speakers": (*call.speakers, principal.user)})
        conditions = self.governance.search_filter(principal, call, granted=True)
        question = Question.of(call)
        vector = self.vault.embedder.embed_query(call.query) if self.vault.embedder else None
        depth = max(self.settings.depth, 4 * call.k)
        survey = self.vault.survey(conditions, question.wording(vector), depth=depth)
        if not survey.granted:  # then there are no rights to look up for each hit
            conditions = replace(conditions, visibility=self.governance.visibility(principal))
        idf = rarity(survey)
        signals, situation = signals_of(question, survey, idf), situation_of(question, survey, idf)
        return Look(conditions, question, survey, signals, situation, vector)

    def hits(self, look: Look, ranking: Ranking) -> Iterator[Hit]:
        """Yield the first candidates as hits, made as they are taken. The ledger has the last word on each."""
        wanted = look.question.call.k + SPARE
        candidates = best_passages(look.survey, ranking)
        situation = tuple(look.situation.tolist())
        while part := {one.cube_id: one.row for one in islice(candidates, wanted)}:
            with self.vault.read() as session:
                cubes = session.cubes_since(look.conditions, list(part), look.survey.revision, look.survey.shared)
            rows = list(part.values())
            shares = dict(zip(rows, ranking.shares(rows), strict=True))
            for cube in cubes:
                wanted -= 1
                row = part[cube.id]
                weighed = Weighed(self.features, signals_at(ranking, row), situation)
                score = float(ranking.scores[row])
                yield hit_of(cube, row, look, score=score, shares=shares[row], weighed=weighed)


def echoes(question: Question, survey: Survey) -> Mask | None:
    """Tell which passages only ask what is asked now; None if none does. A chat that is remembered leaves many."""
    if question.call.intent != "ask" or not question.words:
        return None
    held: Mask = np.all(survey.counts > 0, axis=0)
    if not held.any():
        return None
    longest = sum(words(question.call.query).values()) + ECHO_SLACK
    echo: Mask = held & survey.rows["question"] & (survey.rows["length"] <= longest)
    return echo if echo.any() else None


def signals_at(ranking: Ranking, row: int) -> tuple[float, ...]:
    """Return the signals of a passage; those of experience are 0 where there is none."""
    own: list[float] = ranking.signals[row].tolist()
    return (*own, *[0.0] * (len(ALL_SIGNALS) - len(own)))


def best_passages(survey: Survey, ranking: Ranking) -> Iterator[Found]:
    """Yield each cube with its best passage, best first; equal scores in the order of age."""
    seen: set[int] = set()
    numbers = survey.rows["cube"]
    for row in best_first(ranking.scores, survey.rows["passage"], may_answer(survey)):
        number = int(numbers[row])
        if number not in seen:
            seen.add(number)
            yield Found(survey.cube_ids[number], row)


def best_first(scores: Column, ages: NDArray[np.int64], allowed: Mask | None) -> Iterator[int]:
    """Yield the rows that are allowed, best score first, equal ones in the order of age; sorted as far as asked."""
    rows = np.arange(len(scores)) if allowed is None else np.flatnonzero(allowed)
    own, done, size = scores[rows], 0, FIRST_SORTED
    while done < len(rows):
        chosen = rows
        if size < len(rows):
            # A partition cuts a run of equal scores anywhere, so the whole run is taken.
            chosen = rows[own >= np.partition(own, len(own) - size)[len(own) - size]]
        order = chosen[np.lexsort((ages[chosen], -scores[chosen]))]
        yield from order[done:].tolist()
        done, size = len(order), size * 8


def hit_of(cube: MemCube, row: int, look: Look, *, score: float, shares: Mapping[str, float], weighed: Weighed) -> Hit:
    """Return the hit for ``cube`` by its passage at ``row``, with the shares of the signals in words."""
    question, survey = look.question, look.survey
    held = [word for word, count in zip(question.words, survey.counts[:, row].tolist(), strict=True) if count]
    told = [f"{LABELS[name]} {PERCENT[round(share * 100)]}" for name, share in shares.items() if abs(share) >= 0.01]
    why = ", ".join(told)
    if held:
        why += f" (holds {', '.join(sorted(held))})"
    start, end = int(survey.rows["start"][row]), int(survey.rows["end"][row])
    whole = start == 0 and end >= len(cube.text)
    return Hit(cube, score, why, None if whole else (start, end), shares, weighed)


def diverse(hits: Iterable[Hit], k: int) -> list[Hit]:
    """Return ``k`` hits, those that only repeat an earlier one after all others."""
    fresh: list[Hit] = []
    repeats: list[Hit] = []
    said: set[tuple[str | None, str]] = set()
    held: set[str] = set()
    echoed: set[str] = set()
    for hit in hits:
        saying, alike = (hit.cube.speaker, normalised(hit.text)), near_duplicates(hit.cube)
        if saying in said or hit.id in echoed or not held.isdisjoint(alike):
            repeats.append(hit)
            continue
        fresh.append(hit)
        said.add(saying)
        held.add(hit.id)
        echoed.update(alike)
        if len(fresh) == k:
            break
    return [*fresh, *repeats][:k]


def near_duplicates(cube: MemCube) -> list[str]:
    return [link.target for link in cube.header.descriptive.links if link.relation == NEAR_DUPLICATE]
