"""Grants: what an owner lets other users read."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

__all__ = ["GrantRecord", "Right"]

Right = Literal["read"]
"""What can be granted: to find a memory, read it, and put it into a prompt."""


@dataclass(frozen=True, slots=True)
class GrantRecord:
    """A right that was given, with its author and time. ``Scope.revoke`` is the way back.

    Attributes:
        owner: The user whose memory it is.
        grantee: The user who may read it.
        right: What they may do.
        cube_id: The memory; None: all that the scope holds, now and later, but what is marked secret.
        agent: Of a whole scope: only what is bound to this agent; None: of any or none.
        session: Likewise for the session.
        until: When it ends by itself; None: when it is revoked.
        author: Who gave it.
        at: When.
    """

    owner: str
    grantee: str
    right: Right
    cube_id: str | None
    agent: str | None
    session: str | None
    until: datetime | None
    author: str
    at: datetime

    @property
    def what(self) -> str:
        """What may be read, in words."""
        bound = [f"{what} {name}" for what, name in (("agent", self.agent), ("session", self.session)) if name]
        return self.cube_id or (f"all of {', '.join(bound)}" if bound else "everything")

    def __str__(self) -> str:
        until = f" until {self.until.isoformat(timespec='minutes')}" if self.until else ""
        return f"{self.grantee} may {self.right} {self.what} of {self.owner}{until}"
