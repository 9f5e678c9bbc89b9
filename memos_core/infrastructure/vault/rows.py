"""Cubes into rows and back. What was written is checked when it is read: a damaged row raises."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

import numpy as np
from pydantic import BaseModel, TypeAdapter, ValidationError
from sqlalchemy import Row, Select, and_, select

from memos_core.cube import (
    FORMAT_VERSION,
    ActivationPayload,
    Behaviour,
    Header,
    MemCube,
    ParametricPayload,
    Payload,
    PlaintextPayload,
    State,
    canonical_json,
)
from memos_core.embedding.base import Vector
from memos_core.errors import VaultDamaged
from memos_core.infrastructure.vault import schema
from memos_core.infrastructure.vault.conditions import micros, moment

__all__ = [
    "blob_of",
    "checksum",
    "cube_of",
    "cube_row",
    "current",
    "decode_vector",
    "decoded_path",
    "encode_vector",
    "encoded_path",
    "headers",
    "payload_of",
    "size_of",
    "terms_crc",
    "version_row",
]

SEPARATOR = "\x1f"
"""Ends a segment of an item's path. No segment holds it."""


P = TypeVar("P", bound=BaseModel)
PAYLOAD: TypeAdapter[Payload] = TypeAdapter(Payload)


def current() -> Select[Any]:
    """Return the query for cubes as they are now, to which conditions are added."""
    c, v, u = schema.cubes, schema.versions, schema.usage
    joined = c.join(v, and_(v.c.cube_id == c.c.id, v.c.version == c.c.version)).join(u, u.c.cube_id == c.c.id)
    own = (c.c.id, c.c.version, c.c.state, c.c.expires_at, c.c.header, c.c.header_digest)
    counters = [column for column in u.c if column.name != "cube_id"]
    return select(*own, v.c.payload, v.c.digest, *counters).select_from(joined)


def cube_of(row: Row[Any], now: datetime) -> MemCube:
    """Return the cube of a row of ``current``; an active one whose time is over is returned as expired.

    Raises:
        VaultDamaged: Header or payload is not what was written.
    """
    check(row.header, row.header_digest, f"cube {row.id}: header")
    check(row.payload, row.digest, f"cube {row.id}: payload of version {row.version}")
    try:
        behaviour = Behaviour(
            reads=row.reads,
            last_used=moment(row.last_used),
            injected_text=row.injected_text,
            injected_kv=row.injected_kv,
            injected_lora=row.injected_lora,
            tokens_saved=row.tokens_saved,
            feedback=row.feedback,
            contribution=row.contribution,
            heat=row.heat,
        )
    except ValidationError as error:
        raise VaultDamaged([f"cube {row.id}: counters: {error}"]) from error
    cut = micros(now)
    lapsed = row.state == State.ACTIVE and row.expires_at is not None and cut is not None and row.expires_at <= cut
    state = State.EXPIRED if lapsed else row.state
    return assembled(row.id, row.version, state, header=row.header, payload=row.payload, behaviour=behaviour)


def payload_of(row: Row[Any], kind: type[P]) -> P:
    """Return the payload of a row with ``id``, ``payload`` and ``digest``, without the rest of its cube.

    Raises:
        VaultDamaged: It is not what was written.
    """
    check(row.payload, row.digest, f"cube {row.id}: payload")
    try:
        return kind.model_validate_json(row.payload)
    except ValidationError as error:
        raise VaultDamaged([f"cube {row.id}: {error}"]) from error


def assembled(cube_id: str, version: int, state: str, *, header: str, payload: str, behaviour: Behaviour) -> MemCube:
    """Return the cube made of stored JSON and live counters.

    Raises:
        VaultDamaged: They are no cube.
    """
    try:
        stored = Header.model_validate_json(header)
        content = PAYLOAD.validate_json(payload)
        known = State(state)
    except ValueError as error:
        raise VaultDamaged([f"cube {cube_id}: {error}"]) from error
    if not isinstance(version, int) or version < 1:
        raise VaultDamaged([f"cube {cube_id}: version {version!r}"])
    # The parts have been validated one by one; to validate the whole would do that again.
    counted = Header.model_construct(descriptive=stored.descriptive, governance=stored.governance, behaviour=behaviour)
    return MemCube.model_construct(format=FORMAT_VERSION, header=counted, payload=content, version=version, state=known)


def check(text: str, digest: str, what: str) -> None:
    if digest_of(text) != digest:
        raise VaultDamaged([f"{what} does not match its digest"])


