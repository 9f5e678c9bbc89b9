"""Cartridges: a few trained positions of keys and values that stand for a whole memory prefix (arXiv 2506.06266).

    token_ids        int32   [tokens]                       the prefix that it stands for
    layers.0.keys    float   [kv_heads, slots, head_dim]    slots < tokens
    layers.0.values  float   [kv_heads, slots, head_dim]
    ...

A cartridge answers much like the prefix and is not its KV. So it has a fingerprint of its own, under which nothing that
looks for KV ever finds it, and a codec name and file format of its own. Its slots stand at the positions 0 to
``slots - 1``, and what follows goes on from ``slots``: the question is nearer to the memory than it is in the text,
which is what it was trained with, and all that a cache of that length does by itself.
"""

from __future__ import annotations

import hashlib
from typing import Any

import safetensors.torch
import torch

from memos_core.cube import ActivationPayload
from memos_core.engine.kv.cache import Layout, layer_types
from memos_core.engine.kv.codec import (
    KVBlob,
    as_token_ids,
    checksum,
    parse_record,
    seal,
    token_digest,
)
from memos_core.engine.tensors import load_tensors, split_header
from memos_core.errors import BlobDamaged

__all__ = ["CODEC", "FORMAT", "cartridge_fingerprint", "decode_cartridge", "encode_cartridge", "obstacle", "slots_of"]

FORMAT = "memos-cartridge/1"
CODEC = "cartridge"


def cartridge_fingerprint(fingerprint: str) -> str:
    """Return the fingerprint of cartridges for a model whose exact KV has ``fingerprint``."""
    return hashlib.sha256(f"{FORMAT} {fingerprint}".encode()).hexdigest()


def slots_of(blob: KVBlob) -> int:
    """Return how many positions a cartridge takes in a cache."""
    return int(blob.keys[0].shape[1])


def obstacle(config: Any) -> str | None:
    """Return why a model with this configuration can have no cartridges, or None if it can."""
    windowed = sorted(set(layer_types(config)) - {"full_attention"})
    return f"it has layers of type {', '.join(windowed)}, in which slots would slide away" if windowed else None


def encode_cartridge(blob: KVBlob) -> bytes:
    """Return a cartridge as safetensors bytes. Copies the tensors to the CPU."""
    tensors = {"token_ids": torch.from_numpy(blob.token_ids.copy())}
    for index, (keys, values) in enumerate(zip(blob.keys, blob.values, strict=True)):
        tensors[f"layers.{index}.keys"] = keys.detach().cpu().contiguous()
        tensors[f"layers.{index}.values"] = values.detach().cpu().contiguous()
    record = {
        "fingerprint": blob.fingerprint,
        "token_digest": token_digest(blob.token_ids),
        "tokens": blob.tokens,
        "layer_types": blob.layer_types,
        "checksums": {name: checksum(tensor) for name, tensor in tensors.items()},
    }
    data: bytes = safetensors.torch.save(tensors, {FORMAT: seal(record)})
    return data


def decode_cartridge(data: bytes | bytearray, payload: ActivationPayload, layout: tuple[Layout, ...]) -> KVBlob:
    """Return the cartridge that ``payload`` speaks of, after checking that it is just that and fits the model.

    Args:
        layout: What each layer of the model keeps of a token.

    Raises:
        BlobDamaged: Format, fingerprint, token ids, shapes or checksums differ.
    """
    address = payload.blob.address
    try:
        header, _ = split_header(data)
        record = parse_record(header["__metadata__"], FORMAT)
        tensors = load_tensors(data)
        indices = range(len(record["layer_types"]))
        keys = tuple(tensors[f"layers.{index}.keys"] for index in indices)
        values = tuple(tensors[f"layers.{index}.values"] for index in indices)
        ids = as_token_ids(tensors["token_ids"].tolist())
    except (ValueError, KeyError, TypeError, RuntimeError, RecursionError) as error:
        raise BlobDamaged(address, f"this is no cartridge: {error}") from error
    if record["checksums"] != {name: checksum(tensor) for name, tensor in tensors.items()}:
        raise BlobDamaged(address, "a tensor does not match its checksum")
    told = (record["fingerprint"], record["token_digest"], record["tokens"])
    if told != (payload.fingerprint, payload.token_digest, payload.token_count) or token_digest(ids) != told[1]:
        raise BlobDamaged(address, "it is a cartridge of other memories or for another model")
    slots = keys[0].shape[1] if keys and keys[0].dim() == 3 else 0
    fitting = len(keys) == len(layout) and all(
        layer.fits(k, v, slots) for layer, k, v in zip(layout, keys, values, strict=True)
    )
    if not fitting or not 0 < slots <= len(ids):
        raise BlobDamaged(address, "its tensors are not of the shapes that this model makes")
    return KVBlob(ids, keys, values, tuple(record["layer_types"]), payload.fingerprint)
