"""How long memories stay in use: decay, room, and the end of what has expired, by a policy that can be tried out first.

Archiving loses nothing and is what every rule does but one: what has expired may be erased after a while, if the policy
says so, for a vault that is not to grow for ever.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from memos_core.cube import MemCube, State
from memos_core.infrastructure.governance import MemGovernance
from memos_core.infrastructure.vault import MemVault, ReadSession, Visibility
from memos_core.infrastructure.vault.upkeep import Use, count_live, lapsed, remove_audit, uses
from memos_core.principal import Principal

__all__ = ["MemRetention", "RetentionPolicy", "Tidying"]

AUTHOR = "memos"
AT_ONCE = 1000
UNKNOWN = 0.5


class RetentionPolicy(BaseModel):
    """How long the text memories of a scope stay in use. The default keeps everything.

    Frozen memories, and those with a tag of ``protect_tags``, are left alone by every rule.

    Attributes:
        archive_unused_seconds: Archive what was neither read nor injected nor edited for this long; None: never.
        archive_below_heat: And whose heat is below this; it keeps what was used much, if not lately.
        archive_below_importance: And whose importance is below this; None: whatever it is.
        max_memories: Most memories in use of one user; what is over it is archived, so that ``add`` never refuses.
        order: What goes first then: ``worth`` the least used of late and least important together, ``heat`` the least
            used of late, ``unused`` the longest unused, ``age`` the oldest.
        slack: Share of ``max_memories`` that is made free at a time, so that not every ``add`` has to look.
        erase_expired_seconds: Erase what expired this long ago, for good; None: keep it, out of use.
        keep_audit_seconds: Drop entries of the audit that are older, of the whole vault; None: keep them. Versions
            still tell who changed what. Only ``memos.tidy`` and background work do this.
        protect_tags: Tags of what is never touched.
        every_seconds: How often ``memos.work`` and ``memos.run_pending`` look, where ``MemOS.open`` was given a policy.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    archive_unused_seconds: float | None = Field(default=None, gt=0)
    archive_below_heat: float = Field(default=0.5, ge=0)
    archive_below_importance: float | None = Field(default=None, gt=0)
    max_memories: int | None = Field(default=None, ge=1)
    order: Literal["worth", "heat", "unused", "age"] = "worth"
    slack: float = Field(default=0.05, ge=0, lt=1)
    erase_expired_seconds: float | None = Field(default=None, ge=0)
    keep_audit_seconds: float | None = Field(default=None, gt=0)
    protect_tags: tuple[str, ...] = ("important", "pinned")
    every_seconds: float = Field(default=3600.0, gt=0)


@dataclass(frozen=True, slots=True)
class Tidying:
    """What a policy does with one memory, and why. ``erase`` has no way back; ``archive`` has."""

    user: str
    action: Literal["archive", "erase"]
    cube_id: str
    reason: str


