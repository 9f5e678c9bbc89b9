"""What was made from memories and cannot be used any more, because one of them has changed or gone out of use."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import ColumnElement, exists, not_, or_, select, text

from memos_core.infrastructure.vault import schema
from memos_core.infrastructure.vault.conditions import chunks, live
from memos_core.principal import Principal

if TYPE_CHECKING:
    from memos_core.infrastructure.vault.reading import ReadSession

__all__ = ["fallen", "sources_among"]

TENSORS = text("cubes.type <> 'plaintext'")
"""Written as in the partial index ``cubes_of_tensors``: with a bound value it would not be used."""


def fallen(
    session: ReadSession, now: datetime, *, cube_id: str | None = None, limit: int = 1000
) -> list[tuple[Principal, str]]:
    """Return the KV caches and adapters that have lost a source, oldest first, each with whom it was made for.

    A source is lost when it was edited, is out of use, has expired, is gone, or is bound to an agent or session that
    the cube is not bound to. What something else was made from in turn is left out: it would take that along.

    Args:
        cube_id: Ask of this one only.
    """
    c, n, made = schema.cubes, schema.namespaces, schema.lineage
    source = c.alias("source")
    stands = exists().where(
        source.c.id == made.c.source_id,
        source.c.version == made.c.source_version,
        source.c.namespace_id == c.c.namespace_id,
        live(now, source),
        within(source.c.agent, c.c.agent),
        within(source.c.session, c.c.session),
    )
    lost = exists().where(made.c.cube_id == c.c.id, not_(stands))
    below = made.alias("below")
    has_children = exists().where(below.c.source_id == c.c.id)
    query = select(c.c.id, c.c.agent, c.c.session, n.c.name).join_from(c, n, n.c.id == c.c.namespace_id)
    query = query.where(TENSORS, lost, not_(has_children))
    if cube_id is not None:
        query = query.where(c.c.id == cube_id)
    rows = session.connection.execute(query.order_by(c.c.id).limit(limit))
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
