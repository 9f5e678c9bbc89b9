"""Whether a request fits the memory of the device. Asked before anything of it is computed, since a process that takes
more than there is gets killed, and with it every other request."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psutil
import torch

from memos_core.engine.kv.cache import Layout
from memos_core.engine.kv.prefix import PrefixCache
from memos_core.errors import DeviceMemoryExceeded

__all__ = ["ensure_room", "free_bytes", "request_bytes", "token_bytes"]

CGROUP = Path("/sys/fs/cgroup")
SHARE = 0.9
"""Of what is free; the rest is for what others take meanwhile."""

CHUNK = 512
"""Positions of a prompt that are computed at a time."""


def free_bytes(device: torch.device) -> int | None:
    """Return how many bytes the device still has, for a CPU what the system and its control group allow; None where
    it does not tell."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0]) + unused_by_torch(device)
    if device.type != "cpu":
        return None
    free = [int(psutil.virtual_memory().available)]
    limit, used = (number_in(CGROUP / name) for name in ("memory.max", "memory.current"))
    if limit is not None and used is not None:
        # Files that the system keeps in memory count as used and go when they are in the way.
        free.append(limit - used + (number_in(CGROUP / "memory.stat", "inactive_file") or 0))
    return max(0, min(free))


def unused_by_torch(device: torch.device) -> int:
    """Return the bytes that torch holds of the device and has given to no tensor."""
    return int(torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))


def number_in(file: Path, field: str | None = None) -> int | None:
    """Return the number in ``file``, or behind ``field`` in one of its lines; None where there is none."""
    try:
        words = file.read_text(encoding="ascii").split()
    except OSError:
        return None
    found = words[words.index(field) + 1] if field in words else words[0] if words and field is None else ""
    return int(found) if found.isdecimal() else None


def token_bytes(layout: tuple[Layout, ...] | None) -> int:
    """Return the bytes that a model keeps of one token."""
    return sum(each.kv_heads * (each.key_dim + each.value_dim) * each.dtype.itemsize for each in layout or ())


def request_bytes(layout: tuple[Layout, ...] | None, config: Any, positions: int) -> int:
    """Return about how many bytes computing ``positions`` new positions takes: their keys and values, and what the
    largest part of the prompt needs besides."""
    text = config.get_text_config(decoder=True)
    inner = getattr(text, "intermediate_size", None) or 4 * text.hidden_size
    inner = max(inner) if isinstance(inner, list | tuple) else inner  # some families name one for each layer
    widths = 6 * text.hidden_size + 3 * inner
    fixed = 4 * int(text.vocab_size)
    return token_bytes(layout) * positions + 4 * min(positions, CHUNK) * int(widths) + fixed


def ensure_room(prefixes: PrefixCache, device: torch.device, needed: int, limit: int | None) -> int | None:
    """Make sure that ``needed`` bytes can be had, letting go of KV that is kept for later requests where that helps.

    Args:
        limit: Most bytes that a request may take; None: what the device has.

    Returns:
        Bytes that can be had besides; None where nobody knows.

    Raises:
        DeviceMemoryExceeded: They cannot.
    """
    free = free_bytes(device)
    usable = None if free is None else int(free * SHARE)
    if usable is not None and usable < needed and (limit is None or needed <= limit):
        usable += prefixes.release(needed - usable)
    bounds = [each for each in (usable, limit) if each is not None]
    if not bounds:
        return None
    if needed > min(bounds):
        raise DeviceMemoryExceeded(needed_bytes=needed, free_bytes=min(bounds), device=str(device))
    return min(bounds) - needed
