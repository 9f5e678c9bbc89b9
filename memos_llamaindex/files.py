"""The files in which LlamaIndex's simple stores persist, read and written anywhere that fsspec reaches."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fsspec import AbstractFileSystem, filesystem

from memos_core.errors import InvalidFile, InvalidInput

__all__ = ["as_collections", "joined_path", "names_in", "read_json", "write_json"]


def write_json(value: Any, path: str, fs: AbstractFileSystem | None = None) -> None:
    """Write ``value`` as JSON; folders are made as needed."""
    text = json.dumps(value, ensure_ascii=False)
    place = fs or filesystem("file")
    folder, _, _ = str(path).rpartition("/")
    if folder:
        place.makedirs(folder, exist_ok=True)
    place.pipe_file(str(path), text.encode())


def read_json(path: str, fs: AbstractFileSystem | None = None) -> Any:
    """Return what a file holds.

    Raises:
        FileNotFoundError: There is none.
        InvalidFile: It is no JSON.
    """
    data = (fs or filesystem("file")).cat_file(str(path))
    try:
        return json.loads(data)
    except ValueError as error:
        raise InvalidFile(f"it is not what a store persisted: {error}", path=str(path)) from error


def joined_path(folder: str, name: str) -> str:
    """Return the path of a file in a folder, here or on another file system."""
    return f"{str(folder).rstrip('/')}/{name}"


def names_in(folder: str, ending: str, fs: AbstractFileSystem | None = None) -> list[str]:
    """Return what the names of the files in a folder begin with that end so, sorted.

    Raises:
        FileNotFoundError: There is no such folder.
    """
    paths = (fs or filesystem("file")).ls(str(folder), detail=False)
    names = (str(path).rpartition("/")[2] for path in paths)
    return sorted(name.removesuffix(ending) for name in names if name.endswith(ending))


def as_collections(value: Any) -> dict[str, dict[str, dict[str, Any]]]:
    """Return ``value`` if it is what a key-value store saves: dicts by collection and key.

    Raises:
        InvalidInput: It is not.
    """
    inner = value.values() if isinstance(value, Mapping) else [None]
    if not all(isinstance(part, Mapping) and all(isinstance(one, Mapping) for one in part.values()) for part in inner):
        raise InvalidInput("a saved store is a dict of dicts by collection and key")
    found: dict[str, dict[str, dict[str, Any]]] = value
    return found