def digest_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def headers(cube: MemCube) -> tuple[str, str]:
    """Return the header as it is stored, and its digest. The counters live in a table of their own."""
    text = canonical_json(cube.header.model_dump(mode="json", exclude={"behaviour"})).decode()
    return text, digest_of(text)


def cube_row(cube: MemCube) -> dict[str, Any]:
    """Return the searchable columns of ``cube``."""
    descriptive, governance = cube.header.descriptive, cube.header.governance
    source = descriptive.source
    header, digest = headers(cube)
    return {
        "id": cube.id,
        "type": str(cube.type),
        "version": cube.version,
        "agent": governance.agent,
        "session": source.session,
        "speaker": source.speaker,
        "role": source.role,
        "ref": source.ref,
        "uri": source.uri,
        "kind": descriptive.kind,
        "language": descriptive.language,
        "collection": descriptive.collection,
        "at": micros(source.at),
        "created": micros(descriptive.created),
        "valid_from": micros(descriptive.valid_from),
        "valid_until": micros(descriptive.valid_until),
        "expires_at": micros(governance.retention.expires_at),
        "fingerprint": None if isinstance(cube.payload, PlaintextPayload) else cube.payload.fingerprint,
        "item_path": None if descriptive.item is None else encoded_path(descriptive.item.path),
        "item_key": None if descriptive.item is None else descriptive.item.key,
        "header": header,
        "header_digest": digest,
    }


def encoded_path(path: Sequence[str]) -> str:
    """Return the path of an item as one text. What lies below a path begins with it, segment by segment."""
    return "".join(f"{segment}{SEPARATOR}" for segment in path)


def decoded_path(text: str) -> tuple[str, ...]:
    """Return the path that ``encoded_path`` wrote."""
    return tuple(text.split(SEPARATOR)[:-1])


def version_row(
    cube: MemCube, *, author: str, reason: str, committed: datetime, header: tuple[str, str] | None = None
) -> dict[str, Any]:
    """Return the row of this version. Links and grants are not part of a version: the current ones always count.

    Args:
        header: The header of the cube as it is stored and its digest, if they were made already.
    """
    text, digest = header_of_version(cube, header)
    payload = canonical_json(cube.payload.model_dump(mode="json"))
    return {
        "cube_id": cube.id,
        "version": cube.version,
        "payload": payload.decode(),
        "header": text,
        "header_digest": digest,
        "digest": hashlib.sha256(payload).hexdigest(),
        "blob_address": blob_of(cube),
        "size_bytes": size_of(cube),
        "author": author,
        "reason": reason,
        "committed": micros(committed),
    }


def header_of_version(cube: MemCube, header: tuple[str, str] | None) -> tuple[str, str]:
    links, grants = cube.header.descriptive.links, cube.header.governance.grants
    if not links and not grants:
        return header or headers(cube)
    descriptive = cube.header.descriptive.model_copy(update={"links": ()})
    governance = cube.header.governance.model_copy(update={"grants": ()})
    return headers(cube.model_copy(update={"header": Header(descriptive=descriptive, governance=governance)}))


def blob_of(cube: MemCube) -> str | None:
    """Return the address of the blob that the payload refers to, if any."""
    payload = cube.payload
    return payload.blob.address if isinstance(payload, ActivationPayload | ParametricPayload) else None


def size_of(cube: MemCube) -> int:
    """Return what a version counts towards a quota: its text and metadata in UTF-8, or its blob."""
    if isinstance(cube.payload, PlaintextPayload):
        metadata = cube.header.descriptive.metadata
        return len(cube.payload.text.encode()) + (len(canonical_json(dict(metadata))) if metadata else 0)
    return cube.payload.blob.size_bytes


def encode_vector(vector: Vector) -> tuple[bytes, int]:
    """Return a vector as little-endian float32, and its checksum."""
    data = np.ascontiguousarray(vector, dtype="<f4").tobytes()
    return data, checksum(data)


def decode_vector(data: bytes) -> Vector:
    """Return the vector that ``encode_vector`` wrote."""
    vector: Vector = np.frombuffer(data, dtype="<f4").astype(np.float32, copy=False)
    return vector


def terms_crc(terms: Mapping[str, int] | Sequence[tuple[str, int]]) -> int:
    """Return a checksum of the words of a passage, whatever their order."""
    pairs = terms.items() if isinstance(terms, Mapping) else terms
    return zlib.crc32(canonical_json(sorted([term, count] for term, count in pairs)))


def checksum(data: bytes) -> int:
    """Return the CRC-32 of ``data``: enough against decay, no defence against forgery."""
    return zlib.crc32(data)
