"""What was recalled for which question, and the weights learned from it, as rows. Numbers and ids, never a text.

The weights of a namespace are a chain of versions: each names the one that it went on from, so going back to an earlier
one is another version, and takes back what was learned since. A recall belongs to the version that first learned from
it; what stands on another branch does not count.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
from sqlalchemy import Row, and_, bindparam, delete, func, insert, select, update

from memos_core.cube import canonical_json
from memos_core.embedding.base import Vector
from memos_core.infrastructure.vault import schema
from memos_core.infrastructure.vault.conditions import chunks, from_micros, micros
from memos_core.infrastructure.vault.prepared import Prepared
from memos_core.principal import Principal

if TYPE_CHECKING:
    from memos_core.infrastructure.vault.reading import ReadSession
    from memos_core.infrastructure.vault.writing import WriteSession

__all__ = [
    "LearnedWeights",
    "Recall",
    "RecalledCube",
    "edits_of",
    "insert_recalls",
    "insert_weights",
    "lineage_of",
    "mark_learned",
    "newest_weights",
    "prune_recalls",
    "recalled_namespaces",
    "recalls_of",
    "set_shares",
    "set_spans",
    "set_verdicts",
    "unlearn",
    "waiting_namespaces",
    "weights_of",
]

Numbers = tuple[float, ...]
HALF = np.dtype("<f2")


@dataclass(frozen=True, slots=True)
class RecalledCube:
    """A memory that was given to a model.

    Attributes:
        cube_id: Which one.
        signals: What spoke for it.
        share: Which part of what the answer took from memory came from it; None: not known.
        verdict: The caller's, between -1 and 1; None: none was given.
        span: The characters of it that the answer used; None: not known, as for all that is short.
    """

    cube_id: str
    signals: Numbers
    share: float | None = None
    verdict: float | None = None
    span: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Recall:
    """One request that memory was given to.

    Attributes:
        id: A ULID; they ascend.
        principal: Who asked.
        at: When.
        question: Digest of what was asked, keyed by the namespace.
        intent: What the prompt wanted of memory.
        features: Which signals and which parts of a situation the numbers are, and of which embedder.
        situation: Of the question and the memory that was searched.
        cubes: What was given, in the order of the prompt.
        learned: Version of the weights that learned from it first; None: it waits.
        vector: Of the question; None where there is no embedder.
    """

    id: str
    principal: Principal
    at: datetime
    question: str
    intent: str
    features: str
    situation: Numbers
    cubes: tuple[RecalledCube, ...]
    learned: int | None = None
    vector: Vector | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class LearnedWeights:
    """What a namespace has learned, as of one version.

    Attributes:
        version: From 1 on.
        parent: The version that it went on from; 0: the weights that ship.
        at: When it was made.
        author: Who made it: ``memos`` for what was learned, else who went back.
        reason: Why, in words.
        before: What was added to the shipped weight of each signal until then.
        after: What is added from then on.
        recalls: How many requests it was learned from.
    """

    version: int
    parent: int
    at: datetime
    author: str
    reason: str
    before: Mapping[str, float]
    after: Mapping[str, float]
    recalls: int = 0


# Recalls


def insert_recalls(session: WriteSession, recalls: Sequence[Recall]) -> None:
    """Store what was recalled, but for requests with a memory that is gone by now."""
    held = existing(session, sorted({cube.cube_id for each in recalls for cube in each.cubes}))
    recalls = [each for each in recalls if held.issuperset(cube.cube_id for cube in each.cubes)]
    if not recalls:
        return
    session.connection.execute(insert(schema.recalls), [recall_row(session, each) for each in recalls])
    rows = [
        {
            "recall_id": each.id,
            "position": place,
            "cube_id": cube.cube_id,
            "signals": encoded(cube.signals),
            "share": cube.share,
            "verdict": cube.verdict,
            "span_start": cube.span[0] if cube.span else None,
            "span_end": cube.span[1] if cube.span else None,
        }
        for each in recalls
        for place, cube in enumerate(each.cubes)
    ]
    if rows:
        session.connection.execute(insert(schema.recall_cubes), rows)


def existing(session: ReadSession, cube_ids: Sequence[str]) -> set[str]:
    found: set[str] = set()
    for part in chunks(cube_ids):
        found.update(session.connection.scalars(select(schema.cubes.c.id).where(schema.cubes.c.id.in_(part))))
    return found


def recall_row(session: WriteSession, recall: Recall) -> dict[str, Any]:
    return {
        "id": recall.id,
        "namespace_id": session._namespace_id(recall.principal.namespace, make=True),
        "agent": recall.principal.agent,
        "session": recall.principal.session,
        "at": micros(recall.at),
        "question": recall.question,
        "intent": recall.intent,
        "features": recall.features,
        "situation": encoded(recall.situation),
        "vector": None if recall.vector is None else recall.vector.astype(HALF).tobytes(),
        "learned": recall.learned,
    }


def recalls_of(session: ReadSession, namespace: str, *, newest: int | None = None) -> list[Recall]:
    """Return what was recalled in a namespace, oldest first; ``newest`` many at most, the oldest left out."""
    r, n = schema.recalls, schema.namespaces
    query = select(r, n.c.name).join_from(r, n, n.c.id == r.c.namespace_id).where(n.c.name == namespace)
    rows = session.connection.execute(query.order_by(r.c.id.desc()).limit(newest)).all()[::-1]
    about = cubes_of(session, [row.id for row in rows])
    return [recall_of(row, tuple(about[row.id])) for row in rows]


def cubes_of(session: ReadSession, recall_ids: Sequence[str]) -> defaultdict[str, list[RecalledCube]]:
    c = schema.recall_cubes
    about: defaultdict[str, list[RecalledCube]] = defaultdict(list)
    for part in chunks(recall_ids):
        query = select(c).where(c.c.recall_id.in_(part)).order_by(c.c.recall_id, c.c.position)
        for row in session.connection.execute(query):
            span = None if row.span_start is None else (row.span_start, row.span_end)
            about[row.recall_id].append(RecalledCube(row.cube_id, decoded(row.signals), row.share, row.verdict, span))
    return about


def recall_of(row: Row[Any], cubes: tuple[RecalledCube, ...]) -> Recall:
    return Recall(
        id=row.id,
        principal=Principal(row.name, row.agent, row.session),
        at=from_micros(row.at),
        question=row.question,
        intent=row.intent,
        features=row.features,
        situation=decoded(row.situation),
        cubes=cubes,
        learned=row.learned,
        vector=None if row.vector is None else np.frombuffer(row.vector, HALF).astype(np.float32),
    )


def encoded(numbers: Numbers) -> str:
    return json.dumps([round(number, 5) for number in numbers], separators=(",", ":"))


def decoded(text: str) -> Numbers:
    return tuple(json.loads(text))


def set_shares(session: WriteSession, recall_id: str, shares: Mapping[str, float]) -> None:
    """Note which part of an answer came from which memory."""
    note(session, "share", [(recall_id, cube_id, share) for cube_id, share in shares.items()])


def set_spans(session: WriteSession, recall_id: str, spans: Mapping[str, tuple[int, int]]) -> None:
    """Note which characters of memories an answer used."""
    note(session, "span_start", [(recall_id, cube_id, start) for cube_id, (start, _) in spans.items()])
    note(session, "span_end", [(recall_id, cube_id, end) for cube_id, (_, end) in spans.items()])


def set_verdicts(session: WriteSession, recall_id: str, verdicts: Mapping[str, float]) -> None:
    """Note what the caller said of memories; what was said before is replaced."""
    note(session, "verdict", [(recall_id, cube_id, verdict) for cube_id, verdict in verdicts.items()])


def note(session: WriteSession, column: str, values: Sequence[tuple[str, str, float]]) -> None:
    c = schema.recall_cubes
    own = and_(c.c.recall_id == bindparam("recall"), c.c.cube_id == bindparam("cube"))
    rows = [{"recall": recall_id, "cube": cube_id, "noted": value} for recall_id, cube_id, value in values]
    if rows:
        session.connection.execute(update(c).where(own).values({column: bindparam("noted")}), rows)


def edits_of(session: ReadSession, namespace: str, cube_ids: Sequence[str]) -> dict[str, list[datetime]]:
    """Return the moments at which these memories got another text, ascending; nothing of what others own.

    A grant may have ended, and when its owner edits a memory is nobody else's to know.
    """
    v, c, n = schema.versions, schema.cubes, schema.namespaces
    own = select(c.c.id).join_from(c, n, n.c.id == c.c.namespace_id).where(n.c.name == namespace)
    found: dict[str, list[datetime]] = {}
    for part in chunks(cube_ids):
        held = own.where(c.c.id.in_(part))
        query = select(v.c.cube_id, v.c.committed).where(v.c.cube_id.in_(held), v.c.version > 1).order_by(v.c.version)
        for cube_id, committed in session.connection.execute(query):
            found.setdefault(cube_id, []).append(from_micros(committed))
    return found


def waiting_namespaces(session: ReadSession, *, before: datetime) -> dict[str, int]:
    """Return how many recalls from before a moment wait to be learned from, by namespace."""
    r, n = schema.recalls, schema.namespaces
    query = select(n.c.name, func.count().label("waiting")).join_from(r, n, n.c.id == r.c.namespace_id)
    waiting = query.where(r.c.learned.is_(None), r.c.at <= micros(before)).group_by(n.c.name).order_by(n.c.name)
    return {row.name: row.waiting for row in session.connection.execute(waiting)}


def recalled_namespaces(session: ReadSession) -> list[str]:
    """Return the namespaces of which requests are kept, sorted."""
    r, n = schema.recalls, schema.namespaces
    query = select(n.c.name).where(n.c.id.in_(select(r.c.namespace_id)))
    return list(session.connection.scalars(query.order_by(n.c.name)))


def mark_learned(session: WriteSession, recall_ids: Sequence[str], version: int) -> None:
    """Note which version learned first from these recalls."""
    for part in chunks(recall_ids):
        session.connection.execute(update(schema.recalls).where(schema.recalls.c.id.in_(part)).values(learned=version))


def prune_recalls(session: WriteSession, namespace: str, *, keep: int, before: datetime) -> int:
    """Delete what was recalled before a moment, and of the rest all but the newest ``keep``; return how many."""
    r = schema.recalls
    own = r.c.namespace_id == session._namespace_id(namespace)
    newest = select(r.c.id).where(own).order_by(r.c.id.desc()).limit(keep)
    doomed = session.connection.scalars(select(r.c.id).where(own, (r.c.at < micros(before)) | r.c.id.not_in(newest)))
    return remove_recalls(session, list(doomed))


def remove_recalls(session: WriteSession, recall_ids: Sequence[str]) -> int:
    removed = 0
    for part in chunks(recall_ids):
        session.connection.execute(delete(schema.recall_cubes).where(schema.recall_cubes.c.recall_id.in_(part)))
        removed += session.connection.execute(delete(schema.recalls).where(schema.recalls.c.id.in_(part))).rowcount
    return removed


# Weights


def weights_of(session: ReadSession, namespace: str) -> list[LearnedWeights]:
    """Return all versions of a namespace's weights, oldest first."""
    w, n = schema.learned_weights, schema.namespaces
    query = select(w).join_from(w, n, n.c.id == w.c.namespace_id).where(n.c.name == namespace)
    return [weights_row(row) for row in session.connection.execute(query.order_by(w.c.version))]


