"""Ledger: the database of a vault, its transactions, and who may still use the handle."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from sqlalchemy import Connection

from memos_core.errors import VaultBusy, VaultClosed, VaultError, VaultWriteFailed
from memos_core.infrastructure.vault import migrate, sqlite

__all__ = ["Ledger"]

FILE_NAME = "ledger.sqlite3"


class Ledger:
    """Transactions over one SQLite file. Thread-safe; several processes may open the same file.

    Raises:
        VaultError: ``root`` cannot hold a vault, or holds something else, or is of a later release.
        VaultWriteFailed: The disk refuses.
        VaultBusy: Another process is opening it for too long.
    """

    def __init__(self, root: Path, *, busy_timeout_seconds: float) -> None:
        self.root = root
        self.path = root / FILE_NAME
        self._pid = os.getpid()
        self._closed = False
        make_folder(root)
        engine = sqlite.open_engine(self.path, busy_timeout_seconds=busy_timeout_seconds)
        self.connections = sqlite.Connections(engine)
        try:
            with sqlite.typed_errors(f"opening the vault at {root}"):
                self._prepare(busy_timeout_seconds)
        except BaseException:
            self.close()
            raise

    def _prepare(self, timeout_seconds: float) -> None:
        # The switch to a write-ahead log does not wait for others, so the first opening needs a lock of its own.
        try:
            lock = FileLock(self.root / "open.lock", timeout=timeout_seconds)
            with lock, self.connections.transaction(writes=True) as connection:
                fresh = self.path.stat().st_size == 0 or migrate.recorded(connection) is None
                sqlite.stamp(connection, fresh=fresh)
                migrate.upgrade(connection)
        except Timeout as error:
            raise VaultBusy(f"another process keeps opening the vault at {self.root}") from error
        except PermissionError as error:
            raise VaultWriteFailed(f"the vault at {self.root} cannot be written: {error}") from error

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Begin a transaction that holds the write lock; committed at the end, rolled back by any exception."""
        self.check_usable()
        with sqlite.typed_errors("writing to the vault"), self.connections.transaction(writes=True) as connection:
            yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Begin a transaction that sees one state of the ledger, whatever others commit meanwhile."""
        self.check_usable()
        with sqlite.typed_errors("reading the vault"), self.connections.transaction(writes=False) as connection:
            yield connection

    def checkpoint(self) -> bool:
        """Empty the write-ahead log into the database; False if a reader still needs it."""
        self.check_usable()
        with sqlite.typed_errors("emptying the write-ahead log"), self.connections.borrowed() as connection:
            return sqlite.checkpoint(connection)

    def rewrite(self) -> None:
        """Write the file anew, so that nothing stays of what was deleted. Takes as long as copying it."""
        self.check_usable()
        with sqlite.typed_errors("rewriting the ledger"), self.connections.borrowed() as connection:
            sqlite.rewrite(connection)

    def check_usable(self) -> None:
        """Raise VaultClosed if the handle is closed or belongs to the parent of this process."""
        if os.getpid() != self._pid:
            raise VaultClosed("this vault was opened before a fork; open it again in the child process")
        if self._closed:
            raise VaultClosed("the vault is closed")

    @property
    def closed(self) -> bool:
        """Whether this handle can no longer be used in this process."""
        return self._closed or os.getpid() != self._pid

    def close(self) -> None:
        """Give up all connections. May be called again."""
        self._closed = True
        if os.getpid() == self._pid:  # in a forked child the connections are the parent's: leave them alone
            self.connections.close()


def make_folder(root: Path) -> None:
    if root.exists() and not root.is_dir():
        raise VaultError(f"{root} is a file; a vault is a folder")
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise VaultWriteFailed(f"the folder {root} cannot be made: {error}") from error
