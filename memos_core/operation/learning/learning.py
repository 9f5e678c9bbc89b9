"""MemLearning: what feedback teaches about a user's memories, and how to take it back.

Weights are learned from requests that are kept as numbers, by a job, for one user at a time. Each step is a row with
its author, its moment, and the weights before and after it. Nothing of it reaches another user, and forgetting a memory
takes the requests that it was in along, with everything that was learned from them.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from statistics import fmean

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from memos_core.errors import InvalidInput, SourcesChanged
from memos_core.infrastructure.governance import MemGovernance
from memos_core.infrastructure.governance.governance import author_of
from memos_core.infrastructure.vault import Job, MemVault, ReadSession, UsageDelta, Visibility, WriteSession
from memos_core.infrastructure.vault import learning as rows
from memos_core.infrastructure.vault.heat import contribute
from memos_core.infrastructure.vault.learning import LearnedWeights, Recall
from memos_core.operation.finding.ranker import Ranker
from memos_core.operation.jobs import JobQueue, Progress, Publish, Task
from memos_core.operation.learning.experience import ALL_SIGNALS, Experience, features_of, past_of
from memos_core.operation.learning.fitting import Fit, Trust, fitted
from memos_core.operation.learning.lessons import Edits, lessons_of, turns_of, uses_of
from memos_core.operation.learning.proposals import RestructuringPolicy
from memos_core.principal import Principal

__all__ = ["LearnTask", "LearningSettings", "MemLearning", "queue_learning"]

AUTHOR = "memos"
LEAST_ANSWERS = 3
"""Answers from which on it is said what a memory contributes to them."""
NOTHING = Experience()


class LearningSettings(BaseModel):
    """How a user's feedback changes the ranking of that user's memories.

    Attributes:
        enabled: The switch. Off: nothing is noted and nothing is applied; what was learned is kept.
        radius: How far weights may move, as a share of the length of those that ship.
        sure: Standard errors by which what was learned must predict held-out feedback better than what ships.
        least_requests: New requests that it takes to learn anew.
        settle_seconds: How long a request waits for a correction, an edit or the same question again.
        max_requests: Requests of a user that are kept, the newest.
        keep_seconds: How long.
        restructuring: When background work merges memories that are used together and splits those that are used in
            part; None: never, and ``Scope.proposals`` still says what use speaks for.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    enabled: bool = False
    radius: float = Field(default=0.25, gt=0, le=1)
    sure: float = Field(default=1.0, ge=0)
    least_requests: int = Field(default=20, ge=1)
    settle_seconds: float = Field(default=600.0, ge=0)
    max_requests: int = Field(default=1000, ge=1)
    keep_seconds: float = Field(default=180 * 86400.0, gt=0)
    restructuring: RestructuringPolicy | None = None

    @property
    def trust(self) -> Trust:
        return Trust(radius=self.radius, sure=self.sure)