class MemRetention:
    """Carries out a retention policy. Thread-safe.

    Args:
        policy: None: everything is kept, and nothing is looked at.
        dropped: Is told which derived cubes are gone with an erasure.
    """

    def __init__(
        self,
        vault: MemVault,
        governance: MemGovernance,
        policy: RetentionPolicy | None,
        *,
        dropped: Callable[[Principal, Sequence[str]], None],
    ) -> None:
        self.vault = vault
        self.governance = governance
        self.policy = policy
        self.dropped = dropped
        self._room: dict[str, int] = {}
        self._lock = threading.Lock()

    def tidy(
        self, principal: Principal, *, policy: RetentionPolicy | None = None, dry_run: bool = False
    ) -> tuple[Tidying, ...]:
        """Archive what is no longer used or over the limit, and erase what expired long ago, as the policy says.

        Args:
            policy: Instead of the one that the vault was opened with.
            dry_run: Only say what would be done, and why.
        """
        chosen = policy or self.policy or RetentionPolicy()
        with self.vault.read() as session:
            visibility = self.governance.visibility(principal)
            plan = [
                *self._erasures(session, principal, visibility, chosen),
                *self._archivals(session, principal, visibility, chosen),
            ]
        if not dry_run:
            self._erase(principal, [each.cube_id for each in plan if each.action == "erase"])
            self._archive(principal, [each for each in plan if each.action == "archive"])
        return tuple(plan)

    def tidy_all(self, *, policy: RetentionPolicy | None = None, dry_run: bool = False) -> tuple[Tidying, ...]:
        """``tidy`` for every user of the vault."""
        chosen = policy or self.policy or RetentionPolicy()
        with self.vault.read() as session:
            users = session.namespaces()
        if chosen.keep_audit_seconds is not None and not dry_run:
            with self.vault.write() as session:
                remove_audit(session, session.now - timedelta(seconds=chosen.keep_audit_seconds))
        return tuple(each for user in users for each in self.tidy(Principal(user), policy=chosen, dry_run=dry_run))

    def added(self, principal: Principal, count: int) -> tuple[Tidying, ...]:
        """Make room after an ``add``, where the policy limits how many memories are in use.

        The memories are counted only when this process has added as many as fitted the last time.
        """
        if self.policy is None or self.policy.max_memories is None or not count:
            return ()
        owner = Principal(principal.user)
        with self._lock:
            left = self._room.get(owner.user, 0) - count
            self._room[owner.user] = left
        if left >= 0:
            return ()
        limit = RetentionPolicy(
            max_memories=self.policy.max_memories,
            order=self.policy.order,
            slack=self.policy.slack,
            protect_tags=self.policy.protect_tags,
        )
        done = self.tidy(owner, policy=limit)
        with self.vault.read() as session:
            room = self.policy.max_memories - count_live(session, self.governance.visibility(owner))
        with self._lock:
            self._room[owner.user] = room
        return done

    # Parts

    def _erasures(
        self, session: ReadSession, principal: Principal, visibility: Visibility, policy: RetentionPolicy
    ) -> Iterable[Tidying]:
        if policy.erase_expired_seconds is None:
            return
        before = session.now - timedelta(seconds=policy.erase_expired_seconds)
        for cube in session.cubes(visibility, lapsed(session, visibility, before=before, limit=AT_ONCE)):
            if not protected(cube, policy):
                ends = cube.header.governance.retention.expires_at
                yield Tidying(principal.user, "erase", cube.id, f"its time was over at {ends:%Y-%m-%d %H:%M}")

    def _archivals(
        self, session: ReadSession, principal: Principal, visibility: Visibility, policy: RetentionPolicy
    ) -> Iterable[Tidying]:
        if policy.archive_unused_seconds is None and policy.max_memories is None:
            return
        total = count_live(session, visibility)
        excess = 0 if policy.max_memories is None or total <= policy.max_memories else total
        if policy.archive_unused_seconds is None and not excess:
            return
        in_use = uses(session, visibility, but_tagged=policy.protect_tags)
        idle = {each.cube_id: why for each in in_use if (why := disused(each, policy, session))}
        gone = 0
        for cube in session.cubes(visibility, list(idle)):
            if not protected(cube, policy):
                gone += 1
                yield Tidying(principal.user, "archive", cube.id, idle[cube.id])
        if excess and policy.max_memories is not None:
            need = excess - gone - int(policy.max_memories * (1 - policy.slack))
            why = f"{total} memories are in use and max_memories is {policy.max_memories}; first by {policy.order}"
            ordered = [each.cube_id for each in sorted(in_use, key=order_of(policy)) if each.cube_id not in idle]
            for cube_id in islice(self._loose(session, visibility, ordered, policy), max(0, need)):
                yield Tidying(principal.user, "archive", cube_id, why)

    def _loose(
        self, session: ReadSession, visibility: Visibility, cube_ids: Sequence[str], policy: RetentionPolicy
    ) -> Iterable[str]:
        """Yield those of the memories that are not protected, reading them only as far as they are asked for."""
        for start in range(0, len(cube_ids), AT_ONCE):
            for cube in session.cubes(visibility, cube_ids[start : start + AT_ONCE]):
                if not protected(cube, policy):
                    yield cube.id

    def _archive(self, principal: Principal, plan: Sequence[Tidying]) -> None:
        visibility = self.governance.visibility(principal)
        for start in range(0, len(plan), AT_ONCE):
            part = {each.cube_id: each.reason for each in plan[start : start + AT_ONCE]}
            with self.vault.write() as session:
                for cube in session.cubes(visibility, list(part)):
                    if cube.state is State.ACTIVE and not cube.header.governance.frozen:
                        session.set_state(cube.id, State.ARCHIVED, author=AUTHOR, reason=part[cube.id])

    def _erase(self, principal: Principal, cube_ids: Sequence[str]) -> None:
        if not cube_ids:
            return
        with self.vault.write() as session:
            erased = session.erase(self.governance.visibility(principal), cube_ids)
            session.record_audit(principal.namespace, AUTHOR, "erase_expired", erased.cube_ids, {})
            session.afterwards.append(lambda: self.dropped(principal, erased.derived_ids))


def protected(cube: MemCube, policy: RetentionPolicy) -> bool:
    return cube.header.governance.frozen or not set(policy.protect_tags).isdisjoint(cube.tags)


def disused(use: Use, policy: RetentionPolicy, session: ReadSession) -> str | None:
    """Return why a memory is to be archived for want of use, or None."""
    if policy.archive_unused_seconds is None:
        return None
    idle = (session.now - use.used).total_seconds()
    if idle < policy.archive_unused_seconds or use.heat >= policy.archive_below_heat:
        return None
    reason = f"neither used nor edited for {idle / 86400:.1f} days, heat {use.heat:.2f}"
    if policy.archive_below_importance is None:
        return reason
    if importance(use) >= policy.archive_below_importance:
        return None
    return f"{reason}, importance {importance(use):.2f}"


def importance(use: Use) -> float:
    """Return the importance of a memory; what is not told is taken to be in the middle."""
    return UNKNOWN if use.importance is None else use.importance


def order_of(policy: RetentionPolicy) -> Callable[[Use], tuple[object, ...]]:
    """Return what memories are sorted by when some have to go."""
    orders: dict[str, Callable[[Use], tuple[object, ...]]] = {
        # One use of late weighs as much as the most important text: what is asked for was important.
        "worth": lambda use: (use.heat + importance(use), use.used, use.cube_id),
        "heat": lambda use: (use.heat, use.used, use.cube_id),
        "unused": lambda use: (use.used, use.cube_id),
        "age": lambda use: (use.changed, use.cube_id),
    }
    return orders[policy.order]
