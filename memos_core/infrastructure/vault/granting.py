"""Grants as rows of the ledger, which alone decide. The header of a cube shows those of the cube itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, Row, bindparam, delete, func, insert, or_, select

from memos_core.cube import Grant, MemCube
from memos_core.grants import GrantRecord
from memos_core.infrastructure.vault import schema
from memos_core.infrastructure.vault.conditions import chunks, from_micros, granted, in_force, micros, moment
from memos_core.infrastructure.vault.index.granted import granted_state
from memos_core.infrastructure.vault.prepared import Prepared
from memos_core.infrastructure.vault.values import Visibility

if TYPE_CHECKING:
    from memos_core.infrastructure.vault.reading import ReadSession
    from memos_core.infrastructure.vault.writing import WriteSession

__all__ = ["Given", "give", "given", "grants_of", "received", "state_of", "take_back", "with_grants"]

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
