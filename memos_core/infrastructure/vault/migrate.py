"""Brings the tables of a ledger to the version that this code knows.

Migrations are append-only. Each runs in the same transaction as the record of it, so a ledger is always at exactly
one version.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, inspect, text

from memos_core.errors import VaultError

__all__ = ["HEAD", "upgrade"]

HEAD = "0012"
"""The newest migration."""

FOLDER = Path(__file__).parent / "migrations"


def upgrade(connection: Connection) -> None:
    """Apply the migrations that ``connection``'s ledger lacks, within its open transaction.

    Raises:
        VaultError: The ledger is of a later release.
    """
    version = recorded(connection)
    if version == HEAD:
        return
    if version is not None and not list((FOLDER / "versions").glob(f"m{version}_*.py")):
        raise VaultError(
            f"the vault has version {version}, made by a later release; this one knows up to {HEAD}. "
            "Upgrade with: pip install -U memos-mag"
        )
    run(connection)


def recorded(connection: Connection) -> str | None:
    """Return the version of the ledger, or None if it is empty."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()


def run(connection: Connection) -> None:
    from alembic import command  # a third of a second, and needed only when the version differs
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
