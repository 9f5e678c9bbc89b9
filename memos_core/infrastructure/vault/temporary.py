"""Vaults that are erased when nothing uses them any more."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from pathlib import Path

from memos_core.infrastructure.vault.ledger import Ledger
from memos_core.infrastructure.vault.vault import MemVault

__all__ = ["erased_with", "new_folder"]


def new_folder() -> Path:
    """Return a new, empty folder that only this user can read."""
    return Path(tempfile.mkdtemp(prefix="memos-"))


def erased_with(vault: MemVault) -> None:
    """Let the files of ``vault`` be erased when it is closed, collected, or the process ends."""
    # Whatever works on a vault holds it, be it a scope, a collection or a job; so its end is the end of all use.
    vault.erase = weakref.finalize(vault, erase, vault.ledger, vault.root, os.getpid())


def erase(ledger: Ledger, root: Path, pid: int) -> None:
    if os.getpid() == pid:  # a forked child holds the handle too, but the files are its parent's
        ledger.close()
        shutil.rmtree(root, ignore_errors=True)