class MemLearning:
    """What the users of one vault have taught it. Thread-safe."""

    def __init__(self, vault: MemVault, governance: MemGovernance, ranker: Ranker, settings: LearningSettings) -> None:
        self.vault = vault
        self.governance = governance
        self.ranker = ranker
        self.settings = settings
        self.features = features_of(vault.embedder.name if vault.embedder else None)
        self._known: dict[str, tuple[int, Experience]] = {}
        self._lock = threading.Lock()

    # Serving

    def experience(self, principal: Principal, revision: int) -> Experience:
        """Return what the ranking of a user goes by, as of a revision of the user's namespace.

        Looked up again when the revision moves on (or is not known: -1); the past only when other weights are in use.
        """
        if not self.settings.enabled:
            return NOTHING
        name = principal.namespace
        with self._lock:
            known = self._known.get(name)
        if known is not None and known[0] == revision >= 0:
            return known[1]
        with self.vault.read() as session:
            newest = rows.newest_weights(session, name)
            if known is not None and newest is not None and known[1].version == newest.version:
                found = known[1]
            else:
                found = NOTHING if newest is None else self._experience(session, name, newest)
        with self._lock:
            self._known[name] = (revision, found)
        return found

    def _experience(self, session: ReadSession, namespace: str, weights: LearnedWeights) -> Experience:
        chain = rows.lineage_of(rows.weights_of(session, namespace), weights.version)
        recalls = [each for each in self._kept(session, namespace) if each.learned in chain]
        added = np.array([weights.after.get(name, 0.0) for name in ALL_SIGNALS], np.float32)
        uses = uses_of(recalls, edits_of(session, namespace, recalls), follow_seconds=self.settings.settle_seconds)
        return Experience(weights.version, added, past_of(recalls, uses))

    def standing(self, session: ReadSession, namespace: str) -> list[Recall]:
        """Return the requests that count now: settled, and not left behind by going back to earlier weights."""
        chain = rows.lineage_of(rows.weights_of(session, namespace))
        settled = session.now - timedelta(seconds=self.settings.settle_seconds)
        return [
            each
            for each in self._kept(session, namespace)
            if each.learned in chain or (each.learned is None and each.at <= settled)
        ]

    def _kept(self, session: ReadSession, namespace: str) -> list[Recall]:
        found = rows.recalls_of(session, namespace, newest=self.settings.max_requests)
        return [each for each in found if each.features == self.features or not each.cubes]

    # Learning

    def step(self, session: ReadSession, namespace: str) -> tuple[LearnedWeights, list[Recall], Fit]:
        """Return the next weights of a namespace, the requests that are new in them, and the fit."""
        versions = rows.weights_of(session, namespace)
        newest = versions[-1] if versions else None
        standing = self.standing(session, namespace)
        edits, seconds = edits_of(session, namespace, standing), self.settings.settle_seconds
        lessons = list(lessons_of(standing, edits, features=self.features, follow_seconds=seconds))
        fit = fitted(lessons, self.ranker, self.settings.trust)
        weights = LearnedWeights(
            version=newest.version + 1 if newest else 1,
            parent=newest.version if newest else 0,
            at=session.now,
            author=AUTHOR,
            reason=worded(fit, len(lessons)),
            before=newest.after if newest else {},
            after=as_mapping(fit),
            recalls=len(standing),
        )
        return weights, [each for each in standing if each.learned is None], fit

    def publish(self, session: WriteSession, namespace: str, weights: LearnedWeights, new: Sequence[Recall]) -> None:
        """Put weights in use, and count for memories what the new requests said of them.

        Raises:
            SourcesChanged: Other weights were put in use meanwhile, or a request was forgotten.
        """
        newest = rows.newest_weights(session, namespace)
        held = rows.recalls_of(session, namespace, newest=2 * self.settings.max_requests)
        ids = {each.id for each in held}
        if (newest.version if newest else 0) != weights.parent or not ids.issuperset(each.id for each in new):
            raise SourcesChanged("what was learned from changed meanwhile")
        rows.insert_weights(session, namespace, weights)
        rows.mark_learned(session, [each.id for each in new], weights.version)
        session.touch(self._against(session, namespace, new))
        given = {cube.cube_id for each in new for cube in each.cubes}
        own = [cube.id for cube in session.cubes(Visibility(namespace), sorted(given))]
        contribute(session, contributions_of(held, own))
        oldest = session.now - timedelta(seconds=self.settings.keep_seconds)
        rows.prune_recalls(session, namespace, keep=self.settings.max_requests, before=oldest)

    def _against(self, session: ReadSession, namespace: str, new: Sequence[Recall]) -> dict[str, UsageDelta]:
        """Return what corrections and repeated questions count against the memories that were used."""
        turned = turns_of(self._kept(session, namespace), follow_seconds=self.settings.settle_seconds)
        said = [
            ([cube.cube_id for cube in recall.cubes if cube.share != 0 and cube.verdict is None], turned[recall.id])
            for recall in new
            if recall.id in turned
        ]
        found = UsageDelta.summed([(cube_ids, UsageDelta(feedback=value)) for cube_ids, value in said])
        own = {cube.id for cube in session.cubes(Visibility(namespace), sorted(found))}
        return {cube_id: delta for cube_id, delta in found.items() if cube_id in own}

    # Looking after

    def learning(self, principal: Principal) -> list[LearnedWeights]:
        """Return every step of what this user's feedback has taught, oldest first; the last one is in use."""
        with self.vault.read() as session:
            return rows.weights_of(session, principal.namespace)

    def rollback_learning(self, principal: Principal, version: int) -> LearnedWeights:
        """Go back to an earlier step, or forward again. What was learned beside it does not count from now on.

        Raises:
            InvalidInput: There is no such step.
        """
        with self.vault.write() as session:
            versions = {each.version: each for each in rows.weights_of(session, principal.namespace)}
            if version not in versions:
                raise InvalidInput(f"nothing was learned as version {version}; there are {sorted(versions) or 'none'}")
            target = versions[version]
            return self._go(session, principal, target.version, target.after, f"back to version {version}")

    def reset_learning(self, principal: Principal) -> LearnedWeights | None:
        """Go back to the weights that ship; ``rollback_learning`` undoes it. Returns None if nothing was learned."""
        with self.vault.write() as session:
            if rows.newest_weights(session, principal.namespace) is None:
                rows.prune_recalls(session, principal.namespace, keep=0, before=session.now)
                return None
            return self._go(session, principal, 0, {}, "back to what ships")

    def _go(
        self, session: WriteSession, principal: Principal, parent: int, after: Mapping[str, float], reason: str
    ) -> LearnedWeights:
        name = principal.namespace
        newest = rows.weights_of(session, name)[-1]
        waiting = [each.id for each in rows.recalls_of(session, name) if each.learned is None]
        rows.mark_learned(session, waiting, newest.version)  # they were made under it, and go with it
        gone = LearnedWeights(
            newest.version + 1, parent, session.now, author_of(principal), reason, newest.after, after
        )
        rows.insert_weights(session, name, gone)
        session.record_audit(name, gone.author, "learning", [], {"version": gone.version, "reason": reason})
        return gone


