"""MemCube: the one unit of memory (MemOS, arXiv 2505.22101, section 3).

A cube is a payload of one of three types behind a header of three groups:

    MemCube
    ├── payload       PlaintextPayload | ActivationPayload | ParametricPayload
    ├── header
    │   ├── descriptive   what it is: id, type, title, kind, times, source, provenance, language, tags, links
    │   ├── governance    whose it is: owner, namespace, grants, sensitivity, retention, trust, frozen
    │   └── behaviour     how it is used: reads, injections, tokens saved, feedback, contribution
    ├── version           1, 2, 3 ...; a stored version never changes
    └── state             active, merged, archived or expired

Cubes are values: frozen, compared by content, and the same after a round trip through JSON.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from datetime import datetime
from enum import StrEnum
from textwrap import shorten
from typing import Any, Literal

from pydantic import Field

from memos_core.header import (
    HEAT_HALF_LIFE_SECONDS,
    Behaviour,
    Descriptive,
    Frozen,
    Governance,
    Grant,
    Header,
    Lineage,
    Link,
    MemoryType,
    Moment,
    Retention,
    Sensitivity,
    Source,
    Trust,
    cooling,
)
from memos_core.payload import ActivationPayload, BlobRef, ParametricPayload, Payload, PlaintextPayload

__all__ = [
    "FORMAT_VERSION",
    "HEAT_HALF_LIFE_SECONDS",
    "ActivationPayload",
    "Behaviour",
    "BlobRef",
    "Descriptive",
    "Governance",
    "Grant",
    "Header",
    "Lineage",
    "Link",
    "MemCube",
    "MemoryType",
    "Moment",
    "ParametricPayload",
    "Payload",
    "PlaintextPayload",
    "Retention",
    "Sensitivity",
    "Source",
    "State",
    "Trust",
    "cooling",
    "normalised",
]

FORMAT_VERSION: Literal[1] = 1
"""Version of the JSON form of a cube. A reader refuses a greater one."""


class State(StrEnum):
    """Where a cube stands in its life. Only active cubes are found by a search.

    ``merged``: what it says lives on in the memories that were made of it by a merge or a split.
    """

    ACTIVE = "active"
    MERGED = "merged"
    ARCHIVED = "archived"
    EXPIRED = "expired"


class MemCube(Frozen):
    """One memory, in one of its versions. See the module's docstring for its parts."""

    format: Literal[1] = FORMAT_VERSION
    header: Header
    payload: Payload
    version: int = Field(default=1, ge=1)
    state: State = State.ACTIVE

    def __repr__(self) -> str:
        """Return one line that a person can read; the header has the rest."""
        return f"MemCube({self.id}, {self.type}, version {self.version}, {self.state}: {shorten(self.text, 72)!r})"

    __str__ = __repr__

    @property
    def id(self) -> str:
        return self.header.descriptive.id

    @property
    def type(self) -> MemoryType:
        return self.header.descriptive.type

    @property
    def text(self) -> str:
        """The text of a plaintext cube; for other types the title, since their payload is tensors."""
        if isinstance(self.payload, PlaintextPayload):
            return self.payload.text
        return self.header.descriptive.title or f"{self.type} memory {self.id}"

    @property
    def speaker(self) -> str | None:
        return self.header.descriptive.source.speaker

    @property
    def session(self) -> str | None:
        return self.header.descriptive.source.session

    @property
    def at(self) -> datetime | None:
        """When it was said; None if the caller did not tell."""
        return self.header.descriptive.source.at

    @property
    def ref(self) -> str | None:
        return self.header.descriptive.source.ref

    @property
    def tags(self) -> tuple[str, ...]:
        return self.header.descriptive.tags

    @property
    def created(self) -> datetime:
        return self.header.descriptive.created

    @property
    def owner(self) -> str:
        """The user whose memory it is."""
        return self.header.governance.owner

    @property
    def shared(self) -> bool:
        """Whether another user owns it, who lets the reader see it."""
        return self.header.governance.shared

    def as_shared(self) -> MemCube:
        """Return what someone may see of it to whom it was granted: nothing of its owner's other memories."""
        descriptive = self.header.descriptive.model_copy(update={"links": (), "lineage": Lineage(), "metadata": {}})
        governance = self.header.governance.model_copy(update={"agent": None, "grants": (), "shared": True})
        header = Header(descriptive=descriptive, governance=governance)
        return self.model_copy(update={"header": header})

    @property
    def digest(self) -> str:
        """sha256 of the payload in canonical JSON: equal content, equal digest."""
        return hashlib.sha256(canonical_json(self.payload.model_dump(mode="json"))).hexdigest()

    def to_json(self) -> str:
        """Return the cube as JSON, without loss."""
        return self.model_dump_json()

    @classmethod
    def from_json(cls, text: str | bytes) -> MemCube:
        """Return the cube that ``to_json`` wrote.

        Raises:
            pydantic.ValidationError: It is no cube, or of a later format.
        """
        return cls.model_validate_json(text)


ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def canonical_json(value: Any) -> bytes:
    """Return the one JSON form of ``value``: sorted keys, no spaces, UTF-8."""
    return ENCODER.encode(value).encode()


def normalised(text: str) -> str:
    """Return what is compared to tell whether two texts are the same: NFKC, case folded, white space collapsed."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
