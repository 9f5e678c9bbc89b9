"""WriteSession: changes to the ledger, all or none of them."""

from __future__ import annotations

import secrets
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from pydantic import JsonValue
from sqlalchemy import Connection, Table, bindparam, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from memos_core.cube import MemCube, State, canonical_json
from memos_core.embedding.base import Embedder, Vector
from memos_core.errors import CubeConflict, CubeNotFound, EmbedderMismatch, InvalidInput
from memos_core.infrastructure.vault import erasure, granting, heat, schema
from memos_core.infrastructure.vault.conditions import from_micros, micros
from memos_core.infrastructure.vault.reading import ReadSession
from memos_core.infrastructure.vault.rows import cube_row, encode_vector, size_of, terms_crc, version_row
from memos_core.infrastructure.vault.values import (
    DEFAULT_COLLECTION,
    ErasedRows,
    Namespace,
    Passage,
    UsageDelta,
    Visibility,
)

__all__ = ["WriteSession"]

COLLECTED = (
    schema.usage,
    schema.versions,
    schema.tags,
    schema.links,
    schema.lineage,
    schema.postings,
    schema.vectors,
    schema.outbox,
    schema.audit_cubes,
)
"""Tables whose rows are collected; what they refer to is inserted at once."""

HOLDER = select(schema.cubes.c.id, schema.cubes.c.version, schema.cubes.c.expires_at).where(
    schema.cubes.c.namespace_id == bindparam("namespace_id"),
    schema.cubes.c.dedup_key == bindparam("dedup_key"),
    schema.cubes.c.state == str(State.ACTIVE),
)


