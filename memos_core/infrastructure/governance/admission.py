"""What may become a memory: checks that need no model and no network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from memos_core.cube import canonical_json
from memos_core.documents import Document
from memos_core.errors import InvalidInput, InvalidMemory
from memos_core.records import Turn
from memos_core.render import is_recalled

__all__ = ["Limits", "admit", "check_document", "check_text"]

MAX_DEPTH = 64
"""Lists and objects in metadata may nest this deep."""

MAX_SEGMENTS = 32
"""Of an item's path."""

INSTRUCTION_ROLES = frozenset({"system", "developer"})


class Limits(BaseModel):
    """What a scope may hold.

    Attributes:
        max_text_chars: Longest text of one memory.
        max_bytes: Most bytes of payload in one namespace, derived memory included; None: no limit.
        max_label_chars: Longest speaker, ref, title, uri, tag or kind, or segment of an item's path.
        max_item_chars: Longest item, as JSON.
        max_key_chars: Longest key of an item; caches use whole texts as keys.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_text_chars: int = Field(default=200_000, gt=0)
    max_bytes: int | None = Field(default=None, gt=0)
    max_label_chars: int = Field(default=1_000, gt=0)
    max_item_chars: int = Field(default=50_000_000, gt=0)
    max_key_chars: int = Field(default=100_000, gt=0)


def check_text(text: object, limits: Limits, *, index: int | None = None) -> str:
    """Return ``text`` if it can be a memory.

    Raises:
        InvalidMemory: It is no str, empty, too long, or not text (NUL characters, lone surrogates).
    """
    if not isinstance(text, str):
        raise InvalidMemory(f"a memory's text must be a str, not {type(text).__name__}", index=index)
    if not text.strip():
        raise InvalidMemory("the text is empty", index=index)
    if len(text) > limits.max_text_chars:
        raise InvalidMemory(
            f"the text has {len(text):,} characters and max_text_chars is {limits.max_text_chars:,}; split it first",
            index=index,
        )
    check_characters(text, "text", index)
    return text


def check_characters(text: str, what: str, index: int | None) -> None:
    if "\x00" in text:
        raise InvalidMemory(f"the {what} holds NUL characters: binary data is not a memory", index=index)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidMemory(f"the {what} is not valid Unicode: {error.reason}", index=index) from error


def check_labels(turn: Turn, limits: Limits, *, index: int | None = None) -> None:
    """Check every other string of a turn.

    Raises:
        InvalidMemory: One is too long or not text.
    """
    labels = {
        "speaker": turn.speaker,
        "role": turn.role,
        "ref": turn.ref,
        "uri": turn.uri,
        "title": turn.title,
        "kind": turn.kind,
        "language": turn.language,
        **{f"tag {number}": tag for number, tag in enumerate(turn.tags)},
    }
    for what, label in labels.items():
        if label is None:
            continue
        if len(label) > limits.max_label_chars:
            raise InvalidMemory(f"the {what} is longer than {limits.max_label_chars:,} characters", index=index)
        check_characters(label, what, index)


def check_item(path: Sequence[str], key: object, text: str, limits: Limits) -> None:
    """Check where an item is to lie, and its size.

    Raises:
        InvalidInput: A part of the path is no name, or something is too long.
    """
    if isinstance(path, str) or not path:
        raise InvalidInput(f"the path of an item is a sequence of one name or more, not {path!r}")
    if len(path) > MAX_SEGMENTS:
        raise InvalidInput(f"the path of an item has at most {MAX_SEGMENTS} segments, not {len(path)}")
    for segment in path:
        check_segment(segment, limits)
    if not isinstance(key, str) or len(key) > limits.max_key_chars:
        raise InvalidInput(f"the key of an item is a str of at most {limits.max_key_chars:,} characters")
    check_characters(key, "key", None)
    if len(text) > limits.max_item_chars:
        raise InvalidInput(
            f"the item has {len(text):,} characters as JSON and max_item_chars is {limits.max_item_chars:,}"
        )


def check_segment(segment: object, limits: Limits) -> None:
    """Check one segment of an item's path.

    Raises:
        InvalidInput: It is no str, empty, too long, or holds control characters.
    """
    if not isinstance(segment, str) or not segment or len(segment) > limits.max_label_chars:
        raise InvalidInput(
            f"a segment of an item's path is a str of 1 to {limits.max_label_chars:,} characters, not {segment!r:.100}"
        )
    if any(character < " " for character in segment):
        raise InvalidInput(f"the segment {segment!r:.100} of an item's path holds control characters")
    check_characters(segment, "path", None)


def check_document(document: Document, limits: Limits, *, index: int | None = None) -> None:
    """Check a document of a collection. Its text may be empty: it can be found by its vector.

    Raises:
        InvalidMemory: Text, id or metadata cannot be stored, or would not come back as they are.
    """
    if not isinstance(document.text, str):
        raise InvalidMemory(f"a document's text must be a str, not {type(document.text).__name__}", index=index)
    if document.text:
        check_text(document.text if document.text.strip() else "-", limits, index=index)
    if document.id is not None:
        if not isinstance(document.id, str) or not document.id:
            raise InvalidMemory(f"a document's id is a text and not empty, not {document.id!r}", index=index)
        if len(document.id) > limits.max_label_chars:
            raise InvalidMemory(f"the id is longer than {limits.max_label_chars:,} characters", index=index)
        check_characters(document.id, "id", index)
    if document.ttl_seconds is not None and not 0 < document.ttl_seconds < math.inf:
        raise InvalidMemory("ttl_seconds is a positive number", index=index)
    check_json(document.metadata, "metadata", index)
    if len(canonical_json(dict(document.metadata))) > limits.max_text_chars:
        raise InvalidMemory(f"the metadata is longer than {limits.max_text_chars:,} bytes as JSON", index=index)


def check_json(value: Any, where: str, index: int | None, depth: int = 0) -> None:
    """Raise InvalidMemory unless ``value`` comes back from JSON as it is."""
    if depth > MAX_DEPTH:
        raise InvalidMemory(f"the metadata nests more than {MAX_DEPTH} levels deep", index=index)
    if isinstance(value, str):
        check_characters(value, where, index)
    elif isinstance(value, float) and not math.isfinite(value):
        raise InvalidMemory(f"{where} is {value}, which JSON cannot hold", index=index)
    elif isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise InvalidMemory(f"{where} has the key {key!r}; keys are texts", index=index)
            check_characters(key, f"key of {where}", index)
            check_json(item, f"{where}.{key}", index, depth + 1)
    elif isinstance(value, list):
        for number, item in enumerate(value):
            check_json(item, f"{where}[{number}]", index, depth + 1)
    elif value is not None and type(value) not in (bool, int, float):
        raise InvalidMemory(f"{where} is a {type(value).__name__}, which would not come back from JSON", index=index)


def admit(turn: Turn) -> str | None:
    """Return why policy keeps ``turn`` out, or None if it may come in."""
    if turn.role in INSTRUCTION_ROLES:
        return f"a {turn.role} message is an instruction, not a memory"
    if is_recalled(turn.text):
        return "the text is recalled memory; storing it again would multiply it"
    return None
