"""Token counts where no engine says better: tiktoken for hosted models, an estimate where its data is missing."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import tempfile
import threading
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

__all__ = ["estimate_tokens", "hosted_counter"]

ENCODING = "o200k_base"
ENCODING_FILE = hashlib.sha1(b"https://openaipublic.blob.core.windows.net/encodings/o200k_base.tiktoken").hexdigest()
_environment = threading.Lock()


@lru_cache(maxsize=1)
def hosted_counter() -> Callable[[str], int]:
    """Return a token counter for hosted models.

    It is tiktoken's ``o200k_base`` where its data lies on this machine already. tiktoken would download it, which a
    memory library must not do unasked; without it a token is taken to be four bytes of UTF-8.
    """
    folder = encoding_folder()
    if folder is None:
        return estimate_tokens
    import tiktoken

    with _environment:  # tiktoken has no other way to be told where its data lies
        before = os.environ.get("TIKTOKEN_CACHE_DIR")
        os.environ["TIKTOKEN_CACHE_DIR"] = str(folder)
        try:
            encoding = tiktoken.get_encoding(ENCODING)
        finally:
            if before is None:
                del os.environ["TIKTOKEN_CACHE_DIR"]
            else:
                os.environ["TIKTOKEN_CACHE_DIR"] = before
    return lambda text: len(encoding.encode(text, disallowed_special=()))


def encoding_folder() -> Path | None:
    """Return the first folder that holds tiktoken's data: the configured ones, its default, llama-index's copy."""
    configured = [os.environ.get("TIKTOKEN_CACHE_DIR"), os.environ.get("DATA_GYM_CACHE_DIR")]
    folders = [Path(name) for name in configured if name] + [Path(tempfile.gettempdir()) / "data-gym-cache"]
    spec = importlib.util.find_spec("llama_index")
    for root in (spec.submodule_search_locations or []) if spec else []:
        folders.append(Path(root) / "core" / "_static" / "tiktoken_cache")
    return next((folder for folder in folders if (folder / ENCODING_FILE).is_file()), None)


def estimate_tokens(text: str) -> int:
    """Return a quarter of the UTF-8 bytes of ``text``, at least one for any text."""
    return (len(text.encode()) + 3) // 4
