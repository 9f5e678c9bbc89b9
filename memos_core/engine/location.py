"""Where a model lies, and what its configuration tells without loading a model library."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from memos_core.errors import ModelNotFound

__all__ = ["BUNDLED", "POSITIONS", "UNBOUNDED", "configured_window", "locate", "positions"]

BUNDLED = {
    "memos-reader": Path(__file__).parent / "reader",
    "memos-reader-neox": Path(__file__).parent / "reader_neox",
}
"""Models that ship with this package, by name: one like Llama, and one like GPT-NeoX for the same memory elsewhere."""

UNBOUNDED = 1_000_000_000
POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
"""What configurations call the length of the context window."""


def locate(location: str) -> str:
    """Return the folder or the hub id that ``location`` means.

    Raises:
        ModelNotFound: It can only be a path, and nothing is there.
    """
    path = BUNDLED.get(location, Path(location).expanduser())
    if path.is_dir() and (path / "config.json").is_file():
        return str(path.resolve())
    looks_like_path = location.startswith(("/", "./", "../", "~", ".\\")) or "\\" in location or location.count("/") > 1
    if location in BUNDLED:
        raise ModelNotFound(f"the files of {location!r} are missing at {path}: install memos-mag anew")
    if looks_like_path or path.exists():
        raise ModelNotFound(
            f"there is no model at {path}: give a folder that holds config.json, *.safetensors and tokenizer.json, "
            "or the id of a model on the hub such as Qwen/Qwen3-0.6B"
        )
    return location


def positions(config: Mapping[str, Any]) -> int | None:
    """Return the length of the context window that a configuration names, or None."""
    for field in POSITIONS:
        if isinstance(config.get(field), int) and config[field] > 0:
            return int(config[field])
    return None


def configured_window(location: str) -> int | None:
    """Return the context window of a model in a local folder; None where it is not local or does not say.

    Reads ``config.json`` only.
    """
    path = BUNDLED.get(location, Path(location).expanduser()) / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None  # the engine will say what is wrong with it, once it is asked for
    text = config.get("text_config") if isinstance(config, dict) else None
    return positions(text if isinstance(text, dict) else config) if isinstance(config, dict) else None
