"""Whole files into memory: resumable, and the same however often it is run.

Each batch is one transaction. What was committed before an interruption is recognised by its reference when the file
is ingested again, so nothing is stored twice and the rest comes in.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from memos_core.errors import InvalidFile, InvalidInput, InvalidMemory
from memos_core.interface.formats import FORMATS, Entry, SourceText, detect_format, read_source
from memos_core.records import Outcome

if TYPE_CHECKING:
    from memos_core.memos import MemOS
    from memos_core.scope import Scope

__all__ = ["FORMATS", "IngestReport", "ingest", "read_turns"]

Progress = Callable[[int, int], None]
"""Is told how many turns of how many are done."""


@dataclass(frozen=True, slots=True)
class IngestReport:
    """What became of a file.

    Attributes:
        users: Whose memory it went to, in the order of the file.
        turns: Turns that the file holds.
        committed: Turns that are new.
        duplicates: Turns that were there before.
        rejected: Turns that a policy refused.
        seconds: How long it took.
    """

    users: tuple[str, ...]
    turns: int
    committed: int
    duplicates: int
    rejected: int
    seconds: float


def read_turns(path: str | Path, *, format: str | None = None) -> list[Entry]:
    """Return what a file holds as turns.

    Args:
        path: The file: UTF-8 text, gzipped or not.
        format: A key of ``FORMATS``; by default it is told from the content.

    Raises:
        InvalidFile: It cannot be read as that; with the line.
        InvalidInput: There is no such format.
    """
    return parsed(read_source(path), format)


def parsed(source: SourceText, format: str | None) -> list[Entry]:
    """Return the entries of a text that is read already."""
    if format is not None and format not in FORMATS:
        raise InvalidInput(f"format must be one of {', '.join(FORMATS)}, not {format!r}")
    entries = list(FORMATS[format or detect_format(source)](source))
    if not entries:
        raise source.error("the file holds nothing to remember")
    return entries


def ingest(
    memos: MemOS,
    path: str | Path,
    *,
    user: str | None = None,
    agent: str | None = None,
    session: str | None = None,
    format: str | None = None,
    batch_size: int = 64,
    progress: Progress | None = None,
) -> IngestReport:
    """Remember everything that a file holds; a second run adds nothing.

    Args:
        memos: Where to.
        path: Plain text (a memory for each paragraph), Markdown (for each section), JSONL of chat messages, or JSON of
            conversations; gzipped or not.
        user: Whose memory it is; needed unless the file names its users, as conversations do.
        agent: Binds the memories to an agent.
        session: Binds them to a session.
        format: A key of ``FORMATS``, if the content is not to decide.
        batch_size: Turns of one transaction.
        progress: Is told how many turns of how many are done, after each batch.

    Raises:
        InvalidFile: The file is not what it should be; nothing was written, or what stood before the bad part was.
        InvalidInput: No user is named.
        InvalidName: A user's name is malformed; nothing was written.
        VaultError: The vault refused; what was committed before stays.
    """
    if batch_size < 1:
        raise InvalidInput("batch_size must be at least 1")
    started = time.perf_counter()
    entries = read_turns(path, format=format)
    users = tuple(dict.fromkeys(named_user(entry, user) for entry in entries))
    # Made before anything is written: a malformed name in the middle of a file must not leave half of it behind.
    scopes = {name: memos.scope(name, agent=agent, session=session) for name in users}
    outcomes: Counter[str] = Counter()
    done = 0
    for name, batch in batches(entries, user, batch_size):
        outcomes.update(add_batch(scopes[name], batch, str(path)))
        done += len(batch)
        if progress is not None:
            progress(done, len(entries))
    return IngestReport(
        users=users,
        turns=len(entries),
        committed=outcomes[Outcome.COMMITTED] + outcomes[Outcome.SUPERSEDED],
        duplicates=outcomes[Outcome.DUPLICATE],
        rejected=outcomes[Outcome.REJECTED],
        seconds=time.perf_counter() - started,
    )


def named_user(entry: Entry, user: str | None) -> str:
    """Return whose memory an entry is: the file's own word, else the caller's."""
    name = user if entry.user is None else entry.user
    if name is None:
        raise InvalidInput("this file does not say whose memory it is: name a user")
    return name


def batches(entries: Sequence[Entry], user: str | None, size: int) -> Iterator[tuple[str, list[Entry]]]:
    """Yield runs of at most ``size`` entries of one user, in order."""
    batch: list[Entry] = []
    for entry in entries:
        if batch and (len(batch) == size or named_user(batch[0], user) != named_user(entry, user)):
            yield named_user(batch[0], user), batch
            batch = []
        batch.append(entry)
    if batch:
        yield named_user(batch[0], user), batch


def add_batch(scope: Scope, batch: Sequence[Entry], path: str) -> list[Outcome]:
    """Commit one batch and return what became of each turn; an unusable turn is named by its place in the file."""
    try:
        return [receipt.outcome for receipt in scope.add_many([entry.turn for entry in batch])]
    except InvalidMemory as error:
        entry = batch[error.index or 0]  # a batch of one has no index
        raise InvalidFile(f"turn {entry.turn.ref!r} of {scope.user!r}: {error}", path=path, line=entry.line) from error