class LearnTask(Task):
    """Learns from what a user's requests have shown since the last time."""

    kind = "learn"

    def __init__(self, learning: MemLearning) -> None:
        self.learning = learning

    def prepare(self, job: Job, report: Progress) -> Publish:
        namespace = job.principal.namespace
        with self.learning.vault.read() as session:
            weights, new, fit = self.learning.step(session, namespace)

        def publish(session: WriteSession) -> JsonValue:
            if new:
                self.learning.publish(session, namespace, weights, new)
            return {"version": weights.version, "requests": weights.recalls, "accepted": fit.accepted}

        return publish


def queue_learning(vault: MemVault, queue: JobQueue, settings: LearningSettings) -> int:
    """Queue the learning of every user of whom enough is new; return how many."""
    if not settings.enabled:
        return 0
    with vault.read() as session:
        settled = session.now - timedelta(seconds=settings.settle_seconds)
        waiting = rows.waiting_namespaces(session, before=settled)
    due = [name for name, count in waiting.items() if count >= settings.least_requests]
    if due:
        with vault.write() as session:
            for name in due:
                queue.add(session, Principal(name), LearnTask.kind)
    return len(due)


def contributions_of(recalls: Sequence[Recall], cube_ids: Collection[str]) -> dict[str, float]:
    """Return the mean share of memories in what answers took from memory, over the answers that were given them.

    Answers of which it is not known what they took do not count; too few of the others, and nothing is told.
    """
    shares: defaultdict[str, list[float]] = defaultdict(list)
    for recall in recalls:
        for cube in recall.cubes:
            if cube.share is not None:
                shares[cube.cube_id].append(cube.share)
    known = {cube_id: shares[cube_id] for cube_id in cube_ids if len(shares[cube_id]) >= LEAST_ANSWERS}
    return {cube_id: round(fmean(own), 4) for cube_id, own in known.items()}


def edits_of(session: ReadSession, namespace: str, recalls: Sequence[Recall]) -> Edits:
    return rows.edits_of(session, namespace, sorted({cube.cube_id for each in recalls for cube in each.cubes}))


def as_mapping(fit: Fit) -> dict[str, float]:
    return {name: round(float(value), 5) for name, value in zip(ALL_SIGNALS, fit.added, strict=True) if value}


def worded(fit: Fit, lessons: int) -> str:
    gain = f"{fit.gain:+.1%} of held-out pairs in the right order, give or take {fit.error:.1%}"
    if fit.accepted:
        return f"learned from {lessons} requests: {gain}"
    return f"what ships stays: {gain}, over {lessons} requests"
