"""A survey: everything that a ranker needs to know of the passages that may answer a question, in one look."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, bindparam, exists, select

from memos_core.cube import MemoryType
from memos_core.embedding.base import Vector
from memos_core.infrastructure.vault import schema, searching
from memos_core.infrastructure.vault.conditions import matching, micros, standing
from memos_core.infrastructure.vault.index import shortlist
from memos_core.infrastructure.vault.index.base import Ids, Place, VectorIndex
from memos_core.infrastructure.vault.index.catalogue import ROW, CatalogueShelf, Counts, Rows, Standing
from memos_core.infrastructure.vault.prepared import Prepared
from memos_core.infrastructure.vault.values import SearchFilter

if TYPE_CHECKING:
    from memos_core.infrastructure.vault.vault import MemVault

__all__ = ["Mask", "Survey", "Whole", "Wording", "survey"]

Mask = NDArray[np.bool_]
"""Shape ``[passages]``."""

WORD_DEPTH = 1000
"""Passages found by words whose similarity is looked up where an approximate index did not propose them."""


NAMESPACE = Prepared(
    select(
        select(schema.namespaces.c.id).where(schema.namespaces.c.name == bindparam("name")).scalar_subquery(),
        exists().where(schema.grants.c.grantee == bindparam("name")),
    )
)
"""The id of a namespace, and whether anything was ever granted to its user."""


@dataclass(frozen=True, slots=True)
class Wording:
    """What a question is made of, for the vault.

    Attributes:
        words: Its words, as analysed.
        vector: Its vector; None where there is no embedder.
        cues: Names of kinds of words, with the words of that kind.
    """

    words: Sequence[str]
    vector: Vector | None = None
    cues: Mapping[str, Sequence[str]] | None = None


@dataclass(frozen=True, slots=True)
class Whole:
    """What a survey of a short list is a part of.

    Attributes:
        rows: All passages that may answer, as they stand.
        chosen: Which of them the survey holds, ascending.
        holding: How many of them hold each word of the question.
        usual: Similarity of passages drawn at random.
    """

    rows: Rows
    chosen: NDArray[np.intp]
    holding: NDArray[np.int64]
    usual: Vector


@dataclass(frozen=True, slots=True)
class Survey:
    """The passages that may answer, neighbours side by side: by session, then moment, then place in the text.

    Attributes:
        rows: What is known of each passage; see ``index.catalogue.ROW``.
        counts: How often each word of the question occurs, shape ``[words, passages]``.
        cues: For each kind of words asked for, whether a passage holds one of them.
        similarity: Cosine similarity to the question's vector; NaN where there is none or it was not compared.
        cube_ids: Id of each cube, by the number in ``rows["cube"]``.
        speakers: Name of each speaker, by the number in ``rows["speaker"]``; 0 is nobody.
        revision: Of the namespace, as of the survey: as long as it is the same, nothing has changed.
        granted: Whether others have granted something to the user; see ``sharing.with_granted``.
        shared: Of what is granted, the digest of each header by id, for each owner.
        kept: What was worked out from ``rows`` alone, or those of ``whole``, by name; surveys of the same share it.
        whole: Of what this is a short list; None: nothing was left out.
    """

    rows: Rows
    counts: Counts
    cues: Mapping[str, Mask]
    similarity: Vector
    cube_ids: Sequence[str] = ()
    speakers: Sequence[str] = ("",)
    revision: int = -1
    granted: bool = False
    shared: tuple[Mapping[str, str], ...] = ()
    kept: dict[str, Any] = field(default_factory=dict)
    whole: Whole | None = None

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, slots=True)
class Near:
    """What is asked of an approximate index."""

    query: Vector
    wanted: SearchFilter
    depth: int


def survey(vault: MemVault, wanted: SearchFilter, wording: Wording, *, collection: str, depth: int) -> Survey:
    """Return the survey for one question; see ``MemVault.survey``."""
    with vault.ledger.read() as connection:
        row = None if wording.vector is None else vault._collection(connection, collection)
        found, namespace_id, passages = look(vault, connection, wanted, wording, collection=collection, row=row)
        if row is None or wording.vector is None or found.whole is not None or not len(found):
            return found
        place = Place(row.id, namespace_id, row.dimension)
        query = searching.unit(wording.vector, row.dimension)
        index = vault._index(connection, place, passages=passages)
        if index is vault.exact:
            return replace(found, similarity=compared(found, *vault.exact.similarities(connection, place, query)))
    index.prepare()  # may write, so the view of the ledger is taken after it
    with vault.ledger.read() as connection:
        return replace(found, similarity=proposed(connection, index, place, found, Near(query, wanted, depth)))


def look(
    vault: MemVault, connection: Connection, wanted: SearchFilter, wording: Wording, *, collection: str, row: Any
) -> tuple[Survey, int, int]:
    """Return the survey without similarities, the id of the namespace, and how many passages that holds.

    Args:
        row: Of the collection, where vectors are compared. A survey of a short list comes with its similarities.
    """
    if wanted.filters:
        matching(wanted)  # a wrong filter is wrong in an empty namespace too
    namespace_id, granted = NAMESPACE.first(connection, name=wanted.visibility.namespace)
    words, cues = wording.words, wording.cues or {}
    if namespace_id is None or MemoryType.PLAINTEXT not in wanted.types:
        return empty(words, cues, granted=bool(granted)), 0, 0
    with vault.catalogue.lock:
        shelf = vault.catalogue.current(connection, namespace_id, collection)
        standing = shelf.standing()
        everything = all_admitted(standing, wanted)
        if everything and row is not None and len(standing.rows) > shortlist.SHORTLIST_FROM and not granted:
            place = Place(row.id, namespace_id, row.dimension)
            if vault._index(connection, place, passages=shelf.size) is vault.exact:
                return shortlisted(vault, connection, place, shelf, wording), namespace_id, shelf.size
        rows, kept, counts = standing.rows, standing.kept, shelf.counts_standing(words)
        held = {name: shelf.holding(of)[shelf.order] for name, of in cues.items()}
        if not everything:
            seen = admitted(connection, shelf, wanted)[shelf.order]
            rows, kept, counts = rows[seen], {}, counts[:, seen]
            held = {name: those[seen] for name, those in held.items()}
        unknown = np.full(len(rows), np.nan, np.float32)
        return (
            Survey(
                rows, counts, held, unknown, shelf.cube_ids, shelf.speakers, shelf.revision, bool(granted), kept=kept
            ),
            namespace_id,
            shelf.size,
        )


def shortlisted(
    vault: MemVault, connection: Connection, place: Place, shelf: CatalogueShelf, wording: Wording
) -> Survey:
    """Return the survey of those passages that may well answer, and of what stands beside them."""
    assert wording.vector is not None
    query, standing = searching.unit(wording.vector, place.dimension), shelf.standing()
    vectors = vault.exact.parted(connection, place)
    passages, nearest = shelf.view()["passage"], vectors.nearest(query)
    near = np.minimum(np.searchsorted(passages, nearest), shelf.size - 1)
    near = near[passages[near] == nearest]  # documents and items have vectors too
    places = standing.place[np.concatenate([near, shortlist.best_by_words(shelf, wording.words)])]
    chosen = shortlist.with_neighbours(places[places >= 0], len(standing.rows))
    rows, numbers = standing.rows[chosen], shelf.order[chosen]
    counts, holding = shortlist.counts_at(shelf, numbers, wording.words)
    return Survey(
        rows,
        counts,
        {name: shortlist.holding_at(shelf, numbers, of) for name, of in (wording.cues or {}).items()},
        vectors.similarities(query, rows["passage"]),
        shelf.cube_ids,
        shelf.speakers,
        shelf.revision,
        kept=standing.kept,
        whole=Whole(standing.rows, chosen, holding, vectors.usual(query)),
    )


def empty(words: Sequence[str], cues: Mapping[str, Sequence[str]], *, granted: bool) -> Survey:
    nothing = np.zeros(0, np.float32)
    counts = np.zeros((len(words), 0), np.float32)
    return Survey(np.zeros(0, ROW), counts, dict.fromkeys(cues, nothing > 0), nothing, granted=granted)


def all_admitted(standing: Standing, wanted: SearchFilter) -> bool:
    """Tell whether all passages in use may answer, which needs no look at each of them."""
    seen, now, holds_at = wanted.visibility, micros(wanted.now), micros(wanted.as_of or wanted.now)
    unbound = seen.agent is None and seen.session is None and not wanted.filters and wanted.before is None
    return unbound and now < standing.ends and standing.begins <= holds_at < standing.ends


def admitted(connection: Connection, shelf: CatalogueShelf, wanted: SearchFilter) -> Mask:
    """Tell which passages may answer. Rights and filters are asked of the ledger where there are any."""
    rows = shelf.view()
    mask = holding(rows, wanted)
    seen = wanted.visibility
    if seen.agent is not None or seen.session is not None or wanted.filters:
        p, c = schema.passages, schema.cubes
        query = select(p.c.id).select_from(p.join(c, c.c.id == p.c.cube_id)).where(standing(wanted, by_id=False))
        mask &= np.isin(rows["passage"], np.fromiter(connection.scalars(query), dtype=np.int64))
    return mask


def holding(rows: Rows, wanted: SearchFilter) -> Mask:
    """Tell which passages may answer by their state and their times."""
    now, holds_at = micros(wanted.now), micros(wanted.as_of or wanted.now)
    still_holds = rows["valid_until"] > holds_at
    if wanted.include_superseded:
        still_holds |= rows["superseded"]
    mask: Mask = rows["active"] & (rows["expires"] > now) & (rows["valid_from"] <= holds_at) & still_holds
    if wanted.before is not None:
        mask &= rows["moment"] < micros(wanted.before)
    return mask


def compared(found: Survey, ids: Ids, scores: Vector) -> Vector:
    """Return the similarity of each row of a survey; see ``aligned``."""
    if not len(ids):
        return found.similarity
    # Ids only grow, so as many of them with the same last one are the same ids.
    name = f"vectors {len(ids)} {ids[-1]}"
    place = found.kept.get(name)
    if place is None:
        place = np.minimum(np.searchsorted(ids, found.rows["passage"]), len(ids) - 1)
        if (ids[place] != found.rows["passage"]).any():
            return aligned(found.rows, ids, scores)
        found.kept[name] = place
    similarity: Vector = scores[place]
    return similarity


def aligned(rows: Rows, ids: Ids, scores: Vector) -> Vector:
    """Return the score of each row; NaN where its passage is not among ``ids``, which ascend."""
    found: Vector = np.full(len(rows), np.nan, np.float32)
    if len(ids):
        place = np.minimum(np.searchsorted(ids, rows["passage"]), len(ids) - 1)
        held = ids[place] == rows["passage"]
        found[held] = scores[place[held]]
    return found


def proposed(connection: Connection, index: VectorIndex, place: Place, found: Survey, near: Near) -> Vector:
    """Return the similarity of what an approximate index proposes and of what was found by the most words."""
    condition = matching(near.wanted)
    nearest = searching.nearest(connection, index, place, near.query, k=near.depth, condition=condition, min_score=-2.0)
    scores = {hit.passage_id: hit.score for hit in nearest}
    held = (found.counts > 0).sum(axis=0)
    by_words = np.argsort(-held, kind="stable")[:WORD_DEPTH]
    missing = [int(passage) for passage in found.rows["passage"][by_words[held[by_words] > 0]]]
    scores.update(searching.similarities(connection, place, [one for one in missing if one not in scores], near.query))
    ids = np.array(sorted(scores), dtype=np.int64)
    return aligned(found.rows, ids, np.array([scores[one] for one in ids.tolist()], dtype=np.float32))
