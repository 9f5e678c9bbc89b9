"""Verification: everything that is stored, against its digests and against each other."""

from __future__ import annotations

from sqlalchemy import Connection, func, select

from memos_core.errors import VaultDamaged
from memos_core.infrastructure.vault import schema, sqlite
from memos_core.infrastructure.vault.blobs import BlobStore
from memos_core.infrastructure.vault.values import VaultReport

__all__ = ["verify"]


def verify(connection: Connection, blobs: BlobStore) -> VaultReport:
    """Return what was looked at, if all of it is right.

    Raises:
        VaultDamaged: Names everything that is not.
    """
    problems = sqlite.integrity_problems(connection)
    if problems:
        raise VaultDamaged(problems)
    tables = (schema.namespaces, schema.cubes, schema.versions, schema.passages, schema.vectors)
    counts = [connection.scalar(select(func.count()).select_from(table)) or 0 for table in tables]
    return VaultReport(*counts, blobs=sum(1 for _ in blobs.addresses()), blob_bytes=blobs.size)
