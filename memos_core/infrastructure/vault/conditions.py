"""What may be seen and what is asked for, as conditions on rows of ``cubes``. Whatever a caller gave is bound."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar, overload

from pydantic import JsonValue
from sqlalchemy import ColumnElement, FromClause, Table, and_, exists, func, not_, or_, select, text

from memos_core.cube import MemoryType, Sensitivity, State
from memos_core.infrastructure.vault import schema
from memos_core.infrastructure.vault.header_filters import HIDDEN, condition_of, fields_in
from memos_core.infrastructure.vault.values import SearchFilter, Visibility

__all__ = [
    "HOLDS",
    "SUPERSEDED_BY",
    "chunks",
    "filtered",
    "from_micros",
    "granted",
    "granted_to",
    "in_force",
    "is_memory",
    "live",
    "live_at",
    "matching",
    "micros",
    "moment",
    "of_collection",
    "owned",
    "secret",
    "standing",
    "superseded",
    "usable",
    "visible",
    "within_reach",
]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
CHUNK = 5000
"""Bound values in one statement; SQLite takes 32,766."""

HOLDS = text("cubes.state = 'active'")
"""That a cube holds its duplicate key. By a bound state SQLite would plan the query anew for each value: the index on
keys has active cubes only."""

SUPERSEDED_BY = "superseded_by"
"""The relation from a memory to the one that took its place."""

Condition = ColumnElement[bool]
Cubes = Table | FromClause
T = TypeVar("T")


@overload
def micros(moment: datetime) -> int: ...
@overload
def micros(moment: datetime | None) -> int | None: ...
def micros(moment: datetime | None) -> int | None:
    """Return a moment as the ledger keeps it: exact, whole microseconds since 1970."""
    return None if moment is None else (moment - EPOCH) // timedelta(microseconds=1)


def from_micros(value: int) -> datetime:
    """Return the moment that ``micros`` wrote."""
    return EPOCH + timedelta(microseconds=value)


def moment(value: int | None) -> datetime | None:
    """Like ``from_micros``, for what may be absent."""
    return None if value is None else from_micros(value)


def chunks(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """Yield ``items`` in parts that fit one statement."""
    for start in range(0, len(items), CHUNK):
        yield items[start : start + CHUNK]


def visible(visibility: Visibility, *, by_id: bool = False) -> Condition:
    """Return the condition that a cube may be seen.

    Args:
        by_id: The query finds cubes by their ids, so the database must not walk the whole namespace instead.
    """
    own = owned(visibility, by_id=by_id)
    return own if visibility.granted_at is None else or_(own, granted(visibility))


def owned(visibility: Visibility, *, by_id: bool = False) -> Condition:
    """Return the condition that a cube is within reach, and so is everything that it was made from.

    Args:
        by_id: As for ``visible``.
    """
    own = within_reach(visibility, by_id=by_id)
    unbound = visibility.agent is None and visibility.session is None
    if unbound and visibility.granted_at is None:
        return own
    sound = not_(rests_on_hidden(visibility))
    plain = schema.cubes.c.type == str(MemoryType.PLAINTEXT)  # no text is made from what others own
    return and_(own, or_(plain, sound) if unbound else sound)


def rests_on_hidden(visibility: Visibility) -> Condition:
    """Return the condition that a cube was made from one that may not be seen."""
    source = schema.cubes.alias("hidden_source")
    made_from = schema.lineage.c.cube_id == schema.cubes.c.id, schema.lineage.c.source_id == source.c.id
    hidden = not_(reachable(visibility, source))
    if visibility.granted_at is None:  # what others own hides nothing from whoever tidies up
        hidden = and_(source.c.namespace_id == schema.cubes.c.namespace_id, hidden)
    return exists().where(*made_from, hidden)


def reachable(visibility: Visibility, cubes: Any = schema.cubes) -> Condition:
    """Return the condition that a cube is within reach, or granted where that counts."""
    own = within_reach(visibility, cubes)
    return own if visibility.granted_at is None else or_(own, granted(visibility, cubes))


def granted(visibility: Visibility, cubes: Any = schema.cubes) -> Condition:
    """Return the condition that a cube is a memory in use that its owner lets the visibility's user read."""
    at: Any = visibility.granted_at  # in a query that is written once, a name stands for it
    return granted_to(visibility.namespace, micros(at) if isinstance(at, datetime) else at, cubes)


def granted_to(grantee: Any, now: Any, cubes: Any = schema.cubes) -> Condition:
    """Return the condition that a cube is a memory in use that its owner lets ``grantee`` read.

    A grant of a whole scope covers what is bound to the scope's agent and session, but nothing that is marked secret.

    Args:
        grantee: A user, or an expression for one.
        now: The moment, as ``micros``, or an expression for it.
    """
    grants = schema.grants.alias()  # the query around this may ask for grants itself
    given = grants.c.grantee == grantee, in_force(now, grants)
    by_name = exists().where(*given, grants.c.cube_id == cubes.c.id)
    whole = grants.c.cube_id.is_(None), grants.c.namespace_id == cubes.c.namespace_id
    bound = [or_(grants.c[name].is_(None), grants.c[name] == cubes.c[name]) for name in ("agent", "session")]
    by_scope = exists().where(*given, *whole, *bound)
    return and_(is_memory(cubes), live_at(now, cubes), or_(by_name, and_(by_scope, not_(secret(cubes)))))