NEWEST = Prepared(
    select(schema.learned_weights)
    .join_from(
        schema.learned_weights, schema.namespaces, schema.namespaces.c.id == schema.learned_weights.c.namespace_id
    )
    .where(schema.namespaces.c.name == bindparam("name"))
    .order_by(schema.learned_weights.c.version.desc())
    .limit(1)
)


def newest_weights(session: ReadSession, namespace: str) -> LearnedWeights | None:
    """Return the weights that are in use; None: those that ship."""
    row = NEWEST.first(session.connection, name=namespace)
    return None if row is None else weights_row(row)


def weights_row(row: Any) -> LearnedWeights:
    return LearnedWeights(
        version=row.version,
        parent=row.parent,
        at=from_micros(row.at),
        author=row.author,
        reason=row.reason,
        before=json.loads(row.before),
        after=json.loads(row.after),
        recalls=row.recalls,
    )


def insert_weights(session: WriteSession, namespace: str, weights: LearnedWeights) -> None:
    """Store a version; it is in use from now on. Whatever keeps results of searches sees a change."""
    namespace_id = session._namespace_id(namespace, make=True)
    row = {
        "namespace_id": namespace_id,
        "version": weights.version,
        "parent": weights.parent,
        "at": micros(weights.at),
        "author": weights.author,
        "reason": weights.reason,
        "before": canonical_json(dict(weights.before)).decode(),
        "after": canonical_json(dict(weights.after)).decode(),
        "recalls": weights.recalls,
    }
    session.connection.execute(insert(schema.learned_weights), row)
    session._changed(namespace_id)


