"""WriteSession: changes to the ledger, all or none of them."""

from __future__ import annotations

import secrets
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from pydantic import JsonValue
from sqlalchemy import Connection, bindparam, delete, func, select, update
from sqlalchemy.exc import IntegrityError

from memos_core.cube import MemCube, State, canonical_json
from memos_core.embedding.base import Embedder
from memos_core.errors import CubeConflict, CubeNotFound, EmbedderMismatch, InvalidInput
from memos_core.infrastructure.vault import erasure, granting, heat, schema
from memos_core.infrastructure.vault.conditions import HOLDS, from_micros, micros
from memos_core.infrastructure.vault.index.base import Place
from memos_core.infrastructure.vault.index.exact import Arrival
from memos_core.infrastructure.vault.inserting import NewCube, NewRows
from memos_core.infrastructure.vault.prepared import Change, NewRow, Prepared
from memos_core.infrastructure.vault.reading import ReadSession
from memos_core.infrastructure.vault.rows import cube_row, size_of
from memos_core.infrastructure.vault.values import (
    DEFAULT_COLLECTION,
    ErasedRows,
    Namespace,
    Passage,
    UsageDelta,
    Visibility,
)

__all__ = ["WriteSession"]

HOLDER = Prepared(
    select(schema.cubes.c.id, schema.cubes.c.version, schema.cubes.c.expires_at).where(
        schema.cubes.c.namespace_id == bindparam("namespace_id"),
        schema.cubes.c.dedup_key == bindparam("dedup_key"),
        HOLDS,
    )
)
QUEUES = Prepared(select(func.count()).select_from(schema.index_state))
NAMESPACE = Prepared(
    select(
        *[schema.namespaces.c[name] for name in ("id", "salt", "bytes_used", "revision", "removals")],
    ).where(schema.namespaces.c.name == bindparam("name"))
)
COLLECTION = Prepared(
    select(schema.collections.c.id, schema.collections.c.embedder, schema.collections.c.dimension).where(
        schema.collections.c.name == bindparam("name")
    )
)
STORED = Prepared(
    select(schema.cubes.c.version).where(
        schema.cubes.c.id == bindparam("cube_id"), schema.cubes.c.namespace_id == bindparam("namespace_id")
    )
)
REPLACED = Change(
    update(schema.cubes)
    .where(schema.cubes.c.id == bindparam("cube_id"))
    .values(dict.fromkeys(column.name for column in schema.cubes.c if column.name not in ("id", "namespace_id")))
)
HAS_PASSAGES = Prepared(select(schema.passages.c.id).where(schema.passages.c.cube_id == bindparam("cube_id")).limit(1))
UNRELATED = [
    Change(delete(table).where(table.c.cube_id == bindparam("of_cube")))
    for table in (schema.tags, schema.links, schema.lineage, schema.document_fields)
]
NEW_CUBE, NEW_NAMESPACE, NEW_COLLECTION = map(NewRow, (schema.cubes, schema.namespaces, schema.collections))
NEW_AUDIT = NewRow(schema.audit)


