"""The states of a memory, and which may follow which.

    add --> active --archive--> archived --archive(archived=False)--> active
              |--its time is over--> expired --renew--> active
              |--merge, split--> merged --revert--> active
              '--forget--> gone, with everything made from it

The paper's words (arXiv 2505.22101) map onto these: ``generated`` is an active memory that nothing has used yet,
``activated`` one that was used, and ``frozen`` is a guard that any memory may carry; see ``stage_of``.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Literal

from memos_core.cube import MemCube, State
from memos_core.errors import CubeFrozen, IllegalTransition

__all__ = ["LEGAL", "Stage", "check_archivable", "check_editable", "check_transition", "stage_of"]

Stage = Literal["generated", "activated", "merged", "archived", "expired", "frozen"]
"""Where a memory stands, in the words of the paper."""

LEGAL: Mapping[State, frozenset[State]] = {
    State.ACTIVE: frozenset({State.ARCHIVED, State.MERGED, State.EXPIRED}),
    State.ARCHIVED: frozenset({State.ACTIVE, State.EXPIRED}),
    State.MERGED: frozenset({State.ACTIVE}),
    State.EXPIRED: frozenset({State.ACTIVE}),
}
"""State to those that may follow it. To stay in a state is no transition and always allowed."""

ADVICE: Mapping[State, str] = {
    State.ACTIVE: "it is in use",
    State.ARCHIVED: "bring it back first, with archive(cube_id, archived=False)",
    State.MERGED: "what it says lives on in other memories; revert the merge or split first",
    State.EXPIRED: "its time is over; give it a new one first, with renew(cube_id)",
}


def check_transition(cube: MemCube, to: State) -> None:
    """Raise where ``cube`` may not go to that state.

    Raises:
        CubeFrozen: It is protected from change.
        IllegalTransition: It may not; the message says what to do first.
    """
    if cube.state is to:
        return
    if cube.header.governance.frozen:
        raise CubeFrozen(cube.id)
    if to not in LEGAL[cube.state]:
        raise IllegalTransition(cube.id, cube.state, ADVICE[cube.state])


def check_archivable(cube: MemCube, *, archived: bool, now: datetime) -> None:
    """Raise where ``cube`` may not go into the archive, or not come back from it.

    Raises:
        IllegalTransition: It is merged, expired, or expired in the archive.
    """
    ends = cube.header.governance.retention.expires_at
    state = State.EXPIRED if not archived and ends is not None and ends <= now else cube.state
    if state in (State.MERGED, State.EXPIRED):
        raise IllegalTransition(cube.id, state, ADVICE[state])


def check_editable(cube: MemCube) -> None:
    """Raise where the text of ``cube`` may not change: it is frozen, merged or expired.

    Raises:
        CubeFrozen: It is protected from change.
        IllegalTransition: It is out of use for good unless someone brings it back.
    """
    if cube.header.governance.frozen:
        raise CubeFrozen(cube.id)
    if cube.state in (State.MERGED, State.EXPIRED):
        raise IllegalTransition(cube.id, cube.state, ADVICE[cube.state])


def stage_of(cube: MemCube) -> Stage:
    """Return where ``cube`` stands in the words of the paper."""
    if cube.state is State.MERGED:
        return "merged"
    if cube.state is State.ARCHIVED:
        return "archived"
    if cube.state is State.EXPIRED:
        return "expired"
    if cube.header.governance.frozen:
        return "frozen"
    return "generated" if cube.header.behaviour.last_used is None else "activated"
