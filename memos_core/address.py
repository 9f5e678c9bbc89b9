"""Where a scope's memory lies, as plain data: what a saved program state holds instead of a handle."""

from __future__ import annotations

import atexit
import threading
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from memos_core.errors import VaultError
from memos_core.memos import OPEN, MemOS
from memos_core.scope import Scope

__all__ = ["Address", "address_of", "scope_at"]


class Address(BaseModel):
    """Names a scope of a vault in a folder.

    Attributes:
        path: Folder of the vault, absolute.
        user: Whose memory.
        agent: Which agent's, if bound to one.
        session: Which session's, if bound to one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    user: str
    agent: str | None = None
    session: str | None = None


_reopened: dict[Path, MemOS] = {}
_reopening = threading.Lock()


def address_of(scope: Scope) -> Address:
    """Return where ``scope`` lies."""
    return Address(path=str(scope.path), user=scope.user, agent=scope.agent, session=scope.session)


def scope_at(address: Address) -> Scope:
    """Return the scope at ``address``, in a handle that is open in this process or else in a new one.

    A vault that was opened with an engine or an embedder of its own is to be opened before; a new handle has the
    defaults. It is shared by all who ask for the same vault, and closed at the end of the process.

    Raises:
        VaultError: There is no vault in that folder.
    """
    root = Path(address.path)
    with _reopening:
        memos = next((memos for memos in list(OPEN) if memos.path == root and not memos.closed), None)
        if memos is None:
            if not root.is_dir():
                raise VaultError(f"there is no vault in {root}")
            memos = _reopened[root] = MemOS.open(root)
            atexit.register(memos.close)
    return memos.scope(address.user, agent=address.agent, session=address.session)
