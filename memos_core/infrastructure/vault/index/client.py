"""Clients of Chroma: how one is opened so that it reads afresh, and what it raises."""

from __future__ import annotations

import importlib.util
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from memos_core.errors import MissingExtra
from memos_core.infrastructure.vault.index.generations import State

__all__ = ["Opened", "chroma_errors", "chroma_installed", "connect", "disconnect", "replay"]

_slots: set[str] = set()
_slots_lock = threading.Lock()


def chroma_installed() -> bool:
    """Tell whether the package is there, without importing it."""
    return importlib.util.find_spec("chromadb") is not None


@dataclass(slots=True)
class Opened:
    """A generation that this handle has loaded."""

    client: Any
    path: str
    state: State
    broken: bool = False


def connect(folder: Path, state: State) -> Opened:
    path = take_slot(folder)
    try:
        return Opened(chroma_client(path), path, state)
    except BaseException:
        free_slot(path)
        raise


def disconnect(opened: Opened) -> None:
    opened.client.close()
    free_slot(opened.path)


def replay(collection: Any) -> None:
    """Have Chroma bring its graph up to its log: the first query of a client does, and it writes."""
    if collection.count():
        dimension = len(collection.peek(1)["embeddings"][0])
        collection.query(query_embeddings=[np.ones(dimension, np.float32)], n_results=1, include=[])


def take_slot(folder: Path) -> str:
    """Return a spelling of ``folder`` that no other client of this process uses.

    Chroma keeps one system for each spelling and hands it to all clients, so that closing one of them would not make
    the next one read afresh.
    """
    with _slots_lock:
        path = str(folder)
        while path in _slots:
            path += "/."
        _slots.add(path)
        return path


def free_slot(path: str) -> None:
    with _slots_lock:
        _slots.discard(path)


def chroma_client(path: str) -> Any:
    try:
        import chromadb
        from chromadb.config import Settings
    except ImportError as error:
        raise MissingExtra("chromadb", extra="chroma") from error
    return chromadb.PersistentClient(path=path, settings=Settings(anonymized_telemetry=False))


def chroma_errors() -> tuple[type[Exception], ...]:
    """Return what Chroma raises on damaged files."""
    from chromadb.errors import ChromaError

    return (ChromaError, ValueError, RuntimeError, OSError, LookupError, AttributeError)
