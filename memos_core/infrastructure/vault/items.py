"""Items in the ledger: found by key and by path, read without building whole cubes.

The items of a principal are those that were put under exactly its user, agent and session: a key names one thing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, and_, bindparam, delete, exists, func, not_, or_, select, update

from memos_core.cube import MemCube, canonical_json
from memos_core.infrastructure.vault import erasure, schema
from memos_core.infrastructure.vault.conditions import (
    CHUNK,
    HOLDS,
    chunks,
    from_micros,
    live,
    micros,
    moment,
    of_collection,
)
from memos_core.infrastructure.vault.prepared import Prepared
from memos_core.infrastructure.vault.reading import ReadSession
from memos_core.infrastructure.vault.reading import by_ids as query_by_ids
from memos_core.infrastructure.vault.rows import (
    check,
    cube_of,
    current,
    decoded_path,
    digest_of,
    encoded_path,
    headers,
)
from memos_core.infrastructure.vault.values import ErasedRows, Visibility
from memos_core.infrastructure.vault.writing import HOLDER, WriteSession
from memos_core.item import Item, decoded_value
from memos_core.principal import Principal

__all__ = [
    "below",
    "by_ids",
    "by_key",
    "bytes_of",
    "erase_items",
    "forget_versions",
    "holders",
    "item_key",
    "items",
    "lapsed_ids",
    "listed",
    "paths",
    "prolong",
    "stored_cube",
    "unindexed",
]

Condition = ColumnElement[bool]

LAST = "\U0010ffff"
"""Greater than anything that a segment of a path begins with."""

READ_AT_FIRST = 100
"""Items that are read at first; then four times as many each time."""


def item_key(principal: Principal, path: Sequence[str], key: str) -> str:
    """Return what only one live item has: its duplicate key in the ledger."""
    return "item:" + digest_of(canonical_json([principal.agent, principal.session, list(path), key]).decode())


# Conditions


def owned(principal: Principal, *, by_id: bool = False) -> Condition:
    c, n = schema.cubes, schema.namespaces
    namespace = select(n.c.id).where(n.c.name == principal.namespace).scalar_subquery()
    bound = [
        column.is_(None) if name is None else column == name
        for column, name in ((c.c.agent, principal.agent), (c.c.session, principal.session))
    ]
    # A sum is no column to the planner, see conditions.within_reach.
    return and_((c.c.namespace_id + 0 if by_id else c.c.namespace_id) == namespace, *bound)


def below(principal: Principal, path: Sequence[str], now: datetime, *, by_id: bool = False) -> Condition:
    """Return the condition that a cube is a live item of ``principal`` at or below ``path``.

    Args:
        by_id: The query names the cubes, so the database must not walk the whole namespace instead.
    """
    start = encoded_path(path)
    c = schema.cubes
    within = c.c.item_path.is_not(None) if not path else and_(c.c.item_path >= start, c.c.item_path < start + LAST)
    return and_(owned(principal, by_id=by_id), of_collection(None), within, live(now))


def unindexed(collection: str) -> Condition:
    """Return the condition that a cube has nothing in a collection of vectors."""
    p = schema.passages
    return not_(exists().where(p.c.cube_id == schema.cubes.c.id, p.c.collection == collection))


# Reading


def listed() -> Select[Any]:
    """Return the query for items, to which conditions are added."""
    c, v = schema.cubes, schema.versions
    joined = c.join(v, and_(v.c.cube_id == c.c.id, v.c.version == c.c.version))
    own = (c.c.id, c.c.version, c.c.item_path, c.c.item_key, c.c.created, c.c.expires_at)
    return select(*own, v.c.committed, v.c.payload, v.c.digest).select_from(joined)


def item_of(row: Row[Any]) -> Item:
    """Return the item of a row of ``listed``.

    Raises:
        VaultDamaged: It is not what was written.
    """
    check(row.payload, row.digest, f"cube {row.id}: payload of version {row.version}")
    return Item(
        path=decoded_path(row.item_path),
        key=row.item_key,
        value=decoded_value(json.loads(row.payload)["text"]),
        created=from_micros(row.created),
        updated=from_micros(row.committed),
        expires_at=moment(row.expires_at),
        cube_id=row.id,
        version=row.version,
    )


def items(session: ReadSession, condition: Condition, *, offset: int = 0, limit: int | None = None) -> Iterator[Item]:
    """Yield the items that meet ``condition`` in the order in which they were first put."""
    # Ids are sorted without their values, and values are read as they are asked for: a tenth of the time at 10,000.
    query = select(schema.cubes.c.id).where(condition).order_by(schema.cubes.c.id).offset(offset)
    cube_ids = session.connection.scalars(query if limit is None else query.limit(limit)).all()
    start, size = 0, READ_AT_FIRST
    while start < len(cube_ids):
        part = cube_ids[start : start + size]
        start, size = start + size, min(4 * size, CHUNK)
        rows = session.connection.execute(listed().where(schema.cubes.c.id.in_(part)).order_by(schema.cubes.c.id))
        yield from (item_of(row) for row in rows.all())


def by_ids(session: ReadSession, condition: Condition, cube_ids: Sequence[str]) -> dict[str, Item]:
    """Return those of the items that meet ``condition``, by cube id."""
    found = {}
    for part in chunks(cube_ids):
        for row in session.connection.execute(listed().where(schema.cubes.c.id.in_(part), condition)):
            found[row.id] = item_of(row)
    return found


def keyed_query() -> Select[Any]:
    """Return the query for the live item under a key. Made once: building it would take longer than answering it."""
    c, n = schema.cubes, schema.namespaces
    namespace = select(n.c.id).where(n.c.name == bindparam("namespace")).scalar_subquery()
    unexpired = or_(c.c.expires_at.is_(None), c.c.expires_at > bindparam("now"))
    return listed().where(c.c.namespace_id == namespace, c.c.dedup_key == bindparam("key"), HOLDS, unexpired)


KEYED = Prepared(keyed_query())


def by_key(session: ReadSession, principal: Principal, path: Sequence[str], key: str, now: datetime) -> Item | None:
    """Return the live item under that key, if there is one."""
    wanted = {"namespace": principal.namespace, "key": item_key(principal, path, key), "now": micros(now)}
    row = KEYED.first(session.connection, **wanted)
    return None if row is None else item_of(row)


def holders(
    session: WriteSession, principal: Principal, keys: Sequence[str], now: datetime
) -> tuple[dict[str, str], list[str]]:
    """Return the cubes that hold these keys (see ``item_key``): the live ones by key, and those whose time is over."""
    stored: dict[str, str] = {}
    lapsed: list[str] = []
    own, connection = session._namespace_id(principal.namespace), session.connection
    for key in dict.fromkeys(keys):
        row = HOLDER.first(connection, namespace_id=own, dedup_key=key)
        if row is None:
            continue
        if row.expires_at is None or from_micros(row.expires_at) > now:
            stored[key] = row.id
        else:
            lapsed.append(row.id)
    return stored, lapsed


def bytes_of(session: ReadSession, cube_ids: Sequence[str]) -> int:
    """Return what all versions of these cubes count towards the quota."""
    v = schema.versions
    sizes = (
        session.connection.scalar(select(func.sum(v.c.size_bytes)).where(v.c.cube_id.in_(part)))
        for part in chunks(cube_ids)
    )
    return sum(size or 0 for size in sizes)


def stored_cube(session: ReadSession, cube_id: str) -> MemCube:
    """Return the cube of an item that is there."""
    return cube_of(query_by_ids(1).first(session.connection, id0=cube_id), session.now)


def paths(session: ReadSession, principal: Principal, now: datetime) -> list[tuple[str, ...]]:
    """Return the paths at which live items lie, in order."""
    query = select(schema.cubes.c.item_path).where(below(principal, (), now)).distinct()
    return sorted(decoded_path(text) for text in session.connection.scalars(query))


def lapsed_ids(session: ReadSession, principal: Principal, now: datetime) -> list[str]:
    """Return the cubes of all items whose time is over."""
    c = schema.cubes
    over = and_(owned(principal), of_collection(None), c.c.item_path.is_not(None), c.c.expires_at <= micros(now))
    return list(session.connection.scalars(select(c.c.id).where(over)))


def lapsed_owners(session: ReadSession, now: datetime) -> list[Principal]:
    """Return everyone in the vault who holds items whose time is over."""
    c, n = schema.cubes, schema.namespaces
    query = select(n.c.name, c.c.agent, c.c.session).join_from(n, c, c.c.namespace_id == n.c.id)
    query = query.where(of_collection(None), c.c.item_path > "", c.c.expires_at <= micros(now))  # by their place
    return [
        Principal(*row)
        for row in session.connection.execute(query.distinct().order_by(n.c.name, c.c.agent, c.c.session))
    ]


# Changes


def prolong(session: WriteSession, cube_ids: Sequence[str], now: datetime) -> dict[str, datetime]:
    """Let the time to live of live items begin anew, and return when each of them expires now.

    A read makes no version and leaves no trace in the audit.
    """
    c = schema.cubes
    ends: dict[str, datetime] = {}
    for part in chunks(cube_ids):
        query = current().where(c.c.id.in_(part), live(now), c.c.expires_at.is_not(None))
        for row in session.connection.execute(query).all():
            cube = renewed(cube_of(row, now), now)
            text, digest = headers(cube)
            end = cube.header.governance.retention.expires_at
            values = {"header": text, "header_digest": digest, "expires_at": micros(end)}
            session.connection.execute(update(c).where(c.c.id == row.id).values(values))
            if end is not None:
                ends[row.id] = end
    return ends


def renewed(cube: MemCube, now: datetime) -> MemCube:
    retention = cube.header.governance.retention.renewed(now)
    governance = cube.header.governance.model_copy(update={"retention": retention})
    return cube.model_copy(update={"header": cube.header.model_copy(update={"governance": governance})})


def forget_versions(session: WriteSession, cube: MemCube) -> None:
    """Delete the versions of an item before the one that its header calls the oldest."""
    item = cube.header.descriptive.item
    v = schema.versions
    old = and_(v.c.cube_id == cube.id, v.c.version < (item.oldest if item else 1))
    size = session.connection.scalar(select(func.sum(v.c.size_bytes)).where(old))
    if size is not None:
        session.connection.execute(delete(v).where(old))
        session._changed(session._namespace_id(cube.header.governance.namespace), bytes_used=-int(size))


def erase_items(session: WriteSession, principal: Principal, cube_ids: Sequence[str]) -> ErasedRows:
    """Delete items with all their versions and everything made from them."""
    return erasure.erase(session, Visibility(principal.namespace, principal.agent, principal.session), cube_ids)
