"""MemFeedback: notes what memory was given to a model, which of it the answer used, and what callers say of it.

Nothing here is worked on while a request waits: notes are kept in memory and written together, and what follows from
them is decided by a job (``operation.learning``). A note holds ids and numbers, never a text.
"""

from __future__ import annotations

import hashlib
import hmac
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from memos_core.cube import normalised
from memos_core.errors import CubeNotFound, InvalidInput
from memos_core.ids import UlidFactory
from memos_core.infrastructure.governance import MemGovernance
from memos_core.infrastructure.governance.governance import author_of
from memos_core.infrastructure.vault import MemVault, UsageDelta, WriteSession
from memos_core.infrastructure.vault import learning as rows
from memos_core.infrastructure.vault.learning import Recall, RecalledCube
from memos_core.operation.learning.used import shares_used, span_used
from memos_core.principal import Principal
from memos_core.records import InjectionPlan, MemoryCall, PlannedMemory, Reply
from memos_core.render import render_memory

__all__ = ["Judgement", "MemFeedback"]

WRITE_AFTER = 32
"""Notes that wait in memory at most: noting a request must not cost it a disk write."""

LOOK_BACK = 200
"""Requests of a user among which the one that is spoken of is looked for."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What came of a ``feedback``.

    Attributes:
        cube_ids: The memories that it counts for.
        good: Whether it counts in their favour; None: only what the answer used was noted.
        used: Which part of what the answer took from memory came from which memory, where an answer was given.
        recalled: Whether a request was found that these memories were given to; else nothing can be learned from it.
    """

    cube_ids: tuple[str, ...]
    good: bool | None
    used: dict[str, float]
    recalled: bool


class Planned(Protocol):
    """What was made with a plan: a reply, a context."""

    @property
    def plan(self) -> InjectionPlan: ...


class MemFeedback:
    """Notes for one vault. Thread-safe.

    Args:
        records: Whether requests are noted. Explicit judgements count in any case.
    """

    def __init__(self, vault: MemVault, governance: MemGovernance, ids: UlidFactory, *, records: bool) -> None:
        self.vault = vault
        self.governance = governance
        self.ids = ids
        self.records = records
        self._waiting: list[Recall] = []
        self._lock = threading.Lock()

    # Noting

    def note(self, principal: Principal, plan: InjectionPlan, answer: str | None = None) -> None:
        """Note which memories a plan gave to a model and, where the answer is known, which of them it used.

        A plan whose memories were named by the caller is passed over: there was no ranking to learn from.
        """
        asked = plan.asked
        weighed = [memory for memory in plan.memories if memory.weighed is not None]
        if not self.records or asked is None or not (weighed or asked.intent == "correct"):
            return
        shares, spans = used_in(asked, plan.memories, answer), spans_in(asked, plan.memories, answer)
        now = self.governance.clock.now()
        first = weighed[0].weighed if weighed else None
        recall = Recall(
            id=self.ids.new(now),
            principal=principal,
            at=now,
            question=asked.query,
            intent=asked.intent,
            features=first.features if first else "",
            situation=first.situation if first else (),
            cubes=tuple(recalled(memory, shares, spans) for memory in weighed),
        )
        with self._lock:
            self._waiting.append(recall)
            full = len(self._waiting) >= WRITE_AFTER
        if full:
            self.flush()

    def flush(self) -> None:
        """Write the notes that wait in memory."""
        with self._lock:
            waiting, self._waiting = self._waiting, []
        if waiting:
            embedder = self.vault.embedder  # the search made these vectors, so the cache before it has them
            found = [
                replace(each, vector=embedder.embed_query(each.question) if embedder else None) for each in waiting
            ]
            with self.vault.write() as session:
                rows.insert_recalls(session, [digested(session, each) for each in found])

    # Judging

    def feedback(
        self,
        principal: Principal,
        about: Planned | InjectionPlan | str | Sequence[str],
        *,
        good: bool | None = None,
        answer: str | None = None,
    ) -> Judgement:
        """Say that an answer, or single memories in it, were good or bad, or what a model of yours answered.

        It counts for the memories at once, and for how this user's memories are ranked once a job has looked at it.

        Args:
            about: A reply, a context, the plan of either, or ids of memories.
            good: True in favour, False against; None: no judgement, only ``answer``.
            answer: What a model that you called answered with the memories of this context.

        Raises:
            CubeNotFound: A memory is not visible here.
            InvalidInput: Neither a judgement nor an answer is given, or no memory is named.
        """
        if good is None and answer is None:
            raise InvalidInput("say good=True, good=False, or the answer= that memory was used for")
        plan = about if isinstance(about, InjectionPlan) else getattr(about, "plan", None)
        if answer is not None and (plan is None or isinstance(about, Reply)):
            raise InvalidInput("answer= belongs to a context; a reply holds its answer already")
        cube_ids = list(plan.cube_ids) if plan is not None else named(about)
        if not cube_ids:  # the plan holds no memory: nothing to judge
            return Judgement((), good, {}, recalled=False)
        used = {} if plan is None or answer is None else self._used(plan, answer)
        spans = spans_in(plan.asked, plan.memories, answer) if plan is not None and used else {}
        self.flush()
        with self.vault.write() as session:
            own = self._own(session, principal, cube_ids)
            recall = self._recall(session, principal, cube_ids)
            if recall is not None and used:
                rows.set_shares(session, recall.id, used)
                rows.set_spans(session, recall.id, spans)
            if good is not None:
                value = 1.0 if good else -1.0
                session.touch({cube_id: UsageDelta(feedback=value) for cube_id in own})
                if recall is not None:
                    rows.set_verdicts(session, recall.id, dict.fromkeys(cube_ids, value))
                author = author_of(principal)
                session.record_audit(principal.namespace, author, "feedback", cube_ids, {"good": good})
        return Judgement(tuple(cube_ids), good, used, recall is not None)

    def _used(self, plan: InjectionPlan, answer: str) -> dict[str, float]:
        shares = used_in(plan.asked, plan.memories, answer)
        return {} if shares is None else shares

    def _own(self, session: WriteSession, principal: Principal, cube_ids: Sequence[str]) -> list[str]:
        """Return those that are the user's own: what is granted by another keeps its counters.

        Raises:
            CubeNotFound: One is not visible here.
        """
        held = {cube.id: cube for cube in session.cubes(self.governance.reach(principal), cube_ids)}
        for cube_id in cube_ids:
            if cube_id not in held:
                raise CubeNotFound(cube_id)
        return [key for key, cube in held.items() if cube.header.governance.namespace == principal.namespace]

    def _recall(self, session: WriteSession, principal: Principal, cube_ids: Sequence[str]) -> Recall | None:
        """Return the latest request of this principal that was given all of these memories."""
        wanted = set(cube_ids)
        for recall in reversed(rows.recalls_of(session, principal.namespace, newest=LOOK_BACK)):
            if recall.principal == principal and wanted.issubset(cube.cube_id for cube in recall.cubes):
                return recall
        return None


