"""WriteSession: changes to the ledger, all or none of them."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from pydantic import JsonValue
from sqlalchemy import Connection, bindparam, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from memos_core.cube import MemCube, State, canonical_json
from memos_core.embedding.base import Embedder
from memos_core.errors import CubeConflict, CubeNotFound, EmbedderMismatch, InvalidInput
from memos_core.infrastructure.vault import erasure, schema
from memos_core.infrastructure.vault.conditions import live, micros
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

COUNTERS = ("reads", "injected_text", "injected_kv", "injected_lora", "tokens_saved", "feedback")


class WriteSession(ReadSession):
    """Changes within one transaction, which holds the vault's write lock. Made by ``MemVault.write``.

    What it reads includes what it has written. Nothing is visible to others before the transaction ends.
    """

    def __init__(self, connection: Connection, now: datetime, embedder: Embedder | None) -> None:
        super().__init__(connection, now)
        self.embedder = embedder
        self.queues = connection.scalar(select(func.count()).select_from(schema.index_state)) != 0

    def ensure_namespace(self, name: str) -> Namespace:
        """Return the namespace of that name; made with a fresh salt if there is none."""
        found = self.namespace(name)
        if found is None:
            found = Namespace(name, secrets.token_bytes(32))
            row = {"name": name, "salt": found.salt, "revision": 0, "removals": 0, "bytes_used": 0}
            self.connection.execute(insert(schema.namespaces).values(row))
        return found

    def find_duplicate(self, namespace: str, dedup_key: str, now: datetime) -> tuple[str, int] | None:
        """Return id and version of the live cube that holds ``dedup_key``.

        A holder that has expired gives the key up: it moves to the state ``expired``.
        """
        c = schema.cubes
        holds = (c.c.namespace_id == self._namespace_id(namespace), c.c.dedup_key == dedup_key)
        row = self.connection.execute(select(c.c.id, c.c.version).where(*holds, live(now))).first()
        if row is not None:
            return row.id, row.version
        lapsed = update(c).where(*holds, c.c.state == State.ACTIVE, c.c.expires_at <= micros(now))
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
        """Store a new cube.

        Raises:
            InvalidInput: Its version is not 1.
            CubeConflict: A cube of that id, or a live one with that key, exists.
            EmbedderMismatch: The collection holds vectors of another embedder.
        """
        if cube.version != 1:
            raise InvalidInput(f"a new cube has version 1, not {cube.version}")
        self.ensure_namespace(cube.header.governance.namespace)
        namespace_id = self._namespace_id(cube.header.governance.namespace)
        row = {**cube_row(cube), "namespace_id": namespace_id, "state": str(cube.state), "dedup_key": dedup_key}
        try:
            self.connection.execute(insert(schema.cubes).values(row))
        except IntegrityError as error:
            raise CubeConflict(cube.id, self._holder(namespace_id, dedup_key) or cube.id) from error
        self.connection.execute(insert(schema.usage).values(cube_id=cube.id, **self._first_counters(cube)))
        self._write_relations(cube)
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
        self._update_row(cube.id, namespace_id, cube_row(cube), None)
        self._write_relations(cube)
        self._audit(namespace_id, author, "set_header", [cube.id], {"reason": reason})
        self._changed(namespace_id)

    def erase(self, visibility: Visibility, cube_ids: Sequence[str]) -> ErasedRows:
        """Delete visible cubes and everything made from them, with every row that tells of them.

        What was made from them goes even where it is not visible. ``MemVault.purge`` takes the traces off the disk.
        """
        return erasure.erase(self, visibility, cube_ids)

    def touch(self, counts: Mapping[str, UsageDelta]) -> None:
        """Add to the counters of cubes; those that are gone are passed over."""
        u = schema.usage
        added: dict[str, Any] = {name: u.c[name] + bindparam(f"add_{name}") for name in COUNTERS}
        used: Any = bindparam("used")
        later = func.coalesce(u.c.last_used, -1) < used
        statement = update(u).where(u.c.cube_id == bindparam("id"))
        rows = [
            {"id": key, **{f"add_{name}": getattr(delta, name) for name in COUNTERS}} for key, delta in counts.items()
        ]
        if rows:
            self.connection.execute(statement.values(added), rows)
        moments = [{"id": key, "used": micros(delta.last_used)} for key, delta in counts.items() if delta.last_used]
        if moments:
            self.connection.execute(statement.where(later).values(last_used=used), moments)

    def record_audit(
        self,
        namespace: str,
        principal: str,
        action: str,
        cube_ids: Sequence[str],
        detail: Mapping[str, JsonValue],
    ) -> None:
        """Record who did what to which cubes. ``detail`` must not hold the text of a memory."""
        self.ensure_namespace(namespace)
        self._audit(self._namespace_id(namespace), principal, action, cube_ids, detail)

    # Parts

    def _namespace_id(self, name: str) -> int:
        row = self._namespace_row(name)
        return -1 if row is None else int(row.id)

    def _stored(self, cube: MemCube) -> tuple[int, int]:
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
        c = schema.cubes
        holds = (c.c.namespace_id == namespace_id, c.c.dedup_key == dedup_key, c.c.state == State.ACTIVE)
        return self.connection.scalar(select(c.c.id).where(*holds))

    def _first_counters(self, cube: MemCube) -> dict[str, Any]:
        behaviour = cube.header.behaviour
        counters = {name: getattr(behaviour, name) for name in (*COUNTERS, "contribution")}
        return {**counters, "last_used": micros(behaviour.last_used)}

    def _add_version(self, cube: MemCube, namespace_id: int, *, author: str, reason: str) -> None:
        row = version_row(cube, author=author, reason=reason, committed=self.now)
        self.connection.execute(insert(schema.versions).values(row))
        self._changed(namespace_id, bytes_used=size_of(cube))

    def _write_relations(self, cube: MemCube) -> None:
        """Write the tables that follow from the header: tags, links, grants and lineage."""
        for table in (schema.tags, schema.links, schema.grants, schema.lineage):
            self.connection.execute(delete(table).where(table.c.cube_id == cube.id))
        descriptive, governance = cube.header.descriptive, cube.header.governance
        own = {"cube_id": cube.id}
        granted = {**own, "namespace_id": self._namespace_id(governance.namespace)}
        rows: list[tuple[Any, list[dict[str, Any]]]] = [
            (schema.tags, [{**own, "tag": tag} for tag in dict.fromkeys(descriptive.tags)]),
            (
                schema.links,
                [{**own, "target": link.target, "relation": link.relation} for link in set(descriptive.links)],
            ),
            (
                schema.grants,
                [
                    {**granted, "grantee": g.grantee, "right": g.right, "until": micros(g.until)}
                    for g in governance.grants
                ],
            ),
            (
                schema.lineage,
                [
                    {**own, "position": position, "source_id": source, "source_version": version}
                    for position, (source, version) in enumerate(descriptive.lineage.sources)
                ],
            ),
        ]
        for table, values in rows:
            if values:
                self.connection.execute(insert(table), values)

    def _add_passages(self, cube_id: str, namespace_id: int, passages: Sequence[Passage], collection: str) -> None:
        own = {"cube_id": cube_id, "namespace_id": namespace_id}
        postings, vectors = [], []
        for passage in passages:
            row = {
                **own,
                "collection": collection,
                "start": passage.start,
                "end": passage.end,
                "length": sum(passage.terms.values()),
                "terms_crc": terms_crc(passage.terms),
            }
            (passage_id,) = self.connection.execute(insert(schema.passages).values(row)).inserted_primary_key or (None,)
            place = {"namespace_id": namespace_id, "passage_id": passage_id}
            postings += [{**place, "term": term, "count": count} for term, count in passage.terms.items()]
            if passage.vector is not None:
                collection_id = self.ensure_collection(collection, len(passage.vector))
                data, crc = encode_vector(passage.vector)
                vectors.append({**place, "collection_id": collection_id, "data": data, "crc": crc})
        if postings:
            self.connection.execute(insert(schema.postings), postings)
        if vectors:
            self.connection.execute(insert(schema.vectors), vectors)
            self._queue_additions(vectors)

    def _queue_additions(self, vectors: Sequence[Mapping[str, Any]]) -> None:
        if self.queues:
            rows = [
                {"collection_id": row["collection_id"], "operation": "add", "passage_id": row["passage_id"]}
                for row in vectors
            ]
            self.connection.execute(insert(schema.outbox), rows)

    def ensure_collection(self, name: str, dimension: int) -> int:
        """Return the row id of a collection that takes vectors of this vault's embedder; made if absent.

        Raises:
            EmbedderMismatch: It holds vectors of another one.
        """
        embedder = self.embedder.name if self.embedder else f"unnamed embedder of {dimension} dimensions"
        row = self.connection.execute(select(schema.collections).where(schema.collections.c.name == name)).first()
        if row is None:
            values = {"name": name, "embedder": embedder, "dimension": dimension, "metric": "cosine"}
            result = self.connection.execute(insert(schema.collections).values(values))
            (collection_id,) = result.inserted_primary_key or (None,)
            return int(collection_id or 0)
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
        (audit_id,) = self.connection.execute(insert(schema.audit).values(row)).inserted_primary_key or (None,)
        about = [
            {"audit_id": audit_id, "position": position, "cube_id": cube_id}
            for position, cube_id in enumerate(cube_ids)
        ]
        if about:
            self.connection.execute(insert(schema.audit_cubes), about)

    def _changed(self, namespace_id: int, *, bytes_used: int = 0, removals: int = 0) -> None:
        n = schema.namespaces
        values = {
            "revision": n.c.revision + 1,
            "removals": n.c.removals + removals,
            "bytes_used": n.c.bytes_used + bytes_used,
        }
        self.connection.execute(update(n).where(n.c.id == namespace_id).values(values))
