"""The counters of use, and heat: how much memories are used lately, kept as one number each that cools with time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from sqlalchemy import bindparam, select, update

from memos_core.cube import MemCube, cooling
from memos_core.infrastructure.vault import schema
from memos_core.infrastructure.vault.conditions import chunks, from_micros, is_memory, live, micros, visible
from memos_core.infrastructure.vault.rows import cube_of, current
from memos_core.infrastructure.vault.values import UsageDelta, Visibility

if TYPE_CHECKING:
    from memos_core.infrastructure.vault.reading import ReadSession
    from memos_core.infrastructure.vault.writing import WriteSession

__all__ = ["COUNTERS", "contribute", "hottest", "touch"]


COUNTERS = ("reads", "injected_text", "injected_kv", "injected_lora", "tokens_saved", "feedback")
TOUCH = (
    update(schema.usage)
    .where(schema.usage.c.cube_id == bindparam("id"))
    .values(
        {name: schema.usage.c[name] + bindparam(f"add_{name}") for name in COUNTERS}
        | {name: bindparam(f"new_{name}") for name in ("last_used", "heat")}
    )
)


def touch(session: WriteSession, counts: Mapping[str, UsageDelta]) -> None:
    """Add to the counters of some cubes, and their uses to their heat, cooled to the moment of the later use."""
    u, rows = schema.usage, []
    for part in chunks(list(counts)):
        query = select(u.c.cube_id, u.c.heat, u.c.last_used).where(u.c.cube_id.in_(part))
        for row in session.connection.execute(query):
            delta = counts[row.cube_id]
            rows.append(
                {
                    "id": row.cube_id,
                    **{f"add_{name}": getattr(delta, name) for name in COUNTERS},
                    "new_last_used": max(filter(None, (row.last_used, micros(delta.last_used))), default=None),
                    "new_heat": warmer(row.heat, row.last_used, delta),
                }
            )
    if rows:
        session.connection.execute(TOUCH, rows)


def contribute(session: WriteSession, contributions: Mapping[str, float]) -> None:
    """Set what memories contribute to the answers that they take part in; those that are gone are passed over."""
    own = schema.usage.c.cube_id == bindparam("cube")
    rows = [{"cube": cube_id, "share": share} for cube_id, share in contributions.items()]
    if rows:
        session.connection.execute(update(schema.usage).where(own).values(contribution=bindparam("share")), rows)


def warmer(heat: float, last_used: int | None, delta: UsageDelta) -> float:
    """Return the heat after some uses. They may be told of out of order: other processes count too."""
    if not delta.uses or delta.last_used is None:
        return heat
    if last_used is None:
        return float(delta.uses)
    seconds = (delta.last_used - from_micros(last_used)).total_seconds()
    if seconds >= 0:
        return heat * cooling(seconds) + delta.uses
    return heat + delta.uses * cooling(-seconds)


def hottest(session: ReadSession, visibility: Visibility, *, at_least: float, limit: int) -> list[MemCube]:
    """Return live text memories that were at least that hot when they were used last, the hottest first."""
    u, c = schema.usage, schema.cubes
    conditions = [
        visible(visibility),
        live(session.now),
        is_memory(),
        u.c.heat >= at_least,
    ]
    rows = session.connection.execute(current().where(*conditions).order_by(u.c.heat.desc(), c.c.id).limit(limit))
    return [cube_of(row, session.now) for row in rows]
