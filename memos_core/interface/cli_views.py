"""Memories and what happens to them, as JSON values and as tables."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from pydantic import JsonValue
from rich.table import Table
from rich.text import Text

from memos_core.cube import MemCube
from memos_core.records import Erasure, Hit, Receipt, Reply, VersionRecord

__all__ = [
    "columns",
    "cube_json",
    "cube_table",
    "erasure_json",
    "hit_json",
    "iso",
    "mapping_table",
    "minute",
    "printable",
    "receipt_json",
    "reply_json",
    "short",
    "version_json",
]

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""Control characters but tab and line feed."""


def iso(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment else None


def minute(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M}" if moment else ""


def printable(text: str) -> str:
    """Return ``text`` without control characters: what is remembered must not steer someone's terminal."""
    return CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def short(text: str, most: int = 200) -> str:
    """Return ``text`` on one line, cut at ``most`` characters, safe to print."""
    line = printable(" ".join(text.split()))
    return line if len(line) <= most else line[: most - 1] + "…"


def cube_json(cube: MemCube) -> dict[str, JsonValue]:
    """Return what most callers want of a cube, flat; ``show`` gives all of it."""
    return {
        "id": cube.id,
        "version": cube.version,
        "type": str(cube.type),
        "state": str(cube.state),
        "text": cube.text,
        "title": cube.header.descriptive.title,
        "speaker": cube.speaker,
        "session": cube.session,
        "at": iso(cube.at),
        "ref": cube.ref,
        "tags": list(cube.tags),
        "created": iso(cube.created),
    }


def hit_json(hit: Hit) -> dict[str, JsonValue]:
    return {
        **cube_json(hit.cube),
        "score": hit.score,
        "why": hit.why,
        "passage": list(hit.passage) if hit.passage else None,
        **({"shared_by": hit.owner} if hit.shared else {}),
    }


def receipt_json(receipt: Receipt) -> dict[str, JsonValue]:
    return {
        "cube_id": receipt.cube_id,
        "version": receipt.version,
        "outcome": str(receipt.outcome),
        "reason": receipt.reason,
        "near": list(receipt.near),
    }


def version_json(record: VersionRecord) -> dict[str, JsonValue]:
    return {
        "version": record.version,
        "text": record.text,
        "author": record.author,
        "committed": iso(record.committed),
        "reason": record.reason,
    }


def erasure_json(erasure: Erasure) -> dict[str, JsonValue]:
    return {**asdict(erasure), "at": iso(erasure.at)}


def reply_json(reply: Reply) -> dict[str, JsonValue]:
    memories: list[JsonValue] = [
        {
            "id": memory.cube_id,
            "ref": memory.cube.ref,
            "tokens": memory.tokens,
            "preferred": str(memory.preferred),
            "placed": str(memory.placed) if memory.placed else None,
            "reason": memory.reason,
        }
        for memory in reply.plan.memories
    ]
    return {
        "text": reply.text,
        "finish_reason": reply.finish_reason,
        "usage": asdict(reply.usage),
        "plan": {
            "inject": reply.plan.inject,
            "memories": memories,
            "left_out": dict(reply.plan.left_out),
            "notes": list(reply.plan.notes),
        },
    }


def columns(*names: str, title: str | None = None) -> Table:
    """Return an empty table; a name that begins with ``>`` is a column of numbers."""
    table = Table(title=title, title_justify="left", show_edge=False, pad_edge=False, header_style="bold")
    for name in names:
        number = name.startswith(">")
        table.add_column(name.lstrip(">"), justify="right" if number else "left", no_wrap=number or name == "id")
    return table


def cube_table(cubes: Iterable[MemCube], scores: Sequence[float] | None = None) -> Table:
    """Return a table of cubes, with their scores if they come from a search."""
    table = columns(*([">score"] if scores else []), "id", "when", "who", "memory")
    for number, cube in enumerate(cubes):
        cells = [f"{scores[number]:.3f}"] if scores else []
        cells += [cube.id, minute(cube.at or cube.created), cube.speaker or "", short(cube.text)]
        # Text, so that brackets in a memory are not taken for markup.
        table.add_row(*map(Text, cells))
    return table


def mapping_table(values: Mapping[str, Any], title: str | None = None) -> Table:
    """Return a table of names and values; an inner mapping becomes dotted names."""
    table = columns("what", ">value", title=title)
    for name, value in flattened(values):
        shown = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
        table.add_row(Text(name), Text(shown))
    return table


def flattened(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flattened(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