def in_force(now: Any, grants: Any = schema.grants) -> Condition:
    """Return the condition that a grant allows reading at a moment, given as ``micros``."""
    return and_(grants.c.right == "read", or_(grants.c.until.is_(None), grants.c.until > now))


def secret(cubes: Any = schema.cubes) -> Condition:
    """Return the condition that a cube is marked secret. Quotes within a text are escaped, so no text says so."""
    found: Condition = cubes.c.header.like(f'%"sensitivity":"{Sensitivity.SECRET}"%')
    return found


def within_reach(visibility: Visibility, cubes: Any = schema.cubes, *, by_id: bool = False) -> Condition:
    """Return the condition that a cube's own binding lets it be seen; the rule of ``Principal.sees``."""
    namespace = select(schema.namespaces.c.id).where(schema.namespaces.c.name == visibility.namespace)
    # A sum is no column to the planner, so no index on it. Measured at 6,000 cubes: 200 ms without, 2 ms with.
    owner = cubes.c.namespace_id + 0 if by_id else cubes.c.namespace_id
    conditions = [owner == namespace.scalar_subquery()]
    for column, bound in ((cubes.c.agent, visibility.agent), (cubes.c.session, visibility.session)):
        if bound is not None:
            conditions.append(or_(column.is_(None), column == bound))
    return and_(*conditions)


def live(now: datetime, cubes: Any = schema.cubes) -> Condition:
    """Return the condition that a cube is active and has not expired."""
    return live_at(micros(now), cubes)


def live_at(now: Any, cubes: Any = schema.cubes) -> Condition:
    """``live``, of a moment given as ``micros`` or as an expression for it."""
    return and_(cubes.c.state == State.ACTIVE, or_(cubes.c.expires_at.is_(None), cubes.c.expires_at > now))


def usable(visibility: Visibility, kind: MemoryType, fingerprint: str, now: datetime) -> tuple[Condition, ...]:
    """Return what holds of derived cubes of a kind, made under ``fingerprint``, that may be used.

    One may be used while it is live and visible and each of its sources is live, visible and still at the version
    that it was made from.
    """
    source, made = schema.cubes.alias("source"), schema.lineage.c
    stands = exists().where(
        source.c.id == made.source_id,
        source.c.version == made.source_version,
        live(now, source),
        reachable(visibility, source),
    )
    fallen = exists().where(made.cube_id == schema.cubes.c.id, not_(stands))
    own = schema.cubes.c.type == str(kind), schema.cubes.c.fingerprint == fingerprint
    return visible(visibility), live(now), *own, not_(fallen)


def matching(wanted: SearchFilter, *, by_id: bool = True) -> Condition:
    """Return the condition that a cube may answer a search.

    Args:
        by_id: As for ``visible``.

    Raises:
        InvalidInput: A filter is unknown, or its value is of the wrong kind.
    """
    cubes = schema.cubes
    holds_at = micros(wanted.as_of or wanted.now)
    still_holds = [cubes.c.valid_until.is_(None), cubes.c.valid_until > holds_at]
    if wanted.include_superseded:
        still_holds.append(superseded())
    conditions = [
        standing(wanted, by_id=by_id),
        live(wanted.now),
        cubes.c.item_path.is_(None),  # items are asked for by name, see items.py
        of_types(wanted.types),
        of_collection(wanted.collection),
        or_(cubes.c.valid_from.is_(None), cubes.c.valid_from <= holds_at),
        or_(*still_holds),
    ]
    if wanted.before is not None:
        conditions.append(func.coalesce(cubes.c.at, cubes.c.created) < micros(wanted.before))
    return and_(*conditions)


def is_memory(cubes: Any = schema.cubes) -> Condition:
    """Return the condition that a cube is a memory in words: text, no document of a collection, no item of a store."""
    plain = cubes.c.type == str(MemoryType.PLAINTEXT)
    return and_(plain, cubes.c.collection.is_(None), cubes.c.item_path.is_(None))


def standing(wanted: SearchFilter, *, by_id: bool = True) -> Condition:
    """Return the part of ``matching`` that does not change with time: who may see a cube, and the filters."""
    return and_(visible(wanted.visibility, by_id=by_id), filtered(wanted.filters, wanted.visibility))


def filtered(filters: Mapping[str, JsonValue], visibility: Visibility | None = None) -> Condition:
    """Return the condition that a cube passes the filters; see ``MemoryCall.filters``.

    Args:
        visibility: Where it may find what others have granted: of that, only what a grantee sees counts.
    """
    condition = condition_of(filters)
    if visibility is None or visibility.granted_at is None or HIDDEN.isdisjoint(fields_in(filters)):
        return condition
    namespace = select(schema.namespaces.c.id).where(schema.namespaces.c.name == visibility.namespace)
    own = schema.cubes.c.namespace_id == namespace.scalar_subquery()
    return or_(and_(own, condition), and_(not_(own), condition_of(filters, shared=True)))


def superseded() -> Condition:
    """Return the condition that another memory took the place of a cube."""
    links = schema.links
    return exists().where(links.c.cube_id == schema.cubes.c.id, links.c.relation == SUPERSEDED_BY)


def of_collection(name: str | None) -> Condition:
    """Return the condition that a cube is a document of that collection; None: that it is in none."""
    column = schema.cubes.c.collection
    return column.is_(None) if name is None else column == name


def of_types(types: Sequence[MemoryType]) -> Condition:
    return schema.cubes.c.type.in_([str(kind) for kind in types])
