"""What MemOS tells an observer: one frozen record, one hook with one method.

    def show(event: Event) -> None:
        print(event.name, event.cube_ids, event.detail)

    memos = MemOS.open("memory/", on_event=show)

Events are sent after the change that they tell of is durable. A hook must not raise: what it raises reaches the caller.
No event carries the text of a memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

__all__ = ["Event", "EventHook", "ignore_event"]


@dataclass(frozen=True, slots=True)
class Event:
    """Something happened.

    Attributes:
        name: What, as ``noun.verb``: ``memory.added``, ``memory.searched``, ``memory.forgotten``, ``kv.built``,
            ``kv.refused``, ``index.rebuilt`` ...
        at: When, in UTC.
        namespace: Whose memory it concerns, or None for the vault as a whole.
        cube_ids: Which cubes.
        detail: JSON values: counts, durations in seconds, reasons.
    """

    name: str
    at: datetime
    namespace: str | None = None
    cube_ids: tuple[str, ...] = ()
    detail: Mapping[str, Any] = field(default_factory=dict)


EventHook = Callable[[Event], None]


def ignore_event(event: Event) -> None:
    """The default hook: nobody listens."""