def lineage_of(versions: Sequence[LearnedWeights], version: int | None = None) -> set[int]:
    """Return the versions that one (by default the newest) went on from, itself included."""
    parents = {each.version: each.parent for each in versions}
    current = max(parents, default=0) if version is None else version
    found = set()
    while current in parents and current not in found:
        found.add(current)
        current = parents[current]
    return found


def unlearn(session: WriteSession, cube_ids: Sequence[str]) -> None:
    """Take out all that was learned from cubes that are erased: the recalls that they were in, and all weights.

    What was learned from other recalls is learned anew, by the next job; until then the shipped weights serve.
    """
    r, c = schema.recalls, schema.recall_cubes
    doomed: dict[int, int] = {}
    for part in chunks(cube_ids):
        about = select(r.c.id, r.c.namespace_id, r.c.learned).join_from(r, c, c.c.recall_id == r.c.id)
        rows = session.connection.execute(about.where(c.c.cube_id.in_(part)).distinct()).all()
        remove_recalls(session, [row.id for row in rows])
        doomed |= {row.namespace_id: max(row.learned or 0, doomed.get(row.namespace_id, 0)) for row in rows}
    for namespace_id in sorted(key for key, learned in doomed.items() if learned):
        start_over(session, namespace_id)


def start_over(session: WriteSession, namespace_id: int) -> None:
    """Delete the weights of a namespace. What stood on the branch in use waits to be learned from; the rest goes."""
    r, w = schema.recalls, schema.learned_weights
    rows = session.connection.execute(select(w).where(w.c.namespace_id == namespace_id)).all()
    standing = lineage_of([weights_row(row) for row in rows])
    own = r.c.namespace_id == namespace_id
    left = select(r.c.id).where(own, r.c.learned.is_not(None), r.c.learned.not_in(sorted(standing)))
    remove_recalls(session, list(session.connection.scalars(left)))
    session.connection.execute(update(r).where(own).values(learned=None))
    session.connection.execute(delete(w).where(w.c.namespace_id == namespace_id))
    session._changed(namespace_id)
