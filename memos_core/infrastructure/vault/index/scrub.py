"""Unused parts of Chroma's graph files are zeroed: they hold whatever the process had in memory.

Chroma (hnswlib) allocates its graph for more vectors than it holds and writes the whole allocation to the disk,
uninitialised. What the process freed before, erased vectors and pages of the ledger among it, can so end up in files
that were written anew without it. Measured on Chroma 1.5.9: in one of 12 runs, always behind the last used slot.

    header.bin       int32 version, then as 64-bit numbers: offset, slots, used slots, bytes of a slot, ...
    data_level0.bin  slots x bytes of a slot
    length.bin       slots x 4 bytes
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path

__all__ = ["scrub"]

LAYOUT = struct.Struct("<iQQQQ")
VERSION = 1
PART_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class Header:
    """How many slots the files of a graph have, and how many of them are used."""

    slots: int
    used: int
    slot_bytes: int


def scrub(folder: Path) -> bool:
    """Zero what the graph files below ``folder`` do not use, and tell whether all of them could be understood.

    The used part is never touched. Files of a layout that is not known here are left as they are.
    """
    known = [scrub_graph(path.parent) for path in sorted(folder.rglob("header.bin"))]  # each, whatever another says
    return all(known)


def scrub_graph(folder: Path) -> bool:
    header = read_header(folder / "header.bin")
    if header is None:
        return False
    files = ((folder / "data_level0.bin", header.slot_bytes), (folder / "length.bin", 4))
    known = [zero_unused(path, header, slot_bytes) for path, slot_bytes in files]
    return all(known)


def read_header(path: Path) -> Header | None:
    """Return the header of a graph; None if it is of another layout."""
    data = path.read_bytes()
    if len(data) < LAYOUT.size:
        return None
    version, _offset, slots, used, slot_bytes = LAYOUT.unpack_from(data)
    return Header(slots, used, slot_bytes) if version == VERSION and used <= slots else None


def zero_unused(path: Path, header: Header, slot_bytes: int) -> bool:
    if not path.is_file() or path.stat().st_size != header.slots * slot_bytes:
        return False
    with path.open("r+b") as file:
        left = file.seek(0, os.SEEK_END) - file.seek(header.used * slot_bytes)
        while left > 0:
            left -= file.write(bytes(min(left, PART_BYTES)))
    return True
