"""ReadSession: one consistent view of the ledger."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

from pydantic import JsonValue
from sqlalchemy import ColumnElement, Connection, and_, bindparam, func, select, true

from memos_core.cube import MemCube, MemoryType, State
from memos_core.ids import is_ulid
from memos_core.infrastructure.vault import granting, lookups, schema
from memos_core.infrastructure.vault.conditions import (
    chunks,
    filtered,
    from_micros,
    live,
    matching,
    micros,
    of_collection,
    usable,
    visible,
)
from memos_core.infrastructure.vault.prepared import Prepared
from memos_core.infrastructure.vault.rows import assembled, check, cube_of, current
from memos_core.infrastructure.vault.values import Namespace, SearchFilter, Visibility, WordMatch
from memos_core.records import VersionRecord

__all__ = ["ReadSession"]

Condition = ColumnElement[bool]


NAMESPACE = Prepared(select(schema.namespaces).where(schema.namespaces.c.name == bindparam("name")))
FEW = 64
"""Cubes that are asked for by a query of their own number."""


@lru_cache(maxsize=FEW)
def by_ids(count: int) -> Prepared:
    """Return the query for so many cubes by their ids, named ``id0``, ``id1`` ..."""
    return Prepared(current().where(schema.cubes.c.id.in_([bindparam(f"id{number}") for number in range(count)])))


class ReadSession:
    """Questions to the ledger, all answered as of one moment. Made by ``MemVault.read``; not thread-safe.

    Every method that takes a ``Visibility`` treats a cube that may not be seen like one that does not exist.
    """

    def __init__(self, connection: Connection, now: datetime) -> None:
        self.connection = connection
        self.now = now

    # Namespaces

    def namespace(self, name: str) -> Namespace | None:
        """Return the namespace of that name, if anything was ever stored in it."""
        row = self._namespace_row(name)
        return None if row is None else Namespace(row.name, row.salt)

    def namespaces(self) -> list[str]:
        """Return the names of all namespaces, in order."""
        return list(self.connection.scalars(select(schema.namespaces.c.name).order_by(schema.namespaces.c.name)))

    def newest_change(self, namespace: str) -> int:
        """Return a number that grows with every change in the namespace; 0 before the first."""
        row = self._namespace_row(namespace)
        return 0 if row is None else int(row.revision)

    def moments_passed(self, namespace: str, now: datetime) -> int:
        """Return how many moments at which a cube expires, begins or ceases to hold lie behind ``now``.

        Between two changes of the namespace, what can be found changes exactly when this number does.
        """
        cubes = schema.cubes
        owned = (
            cubes.c.namespace_id
            == select(schema.namespaces.c.id).where(schema.namespaces.c.name == namespace).scalar_subquery()
        )
        columns = (cubes.c.expires_at, cubes.c.valid_from, cubes.c.valid_until)
        counts = [select(func.count()).where(owned, column <= micros(now)).scalar_subquery() for column in columns]
        return int(self.connection.scalar(select(counts[0] + counts[1] + counts[2])) or 0)

    def bytes_used(self, namespace: str) -> int:
        """Return the bytes of all versions of all cubes: texts in UTF-8 and blobs."""
        row = self._namespace_row(namespace)
        return 0 if row is None else int(row.bytes_used)

    def _namespace_row(self, name: str) -> Any:
        return NAMESPACE.first(self.connection, name=name)

    # Cubes

    def cube(self, visibility: Visibility, cube_id: str, version: int | None = None) -> MemCube | None:
        """Return a cube in any state, or None if it is malformed, absent or not visible.

        Args:
            version: An earlier version; its links, grants, state and counters are those of today.

        Raises:
            VaultDamaged: What is stored is not what was written.
        """
        if not is_ulid(cube_id):
            return None
        query = lookups.one_cube(lookups.kind_of(visibility))
        row = query.first(self.connection, cube_id=cube_id, **lookups.values_of(visibility))
        if row is None:
            return None
        cube = as_seen(cube_of(row, self.now), visibility)
        if version is None or version == cube.version:
            return cube
        if cube.shared:  # what its owner took back in an edit was never granted
            return None
        older = self._versions(cube, version)
        return older[0].cube if older else None

    def cubes(self, wanted: SearchFilter | Visibility, cube_ids: Sequence[str]) -> list[MemCube]:
        """Return those of the cubes that pass, in the order given."""
        if isinstance(wanted, SearchFilter):
            condition, visibility = matching(wanted), wanted.visibility
        else:
            condition, visibility = visible(wanted, by_id=True), wanted
        found: dict[str, MemCube] = {}
        for part in chunks([cube_id for cube_id in dict.fromkeys(cube_ids) if is_ulid(cube_id)]):
            rows = self.connection.execute(current().where(schema.cubes.c.id.in_(part), condition))
            found.update((row.id, as_seen(cube_of(row, self.now), visibility)) for row in rows)
        return [found[cube_id] for cube_id in dict.fromkeys(cube_ids) if cube_id in found]

    def cubes_since(
        self, wanted: SearchFilter, cube_ids: Sequence[str], revision: int, shared: Sequence[Mapping[str, str]] = ()
    ) -> Iterator[MemCube]:
        """Return what ``cubes`` does, of cubes that passed when the namespace was at ``revision``.

        If nothing has changed since, they still pass, and the ledger need not be asked for the reasons again. They are
        read at once and made into cubes as they are taken, also after this session has ended.

        Args:
            shared: Digests of the headers, by id, of what others had granted then: these rights are asked for again.
        """
        if not 0 < len(cube_ids) <= FEW or self.newest_change(wanted.visibility.namespace) != revision:
            return iter(self.cubes(wanted, cube_ids))
        foreign = {cube_id: held[cube_id] for cube_id in cube_ids for held in shared if cube_id in held}
        if foreign and granting.digests_of(self, wanted.visibility, list(foreign)) != foreign:
            return iter(self.cubes(wanted, cube_ids))
        named = {f"id{number}": cube_id for number, cube_id in enumerate(cube_ids)}
        rows = {row.id: row for row in by_ids(len(cube_ids)).all(self.connection, **named)}
        seen, now = wanted.visibility, self.now
        return (as_seen(cube_of(rows[cube_id], now), seen) for cube_id in cube_ids if cube_id in rows)

    def listing(
        self,
        visibility: Visibility,
        *,
        limit: int,
        after: str | None = None,
        types: tuple[MemoryType, ...] | None = None,
        states: Collection[State] = (State.ACTIVE,),
        now: datetime,
        belonging: str | None = None,
        newest: bool = False,
        shared: bool = False,
        filters: Mapping[str, JsonValue] | None = None,
    ) -> list[MemCube]:
        """Return up to ``limit`` cubes in the order of their ids, beginning after ``after``.

        Args:
            belonging: Only those of this session.
            newest: In the reverse order.
            shared: Also what others have granted.
            filters: Only what passes them; see ``MemoryCall.filters``.
        """
        kind = lookups.kind_of(visibility)
        asked = lookups.Listing(kind, types, tuple(states), belonging is not None, after is not None, newest)
        values = {"after": after, "belonging": belonging, "limit": limit}
        rows = self._asked(lookups.listed(asked), visibility, now, filters, values)
        cubes = [cube_of(row, now) for row in rows]
        if shared and may_be_shared(types, states):
            ids = granting.granted_ids(self, visibility, belonging=belonging, filters=filters)
            beyond = [each for each in ids if after is None or (each < after if newest else each > after)]
            cubes += self.cubes(visibility, sorted(beyond, reverse=newest)[:limit])
        return sorted(cubes, key=lambda cube: cube.id, reverse=newest)[:limit]

    def count(
        self,
        visibility: Visibility,
        *,
        types: tuple[MemoryType, ...] | None = None,
        states: Collection[State] = (State.ACTIVE,),
        now: datetime,
        shared: bool = False,
        filters: Mapping[str, JsonValue] | None = None,
    ) -> int:
        """Return how many cubes ``listing`` would give without a limit."""
        asked = lookups.Listing(lookups.kind_of(visibility), types, tuple(states))
        own = int(self._asked(lookups.counted(asked), visibility, now, filters, {})[0][0])
        if not shared or not may_be_shared(types, states):
            return own
        return own + len(granting.granted_ids(self, visibility, filters=filters))

    def _asked(
        self,
        query: Prepared,
        visibility: Visibility,
        now: datetime,
        filters: Mapping[str, JsonValue] | None,
        values: Mapping[str, Any],
    ) -> list[Any]:
        """Return the rows of a query of a kind of visibility; filters are compiled into it for this call."""
        given = {**values, **lookups.values_of(visibility), "now": micros(now)}
        if filters:
            return list(self.connection.execute(query.query.where(filtered(filters)), given))
        return query.all(self.connection, **given)

    def versions(self, visibility: Visibility, cube_id: str) -> list[VersionRecord]:
        """Return all versions of a cube, oldest first; none if it is not visible, or only granted."""
        cube = self.cube(visibility, cube_id)
        return [] if cube is None or cube.shared else self._versions(cube)

    def _versions(self, cube: MemCube, version: int | None = None) -> list[VersionRecord]:
        query = lookups.VERSIONS if version is None else lookups.VERSION
        rows = query.all(self.connection, cube_id=cube.id, version=version)
        return [
            VersionRecord(self._version(cube, row), row.author, from_micros(row.committed), row.reason) for row in rows
        ]

    def _version(self, cube: MemCube, row: Any) -> MemCube:
        if row.version == cube.version:
            return cube
        check(row.header, row.header_digest, f"cube {cube.id}: header of version {row.version}")
        check(row.payload, row.digest, f"cube {cube.id}: payload of version {row.version}")
        older = assembled(
            cube.id,
            row.version,
            cube.state,
            header=row.header,
            payload=row.payload,
            behaviour=cube.header.behaviour,
        )
        descriptive = older.header.descriptive.model_copy(update={"links": cube.header.descriptive.links})
        governance = older.header.governance.model_copy(update={"grants": cube.header.governance.grants})
        header = older.header.model_copy(update={"descriptive": descriptive, "governance": governance})
        return older.model_copy(update={"header": header})

    # Lineage

    def derived(self, within: Visibility | str | None, source_ids: Sequence[str], recursive: bool = True) -> list[str]:
        """Return the cubes made from any of these, and those made from them in turn, in the order of their ids.

        Args:
            within: What may be seen, or the name of a namespace for all of it; None: whoever made it.
        """
        visibility = Visibility(within) if isinstance(within, str) else within
        found: set[str] = set()
        fresh = list(source_ids)
        while fresh:
            made = self._made_from(visibility, fresh) - found - set(source_ids)
            found |= made
            fresh = list(made) if recursive else []
        return sorted(found)

    def _made_from(self, visibility: Visibility | None, source_ids: Sequence[str]) -> set[str]:
        made: set[str] = set()
        joined = schema.lineage.join(schema.cubes, schema.cubes.c.id == schema.lineage.c.cube_id)
        for part in chunks(source_ids):
            query = select(schema.cubes.c.id).select_from(joined)
            seen = true() if visibility is None else visible(visibility)
            made.update(self.connection.scalars(query.where(schema.lineage.c.source_id.in_(part), seen)))
        return made

    def adapters(self, visibility: Visibility, fingerprint: str, now: datetime) -> list[MemCube]:
        """Return the adapters made for the model of ``fingerprint`` that may be used; see ``usable``."""
        query = current().where(*usable(visibility, MemoryType.PARAMETRIC, fingerprint, now))
        return [cube_of(row, now) for row in self.connection.execute(query.order_by(schema.cubes.c.id))]

    # Words

    def word_matches(self, wanted: SearchFilter, terms: Sequence[str]) -> list[WordMatch]:
        """Return every passage that may answer and holds at least one of ``terms``, in the order of their age."""
        namespace = self._namespace_row(wanted.visibility.namespace)
        if namespace is None or not terms:
            matching(wanted)  # a wrong filter is wrong in an empty namespace too
            return []
        t, p, c = schema.postings, schema.passages, schema.cubes
        joined = t.join(p, p.c.id == t.c.passage_id).join(c, c.c.id == p.c.cube_id)
        places: dict[int, Any] = {}
        counts: defaultdict[int, dict[str, int]] = defaultdict(dict)
        for part in chunks(list(dict.fromkeys(terms))):
            query = select(p.c.id, p.c.cube_id, p.c.start, p.c.end, p.c.length, t.c.term, t.c.count)
            query = query.select_from(joined).where(t.c.namespace_id == namespace.id, t.c.term.in_(part))
            for row in self.connection.execute(query.where(matching(wanted))):
                places[row.id] = row
                counts[row.id][row.term] = row[6]
        return [
            WordMatch(row.id, row.cube_id, row.start, row.end, row.length, counts[row.id])
            for _, row in sorted(places.items())
        ]

    def corpus(self, visibility: Visibility, now: datetime, *, collection: str | None = None) -> tuple[int, float]:
        """Return the number of live visible plaintext passages (of a collection) and their mean length in words.

        The statistics of BM25 are taken over what the scope sees and nothing else: other memory cannot move a score.
        """
        p, c = schema.passages, schema.cubes
        query = select(func.count(), func.avg(p.c.length)).select_from(p.join(c, c.c.id == p.c.cube_id))
        namespace = select(schema.namespaces.c.id).where(schema.namespaces.c.name == visibility.namespace)
        own = p.c.namespace_id == namespace.scalar_subquery()
        plain = and_(c.c.type == str(MemoryType.PLAINTEXT), c.c.item_path.is_(None))
        count, mean = self.connection.execute(
            query.where(own, visible(visibility), live(now), plain, of_collection(collection))
        ).one()
        return int(count), float(mean or 0.0)

    # Documents

    def count_matching(self, wanted: SearchFilter) -> int:
        """Return how many cubes may answer."""
        query = select(func.count()).select_from(schema.cubes).where(matching(wanted, by_id=False))
        return int(self.connection.scalar(query) or 0)

    def first_passages(self, cube_ids: Sequence[str]) -> dict[str, int]:
        """Return the id of the first passage of each of the cubes that has one."""
        p = schema.passages
        found: dict[str, int] = {}
        for part in chunks(cube_ids):
            query = select(p.c.cube_id, func.min(p.c.id)).where(p.c.cube_id.in_(part)).group_by(p.c.cube_id)
            found.update((row[0], row[1]) for row in self.connection.execute(query))
        return found

    # Audit

    def audit(self, namespace: str, limit: int = 100, *, action: str | None = None) -> list[dict[str, Any]]:
        """Return the newest entries of the audit (of one action), newest first."""
        a, n, ids = schema.audit, schema.namespaces, schema.audit_cubes
        query = select(a).join_from(a, n, a.c.namespace_id == n.c.id).where(n.c.name == namespace)
        query = query if action is None else query.where(a.c.action == action)
        rows = self.connection.execute(query.order_by(a.c.id.desc()).limit(limit)).all()
        about: defaultdict[int, list[str]] = defaultdict(list)
        for part in chunks([row.id for row in rows]):
            named = select(ids.c.audit_id, ids.c.cube_id).where(ids.c.audit_id.in_(part))
            for audit_id, cube_id in self.connection.execute(named.order_by(ids.c.audit_id, ids.c.position)):
                about[audit_id].append(cube_id)
        return [
            {
                "at": from_micros(row.at).isoformat(),
                "principal": row.principal,
                "action": row.action,
                "cube_ids": about[row.id],
                "detail": json.loads(row.detail),
            }
            for row in rows
        ]


def as_seen(cube: MemCube, visibility: Visibility) -> MemCube:
    """Return what a visibility may see of a cube that it may see: of another user's, no more than was granted."""
    return cube if cube.header.governance.namespace == visibility.namespace else cube.as_shared()


def may_be_shared(types: Collection[MemoryType] | None, states: Collection[State]) -> bool:
    """Tell whether a listing holds what can be granted: text in use."""
    return State.ACTIVE in states and (types is None or MemoryType.PLAINTEXT in types)
