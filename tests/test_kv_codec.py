"""A blob is exactly what was stored, or it is refused."""

from __future__ import annotations

import json
from functools import cache

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from memos_core.engine.kv.codec import FORMAT, KVBlob, as_token_ids, decode, encode, read_token_ids, seal, token_digest
from memos_core.errors import BlobDamaged
from memos_core.testing.models import payload_of

TYPES = ("full_attention", "sliding_attention")


def make(tokens: int = 12, window: int = 8) -> KVBlob:
    random = torch.Generator().manual_seed(tokens)
    held = (tokens, min(tokens, window - 1))
    keys, values = (tuple(torch.randn(2, n, 4, generator=random) for n in held) for _ in range(2))
    return KVBlob(as_token_ids(range(100, 100 + tokens)), keys, values, TYPES, "mark")


@cache
def sample() -> tuple[KVBlob, bytes]:
    blob = make()
    return blob, encode(blob)


def same(one: KVBlob, other: KVBlob) -> bool:
    tensors = zip((*one.keys, *one.values), (*other.keys, *other.values), strict=True)
    return (
        np.array_equal(one.token_ids, other.token_ids)
        and one.layer_types == other.layer_types
        and all(a.dtype == b.dtype and torch.equal(a, b) for a, b in tensors)
    )


def refused(data: bytes) -> bool:
    """Tell whether ``data`` in the place of the sample is refused; what is not must be the sample itself."""
    blob, original = sample()
    try:
        return not same(decode(data, payload_of(blob, original)), blob)
    except BlobDamaged:
        return True


@given(st.integers(1, 40), st.integers(2, 50))
def test_a_round_trip_is_bit_exact(tokens: int, window: int) -> None:
    blob = make(tokens, window)
    data = encode(blob)
    assert same(decode(data, payload_of(blob, data)), blob)
    assert np.array_equal(read_token_ids(data, payload_of(blob, data)), blob.token_ids)


def test_equal_blobs_have_equal_bytes() -> None:
    assert encode(make()) == encode(make())


@given(st.data())
def test_no_flipped_bit_is_ever_served(data: st.DataObject) -> None:
    blob, original = sample()
    position = data.draw(st.integers(0, len(original) - 1))
    changed = bytearray(original)
    changed[position] ^= 1 << data.draw(st.integers(0, 7))
    try:
        decoded = decode(bytes(changed), payload_of(blob, original))
    except BlobDamaged:
        return
    assert same(decoded, blob)


@pytest.mark.parametrize("region", ["length", "header", "token_ids", "keys", "values"])
def test_damage_in_each_region_is_refused(region: str) -> None:
    _, original = sample()
    length = int.from_bytes(original[:8], "little")
    header = json.loads(original[8 : 8 + length])
    names = {"token_ids": "token_ids", "keys": "layers.1.keys", "values": "layers.0.values"}
    where = {"length": 1, "header": 8 + original[8:].index(b"fingerprint")}
    if region in names:
        where[region] = 8 + length + header[names[region]]["data_offsets"][0] + 1
    changed = bytearray(original)
    changed[where[region]] ^= 0x15
    assert refused(bytes(changed))


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.99, 0.9999])
def test_a_truncated_blob_is_refused(share: float) -> None:
    _, original = sample()
    assert refused(original[: int(len(original) * share)])


@pytest.mark.parametrize("data", [b"", b"{}", b"\0" * 64, b"\xff" * 64, (50).to_bytes(8, "little") + b"[" * 200])
def test_what_is_no_blob_at_all_is_refused(data: bytes) -> None:
    assert refused(data)


def test_deep_nesting_is_refused() -> None:
    assert refused((200_000).to_bytes(8, "little") + b"[" * 200_000)


@pytest.mark.parametrize(
    ("field", "value"),
    [("fingerprint", "other"), ("token_digest", "0" * 64), ("token_count", 11), ("codec", "int8")],
)
def test_a_blob_that_is_not_the_one_recorded_is_refused(field: str, value: object) -> None:
    blob, data = sample()
    payload = payload_of(blob, data).model_copy(update={field: value})
    with pytest.raises(BlobDamaged):
        decode(data, payload)
    with pytest.raises(BlobDamaged):
        read_token_ids(data, payload)


def forged(tensors: dict[str, torch.Tensor] | None = None, **changes: object) -> bytes:
    """Return a blob whose record (and tensors) were rewritten with a matching digest, as a forger would."""
    _, original = sample()
    length = int.from_bytes(original[:8], "little")
    sealed = json.loads(original[8 : 8 + length])["__metadata__"][FORMAT]
    record = {**json.loads(sealed[64:]), **changes}
    kept = {key: value for key, value in record.items() if value is not None}
    return safetensors.torch.save(tensors or safetensors.torch.load(original), {FORMAT: seal(kept)})


@pytest.mark.parametrize(
    "changes",
    [
        {"layer_types": ["full_attention", "full_attention"]},
        {"layer_types": ["full_attention"]},
        {"layer_types": None},
        {"checksums": {}},
        {"checksums": None},
        {"tokens": 13},
        {"tokens": "12"},
        {"fingerprint": "another"},
    ],
)
def test_a_forged_record_is_refused(changes: dict[str, object]) -> None:
    assert refused(forged(**changes))


def test_other_token_ids_under_a_forged_digest_are_refused() -> None:
    _, original = sample()
    tensors = safetensors.torch.load(original)
    tensors["token_ids"] = tensors["token_ids"] + 1
    ids = as_token_ids(tensors["token_ids"].tolist())
    assert refused(forged(tensors, token_digest=token_digest(ids)))
