"""The end of an erasure: what the ledger has let go also leaves the disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import delete, exists, select

from memos_core.errors import VaultBusy, VaultWriteFailed
from memos_core.infrastructure.vault import schema
from memos_core.infrastructure.vault.index import generations
from memos_core.infrastructure.vault.index.scrub import scrub

if TYPE_CHECKING:
    from memos_core.infrastructure.vault.vault import MemVault

__all__ = ["purge"]


def purge(vault: MemVault) -> tuple[str, ...]:
    """Finish what is pending; return what could not be finished now, in words."""
    kinds = pending_kinds(vault)
    if not kinds:
        return ()
    left = []
    if "blob" in kinds:
        left += delete_blobs(vault)
    if "index" in kinds:
        left += rewrite_index(vault)
    if "wal" in kinds:
        left += clean_ledger(vault)
    return tuple(left)


def pending_kinds(vault: MemVault) -> set[str]:
    with vault.ledger.read() as connection:
        return set(connection.scalars(select(schema.pending_erasure.c.kind)))


def delete_blobs(vault: MemVault) -> list[str]:
    """Delete blob files that nothing refers to. Under the write lock, so that nobody can begin to refer to one."""
    p, v = schema.pending_erasure, schema.versions
    left = []
    with vault.ledger.write() as connection:
        for row in connection.execute(select(p).where(p.c.kind == "blob")).all():
            try:
                if not connection.scalar(select(exists().where(v.c.blob_address == row.subject))):
                    vault.blobs.delete(row.subject)
            except OSError as error:
                left.append(f"blob {row.subject} cannot be deleted: {error}")
                continue
            connection.execute(delete(p).where(p.c.id == row.id))
    return left


def rewrite_index(vault: MemVault) -> list[str]:
    """Have the index made anew without what was erased: Chroma keeps deleted vectors in its files."""
    p = schema.pending_erasure
    with vault.ledger.read() as connection:
        # Noted before the new generation takes its view of the ledger: what comes later waits for the next one.
        noted = connection.scalars(select(p.c.id).where(p.c.kind == "index")).all()
    try:
        generation = vault.rewrite_index()
    except (VaultBusy, VaultWriteFailed) as error:
        return [f"the index still holds erased vectors: {error}"]
    if generations.leftovers(vault.root / "index", keep=generation):
        return ["an old generation of the index could not be deleted, because another process holds it open"]
    if generation and not scrub(generations.folder_of(vault.root / "index", generation)):
        return ["the index's files are of a layout not known here: unused parts of them may hold erased vectors"]
    with vault.ledger.write() as connection:
        connection.execute(delete(p).where(p.c.id.in_(noted)))
    return []


def clean_ledger(vault: MemVault) -> list[str]:
    """Write the ledger anew and empty its log. What is erased meanwhile stays noted for the next time."""
    p = schema.pending_erasure
    with vault.ledger.read() as connection:
        noted = connection.scalars(select(p.c.id).where(p.c.kind == "wal")).all()
    held = "the ledger still holds traces of erased rows"
    try:
        if not vault.ledger.checkpoint():  # ask before the long part
            return [f"{held}, because a reader needs its log"]
        vault.ledger.rewrite()
        if not vault.ledger.checkpoint():
            return [f"{held}, because a reader needs its log"]
    except (VaultBusy, VaultWriteFailed) as error:
        return [f"{held}: {error}"]
    with vault.ledger.write() as connection:
        connection.execute(delete(p).where(p.c.id.in_(noted)))
    return []
