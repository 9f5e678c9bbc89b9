"""Grants as rows of the ledger, which alone decide. The header of a cube shows those of the cube itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from pydantic import JsonValue
from sqlalchemy import BindParameter, ColumnElement, Row, bindparam, delete, exists, func, insert, or_, select

from memos_core.cube import Grant, MemCube
from memos_core.grants import GrantRecord
from memos_core.infrastructure.vault import schema
from memos_core.infrastructure.vault.conditions import (
    chunks,
    from_micros,
    granted,
    granted_to,
    in_force,
    micros,
    moment,
)
from memos_core.infrastructure.vault.header_filters import condition_of
from memos_core.infrastructure.vault.index.granted import granted_state
from memos_core.infrastructure.vault.prepared import Prepared
from memos_core.infrastructure.vault.values import Visibility

if TYPE_CHECKING:
    from memos_core.infrastructure.vault.reading import ReadSession
    from memos_core.infrastructure.vault.writing import WriteSession

__all__ = [
    "Given",
    "digests_of",
    "give",
    "given",
    "granted_ids",
    "grants_of",
    "has_received",
    "received",
    "state_of",
    "take_back",
    "with_grants",
]


RECEIVED = Prepared(select(exists().where(schema.grants.c.grantee == bindparam("user"))))

OF_CUBE = Prepared(
    select(schema.grants).where(schema.grants.c.cube_id == bindparam("cube_id")).order_by(schema.grants.c.id)
)


@dataclass(frozen=True, slots=True)
class Given:
    """A grant and the id of its row."""

    id: int
    record: GrantRecord


def grants_of(session: ReadSession, cube_id: str) -> tuple[Grant, ...]:
    """Return the grants of one cube by its name, oldest first."""
    rows = OF_CUBE.all(session.connection, cube_id=cube_id)
    return tuple(Grant(grantee=row.grantee, right=row.right, until=moment(row.until)) for row in rows)


def with_grants(cube: MemCube, grants: tuple[Grant, ...]) -> MemCube:
    """Return ``cube`` with exactly these grants in its header."""
    if cube.header.governance.grants == grants:
        return cube
    governance = cube.header.governance.model_copy(update={"grants": grants})
    return cube.model_copy(update={"header": cube.header.model_copy(update={"governance": governance})})


def give(session: WriteSession, record: GrantRecord) -> None:
    """Store a grant, in the place of those of the same thing to the same user."""
    g = schema.grants
    namespace_id = session._namespace_id(record.owner, make=True)
    same = [g.c[name].is_not_distinct_from(getattr(record, name)) for name in ("cube_id", "agent", "session")]
    same += [g.c.namespace_id == namespace_id, g.c.grantee == record.grantee, g.c.right == record.right]
    session.connection.execute(delete(g).where(*same))
    row = {
        "namespace_id": namespace_id,
        "cube_id": record.cube_id,
        "agent": record.agent,
        "session": record.session,
        "grantee": record.grantee,
        "right": record.right,
        "until": micros(record.until),
        "author": record.author,
        "created": micros(record.at),
    }
    session.connection.execute(insert(g), row)


def take_back(session: WriteSession, grants: Sequence[Given]) -> None:
    """Delete grants."""
    g = schema.grants
    session.connection.execute(delete(g).where(g.c.id.in_([each.id for each in grants])))


def given(
    session: ReadSession, namespace: str, *, grantee: str | None = None, cube_id: str | None = None
) -> list[Given]:
    """Return what a namespace has granted and is not over, oldest first.

    Args:
        grantee: Only to this user.
        cube_id: Only of this cube by its name.
    """
    g = schema.grants
    conditions = [schema.namespaces.c.name == namespace, in_force(micros(session.now))]
    if grantee is not None:
        conditions.append(g.c.grantee == grantee)
    if cube_id is not None:
        conditions.append(g.c.cube_id == cube_id)
    return listed(session, *conditions)


def received(session: ReadSession, visibility: Visibility) -> list[Given]:
    """Return what was granted to the user of a visibility, as far as it lets something be read now, oldest first."""
    g, c = schema.grants, schema.cubes
    serves = select(c.c.id).where(c.c.id == g.c.cube_id, granted(visibility)).exists()
    either = or_(g.c.cube_id.is_(None), serves)
    return listed(session, g.c.grantee == visibility.namespace, in_force(micros(session.now)), either)


def has_received(session: ReadSession, user: str) -> bool:
    """Tell whether anything is granted to a user, whether or not it can be read now."""
    return bool(RECEIVED.first(session.connection, user=user)[0])


@lru_cache(maxsize=128)
def still_granted(count: int) -> Prepared:
    """Return the query for those of ``count`` cubes, ``id0`` and so on, that ``user`` may read at ``now``."""
    c = schema.cubes
    user: BindParameter[str] = bindparam("user")
    now: BindParameter[int] = bindparam("now")
    ids: list[BindParameter[str]] = [bindparam(f"id{number}") for number in range(count)]
    return Prepared(select(c.c.id, c.c.header_digest).where(c.c.id.in_(ids), granted_to(user, now)))


def digests_of(session: ReadSession, visibility: Visibility, cube_ids: Sequence[str]) -> dict[str, str]:
    """Return the digest of the header of those of a few cubes that are granted to the user of a visibility."""
    named = {f"id{number}": cube_id for number, cube_id in enumerate(cube_ids)}
    now = micros(visibility.granted_at)
    rows = still_granted(len(cube_ids)).all(session.connection, user=visibility.namespace, now=now, **named)
    return {row.id: row.header_digest for row in rows}


def granted_ids(
    session: ReadSession,
    visibility: Visibility,
    *,
    belonging: str | None = None,
    filters: Mapping[str, JsonValue] | None = None,
) -> list[str]:
    """Return the memories that others have granted to the user of a visibility.

    Args:
        belonging: Only those of this session.
        filters: Only what passes them, by what is granted of each.
    """
    c = schema.cubes
    ids = [cube_id for state in granted_state(session.connection, visibility).values() for cube_id, _, _ in state]
    if belonging is None and not filters:
        return ids
    conditions = [condition_of(filters or {}, shared=True)]
    if belonging is not None:
        conditions.append(c.c.session == belonging)
    found: list[str] = []
    for part in chunks(ids):
        found += session.connection.scalars(select(c.c.id).where(c.c.id.in_(part), *conditions))
    return found


def state_of(session: ReadSession, visibility: Visibility) -> tuple[object, ...]:
    """Return what changes whenever what is granted to the user of a visibility may be found otherwise."""
    c = schema.cubes
    state = sorted(granted_state(session.connection, visibility).items())
    passed = 0
    for part in chunks([cube_id for _, cubes in state for cube_id, _, _ in cubes]):
        for column in (c.c.valid_from, c.c.valid_until):
            query = select(func.count()).where(c.c.id.in_(part), column <= micros(session.now))
            passed += session.connection.scalar(query) or 0
    return (*state, passed)


def listed(session: ReadSession, *conditions: ColumnElement[bool]) -> list[Given]:
    g, n = schema.grants, schema.namespaces
    query = select(g, n.c.name).join_from(g, n, n.c.id == g.c.namespace_id).where(*conditions)
    return [Given(row.id, record_of(row)) for row in session.connection.execute(query.order_by(g.c.id))]


def record_of(row: Row[Any]) -> GrantRecord:
    return GrantRecord(
        owner=row.name,
        grantee=row.grantee,
        right=row.right,
        cube_id=row.cube_id,
        agent=row.agent,
        session=row.session,
        until=moment(row.until),
        author=row.author,
        at=from_micros(row.created),
    )
