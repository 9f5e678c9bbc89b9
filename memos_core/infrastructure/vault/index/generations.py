"""Generations of a disposable index: which one counts, how far it has come, and the end of the others."""

from __future__ import annotations

import json
import secrets
import shutil
import zlib
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, delete, func, insert, select, update

from memos_core.infrastructure.vault import schema
from memos_core.infrastructure.vault.index.scrub import scrub
from memos_core.infrastructure.vault.ledger import Ledger

__all__ = [
    "DamagedGeneration",
    "State",
    "backlog",
    "begin",
    "check_seal",
    "folder_of",
    "forget",
    "leftovers",
    "next_state",
    "record",
    "seal",
    "state",
    "sweep",
    "unseal",
]

NAME = "chroma"
SEAL = "seal.json"
PART_BYTES = 2**20


class DamagedGeneration(OSError):
    """The files of a generation are not as they were left. Never leaves this package: a new generation is made."""


@dataclass(frozen=True, slots=True)
class State:
    """What the ledger knows of the index.

    Attributes:
        generation: Names the folder; empty while the first one is being made.
        applied_seq: Up to where the outbox has been taken over.
        applied_passage: The newest passage that the index holds.
    """

    generation: str
    applied_seq: int
    applied_passage: int


def folder_of(root: Path, generation: str) -> Path:
    return root / f"{NAME}-{generation}"


def state(connection: Connection) -> State | None:
    """Return the state of the index; None if there never was one."""
    s = schema.index_state
    row = connection.execute(select(s).where(s.c.name == NAME)).first()
    return None if row is None else State(row.generation, row.applied_seq, row.applied_passage)


def begin(ledger: Ledger) -> None:
    """Make sure that from now on every write also goes into the outbox."""
    with ledger.write() as connection:
        if state(connection) is None:
            row = {"name": NAME, "generation": "", "applied_seq": 0, "applied_passage": 0}
            connection.execute(insert(schema.index_state).values(row))


def next_state(connection: Connection) -> State:
    """Return the state that a generation made from this view of the ledger has."""
    before = state(connection)
    newest_seq = connection.scalar(select(func.max(schema.outbox.c.seq))) or 0
    newest_passage = connection.scalar(select(func.max(schema.vectors.c.passage_id))) or 0
    return State(secrets.token_hex(8), max(newest_seq, before.applied_seq if before else 0), newest_passage)


def record(connection: Connection, now: State) -> None:
    """Record a state, and let go of the part of the outbox that it covers."""
    values = {"generation": now.generation, "applied_seq": now.applied_seq, "applied_passage": now.applied_passage}
    connection.execute(update(schema.index_state).where(schema.index_state.c.name == NAME).values(values))
    connection.execute(delete(schema.outbox).where(schema.outbox.c.seq <= now.applied_seq))


def forget(ledger: Ledger) -> None:
    """Forget that there ever was an index: writes no longer go into the outbox."""
    with ledger.write() as connection:
        connection.execute(delete(schema.index_state))
        connection.execute(delete(schema.outbox))


def backlog(connection: Connection, now: State) -> int:
    """Return how many changes wait in the outbox."""
    o = schema.outbox
    return int(connection.scalar(select(func.count()).select_from(o).where(o.c.seq > now.applied_seq)) or 0)


def leftovers(root: Path, *, keep: str | None) -> list[Path]:
    """Return the folders of generations other than ``keep``."""
    kept = None if keep is None else folder_of(root, keep)
    return sorted(path for path in root.glob(f"{NAME}-*") if path != kept)


def sweep(root: Path, *, keep: str | None) -> None:
    """Delete all generations but ``keep``. What another process still holds open (on Windows) stays for later."""
    for folder in leftovers(root, keep=keep):
        shutil.rmtree(folder, ignore_errors=True)


def seal(folder: Path) -> None:
    """Note what the files of a generation look like, after writing to them; their unused parts are zeroed first.

    Chroma maps its graph files without looking: damaged ones, or ones that a killed process left half written, end
    the process that opens them. So they are compared before.
    """
    scrub(folder)
    temporary = folder / f"{SEAL}.tmp"
    temporary.write_text(json.dumps(checksums(folder)))
    temporary.replace(folder / SEAL)


def unseal(folder: Path) -> None:
    """Declare that the files of a generation are about to change."""
    (folder / SEAL).unlink(missing_ok=True)


def check_seal(folder: Path) -> None:
    """Raise DamagedGeneration unless the files are as they were when they were sealed."""
    try:
        expected = json.loads((folder / SEAL).read_text())
    except (OSError, ValueError) as error:
        raise DamagedGeneration(f"{folder} has no seal") from error
    if expected != checksums(folder):
        raise DamagedGeneration(f"{folder} is not as it was sealed")


def checksums(folder: Path) -> dict[str, list[int]]:
    """Return size and CRC-32 of the graph files. SQLite looks after its own."""
    return {
        path.relative_to(folder).as_posix(): [path.stat().st_size, checksum(path)]
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(("chroma.sqlite3", SEAL))
    }


def checksum(path: Path) -> int:
    crc = 0
    with path.open("rb") as file:
        while part := file.read(PART_BYTES):
            crc = zlib.crc32(part, crc)
    return crc
