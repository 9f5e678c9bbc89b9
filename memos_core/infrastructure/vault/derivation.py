"""What was made from memories and cannot be used any more, because one of them has changed or gone out of use."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import ColumnElement, and_, exists, func, not_, or_, select, text

from memos_core.cube import State
from memos_core.infrastructure.vault import schema
from memos_core.infrastructure.vault.conditions import chunks, granted_to, live, micros
from memos_core.principal import Principal

if TYPE_CHECKING:
    from memos_core.infrastructure.vault.reading import ReadSession

__all__ = ["fallen", "foreign_forms", "foreign_mark", "models", "sources_among"]

TENSORS = text("cubes.type <> 'plaintext'")
"""Written as in the partial index ``cubes_of_tensors``: with a bound value it would not be used."""


def fallen(
    session: ReadSession, now: datetime, *, cube_id: str | None = None, limit: int = 1000
) -> list[tuple[Principal, str]]:
    """Return the KV caches and adapters that have lost a source, oldest first, each with whom it was made for.

    A source is lost when it was edited, is out of use, has expired, is gone, is bound to an agent or session that the
    cube is not bound to, or belongs to another user who no longer grants it. What something else was made from in turn
    is left out: it would take that along.

    Args:
        cube_id: Ask of this one only.
    """
    c, below = schema.cubes, schema.lineage.alias("below")
    has_children = exists().where(below.c.source_id == c.c.id)
    wanted = [has_lost_a_source(now), not_(has_children)]
    return forms(session, wanted if cube_id is None else [*wanted, c.c.id == cube_id], limit)


def foreign_forms(
    session: ReadSession, now: datetime, fingerprints: Sequence[str], *, after: str = "", limit: int = 1000
) -> list[tuple[Principal, str]]:
    """Return the forms in use, with sources that all stand, that were made under none of these fingerprints.

    Args:
        after: Begin behind the cube of this id.
    """
    return forms(session, [*foreign(now, fingerprints), schema.cubes.c.id > after], limit)


def foreign_mark(session: ReadSession, now: datetime, fingerprints: Sequence[str]) -> tuple[int, str | None]:
    """Return how many such forms there are, and the newest one."""
    c = schema.cubes
    query = select(func.count(), func.max(c.c.id)).where(TENSORS, *foreign(now, fingerprints))
    count, newest = session.connection.execute(query).one()
    return int(count), newest


def foreign(now: datetime, fingerprints: Sequence[str]) -> list[ColumnElement[bool]]:
    c, made = schema.cubes, schema.lineage
    has_sources = exists().where(made.c.cube_id == c.c.id)
    other = c.c.fingerprint.not_in(list(fingerprints))
    return [live(now), other, has_sources, not_(has_lost_a_source(now))]


def models(session: ReadSession) -> set[str]:
    """Return the names of the models that forms in use were made for."""
    c, v = schema.cubes, schema.versions
    # One for each fingerprint: the name stands in the payload alone.
    first = select(func.min(c.c.id)).where(TENSORS, c.c.state == str(State.ACTIVE)).group_by(c.c.fingerprint)
    payloads = session.connection.scalars(select(v.c.payload).where(v.c.cube_id.in_(first)))
    return {str(json.loads(payload)["model"]) for payload in payloads}


def has_lost_a_source(now: datetime) -> ColumnElement[bool]:
    """Return the condition that a derived cube has lost a source; see ``fallen``."""
    c, made = schema.cubes, schema.lineage
    source, n = c.alias("source"), schema.namespaces
    user = select(n.c.name).where(n.c.id == c.c.namespace_id).correlate(c).scalar_subquery()
    own = and_(
        source.c.namespace_id == c.c.namespace_id,
        within(source.c.agent, c.c.agent),
        within(source.c.session, c.c.session),
    )
    stands = (
        exists()
        .where(
            source.c.id == made.c.source_id,
            source.c.version == made.c.source_version,
            live(now, source),
            or_(own, granted_to(user, micros(now), source)),
        )
        .correlate(c, made)
    )
    return exists().where(made.c.cube_id == c.c.id, not_(stands))


def forms(session: ReadSession, conditions: Sequence[ColumnElement[bool]], limit: int) -> list[tuple[Principal, str]]:
    """Return the KV caches and adapters that meet all conditions, oldest first, each with whom it was made for."""
    c, n = schema.cubes, schema.namespaces
    query = select(c.c.id, c.c.agent, c.c.session, n.c.name).join_from(c, n, n.c.id == c.c.namespace_id)
    rows = session.connection.execute(query.where(TENSORS, *conditions).order_by(c.c.id).limit(limit))
    return [(Principal(row.name, row.agent, row.session), row.id) for row in rows]


def sources_among(session: ReadSession, cube_ids: Sequence[str]) -> set[str]:
    """Return those of the cubes that something else was made from."""
    found: set[str] = set()
    made = schema.lineage
    for part in chunks(cube_ids):
        found.update(session.connection.scalars(select(made.c.source_id).where(made.c.source_id.in_(part)).distinct()))
    return found


def within(bound: ColumnElement[str | None], to: ColumnElement[str | None]) -> ColumnElement[bool]:
    """Return the condition that whoever is bound as ``to`` sees what is bound as ``bound``."""
    return or_(bound.is_(None), to.is_(None), bound == to)