class WriteSession(ReadSession):
    """Changes within one transaction, which holds the vault's write lock. Made by ``MemVault.write``.

    What it reads includes what it has written. Nothing is visible to others before the transaction ends.
    """

    def __init__(self, connection: Connection, now: datetime, embedder: Embedder | None) -> None:
        self._raw = connection
        self._rows: defaultdict[Table, list[dict[str, Any]]] = defaultdict(list)
        self._deltas: defaultdict[int, Counter[str]] = defaultdict(Counter)
        self._namespace_ids: dict[str, int] = {}
        self._collection_ids: dict[tuple[str, int], int] = {}
        super().__init__(connection, now)
        self.embedder = embedder
        self.afterwards: list[Callable[[], None]] = []  # called once the change is durable
        self.queues = connection.scalar(select(func.count()).select_from(schema.index_state)) != 0

    @property
    def connection(self) -> Connection:
        """The transaction, with everything in it that was written so far."""
        self.flush()
        return self._raw

    @connection.setter
    def connection(self, connection: Connection) -> None:
        self._raw = connection

    def flush(self) -> None:
        """Send the rows that were collected: one statement for many cubes instead of many for each."""
        rows, self._rows = self._rows, defaultdict(list)
        deltas, self._deltas = self._deltas, defaultdict(Counter)
        for table in COLLECTED:
            if rows[table]:
                self._raw.execute(insert(table), rows[table])
        n = schema.namespaces
        for namespace_id, delta in deltas.items():
            values = {name: n.c[name] + delta[name] for name in ("revision", "removals", "bytes_used")}
            self._raw.execute(update(n).where(n.c.id == namespace_id).values(values))

    def ensure_namespace(self, name: str) -> Namespace:
        """Return the namespace of that name; made with a fresh salt if there is none."""
        found = self.namespace(name)
        if found is None:
            found = Namespace(name, secrets.token_bytes(32))
            row = {"name": name, "salt": found.salt, "revision": 0, "removals": 0, "bytes_used": 0}
            self._raw.execute(insert(schema.namespaces), row)
        return found

    def find_duplicate(self, namespace: str, dedup_key: str, now: datetime) -> tuple[str, int] | None:
        """Return id and version of the live cube that holds ``dedup_key``.

        A holder that has expired gives the key up: it moves to the state ``expired``.
        """
        holder = {"namespace_id": self._namespace_id(namespace), "dedup_key": dedup_key}
        row = self._raw.execute(HOLDER, holder).first()
        if row is None:
            return None
        if row.expires_at is None or from_micros(row.expires_at) > now:
            return row.id, row.version
        lapsed = update(schema.cubes).where(schema.cubes.c.id == row.id)
        self.connection.execute(lapsed.values(state=str(State.EXPIRED)))
        return None

    # Changes

    def insert(
        self,
        cube: MemCube,
        *,
        passages: Sequence[Passage],
        dedup_key: str | None,
        author: str,
        reason: str = "added",
        collection: str = DEFAULT_COLLECTION,
    ) -> None:
        """Store a new cube. Grants are given by ``granting.give`` alone.

        Raises:
            InvalidInput: Its version is not 1.
            CubeConflict: A cube of that id, or a live one with that key, exists.
            EmbedderMismatch: The collection holds vectors of another embedder.
        """
        if cube.version != 1:
            raise InvalidInput(f"a new cube has version 1, not {cube.version}")
        cube = granting.with_grants(cube, ())
        namespace_id = self._namespace_id(cube.header.governance.namespace, make=True)
        row = {**cube_row(cube), "namespace_id": namespace_id, "state": str(cube.state), "dedup_key": dedup_key}
        try:
            self._raw.execute(insert(schema.cubes), row)
        except IntegrityError as error:
            raise CubeConflict(cube.id, self._holder(namespace_id, dedup_key) or cube.id) from error
        self._rows[schema.usage].append({"cube_id": cube.id, **first_counters(cube)})
        self._add_relations(cube)
        self._add_version(cube, namespace_id, author=author, reason=reason)
        self._add_passages(cube.id, namespace_id, passages, collection)

    def replace(
        self,
        cube: MemCube,
        *,
        passages: Sequence[Passage],
        dedup_key: str | None,
        author: str,
        reason: str,
        collection: str = DEFAULT_COLLECTION,
    ) -> None:
        """Store the next version of a cube. Earlier versions stay; only the newest is searched.

        Raises:
            CubeNotFound: There is no such cube in its namespace.
            InvalidInput: It is not the version after the stored one.
            CubeConflict: Another live cube holds that key.
            EmbedderMismatch: The collection holds vectors of another embedder.
        """
        namespace_id, version = self._stored(cube)
        if cube.version != version + 1:
            raise InvalidInput(f"memory {cube.id} is at version {version}; {cube.version} does not follow it")
        cube = granting.with_grants(cube, granting.grants_of(self, cube.id))  # a header read earlier may hold old ones
        row = {**cube_row(cube), "state": str(cube.state), "dedup_key": dedup_key}
        self._update_row(cube.id, namespace_id, row, dedup_key)
        self._write_relations(cube)
        self._add_version(cube, namespace_id, author=author, reason=reason)
        erasure.remove_passages(self, [cube.id], queue=self.queues)
        self._add_passages(cube.id, namespace_id, passages, collection)

    def set_state(self, cube_id: str, state: State, *, author: str, reason: str) -> None:
        """Move a cube to another state. ``author`` and ``reason`` go into the audit.

        Raises:
            CubeNotFound: There is no such cube.
            CubeConflict: It was to become active and another live cube holds its key.
        """
        c = schema.cubes
        row = self.connection.execute(select(c.c.namespace_id, c.c.dedup_key).where(c.c.id == cube_id)).first()
        if row is None:
            raise CubeNotFound(cube_id)
        self._update_row(cube_id, row.namespace_id, {"state": str(state)}, row.dedup_key)
        self._audit(row.namespace_id, author, "set_state", [cube_id], {"state": str(state), "reason": reason})
        self._changed(row.namespace_id)

    def set_header(self, cube: MemCube, *, author: str, reason: str) -> None:
        """Store a changed header that makes no new version: links, tags, freezing. State and payload are left alone.

        Raises:
            CubeNotFound: There is no such cube in its namespace.
            InvalidInput: It is not the current version.
        """
        namespace_id, version = self._stored(cube)
        if cube.version != version:
            raise InvalidInput(f"memory {cube.id} is at version {version}, not {cube.version}")
        cube = granting.with_grants(cube, granting.grants_of(self, cube.id))
        self._update_row(cube.id, namespace_id, cube_row(cube), None)
        self._write_relations(cube)
        self._audit(namespace_id, author, "set_header", [cube.id], {"reason": reason})
        self._changed(namespace_id)

    def give_up_key(self, cube_id: str) -> None:
        """Let another cube hold the duplicate key of this one."""
        self.connection.execute(update(schema.cubes).where(schema.cubes.c.id == cube_id).values(dedup_key=None))

    def take_key(self, cube_id: str, dedup_key: str) -> None:
        """Let a cube hold a duplicate key.

        Raises:
            CubeConflict: Another live one holds it.
        """
        namespace_id = self.connection.scalar(select(schema.cubes.c.namespace_id).where(schema.cubes.c.id == cube_id))
        self._update_row(cube_id, int(namespace_id or -1), {"dedup_key": dedup_key}, dedup_key)

    def erase(self, visibility: Visibility, cube_ids: Sequence[str], *, texts: bool = True) -> ErasedRows:
        """Delete visible cubes and everything made from them, with every row that tells of them.

        What was made from them goes even where it is not visible. ``MemVault.purge`` takes the traces off the disk.

        Args:
            texts: Some of them hold text, so that the files of ledger and index are to be written anew.
        """
        return erasure.erase(self, visibility, cube_ids, texts=texts)

    def touch(self, counts: Mapping[str, UsageDelta]) -> None:
        """Add to the counters of cubes; those that are gone are passed over."""
        heat.touch(self, counts)

    def record_audit(
        self,
        namespace: str,
        principal: str,
        action: str,
        cube_ids: Sequence[str],
        detail: Mapping[str, JsonValue],
    ) -> None:
        """Record who did what to which cubes. ``detail`` must not hold the text of a memory."""
        self._audit(self._namespace_id(namespace, make=True), principal, action, cube_ids, detail)

    # Parts

    def _namespace_id(self, name: str, *, make: bool = False) -> int:
        if name not in self._namespace_ids:
            if make:
                self.ensure_namespace(name)
            row = self._namespace_row(name)
            if row is None:
                return -1
            self._namespace_ids[name] = int(row.id)
        return self._namespace_ids[name]

    def _stored(self, cube: MemCube) -> tuple[int, int]:
        if cube.shared:
            raise InvalidInput(f"memory {cube.id} is shared by {cube.owner}, who alone can change it")
        namespace_id = self._namespace_id(cube.header.governance.namespace)
        c = schema.cubes
        own = (c.c.id == cube.id, c.c.namespace_id == namespace_id)
        version = self.connection.scalar(select(c.c.version).where(*own))
        if version is None:
            raise CubeNotFound(cube.id)
        return namespace_id, version

    def _update_row(self, cube_id: str, namespace_id: int, row: Mapping[str, Any], dedup_key: str | None) -> None:
        try:
            self.connection.execute(update(schema.cubes).where(schema.cubes.c.id == cube_id).values(row))
        except IntegrityError as error:
            raise CubeConflict(cube_id, self._holder(namespace_id, dedup_key) or cube_id) from error

    def _holder(self, namespace_id: int, dedup_key: str | None) -> str | None:
        row = self._raw.execute(HOLDER, {"namespace_id": namespace_id, "dedup_key": dedup_key}).first()
        return None if row is None else str(row.id)

    def _add_version(self, cube: MemCube, namespace_id: int, *, author: str, reason: str) -> None:
        self._rows[schema.versions].append(version_row(cube, author=author, reason=reason, committed=self.now))
        self._changed(namespace_id, bytes_used=size_of(cube))

    def _write_relations(self, cube: MemCube) -> None:
        for table in (schema.tags, schema.links, schema.lineage):
            self.connection.execute(delete(table).where(table.c.cube_id == cube.id))
        self._add_relations(cube)

    def _add_relations(self, cube: MemCube) -> None:
        for table, rows in relation_rows(cube).items():
            self._rows[table] += rows

    def _add_passages(self, cube_id: str, namespace_id: int, passages: Sequence[Passage], collection: str) -> None:
        for passage in passages:
            row = {
                "cube_id": cube_id,
                "namespace_id": namespace_id,
                "collection": collection,
                "start": passage.start,
                "end": passage.end,
                "length": sum(passage.terms.values()),
                "terms_crc": terms_crc(passage.terms),
            }
            place = {"namespace_id": namespace_id, "passage_id": self._inserted(schema.passages, row)}
            self._rows[schema.postings] += [{**place, "term": term, "count": n} for term, n in passage.terms.items()]
            if passage.vector is not None:
                self._add_vector(place, passage.vector, collection)

    def _add_vector(self, place: Mapping[str, int], vector: Vector, collection: str) -> None:
        collection_id = self.ensure_collection(collection, len(vector))
        data, crc = encode_vector(vector)
        self._rows[schema.vectors].append({**place, "collection_id": collection_id, "data": data, "crc": crc})
        if self.queues:
            change = {"collection_id": collection_id, "operation": "add", "passage_id": place["passage_id"]}
            self._rows[schema.outbox].append(change)

    def _inserted(self, table: Table, row: Mapping[str, Any]) -> int:
        """Insert one row and return the id that it was given."""
        key = self._raw.execute(insert(table), row).inserted_primary_key
        return int(key[0]) if key else 0

    def ensure_collection(self, name: str, dimension: int, embedder: str | None = None) -> int:
        """Return the row id of a collection that takes vectors of ``embedder``; made if absent.

        Args:
            embedder: Name of the embedder; None: this vault's own. It counts for the rest of the session.

        Raises:
            EmbedderMismatch: It holds vectors of another one.
        """
        if (name, dimension) not in self._collection_ids:
            self._collection_ids[name, dimension] = self._checked_collection(name, dimension, embedder)
        return self._collection_ids[name, dimension]

    def _checked_collection(self, name: str, dimension: int, embedder: str | None) -> int:
        own = self.embedder.name if self.embedder else f"unnamed embedder of {dimension} dimensions"
        embedder = embedder or own
        row = self._raw.execute(select(schema.collections).where(schema.collections.c.name == name)).first()
        if row is None:
            values = {"name": name, "embedder": embedder, "dimension": dimension, "metric": "cosine"}
            return self._inserted(schema.collections, values)
        if (row.embedder, row.dimension) != (embedder, dimension):
            stored = f"{row.embedder} ({row.dimension} dimensions)"
            raise EmbedderMismatch(name, stored=stored, offered=f"{embedder} ({dimension} dimensions)")
        return int(row.id)

    def _audit(
        self, namespace_id: int, principal: str, action: str, cube_ids: Sequence[str], detail: Mapping[str, JsonValue]
    ) -> None:
        row = {
            "namespace_id": namespace_id,
            "at": micros(self.now),
            "principal": principal,
            "action": action,
            "detail": canonical_json(dict(detail)).decode(),
        }
        audit_id = self._inserted(schema.audit, row)
        self._rows[schema.audit_cubes] += [
            {"audit_id": audit_id, "position": position, "cube_id": cube_id}
            for position, cube_id in enumerate(cube_ids)
        ]

    def _changed(self, namespace_id: int, *, bytes_used: int = 0, removals: int = 0) -> None:
        self._deltas[namespace_id].update(revision=1, removals=removals, bytes_used=bytes_used)


def first_counters(cube: MemCube) -> dict[str, Any]:
    """Return the counters that a new cube begins with."""
    behaviour = cube.header.behaviour
    counters = {name: getattr(behaviour, name) for name in (*heat.COUNTERS, "contribution", "heat")}
    return {**counters, "last_used": micros(behaviour.last_used)}


def relation_rows(cube: MemCube) -> dict[Table, list[dict[str, Any]]]:
    """Return the rows of the tables that follow from the header."""
    descriptive = cube.header.descriptive
    own = {"cube_id": cube.id}
    return {
        schema.tags: [{**own, "tag": tag} for tag in dict.fromkeys(descriptive.tags)],
        schema.links: [
            {**own, "target": link.target, "relation": link.relation} for link in dict.fromkeys(descriptive.links)
        ],
        schema.lineage: [
            {**own, "position": position, "source_id": source, "source_version": version}
            for position, (source, version) in enumerate(descriptive.lineage.sources)
        ],
    }
