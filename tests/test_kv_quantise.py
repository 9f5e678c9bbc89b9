"""Quantised KV stays close to what was given, and is as guarded as raw KV."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memos_core.engine.kv.codec import (
    FORMAT,
    KVBlob,
    as_stored,
    as_token_ids,
    decode,
    encode,
    is_finite,
    read_token_ids,
    seal,
)
from memos_core.engine.kv.form import Form
from memos_core.engine.kv.grid import Grid
from memos_core.engine.kv.quantise import CODECS, GROUP_TOKENS, pack_nibbles, unpack_nibbles
from memos_core.errors import BlobDamaged, InvalidInput
from memos_core.testing.models import payload_of

GRIDS = [name for name, codec in CODECS.items() if isinstance(codec, Grid)]
BY_GROUP = [name for name in CODECS if name not in GRIDS]
"""Codecs whose error in one channel or token does not depend on others; see test_kv_grid.py for the rest."""
APPROXIMATE = [name for name, codec in CODECS.items() if codec.approximate]
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
TYPES = ("full_attention", "sliding_attention")


def make(tokens: int = 12, window: int = 8, dtype: torch.dtype = torch.float32) -> KVBlob:
    random = torch.Generator().manual_seed(tokens)
    held = (tokens, min(tokens, window - 1))
    keys = tuple(torch.randn(2, n, 5, generator=random).to(dtype) for n in held)
    values = tuple(torch.randn(2, n, 3, generator=random).to(dtype) for n in held)
    return KVBlob(as_token_ids(range(100, 100 + tokens)), keys, values, TYPES, "mark")


def one_layer(keys: torch.Tensor, values: torch.Tensor | None = None) -> KVBlob:
    values = keys if values is None else values
    return KVBlob(as_token_ids(range(keys.shape[1])), (keys,), (values,), TYPES[:1], "mark")


def reread(blob: KVBlob, codec: str) -> KVBlob:
    data = encode(blob, codec)
    return decode(data, payload_of(blob, data, codec=codec))


def same(one: KVBlob, other: KVBlob) -> bool:
    pairs = zip((*one.keys, *one.values), (*other.keys, *other.values), strict=True)
    return all(a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs)


def allowed(codec: str, tensor: torch.Tensor, axis: int) -> torch.Tensor:
    """Return the error that each number of ``tensor`` may have, if its scales lie along ``axis``; in float64."""
    exact = tensor.double()
    if codec == "raw":
        return torch.zeros_like(exact)
    peak = exact.abs().amax(axis, keepdim=True)
    # The last term is the rounding of the arithmetic and of the dtype that comes back.
    rounding = torch.finfo(tensor.dtype).eps * peak + 4 * torch.finfo(tensor.dtype).smallest_normal
    if codec == "fp8":
        # Half a step of three bits of mantissa, and of the smallest numbers at the low end.
        return exact.abs() / 16 + peak / 448 * 2**-10 + rounding
    width = exact.amax(axis, keepdim=True) - exact.amin(axis, keepdim=True)
    return width / CODECS[codec].top / 2 * 1.001 + rounding  # type: ignore[attr-defined]


def within_bounds(blob: KVBlob, codec: str) -> bool:
    """Tell whether every number comes back near enough: keys per channel and group, values per token."""
    again = reread(blob, codec)
    fits = [
        ((back.double() - values.double()).abs() <= allowed(codec, values, -1)).all()
        for values, back in zip(blob.values, again.values, strict=True)
    ]
    for keys, back in zip(blob.keys, again.keys, strict=True):
        for group, returned in zip(keys.split(GROUP_TOKENS, 1), back.split(GROUP_TOKENS, 1), strict=True):
            fits.append(((returned.double() - group.double()).abs() <= allowed(codec, group, -2)).all())
    return all(bool(fit) for fit in fits)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("codec", BY_GROUP)
@pytest.mark.parametrize("tokens", [1, 2, 63, 64, 65, 129])
def test_a_round_trip_stays_within_half_a_step(codec: str, tokens: int, dtype: torch.dtype) -> None:
    blob = make(tokens, dtype=dtype)
    again = reread(blob, codec)
    assert [t.shape for t in again.keys + again.values] == [t.shape for t in blob.keys + blob.values]
    assert {t.dtype for t in again.keys + again.values} == {dtype}
    assert again.token_ids.tolist() == blob.token_ids.tolist()
    assert again.layer_types == blob.layer_types
    assert within_bounds(blob, codec)


def numbers(dtype: torch.dtype) -> st.SearchStrategy[float]:
    top = torch.finfo(dtype).max
    few = st.sampled_from([0.0, -0.0, 1.0, -1.0, top, -top, torch.finfo(dtype).smallest_normal, 1e-40])
    return few | st.floats(-10, 10, width=32) | st.floats(-top, top)


@settings(deadline=None)
@given(st.data(), st.sampled_from(BY_GROUP), st.sampled_from(DTYPES))
def test_any_finite_numbers_come_back_finite_and_near(data: st.DataObject, codec: str, dtype: torch.dtype) -> None:
    heads, held, dim = (data.draw(st.integers(1, most)) for most in (2, 5, 5))
    drawn = data.draw(st.lists(numbers(dtype), min_size=heads * held * dim, max_size=heads * held * dim))
    keys = torch.tensor(drawn, dtype=torch.float64).to(dtype).reshape(heads, held, dim)
    blob = one_layer(keys)
    assert is_finite(reread(blob, codec))
    assert within_bounds(blob, codec)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("codec", BY_GROUP)
@pytest.mark.parametrize("number", [0.0, 1.0, -3.140625, 1e-6, 60000.0])
def test_constant_channels_and_tokens_come_back_exactly(codec: str, number: float, dtype: torch.dtype) -> None:
    blob = one_layer(torch.full((2, 70, 6), number, dtype=dtype))
    again = reread(blob, codec)
    if codec == "fp8":  # the peak comes back by a division and a multiplication
        assert torch.allclose(again.keys[0], blob.keys[0], rtol=torch.finfo(dtype).eps, atol=0)
    else:
        assert same(again, blob)


@pytest.mark.parametrize("codec", BY_GROUP[1:])
def test_a_channel_of_huge_keys_leaves_the_others_alone(codec: str) -> None:
    blob = make(128)
    keys = blob.keys[0].clone()
    keys[:, :, 2] *= 1e30
    outlier = KVBlob(blob.token_ids, (keys, blob.keys[1]), blob.values, TYPES, "mark")
    others = [0, 1, 3, 4]
    assert torch.equal(reread(outlier, codec).keys[0][..., others], reread(blob, codec).keys[0][..., others])


@pytest.mark.parametrize("codec", BY_GROUP[1:])
def test_a_huge_token_leaves_values_of_others_and_keys_of_other_groups_alone(codec: str) -> None:
    blob = make(192)
    keys, values = blob.keys[0].clone(), blob.values[0].clone()
    keys[:, 70] *= 1e30
    values[:, 70] *= 1e30
    outlier = KVBlob(blob.token_ids, (keys, blob.keys[1]), (values, blob.values[1]), TYPES, "mark")
    one, other = reread(outlier, codec), reread(blob, codec)
    rest = torch.arange(192) != 70
    assert torch.equal(one.values[0][:, rest], other.values[0][:, rest])
    rest = torch.arange(192) // GROUP_TOKENS != 1
    assert torch.equal(one.keys[0][:, rest], other.keys[0][:, rest])


@settings(deadline=None)
@given(st.integers(1, 200), st.sampled_from(list(CODECS)), st.sampled_from(DTYPES))
def test_what_is_kept_in_memory_is_what_will_be_read(tokens: int, codec: str, dtype: torch.dtype) -> None:
    blob = make(tokens, dtype=dtype)
    assert same(as_stored(blob, codec), reread(blob, codec))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("codec", BY_GROUP)
def test_quantising_twice_changes_nothing(codec: str, dtype: torch.dtype) -> None:
    once = reread(make(100, dtype=dtype), codec)
    assert same(reread(once, codec), once)


@pytest.mark.parametrize("codec", CODECS)
def test_equal_blobs_have_equal_bytes(codec: str) -> None:
    assert encode(make(), codec) == encode(make(), codec)


def test_raw_blobs_are_written_as_they_always_were() -> None:
    known = "529e175b855df4cc67397dbcbdd05ec0cf25d7f2b6ef72a9ef6ddc3d7a2f7433"
    assert hashlib.sha256(encode(make_raw())).hexdigest() == known


def make_raw() -> KVBlob:
    tensor = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4) / 8
    return one_layer(tensor, -tensor)


@settings(deadline=None)
@given(st.lists(st.integers(0, 15), min_size=1, max_size=40), st.integers(1, 3))
def test_nibbles_come_back(codes: list[int], rows: int) -> None:
    tensor = torch.tensor([codes] * rows, dtype=torch.uint8)
    packed = pack_nibbles(tensor)
    assert packed.shape == (rows, (len(codes) + 1) // 2)
    assert packed.dtype == torch.uint8
    assert torch.equal(unpack_nibbles(packed, len(codes)), tensor)


@pytest.mark.parametrize("codec", BY_GROUP)
def test_a_codec_writes_what_it_says(codec: str) -> None:
    blob = make(70)
    keys, values = blob.keys[0], blob.values[0]
    packed = CODECS[codec].pack(keys, values)
    layout = CODECS[codec].layout(Form.of(keys, values))
    assert {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in packed.items()} == layout
    assert set(layout) == set(CODECS[codec].parts)
    assert CODECS[codec].name == codec


@pytest.mark.parametrize(("codec", "least"), [("int8", 1.7), ("fp8", 1.8), ("int4", 3.1)])
def test_bfloat16_shrinks(codec: str, least: float) -> None:
    blob = one_layer(torch.randn(4, 1024, 64).bfloat16())
    assert len(encode(blob)) / len(encode(blob, codec)) > least


# What is damaged is refused, whatever the codec.


@cache
def sample(codec: str) -> tuple[KVBlob, bytes]:
    data = encode(make(), codec)
    return decode(data, payload_of(make(), data, codec=codec)), data


def header_of(data: bytes) -> tuple[dict[str, Any], int]:
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), 8 + length


@pytest.mark.parametrize("codec", CODECS)
def test_a_changed_byte_in_any_tensor_is_refused(codec: str) -> None:
    blob, original = sample(codec)
    header, base = header_of(original)
    del header["__metadata__"]
    assert len(header) == 1 + 2 * len(CODECS[codec].parts)
    for name, entry in header.items():
        start, end = entry["data_offsets"]
        for position in {start, end - 1} if end > start else ():  # a plane that no column has is empty
            changed = bytearray(original)
            changed[base + position] ^= 0x10
            with pytest.raises(BlobDamaged, match=name if name != "token_ids" else "token"):
                decode(bytes(changed), payload_of(blob, original, codec=codec))


@settings(deadline=None)
@given(st.data(), st.sampled_from(APPROXIMATE))
def test_no_flipped_bit_is_ever_served(data: st.DataObject, codec: str) -> None:
    blob, original = sample(codec)
    changed = bytearray(original)
    changed[data.draw(st.integers(0, len(original) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        assert same(decode(bytes(changed), payload_of(blob, original, codec=codec)), blob)
    except BlobDamaged:
        return


@pytest.mark.parametrize("codec", APPROXIMATE)
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_truncated_blob_is_refused(codec: str, share: float) -> None:
    original = sample(codec)[1]
    with pytest.raises(BlobDamaged):
        decode(original[: int(len(original) * share)], payload_of(make(), original, codec=codec))


@pytest.mark.parametrize("claimed", [*CODECS, "int2", ""])
@pytest.mark.parametrize("codec", CODECS)
def test_a_blob_of_another_codec_than_recorded_is_refused(codec: str, claimed: str) -> None:
    blob, data = sample(codec)
    payload = payload_of(blob, data, codec=claimed)
    if codec != claimed:
        for read in (decode, read_token_ids):
            with pytest.raises(BlobDamaged):
                read(data, payload)


def forged(codec: str, changes: dict[str, object]) -> bytes:
    """Return a blob whose record was rewritten with a matching digest, as a forger would."""
    original = sample(codec)[1]
    record = json.loads(header_of(original)[0]["__metadata__"][FORMAT][64:]) | changes
    return safetensors.torch.save(safetensors.torch.load(original), {FORMAT: seal(record)})


LAYER = {"dtype": "float32", "keys": [2, 12, 5], "values": [2, 12, 3]}


@pytest.mark.parametrize("codec", APPROXIMATE)
@pytest.mark.parametrize(
    "forms",
    [
        None,
        [],
        [LAYER],
        "ab",
        [1, 2],
        [LAYER, {**LAYER, "keys": [2, 7]}],
        [LAYER, {**LAYER, "keys": [2, 7, -5]}],
        [LAYER, {**LAYER, "keys": [2, 10**15, 5]}],
        [LAYER, {**LAYER, "keys": "abc"}],
        [LAYER, {**LAYER, "dtype": "bfloat16"}],
        [LAYER, {**LAYER, "dtype": "int8"}],
        [LAYER, {**LAYER, "dtype": ["float32"]}],
        [LAYER, LAYER],
        [LAYER, {"dtype": "float32"}],
    ],
)
def test_a_forged_form_is_refused(codec: str, forms: object) -> None:
    honest = forged(codec, {})
    assert same(decode(honest, payload_of(make(), honest, codec=codec)), sample(codec)[0])
    data = forged(codec, {"forms": forms})
    with pytest.raises(BlobDamaged):
        decode(data, payload_of(make(), data, codec=codec))


def test_a_codec_of_a_later_version_is_refused_by_name() -> None:
    data = forged("int8", {"codec": "int2"})
    with pytest.raises(BlobDamaged, match="int2"):
        decode(data, payload_of(make(), data, codec="int2"))


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("side", ["keys", "values"])
def test_what_is_not_finite_is_refused_and_raw_keeps_it(number: float, side: str) -> None:
    blob = make()
    getattr(blob, side)[1][0, 0, 0] = number
    assert not is_finite(blob)
    for codec in APPROXIMATE:
        for write in (encode, as_stored):
            with pytest.raises(InvalidInput, match=codec):
                write(blob, codec)
    back = getattr(reread(blob, "raw"), side)[1]
    assert torch.equal(back.nan_to_num(7.0), getattr(blob, side)[1].nan_to_num(7.0))
