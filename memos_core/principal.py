"""Who is asking: the names that a scope is bound to, and what may be seen under them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from memos_core.errors import InvalidName, ScopeConflict

__all__ = ["MAX_NAME_CHARS", "Principal", "check_name", "principal_of", "variables_of"]

MAX_NAME_CHARS = 128
FORBIDDEN = re.compile(r"[/\\\x00-\x1f\x7f]")


def check_name(name: object, what: str) -> str:
    """Return ``name`` in Unicode NFC if it may name a ``what`` (user, agent, session, collection).

    A name is 1 to 128 printable characters without slashes, control or invisible characters, and without
    white space at its ends.

    Raises:
        InvalidName: It may not.
    """
    if not isinstance(name, str):
        raise InvalidName(f"a {what} name must be a str, not {type(name).__name__}")
    return checked(name, what)


@lru_cache(maxsize=1024)  # each memory that is added names its user and its session
def checked(name: str, what: str) -> str:
    if not name or len(name) > MAX_NAME_CHARS:
        raise InvalidName(f"a {what} name has 1 to {MAX_NAME_CHARS} characters, this one has {len(name)}")
    if name != name.strip() or name in {".", ".."} or FORBIDDEN.search(name):
        raise InvalidName(f"malformed {what} name {name!r}: no slashes, control characters or outer white space")
    if any(unicodedata.category(character) in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"} for character in name):
        raise InvalidName(f"malformed {what} name {name!r}: it holds invisible or unassigned characters")
    return unicodedata.normalize("NFC", name)


@dataclass(frozen=True, slots=True)
class Principal:
    """The user, and optionally the agent and session, that a scope speaks for.

    A principal sees a cube of its own user if the cube's agent is the principal's or none, and likewise the
    session; a principal without an agent (session) sees those of all agents (sessions).

    Raises:
        InvalidName: One of the names is malformed.
    """

    user: str
    agent: str | None = None
    session: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "user", check_name(self.user, "user"))
        for what in ("agent", "session"):
            name = getattr(self, what)
            if name is not None:
                object.__setattr__(self, what, check_name(name, what))

    @property
    def namespace(self) -> str:
        """The unit of isolation, statistics, quotas and erasure: one for each user."""
        return self.user

    def narrow(self, *, agent: str | None = None, session: str | None = None) -> Principal:
        """Return a principal that is bound further.

        Raises:
            ScopeConflict: This principal is bound to another agent or session already.
        """
        for what, asked in (("agent", agent), ("session", session)):
            bound = getattr(self, what)
            if asked is not None and bound is not None and asked != bound:
                raise ScopeConflict(f"this scope is bound to {what} {bound!r}; {what}={asked!r} is outside of it")
        return Principal(
            self.user,
            self.agent if agent is None else agent,
            self.session if session is None else session,
        )

    def sees(self, *, user: str, agent: str | None, session: str | None) -> bool:
        """Tell whether a cube owned by these is visible to this principal."""
        return (
            user == self.user
            and (self.agent is None or agent in (None, self.agent))
            and (self.session is None or session in (None, self.session))
        )


VARIABLE = re.compile(r"\{(\w+)\}")
LEVELS = {"users": "user", "agents": "agent", "sessions": "session"} | {
    "user": "user",
    "agent": "agent",
    "session": "session",
}


def principal_of(namespace: Sequence[str], values: Mapping[str, object]) -> Principal:
    """Return the principal that a namespace template stands for.

    ``("users", "{user_id}", "agents", "scout", "sessions", "{thread_id}")`` names user, agent and session. A
    namespace without these words is a user of its own: ``("kb", "manuals")`` is the user ``kb:manuals``.

    Args:
        namespace: Parts, in which ``{name}`` stands for a value.
        values: What the names stand for.

    Raises:
        InvalidName: A name has no value, or the namespace is malformed.
    """
    parts = [filled(part, values) for part in namespace]
    if not parts or parts[0] not in LEVELS:
        return Principal(":".join(parts))
    if len(parts) % 2 or any(part not in LEVELS for part in parts[::2]):
        raise InvalidName(f"a namespace reads (users, NAME, agents, NAME, sessions, NAME), not {tuple(namespace)!r}")
    named = {LEVELS[level]: name for level, name in zip(parts[::2], parts[1::2], strict=True)}
    if "user" not in named or len(named) != len(parts) // 2:
        raise InvalidName(f"a namespace names one user and each other level once, not {tuple(namespace)!r}")
    return Principal(named["user"], named.get("agent"), named.get("session"))


def variables_of(namespace: Sequence[str]) -> frozenset[str]:
    """Return the names that a namespace template needs values for."""
    return frozenset(name for part in namespace for name in VARIABLE.findall(part))


def filled(part: str, values: Mapping[str, object]) -> str:
    """Return a part of a template with its variables replaced; nothing but plain names is understood."""

    def value(match: re.Match[str]) -> str:
        name = match.group(1)
        if values.get(name) is None:
            raise InvalidName(f"the namespace needs a value for {name!r} and none was given")
        return str(values[name])

    return VARIABLE.sub(value, part)
