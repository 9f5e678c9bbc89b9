"""New rows: what a transaction inserts is collected and sent table by table, many cubes in one statement."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Table, bindparam, select, update

from memos_core.cube import MemCube
from memos_core.infrastructure.vault import schema
from memos_core.infrastructure.vault.conditions import micros
from memos_core.infrastructure.vault.heat import COUNTERS
from memos_core.infrastructure.vault.prepared import Change, NewRow, Prepared
from memos_core.infrastructure.vault.rows import encode_vector, terms_crc, version_row
from memos_core.infrastructure.vault.selecting import field_values
from memos_core.infrastructure.vault.values import DEFAULT_COLLECTION, Passage

__all__ = ["NewCube", "NewRows"]

COLLECTED = (
    schema.usage,
    schema.versions,
    schema.tags,
    schema.links,
    schema.lineage,
    schema.document_fields,
    schema.postings,
    schema.vectors,
    schema.outbox,
    schema.audit_cubes,
)
"""Tables whose rows are collected, besides cubes and passages, which they refer to."""

NEW = {table: NewRow(table) for table in (schema.passages, *COLLECTED)}
NEWEST = Prepared(select(schema.passages.c.id).order_by(schema.passages.c.id.desc()).limit(bindparam("count")))


@dataclass(slots=True)
class Tally:
    """By how much the counts of a namespace grow."""

    revision: int = 0
    removals: int = 0
    bytes_used: int = 0

    def add(self, revision: int, removals: int, bytes_used: int) -> None:
        self.revision += revision
        self.removals += removals
        self.bytes_used += bytes_used

    def values(self) -> dict[str, int]:
        return {"more_revision": self.revision, "more_removals": self.removals, "more_bytes_used": self.bytes_used}


COUNT = Change(
    update(schema.namespaces)
    .where(schema.namespaces.c.id == bindparam("namespace_id"))
    .values(
        {name: schema.namespaces.c[name] + bindparam(f"more_{name}") for name in ("revision", "removals", "bytes_used")}
    )
)


@dataclass(frozen=True, slots=True)
class NewCube:
    """The first version of a cube that is to be stored.

    Attributes:
        cube: The cube.
        passages: What of it is searched.
        dedup_key: What only one live cube of the namespace may have; None: nothing.
        author: Who brought it.
        reason: Why it is there.
        collection: Takes its vectors.
    """

    cube: MemCube
    passages: Sequence[Passage]
    dedup_key: str | None
    author: str
    reason: str = "added"
    collection: str = DEFAULT_COLLECTION


@dataclass(frozen=True, slots=True)
class NewPassage:
    """A passage that waits for its id.

    Attributes:
        row: Of ``passages``.
        terms: Its words and how often they occur.
        vector: Row of ``vectors`` without the id; None: it has none.
    """

    row: Mapping[str, Any]
    terms: Mapping[str, int]
    vector: Mapping[str, Any] | None


class NewRows:
    """Rows of one transaction that wait to be inserted.

    Args:
        queues: An index takes over vectors through the outbox.

    Attributes:
        new_vectors: What was sent of each collection and namespace: ids of passages and their vectors as stored.
        counted: What was sent of each namespace: by how much its counts grew.
    """

    def __init__(self, *, queues: bool) -> None:
        self.queues = queues
        self.new_vectors: defaultdict[tuple[int, int], list[tuple[int, bytes]]] = defaultdict(list)
        self.counted: defaultdict[int, Tally] = defaultdict(Tally)
        self._rows: defaultdict[Table, list[dict[str, Any]]] = defaultdict(list)
        self._passages: list[NewPassage] = []
        self._tallies: defaultdict[int, Tally] = defaultdict(Tally)

    def add(self, table: Table, rows: Sequence[dict[str, Any]]) -> None:
        """Add rows to one of the tables that are collected."""
        self._rows[table] += rows

    def add_cube(self, cube: MemCube) -> None:
        """Add what a new cube has besides its row, its versions and its passages."""
        self._rows[schema.usage].append(first_counters(cube))
        self.add_relations(cube)

    def add_relations(self, cube: MemCube) -> None:
        """Add the rows of the tables that follow from the header."""
        for table, rows in relation_rows(cube):
            self._rows[table] += rows

    def add_version(
        self,
        cube: MemCube,
        namespace_id: int,
        *,
        author: str,
        reason: str,
        committed: datetime,
        header: tuple[str, str] | None = None,
    ) -> None:
        """Add a version, and count it.

        Args:
            header: The header of the cube as it is stored and its digest, if they were made already.
        """
        row = version_row(cube, author=author, reason=reason, committed=committed, header=header)
        self._rows[schema.versions].append(row)
        self.count(namespace_id, revision=1, bytes_used=row["size_bytes"])

    def add_passage(self, place: Mapping[str, Any], passage: Passage, collection_id: int | None) -> None:
        """Add a passage with its words and its vector.

        Args:
            place: ``cube_id``, ``namespace_id`` and ``collection``.
            collection_id: Of the vector.
        """
        row = {
            **place,
            "start": passage.start,
            "end": passage.end,
            "length": sum(passage.terms.values()),
            "terms_crc": terms_crc(passage.terms),
        }
        vector = None
        if passage.vector is not None:
            data, crc = encode_vector(passage.vector)
            vector = {"collection_id": collection_id, "data": data, "crc": crc}
        self._passages.append(NewPassage(row, passage.terms, vector))

    def count(self, namespace_id: int, *, revision: int = 0, removals: int = 0, bytes_used: int = 0) -> None:
        """Add to what is counted of a namespace."""
        self._tallies[namespace_id].add(revision, removals, bytes_used)

    def bytes_of(self, namespace_id: int) -> int:
        """Return the bytes that wait for a namespace."""
        return self._tallies[namespace_id].bytes_used if namespace_id in self._tallies else 0

    def send(self, connection: Connection) -> None:
        """Insert everything that waits. The cubes that it refers to are there."""
        if self._passages:
            self._number(connection)
        if self._rows:
            rows, self._rows = self._rows, defaultdict(list)
            for table in COLLECTED:
                if rows[table]:
                    NEW[table].add_many(connection, rows[table])
        if self._tallies:
            tallies, self._tallies = self._tallies, defaultdict(Tally)
            for namespace_id, tally in tallies.items():
                COUNT.run(connection, {"namespace_id": namespace_id, **tally.values()})
                self.counted[namespace_id].add(tally.revision, tally.removals, tally.bytes_used)

    def _number(self, connection: Connection) -> None:
        """Insert the passages, and give their ids to what belongs to them."""
        passages, self._passages = self._passages, []
        for passage_id, passage in zip(numbered(connection, passages), passages, strict=True):
            own = {"namespace_id": passage.row["namespace_id"], "passage_id": passage_id}
            self._rows[schema.postings] += [{**own, "term": term, "count": n} for term, n in passage.terms.items()]
            if passage.vector is not None:
                self._rows[schema.vectors].append({**own, **passage.vector})
                place = (passage.vector["collection_id"], passage.row["namespace_id"])
                self.new_vectors[place].append((passage_id, passage.vector["data"]))
                if self.queues:
                    collection_id = passage.vector["collection_id"]
                    change = {"collection_id": collection_id, "operation": "add", "passage_id": passage_id}
                    self._rows[schema.outbox].append(change)


def numbered(connection: Connection, passages: Sequence[NewPassage]) -> list[int]:
    """Insert passages and return their ids."""
    if len(passages) == 1:
        return [NEW[schema.passages].add(connection, passages[0].row)]
    NEW[schema.passages].add_many(connection, [passage.row for passage in passages])
    # Ids grow in the order of insertion and nobody else writes meanwhile, so the newest are these.
    return [row[0] for row in reversed(NEWEST.all(connection, count=len(passages)))]


def first_counters(cube: MemCube) -> dict[str, Any]:
    """Return the counters that a new cube begins with."""
    behaviour = cube.header.behaviour
    counters = {name: getattr(behaviour, name) for name in (*COUNTERS, "contribution", "heat")}
    return {"cube_id": cube.id, **counters, "last_used": micros(behaviour.last_used)}


def relation_rows(cube: MemCube) -> list[tuple[Table, list[dict[str, Any]]]]:
    """Return the rows of the tables that follow from the header; most cubes have none."""
    descriptive, cube_id = cube.header.descriptive, cube.id
    found: list[tuple[Table, list[dict[str, Any]]]] = []
    rows: list[dict[str, Any]]
    if descriptive.tags:
        found.append((schema.tags, [{"cube_id": cube_id, "tag": tag} for tag in dict.fromkeys(descriptive.tags)]))
    if descriptive.links:
        links = dict.fromkeys(descriptive.links)
        rows = [{"cube_id": cube_id, "target": link.target, "relation": link.relation} for link in links]
        found.append((schema.links, rows))
    if descriptive.lineage.sources:
        rows = [
            {"cube_id": cube_id, "position": position, "source_id": source, "source_version": version}
            for position, (source, version) in enumerate(descriptive.lineage.sources)
        ]
        found.append((schema.lineage, rows))
    if descriptive.collection is not None and descriptive.metadata:
        own = {"cube_id": cube_id, "collection": descriptive.collection}
        rows = [{**own, "field": field, "value": value} for field, value in field_values(descriptive.metadata)]
        found.append((schema.document_fields, rows))
    return found
