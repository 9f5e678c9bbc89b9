"""Which KV caches of a scope may be used now, kept until the ledger says that something has changed.

Every request asks for all of them. Whether one may be used rests on it and on each memory that it was made from, which
is a question over hundreds of rows; whether anything has changed since the last answer is one over a single row.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import Select, and_, func, select

from memos_core.cube import ActivationPayload, MemoryType
from memos_core.infrastructure.vault import schema
from memos_core.infrastructure.vault.conditions import chunks, micros, usable
from memos_core.infrastructure.vault.rows import payload_of
from memos_core.infrastructure.vault.values import Visibility

if TYPE_CHECKING:
    from memos_core.infrastructure.vault.reading import ReadSession

__all__ = ["Activations"]

MAX_SCOPES = 256

Found = tuple[tuple[str, ActivationPayload], ...]
"""Id of the cube and where its tensors lie, in the order of the ids."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What was found.

    Attributes:
        found: The caches.
        digests: Digest of the payload of each, by id.
        revision: Of the namespace.
        until: The first moment, in microseconds, at which one of them or of their memories expires; None: none does.
    """

    found: Found
    digests: dict[str, str]
    revision: int
    until: int | None


class Activations:
    """The usable KV caches of several scopes. Thread-safe.

    Args:
        max_scopes: Scopes whose answer is kept; those that have not asked for longest go first.
    """

    def __init__(self, *, max_scopes: int = MAX_SCOPES) -> None:
        self.max_scopes = max_scopes
        self._lock = threading.Lock()
        self._answers: OrderedDict[tuple[Visibility, str], Answer] = OrderedDict()

    def current(self, session: ReadSession, visibility: Visibility, fingerprint: str, now: datetime) -> Found:
        """Return the KV caches made under ``fingerprint`` that may be used, as ``session`` sees the ledger.

        Raises:
            VaultDamaged: One of them is not what was written.
        """
        if visibility.granted_at is not None:  # it changes with other namespaces too
            return asked(session, visibility, fingerprint, now, None).found
        key, revision = (visibility, fingerprint), session.newest_change(visibility.namespace)
        with self._lock:
            last = self._answers.get(key)
        if last is not None and last.revision == revision and (last.until is None or micros(now) < last.until):
            return last.found
        answer = asked(session, visibility, fingerprint, now, last)
        with self._lock:
            self._answers[key] = answer
            self._answers.move_to_end(key)
            while len(self._answers) > self.max_scopes:
                self._answers.popitem(last=False)
        return answer.found

    def drop(self) -> None:
        """Forget everything."""
        with self._lock:
            self._answers.clear()


def asked(session: ReadSession, visibility: Visibility, fingerprint: str, now: datetime, last: Answer | None) -> Answer:
    """Ask the ledger. A payload that was read for ``last`` is not read again: a stored version never changes."""
    c, v = schema.cubes, schema.versions
    query: Select[Any] = select(c.c.id, c.c.expires_at, v.c.digest, v.c.payload).join_from(
        c, v, and_(v.c.cube_id == c.c.id, v.c.version == c.c.version)
    )
    query = query.where(*usable(visibility, MemoryType.ACTIVATION, fingerprint, now)).order_by(c.c.id)
    rows = session.connection.execute(query).all()
    held = {} if last is None else dict(last.found)
    digests = {} if last is None else last.digests
    found = tuple(
        (row.id, held[row.id] if digests.get(row.id) == row.digest else payload_of(row, ActivationPayload))
        for row in rows
    )
    ends = [row.expires_at for row in rows if row.expires_at is not None]
    ends += sources_end(session, [row.id for row in rows])
    return Answer(
        found,
        {row.id: row.digest for row in rows},
        session.newest_change(visibility.namespace),
        min(ends, default=None),
    )


def sources_end(session: ReadSession, cube_ids: list[str]) -> list[int]:
    """Return the first moment at which a memory expires that one of the cubes was made from, if there is one."""
    made, source = schema.lineage, schema.cubes
    query = select(func.min(source.c.expires_at)).join_from(made, source, source.c.id == made.c.source_id)
    found = [session.connection.scalar(query.where(made.c.cube_id.in_(part))) for part in chunks(cube_ids)]
    return [int(moment) for moment in found if moment is not None]