class WriteSession(ReadSession):
    """Changes within one transaction, which holds the vault's write lock. Made by ``MemVault.write``.

    What it reads includes what it has written. Nothing is visible to others before the transaction ends.
    """

    def __init__(self, connection: Connection, now: datetime, embedder: Embedder | None) -> None:
        self._raw = connection
        self.queues = QUEUES.first(connection) != (0,)
        self._rows = NewRows(queues=self.queues)
        self._waiting: list[NewCube] = []
        self._waiting_bytes: Counter[str] = Counter()
        self._namespace_ids: dict[str, int] = {}
        self._found_at: dict[int, tuple[int, int]] = {}  # by namespace: its revision and removals at the first look
        self._collection_ids: dict[tuple[str, int], int] = {}
        super().__init__(connection, now)
        self.embedder = embedder
        self.afterwards: list[Callable[[], None]] = []  # called once the change is durable
        self.lost: defaultdict[str, list[str]] = defaultdict(list)  # what erasures took from other namespaces

    @property
    def connection(self) -> Connection:
        """The transaction, with everything in it that was written so far."""
        self.flush()
        return self._raw

    @connection.setter
    def connection(self, connection: Connection) -> None:
        self._raw = connection

    def flush(self) -> None:
        """Send what was collected: one statement for many cubes instead of many for each.

        Raises:
            CubeConflict: One of the cubes of ``collect`` cannot be stored.
        """
        if self._waiting:
            self._insert_cubes()
        self._rows.send(self._raw)

    def arrivals(self) -> list[Arrival]:
        """Return the vectors that were added where none were taken away, for an index that need not read them then."""
        found = []
        for (collection_id, namespace_id), rows in self._rows.new_vectors.items():
            own, first = self._rows.counted[namespace_id], self._found_at.get(namespace_id)
            if first is not None and not own.removals:
                place, (since, removals) = Place(collection_id, namespace_id, len(rows[0][1]) // 4), first
                found.append(Arrival(place, since, since + own.revision, removals, rows))
        return found

    def ensure_namespace(self, name: str) -> Namespace:
        """Return the namespace of that name; made with a fresh salt if there is none."""
        row = self._namespace(name)
        if row is None:
            salt = secrets.token_bytes(32)
            values = {"name": name, "salt": salt, "revision": 0, "removals": 0, "bytes_used": 0}
            own = self._namespace_ids[name] = NEW_NAMESPACE.add(self._raw, values)
            self._found_at[own] = 0, 0
            return Namespace(name, salt)
        return Namespace(name, row.salt)

    def bytes_used(self, namespace: str) -> int:
        """Return the bytes of all versions of all cubes, with what waits to be sent."""
        row = self._namespace(namespace)
        if row is None:
            return 0
        return int(row.bytes_used) + self._rows.bytes_of(row.id) + self._waiting_bytes[namespace]

    def find_duplicate(self, namespace: str, dedup_key: str, now: datetime) -> tuple[str, int] | None:
        """Return id and version of the live cube that holds ``dedup_key``.

        A holder that has expired gives the key up: it moves to the state ``expired``.
        """
        return self.find_duplicates(namespace, [dedup_key], now).get(dedup_key)

    def find_duplicates(self, namespace: str, dedup_keys: Sequence[str], now: datetime) -> dict[str, tuple[str, int]]:
        """Return id and version of the live cube that holds each of the keys, as ``find_duplicate`` does."""
        if self._waiting:
            self._insert_cubes()
        own, found = self._namespace_id(namespace), {}
        for key in dedup_keys:
            row = HOLDER.first(self._raw, namespace_id=own, dedup_key=key)
            if row is None:
                continue
            cube_id, version, expires_at = row
            if expires_at is None or from_micros(expires_at) > now:
                found[key] = cube_id, version
            else:
                lapsed = update(schema.cubes).where(schema.cubes.c.id == cube_id)
                self.connection.execute(lapsed.values(state=str(State.EXPIRED)))
        return found

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
        self.collect(NewCube(cube, passages, dedup_key, author, reason, collection))
        self._insert_cubes()

    def collect(self, new: NewCube) -> None:
        """Store a new cube together with others, before anything else is read or written in this session.

        What ``insert`` raises besides InvalidInput is raised then.

        Raises:
            InvalidInput: Its version is not 1.
        """
        if new.cube.version != 1:
            raise InvalidInput(f"a new cube has version 1, not {new.cube.version}")
        bare = granting.with_grants(new.cube, ())
        self._waiting.append(new if bare is new.cube else replace(new, cube=bare))
        self._waiting_bytes[new.cube.header.governance.namespace] += size_of(new.cube)

    def _insert_cubes(self) -> None:
        waiting, self._waiting = self._waiting, []
        self._waiting_bytes.clear()
        rows = []
        for new in waiting:
            namespace_id = self._namespace_id(new.cube.header.governance.namespace, make=True)
            state = str(new.cube.state)
            rows.append(
                {**cube_row(new.cube), "namespace_id": namespace_id, "state": state, "dedup_key": new.dedup_key}
            )
        try:
            NEW_CUBE.add_many(self._raw, rows)
        except self._raw.dialect.loaded_dbapi.IntegrityError as error:
            raise self._conflict(rows) from error
        for new, row in zip(waiting, rows, strict=True):
            cube, namespace_id = new.cube, row["namespace_id"]
            self._rows.add_cube(cube)
            header = (row["header"], row["header_digest"])
            self._rows.add_version(
                cube, namespace_id, author=new.author, reason=new.reason, committed=self.now, header=header
            )
            self._add_passages(cube.id, namespace_id, new.passages, new.collection)

    def _conflict(self, rows: Sequence[Mapping[str, Any]]) -> CubeConflict:
        """Return the error that names the first cube whose key another one holds; else it is an id that is taken."""
        for row in rows:
            holder = self._holder(row["namespace_id"], row["dedup_key"])
            if holder is not None and holder != row["id"]:
                return CubeConflict(row["id"], holder)
        return CubeConflict(rows[0]["id"], rows[0]["id"])

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
        try:
            REPLACED.run(self.connection, {**row, "cube_id": cube.id})
        except self._raw.dialect.loaded_dbapi.IntegrityError as error:
            raise CubeConflict(cube.id, self._holder(namespace_id, dedup_key) or cube.id) from error
        self._write_relations(cube)
        self._rows.add_version(
            cube,
            namespace_id,
            author=author,
            reason=reason,
            committed=self.now,
            header=(row["header"], row["header_digest"]),
        )
        if HAS_PASSAGES.first(self.connection, cube_id=cube.id):
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
            elif self._namespace(name) is None:
                return -1
        return self._namespace_ids[name]

    def _namespace(self, name: str) -> Any:
        row = NAMESPACE.first(self._raw, name=name)
        if row is not None:
            self._namespace_ids[name] = row.id
            self._found_at.setdefault(row.id, (row.revision, row.removals))
        return row

    def _stored(self, cube: MemCube) -> tuple[int, int]:
        if cube.shared:
            raise InvalidInput(f"memory {cube.id} is shared by {cube.owner}, who alone can change it")
        namespace_id = self._namespace_id(cube.header.governance.namespace)
        row = STORED.first(self.connection, cube_id=cube.id, namespace_id=namespace_id)
        if row is None:
            raise CubeNotFound(cube.id)
        return namespace_id, int(row.version)

    def _update_row(self, cube_id: str, namespace_id: int, row: Mapping[str, Any], dedup_key: str | None) -> None:
        try:
            self.connection.execute(update(schema.cubes).where(schema.cubes.c.id == cube_id).values(row))
        except IntegrityError as error:
            raise CubeConflict(cube_id, self._holder(namespace_id, dedup_key) or cube_id) from error

    def _holder(self, namespace_id: int, dedup_key: str | None) -> str | None:
        row = HOLDER.first(self._raw, namespace_id=namespace_id, dedup_key=dedup_key)
        return None if row is None else str(row[0])

    def _write_relations(self, cube: MemCube) -> None:
        for change in UNRELATED:
            change.run(self.connection, {"of_cube": cube.id})
        self._rows.add_relations(cube)

    def _add_passages(self, cube_id: str, namespace_id: int, passages: Sequence[Passage], collection: str) -> None:
        place = {"cube_id": cube_id, "namespace_id": namespace_id, "collection": collection}
        for passage in passages:
            vector = passage.vector
            self._rows.add_passage(
                place, passage, None if vector is None else self.ensure_collection(collection, len(vector))
            )

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
        row = COLLECTION.first(self._raw, name=name)
        if row is None:
            values = {"name": name, "embedder": embedder, "dimension": dimension, "metric": "cosine"}
            return NEW_COLLECTION.add(self._raw, values)
        if row[1:] != (embedder, dimension):
            offered = f"{embedder} ({dimension} dimensions)"
            raise EmbedderMismatch(name, stored=f"{row[1]} ({row[2]} dimensions)", offered=offered)
        return int(row[0])

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
        audit_id = NEW_AUDIT.add(self._raw, row)
        about = [
            {"audit_id": audit_id, "position": position, "cube_id": cube_id}
            for position, cube_id in enumerate(cube_ids)
        ]
        self._rows.add(schema.audit_cubes, about)

    def _changed(self, namespace_id: int, *, bytes_used: int = 0, removals: int = 0) -> None:
        self._rows.count(namespace_id, revision=1, removals=removals, bytes_used=bytes_used)