def named(about: object) -> list[str]:
    """Return the ids that a caller named, each once.

    Raises:
        InvalidInput: There is none, or something else stands there.
    """
    ids = [about] if isinstance(about, str) else list(about) if isinstance(about, Sequence) else []
    if not ids or not all(isinstance(each, str) for each in ids):
        raise InvalidInput("feedback is about a reply, a context, or ids of memories")
    return list(dict.fromkeys(ids))


def used_in(asked: MemoryCall | None, memories: Sequence[PlannedMemory], answer: str | None) -> dict[str, float] | None:
    """Return the share of each memory in what an answer took from memory; None where that is not known."""
    if answer is None or not memories:
        return None
    prompt = asked.query if asked else ""
    shares = shares_used(answer, [render_memory(memory.cube) for memory in memories], prompt)
    if shares is None:
        return None
    return {memory.cube_id: round(share, 4) for memory, share in zip(memories, shares, strict=True)}


def spans_in(
    asked: MemoryCall | None, memories: Sequence[PlannedMemory], answer: str | None
) -> dict[str, tuple[int, int]]:
    """Return which characters of long memories an answer used, as far as that is known.

    Of a memory that was given in part, that part, if any of it was used.
    """
    found = {}
    for memory in memories if answer is not None else ():
        span = span_used(answer or "", memory.cube.text, asked.query if asked else "")
        if span is not None:
            found[memory.cube_id] = memory.passage or span
    return found


def recalled(memory: PlannedMemory, shares: dict[str, float] | None, spans: dict[str, tuple[int, int]]) -> RecalledCube:
    signals = memory.weighed.signals if memory.weighed else ()
    share = None if shares is None else shares[memory.cube_id]
    return RecalledCube(memory.cube_id, signals, share, span=spans.get(memory.cube_id))


def digested(session: WriteSession, recall: Recall) -> Recall:
    """Return a recall with a digest in the place of the question, which no other namespace shares."""
    salt = session.ensure_namespace(recall.principal.namespace).salt
    return replace(recall, question=hmac.new(salt, normalised(recall.question).encode(), hashlib.sha256).hexdigest())
