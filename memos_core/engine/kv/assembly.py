"""One prompt prefix out of KV that was stored for each memory alone.

The first stored chain serves as it is, exactly. Each further memory that has a chain of its own takes its keys and
values from there, moved to the new place; tokens that no chain covers are computed. The result is approximate: a memory
stored alone has not seen the ones before it. Blending computes the tokens anew that this harms most.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache

from memos_core.engine.kv.blend import ScatterCache, choose, probe, recompute
from memos_core.engine.kv.codec import KVBlob
from memos_core.engine.kv.rope import Rotation

__all__ = ["Chunk", "Method", "Recipe", "assemble"]


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a stored chain, and where it goes.

    Attributes:
        cube_id: The cube of the chain.
        blob: The chain.
        source: First position taken from it.
        start: Where that comes to stand in the prompt.
        length: Positions taken.
        tier: Where its tensors lay.
    """

    cube_id: str
    blob: KVBlob
    source: int
    start: int
    length: int
    tier: str = ""

    @property
    def stop(self) -> int:
        return self.start + self.length


@dataclass(frozen=True, slots=True)
class Method:
    """How chunks are used.

    Attributes:
        name: ``shift``: as they are; ``blend``: with tokens computed anew.
        ratio: Share of the tokens of chunks that is computed anew in every layer.
        check_layer: Layer up to which all tokens are computed and at which those are chosen; None: no such pass.
    """

    name: str
    ratio: float = 0.0
    check_layer: int | None = None


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a prompt prefix is put together from.

    Attributes:
        prefix: The chain that it begins with.
        length: Positions taken from that, exact.
        chunks: Further parts, ascending, none overlapping, all behind ``length``.
        method: How they are used.
        rotation: How keys are moved.
    """

    prefix: KVBlob
    length: int
    chunks: tuple[Chunk, ...]
    method: Method
    rotation: Rotation

    @property
    def tokens(self) -> int:
        """Positions from the start of the prompt to the end of the last chunk."""
        return self.chunks[-1].stop

    @property
    def kept(self) -> int:
        """Positions behind the exact prefix whose keys and values stay the stored ones."""
        moved = sum(chunk.length for chunk in self.chunks)
        return moved - math.ceil(self.method.ratio * moved)


def assemble(model: Any, recipe: Recipe, token_ids: Sequence[int]) -> Generator[str, None, DynamicCache]:
    """Put the prefix together, with an empty yield after each part that is computed.

    Args:
        token_ids: Of the prompt, at least ``recipe.tokens`` of them.

    Returns:
        A cache of ``recipe.tokens`` positions with tensors of its own. It is approximate: never to be stored.
    """
    ids = torch.tensor(token_ids[: recipe.tokens], device=model.device)
    cache = ScatterCache(moved_keys(recipe), moved_values(recipe))
    behind = torch.arange(recipe.length, recipe.tokens, device=model.device)
    stored = stored_positions(recipe).to(model.device)
    missing = behind[~torch.isin(behind, stored)]
    if recipe.method.check_layer is not None:
        deviation = yield from probe(model, cache, ids, recipe.length, recipe.method.check_layer)
        chosen = choose(deviation[stored - recipe.length], stored, recipe.method.ratio)
        missing = torch.cat([missing, chosen]).sort().values
    yield from recompute(model, cache, ids, missing)
    return cache.plain(model.config)


def stored_positions(recipe: Recipe) -> torch.Tensor:
    """Return the positions that chunks fill, ascending; ``[positions]``."""
    return torch.cat([torch.arange(chunk.start, chunk.stop) for chunk in recipe.chunks])


def moved_keys(recipe: Recipe) -> list[torch.Tensor]:
    """Return new keys for each layer, ``[1, kv_heads, tokens, head_dim]``; zero where no chain has any."""
    whole = [blank(keys, recipe) for keys in recipe.prefix.keys]
    for chunk in recipe.chunks:
        parts = [keys[:, chunk.source : chunk.source + chunk.length] for keys in chunk.blob.keys]
        for keys, moved in zip(whole, recipe.rotation.shift(parts, chunk.start - chunk.source), strict=True):
            keys[0, :, chunk.start : chunk.stop] = moved
    return whole


def moved_values(recipe: Recipe) -> list[torch.Tensor]:
    """Return new values for each layer, likewise."""
    whole = [blank(values, recipe) for values in recipe.prefix.values]
    for chunk in recipe.chunks:
        for values, stored in zip(whole, chunk.blob.values, strict=True):
            values[0, :, chunk.start : chunk.stop] = stored[:, chunk.source : chunk.source + chunk.length]
    return whole


def blank(prefix: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    """Return a new tensor for all positions that holds those of the exact prefix, ``[kv_heads, held, head_dim]``."""
    made = prefix.new_zeros(1, prefix.shape[0], recipe.tokens, prefix.shape[2])
    made[0, :, : recipe.length] = prefix[:, : recipe.length]
    return made
