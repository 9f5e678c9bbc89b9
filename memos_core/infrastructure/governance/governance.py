"""MemGovernance: the one place that turns a principal into what the ledger lets it see and do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from pydantic import JsonValue

from memos_core.clock import Clock
from memos_core.cube import MemoryType, Retention
from memos_core.errors import InvalidInput
from memos_core.infrastructure.governance.admission import Limits, admit, check_item, check_labels, check_text
from memos_core.infrastructure.vault import SearchFilter, Visibility, WriteSession
from memos_core.principal import Principal
from memos_core.records import MemoryCall, Turn

__all__ = ["MemGovernance"]


class MemGovernance:
    """Access, admission, retention and audit. Stateless but for its limits; thread-safe."""

    def __init__(self, *, clock: Clock, limits: Limits) -> None:
        self.clock = clock
        self.limits = limits

    def visibility(self, principal: Principal) -> Visibility:
        """Return what is ``principal``'s own to see and to change, as the ledger understands it."""
        return Visibility(namespace=principal.namespace, agent=principal.agent, session=principal.session)

    def reach(self, principal: Principal) -> Visibility:
        """Return what ``principal`` may read now: their own, and what others have granted to them."""
        return replace(self.visibility(principal), granted_at=self.clock.now())

    def search_filter(self, principal: Principal, call: MemoryCall, *, granted: bool = False) -> SearchFilter:
        """Return the conditions that every result of ``call`` must meet.

        Args:
            granted: What others have granted may be found too.
        """
        return SearchFilter(
            visibility=self.reach(principal) if granted else self.visibility(principal),
            now=self.clock.now(),
            as_of=call.as_of,
            before=call.before,
            filters=call.filters,
            types=(MemoryType.PLAINTEXT,),
            include_superseded=call.include_superseded,
        )

    def check(self, turn: Turn, *, index: int | None = None) -> None:
        """Raise InvalidMemory if ``turn`` cannot be a memory at all."""
        check_text(turn.text, self.limits, index=index)
        check_labels(turn, self.limits, index=index)

    def check_item(self, path: Sequence[str], key: str, text: str) -> None:
        """Raise InvalidInput if nothing can be kept there, or ``text`` is too long."""
        check_item(path, key, text, self.limits)

    def rejection(self, turn: Turn) -> str | None:
        """Return why policy keeps ``turn`` out, or None."""
        return admit(turn)

    def over_quota(self, session: WriteSession, namespace: str, more_bytes: int) -> str | None:
        """Return why ``more_bytes`` do not fit the namespace any more, or None. Asked within the write itself."""
        limit = self.limits.max_bytes
        if limit is None:
            return None
        used = session.bytes_used(namespace)
        if used + more_bytes <= limit:
            return None
        return f"the quota is reached: {used:,} bytes used, {more_bytes:,} more asked, max_bytes is {limit:,}"

    def retention(self, ttl_seconds: float | None, committed: datetime) -> Retention:
        """Return the retention of something committed now; a time to live counts from the commit.

        Raises:
            InvalidInput: It is not above zero, or ends after the last moment that there is.
        """
        try:
            return Retention(ttl_seconds=ttl_seconds).renewed(committed)
        except (OverflowError, ValueError) as error:
            raise InvalidInput(f"a time to live is a number of seconds above 0, not {ttl_seconds!r}") from error

    def audit(
        self,
        session: WriteSession,
        principal: Principal,
        action: str,
        cube_ids: Sequence[str],
        detail: Mapping[str, JsonValue] | None = None,
    ) -> None:
        """Record who did what to which cubes, in the transaction that does it. Never the text of a memory."""
        session.record_audit(principal.namespace, author_of(principal), action, cube_ids, detail or {})


def author_of(principal: Principal) -> str:
    """Return how a principal is named as the author of a change."""
    return "/".join(part for part in (principal.user, principal.agent) if part)
