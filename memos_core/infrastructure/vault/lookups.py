"""Queries for one cube and for cubes in their order, written once for each kind of scope.

The condition that a cube may be seen takes some three milliseconds to build and to translate, and a hundredth of that
to answer. It differs between scopes by what they are bound to, not by whom; so names stand in it for the values.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from sqlalchemy import BindParameter, ColumnElement, and_, bindparam, func, literal, or_, select

from memos_core.cube import MemoryType, State
from memos_core.infrastructure.vault import schema
from memos_core.infrastructure.vault.conditions import EPOCH, live_at, micros, of_collection, owned, visible
from memos_core.infrastructure.vault.prepared import Prepared
from memos_core.infrastructure.vault.rows import current
from memos_core.infrastructure.vault.values import Visibility

__all__ = ["VERSION", "VERSIONS", "Listing", "counted", "kind_of", "listed", "one_cube", "values_of"]

Condition = ColumnElement[bool]

VERSIONS = Prepared(
    select(schema.versions).where(schema.versions.c.cube_id == bindparam("cube_id")).order_by(schema.versions.c.version)
)
VERSION = Prepared(
    select(schema.versions).where(
        schema.versions.c.cube_id == bindparam("cube_id"), schema.versions.c.version == bindparam("version")
    )
)


ANY = "any"
"""Stands for every agent and session in the kind of a visibility."""


def kind_of(visibility: Visibility) -> Visibility:
    """Return one visibility for all that are bound to the same kinds of things."""
    agent, session = (None if bound is None else ANY for bound in (visibility.agent, visibility.session))
    return Visibility(ANY, agent, session, granted_at=None if visibility.granted_at is None else EPOCH)


def values_of(visibility: Visibility) -> dict[str, Any]:
    """Return the values of the names in the queries of its kind."""
    names = {"namespace": visibility.namespace, "agent": visibility.agent, "session": visibility.session}
    return {**names, "granted_at": micros(visibility.granted_at)}


def named(kind: Visibility) -> Visibility:
    """Return a visibility of that kind with names in the place of values."""
    names: dict[str, Any] = {name: bindparam(name) for name in ("agent", "session") if getattr(kind, name)}
    granted_at: Any = None if kind.granted_at is None else bindparam("granted_at")
    namespace: Any = bindparam("namespace")
    return Visibility(namespace, **names, granted_at=granted_at)


@lru_cache(maxsize=32)
def one_cube(kind: Visibility) -> Prepared:
    """Return the query for the cube ``cube_id``, if a visibility of that kind lets it be seen."""
    return Prepared(current().where(schema.cubes.c.id == bindparam("cube_id"), visible(named(kind))))


@dataclass(frozen=True, slots=True)
class Listing:
    """Which cubes are listed.

    Attributes:
        kind: Of what may be seen.
        types: Of these types; None: any.
        states: In these states at the moment ``now``.
        belonging: Of the session ``belonging``.
        beyond: Beyond the cube ``after`` in their order.
        newest: In the reverse order.
    """

    kind: Visibility
    types: tuple[MemoryType, ...] | None
    states: tuple[State, ...]
    belonging: bool = False
    beyond: bool = False
    newest: bool = False

    @property
    def condition(self) -> Condition:
        cubes = schema.cubes.c
        now: BindParameter[int] = bindparam("now")
        either = [cubes.state == str(state) for state in self.states if state is not State.ACTIVE]
        if State.ACTIVE in self.states:
            either.append(live_at(now))
        if State.EXPIRED in self.states:
            either.append(and_(cubes.state == State.ACTIVE, cubes.expires_at <= now))
        conditions = [owned(named(self.kind)), of_collection(None), or_(*either)]
        if self.types is not None:  # items belong to no one kind of memory: they are listed where all are
            types = [literal(str(each)) for each in self.types]
            conditions += [cubes.type.in_(types), cubes.item_path.is_(None)]
        if self.belonging:
            conditions.append(cubes.session == bindparam("belonging"))
        if self.beyond:
            after: BindParameter[str] = bindparam("after")
            conditions.append(cubes.id < after if self.newest else cubes.id > after)
        return and_(*conditions)


@lru_cache(maxsize=64)
def listed(listing: Listing) -> Prepared:
    """Return the query for the first ``limit`` cubes of a listing."""
    order = schema.cubes.c.id.desc() if listing.newest else schema.cubes.c.id
    return Prepared(current().where(listing.condition).order_by(order).limit(bindparam("limit")))


@lru_cache(maxsize=64)
def counted(listing: Listing) -> Prepared:
    """Return the query for how many cubes a listing has."""
    return Prepared(select(func.count()).select_from(schema.cubes).where(listing.condition))
