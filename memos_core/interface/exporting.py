"""Lines into a file that appears whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from memos_core.errors import VaultWriteFailed

__all__ = ["write_lines"]


def write_lines(path: str | os.PathLike[str], lines: Iterable[str]) -> int:
    """Write ``lines`` to ``path`` as UTF-8 and return how many there were.

    Raises:
        VaultWriteFailed: The disk refused; what was there before is untouched.
    """
    target = Path(path)
    written = 0
    try:
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=target.parent, prefix=f".{target.name}.", delete=False
        ) as file:
            temporary = Path(file.name)
            try:
                for line in lines:
                    file.write(line + "\n")
                    written += 1
                file.flush()
                os.fsync(file.fileno())
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
        temporary.replace(target)
    except OSError as error:
        raise VaultWriteFailed(f"cannot write {target}: {error}") from error
    return written
