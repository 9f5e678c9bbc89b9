"""The survey of a user to whom others have granted memories: theirs stand among the user's own, as in one memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from sqlalchemy import Connection, select

from memos_core.cube import MemoryType
from memos_core.infrastructure.vault import schema, searching, surveying
from memos_core.infrastructure.vault.conditions import chunks
from memos_core.infrastructure.vault.header_filters import condition_of
from memos_core.infrastructure.vault.index import Place
from memos_core.infrastructure.vault.index.granted import GrantedShelf
from memos_core.infrastructure.vault.surveying import Mask, Survey, Wording
from memos_core.infrastructure.vault.values import SearchFilter

if TYPE_CHECKING:
    from memos_core.infrastructure.vault.vault import MemVault

__all__ = ["with_granted"]


def with_granted(vault: MemVault, own: Survey, wanted: SearchFilter, wording: Wording, collection: str) -> Survey:
    """Return ``own`` and what others have granted, as one survey. What was granted is always compared exactly."""
    if wanted.visibility.granted_at is None or MemoryType.PLAINTEXT not in wanted.types:
        return own
    with vault.ledger.read() as connection:
        row = None if wording.vector is None else vault._collection(connection, collection)
        place = None if row is None else Place(row.id, 0, row.dimension)
        embedder = None if row is None else str(row.embedder)
        shelves = vault.granted.current(connection, wanted.visibility, collection, vectors=place, embedder=embedder)
        parts = [part_of(connection, shelf, wanted, wording) for shelf in shelves]
    parts = [part for part in parts if len(part)]
    return joined([own, *parts]) if parts else own


def part_of(connection: Connection, shelf: GrantedShelf, wanted: SearchFilter, wording: Wording) -> Survey:
    """Return the survey of what one owner has granted."""
    held = shelf.catalogue
    mask = surveying.holding(held.view(), wanted)
    if wanted.filters:
        mask &= passing(connection, shelf, wanted)
    seen = held.order[mask[held.order]]
    rows = held.view()[seen]
    similarity = np.full(len(rows), np.nan, np.float32)
    if wording.vector is not None and len(shelf.ids):
        query = searching.unit(wording.vector, shelf.matrix.shape[1])
        similarity = surveying.aligned(rows, shelf.ids, shelf.similarities(query))
    cues = {name: held.holding(of)[seen] for name, of in (wording.cues or {}).items()}
    counts = held.counts(wording.words)[:, seen]
    return Survey(rows, counts, cues, similarity, held.cube_ids, held.speakers, shared=(shelf.digests,))


def passing(connection: Connection, shelf: GrantedShelf, wanted: SearchFilter) -> Mask:
    """Tell which passages belong to memories that pass the filters."""
    c, held = schema.cubes, shelf.catalogue
    numbers: list[int] = []
    for part in chunks(held.cube_ids):
        found = connection.scalars(select(c.c.id).where(c.c.id.in_(part), condition_of(wanted.filters, shared=True)))
        numbers += [held.cubes[cube_id] for cube_id in found]
    return np.isin(held.view()["cube"], numbers)


def joined(parts: Sequence[Survey]) -> Survey:
    """Return several surveys as one. Sessions of two namespaces are two sessions, whatever their names."""
    cube_ids: list[str] = []
    speakers: list[str] = [""]
    numbers: dict[str, int] = {"": 0}
    rows = []
    groups = 0
    for part in parts:
        moved = part.rows.copy()
        moved["cube"] += len(cube_ids)
        cube_ids += part.cube_ids
        moved["group"] += groups
        groups = int(moved["group"].max()) + 1 if len(moved) else groups
        names = list(part.speakers)
        speakers += [name for name in names if name not in numbers and not numbers.update({name: len(numbers)})]
        moved["speaker"] = np.array([numbers[name] for name in names], np.int32)[moved["speaker"]]
        rows.append(moved)
    return replace(
        parts[0],
        rows=np.concatenate(rows),
        counts=np.concatenate([part.counts for part in parts], axis=1),
        cues={name: np.concatenate([part.cues[name] for part in parts]) for name in parts[0].cues},
        similarity=np.concatenate([part.similarity for part in parts]),
        cube_ids=cube_ids,
        speakers=speakers,
        revision=max(parts[0].revision, 0),  # of the user's own, which may hold nothing yet
        shared=tuple(digests for part in parts for digests in part.shared),
        kept={},
    )
