"""Which memories a retention policy looks at: rows that are light, however many there are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import JSON, and_, delete, exists, func, not_, select, type_coerce

from memos_core.cube import MemoryType, State, cooling
from memos_core.infrastructure.vault import schema
from memos_core.infrastructure.vault.conditions import from_micros, is_memory, live, micros, moment, visible
from memos_core.infrastructure.vault.values import Visibility

if TYPE_CHECKING:
    from memos_core.infrastructure.vault.reading import ReadSession
    from memos_core.infrastructure.vault.writing import WriteSession

__all__ = ["Use", "count_live", "lapsed", "remove_audit", "uses"]


IMPORTANCE = type_coerce(schema.cubes.c.header, JSON)["descriptive", "importance"].as_float().label("importance")


@dataclass(frozen=True, slots=True)
class Use:
    """How a memory was used, as far as a retention policy asks.

    Attributes:
        cube_id: The memory.
        changed: When it was stored or edited last.
        used: When it was read or injected last, or else stored or edited.
        heat: Its heat now.
        importance: Of its text; None: not told.
    """

    cube_id: str
    changed: datetime
    used: datetime
    heat: float
    importance: float | None = None


def count_live(session: ReadSession, visibility: Visibility) -> int:
    """Return how many text memories are in use."""
    query = select(func.count()).select_from(schema.cubes).where(visible(visibility), live(session.now), is_memory())
    return int(session.connection.scalar(query) or 0)


def uses(session: ReadSession, visibility: Visibility, *, but_tagged: Sequence[str]) -> list[Use]:
    """Return how each text memory in use was used, but for those that have one of these tags."""
    c, u, v, t = schema.cubes, schema.usage, schema.versions, schema.tags
    joined = c.join(u, u.c.cube_id == c.c.id).join(v, and_(v.c.cube_id == c.c.id, v.c.version == c.c.version))
    query = select(c.c.id, v.c.committed, u.c.last_used, u.c.heat, IMPORTANCE).select_from(joined)
    query = query.where(visible(visibility), live(session.now), is_memory())
    if but_tagged:
        query = query.where(not_(exists().where(t.c.cube_id == c.c.id, t.c.tag.in_(list(but_tagged)))))
    found = []
    for row in session.connection.execute(query.order_by(c.c.id)):
        changed, last = from_micros(row.committed), moment(row.last_used)
        heat = 0.0 if last is None else row.heat * cooling(max(0.0, (session.now - last).total_seconds()))
        found.append(Use(row.id, changed, max(changed, last or changed), heat, row.importance))
    return found


def lapsed(session: ReadSession, visibility: Visibility, *, before: datetime, limit: int) -> list[str]:
    """Return the text memories whose time was over before a moment, whatever their state, the oldest first.

    One from which something was made that is still in use stays: it would take that along.
    """
    c, made = schema.cubes, schema.lineage
    child = c.alias("child")
    needed = exists().where(
        made.c.source_id == c.c.id,
        made.c.cube_id == child.c.id,
        child.c.type == str(MemoryType.PLAINTEXT),
        child.c.state.in_([State.ACTIVE, State.ARCHIVED, State.MERGED]),
        child.c.expires_at.is_(None) | (child.c.expires_at > micros(session.now)),
    )
    query = select(c.c.id).where(visible(visibility), is_memory(), c.c.expires_at <= micros(before), not_(needed))
    return list(session.connection.scalars(query.order_by(c.c.expires_at, c.c.id).limit(limit)))


def remove_audit(session: WriteSession, before: datetime) -> int:
    """Delete the entries of the audit that are older than a moment, and return how many."""
    a, about = schema.audit, schema.audit_cubes
    old = select(a.c.id).where(a.c.at < micros(before))
    session.connection.execute(delete(about).where(about.c.audit_id.in_(old)))
    return session.connection.execute(delete(a).where(a.c.at < micros(before))).rowcount
