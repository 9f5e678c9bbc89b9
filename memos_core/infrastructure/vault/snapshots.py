"""Snapshots as rows: which version of which cube was in which state. Versions stay, so no text is copied."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import ColumnElement, and_, delete, func, insert, select

from memos_core.cube import State
from memos_core.infrastructure.vault import schema
from memos_core.infrastructure.vault.conditions import chunks, from_micros, is_memory, micros, visible
from memos_core.infrastructure.vault.values import Visibility

if TYPE_CHECKING:
    from memos_core.infrastructure.vault.reading import ReadSession
    from memos_core.infrastructure.vault.writing import WriteSession

__all__ = ["Snapshot", "Standing", "delete_snapshot", "insert_snapshot", "recorded", "snapshots_of", "standings"]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """How the text memories of a scope stood at one moment.

    Attributes:
        id: A ULID.
        name: As its owner calls it.
        author: Who took it.
        created: When.
        memories: How many memories it holds; those forgotten since are gone from it.
    """

    id: str
    name: str
    author: str
    created: datetime
    memories: int


@dataclass(frozen=True, slots=True)
class Standing:
    """How one cube stands, or stood.

    Attributes:
        version: Its version.
        state: Its state; an active cube whose time is over is expired.
        digest: Of the payload of that version.
    """

    version: int
    state: State
    digest: str


def own(visibility: Visibility) -> ColumnElement[bool]:
    """Return the condition that a snapshot was taken by a scope that is bound just like this."""
    s, n = schema.snapshots, schema.namespaces
    namespace = select(n.c.id).where(n.c.name == visibility.namespace).scalar_subquery()
    bound = [
        column.is_(None) if value is None else column == value
        for column, value in ((s.c.agent, visibility.agent), (s.c.session, visibility.session))
    ]
    return and_(s.c.namespace_id == namespace, *bound)


def snapshots_of(session: ReadSession, visibility: Visibility, name: str | None = None) -> list[Snapshot]:
    """Return the snapshots of a scope, or the one of that name, oldest first."""
    s, c = schema.snapshots, schema.snapshot_cubes
    held = select(func.count()).where(c.c.snapshot_id == s.c.id).scalar_subquery()
    query = select(s.c.id, s.c.name, s.c.author, s.c.created, held.label("memories")).where(own(visibility))
    if name is not None:
        query = query.where(s.c.name == name)
    rows = session.connection.execute(query.order_by(s.c.id))
    return [Snapshot(row.id, row.name, row.author, from_micros(row.created), row.memories) for row in rows]


def standings(session: ReadSession, visibility: Visibility) -> dict[str, Standing]:
    """Return how each visible text memory stands now, by id."""
    c, v = schema.cubes, schema.versions
    joined = c.join(v, and_(v.c.cube_id == c.c.id, v.c.version == c.c.version))
    query = select(c.c.id, c.c.version, c.c.state, c.c.expires_at, v.c.digest).select_from(joined)
    cut = micros(session.now)
    found = {}
    for row in session.connection.execute(query.where(visible(visibility), is_memory())):
        lapsed = row.state == State.ACTIVE and row.expires_at is not None and cut is not None and row.expires_at <= cut
        found[row.id] = Standing(row.version, State.EXPIRED if lapsed else State(row.state), row.digest)
    return found


def recorded(session: ReadSession, snapshot: Snapshot) -> dict[str, Standing]:
    """Return how each memory of a snapshot stood, by id."""
    c, v = schema.snapshot_cubes, schema.versions
    joined = c.join(v, and_(v.c.cube_id == c.c.cube_id, v.c.version == c.c.version))
    query = select(c.c.cube_id, c.c.version, c.c.state, v.c.digest).select_from(joined)
    rows = session.connection.execute(query.where(c.c.snapshot_id == snapshot.id))
    return {row.cube_id: Standing(row.version, State(row.state), row.digest) for row in rows}


def insert_snapshot(
    session: WriteSession, visibility: Visibility, snapshot_id: str, name: str, author: str
) -> Snapshot:
    """Store how the text memories of a scope stand."""
    found = standings(session, visibility)
    row = {
        "id": snapshot_id,
        "namespace_id": session._namespace_id(visibility.namespace, make=True),
        "agent": visibility.agent,
        "session": visibility.session,
        "name": name,
        "author": author,
        "created": micros(session.now),
    }
    session.connection.execute(insert(schema.snapshots), row)
    for part in chunks(list(found.items())):
        rows = [
            {"snapshot_id": snapshot_id, "cube_id": key, "version": each.version, "state": str(each.state)}
            for key, each in part
        ]
        session.connection.execute(insert(schema.snapshot_cubes), rows)
    return Snapshot(snapshot_id, name, author, session.now, len(found))


def delete_snapshot(session: WriteSession, snapshot: Snapshot) -> None:
    """Delete a snapshot; the memories stay as they are."""
    c, s = schema.snapshot_cubes, schema.snapshots
    session.connection.execute(delete(c).where(c.c.snapshot_id == snapshot.id))
    session.connection.execute(delete(s).where(s.c.id == snapshot.id))
