"""What is particular to SQLite: how a connection is set up, what its errors mean, how traces leave the file.

Nothing else in the vault uses SQL that only SQLite understands.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.pool import NullPool

from memos_core.errors import MemosError, VaultBusy, VaultDamaged, VaultError, VaultWriteFailed

__all__ = [
    "APPLICATION_ID",
    "Connections",
    "checkpoint",
    "integrity_problems",
    "open_engine",
    "rewrite",
    "stamp",
    "typed_errors",
]

APPLICATION_ID = 0x4D454D4F  # 'MEMO': tells a ledger from any other SQLite file
MOST_IDLE = 8
"""Connections that are kept open for later."""

BUSY = ("locked", "busy")
REFUSED = ("full", "disk i/o", "readonly", "read-only", "unable to open", "too big")
BROKEN = ("malformed", "not a database", "corrupt")


def open_engine(path: Path, *, busy_timeout_seconds: float) -> Engine:
    """Return an engine over the file at ``path``, whose connections may go from thread to thread.

    It pools none and begins no transactions: see ``Connections``.
    """
    engine = create_engine(
        URL.create("sqlite+pysqlite", database=str(path)),
        connect_args={"timeout": busy_timeout_seconds, "check_same_thread": False},
        poolclass=NullPool,
    )
    event.listen(engine, "connect", set_up)
    return engine


def set_up(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # transactions begin where we say, not where the driver guesses
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
        "secure_delete=ON",
        "temp_store=MEMORY",  # no temporary file with memory in it
    ):
        connection.execute(f"PRAGMA {pragma}").fetchall()


class Connections:
    """Connections that wait for their next transaction. Thread-safe; each is used by one thread at a time.

    To SQLAlchemy each of them is in one transaction for as long as it lives; where transactions really begin and end,
    the driver is told. Its own pool and transactions take ten times as long as SQLite does to begin and end one.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._idle: list[Connection] = []
        self._closed = False

    @contextmanager
    def transaction(self, *, writes: bool) -> Iterator[Connection]:
        """Begin a transaction; committed at the end, rolled back by any exception."""
        connection = self._lend()
        driver: Any = connection.connection.dbapi_connection
        try:
            # A deferred transaction that turns into a write later fails at once when another writer was faster.
            driver.execute("BEGIN IMMEDIATE" if writes else "BEGIN")
            yield connection
            driver.execute("COMMIT")
        except BaseException:
            driver.rollback()
            raise
        finally:
            self._take_back(connection, usable=not driver.in_transaction)

    @contextmanager
    def borrowed(self) -> Iterator[sqlite3.Connection]:
        """Lend a connection, as the driver knows it, for what SQLite does outside of transactions."""
        connection = self._lend()
        try:
            driver: Any = connection.connection.dbapi_connection
            yield driver
        finally:
            self._take_back(connection, usable=True)

    def close(self) -> None:
        """Close those that wait, and each other one when it comes back."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()

    def _lend(self) -> Connection:
        try:
            return self._idle.pop()
        except IndexError:
            connection = self._engine.connect()
            connection.begin()
            return connection

    def _take_back(self, connection: Connection, *, usable: bool) -> None:
        if usable and not self._closed and len(self._idle) < MOST_IDLE:
            self._idle.append(connection)
        else:
            connection.close()


def stamp(connection: Connection, *, fresh: bool) -> None:
    """Mark a fresh file as a ledger, or make sure that it is one.

    Raises:
        VaultError: It is a database of something else.
    """
    found = connection.exec_driver_sql("PRAGMA application_id").scalar_one()
    tables = connection.exec_driver_sql("SELECT count(*) FROM sqlite_master").scalar_one()
    if fresh and not tables:
        connection.exec_driver_sql(f"PRAGMA application_id={APPLICATION_ID}")
    elif found != APPLICATION_ID:
        raise VaultError("the file is a database, but not the ledger of a vault")


def checkpoint(connection: sqlite3.Connection) -> bool:
    """Move the write-ahead log into the database and cut it to nothing; False if a reader still needs it."""
    # Waiting for readers is the caller's decision, not ours: try once.
    timeout = connection.execute("PRAGMA busy_timeout").fetchone()[0]
    connection.execute("PRAGMA busy_timeout=200").fetchall()
    try:
        busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
    except sqlite3.OperationalError as error:
        if not any(word in str(error).lower() for word in BUSY):
            raise
        busy = 1
    finally:
        connection.execute(f"PRAGMA busy_timeout={timeout}").fetchall()
    return not busy


def rewrite(connection: sqlite3.Connection) -> None:
    """Write the database anew from what it holds.

    ``secure_delete`` zeroes deleted rows, but where rows were moved between pages before, copies stay in the unused
    part of a page: in a quarter of our trials some word of an erased text could still be read.
    """
    connection.execute("VACUUM")


def integrity_problems(connection: Connection) -> list[str]:
    """Return what SQLite itself finds wrong with the file."""
    rows = [str(row[0]) for row in connection.exec_driver_sql("PRAGMA integrity_check(20)")]
    problems = [f"ledger: {row}" for row in rows if row != "ok"]
    keys = connection.exec_driver_sql("PRAGMA foreign_key_check").fetchall()
    return problems + [f"ledger: table {row[0]} row {row[1]} refers to a missing row of {row[2]}" for row in keys]


@contextmanager
def typed_errors(what: str) -> Iterator[None]:
    """Turn errors of the database and the disk into ours, with ``what`` was being done as the context.

    Raises:
        VaultBusy: Another process holds the write lock.
        VaultWriteFailed: The disk refused.
        VaultDamaged: The file is broken.
        VaultError: Anything else that the database complains about.
    """
    try:
        yield
    except (MemosError, IntegrityError):
        raise
    except DBAPIError as error:
        raise translated(what, error.orig) from error
    except sqlite3.Error as error:
        raise translated(what, error) from error


def translated(what: str, error: Any) -> MemosError:
    text = str(error).lower()
    if any(word in text for word in BUSY):
        return VaultBusy(f"{what}: another process holds the vault's lock ({error})")
    if any(word in text for word in REFUSED):
        return VaultWriteFailed(f"{what}: the disk refused ({error}); nothing was changed")
    if any(word in text for word in BROKEN):
        return VaultDamaged([f"ledger: {error}"])
    return VaultError(f"{what}: {error}")
