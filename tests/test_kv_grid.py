"""KV on a grid: every number within half a step, bits where the range is, and nothing served that does not fit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memos_core.engine.kv.codec import KVBlob, as_token_ids, decode, encode, is_finite
from memos_core.engine.kv.form import Form
from memos_core.engine.kv.grid import MAX_WIDTH, Grid, bit_length, fold, group_length, unfold
from memos_core.engine.kv.quantise import CODECS
from memos_core.testing.models import payload_of

GRIDS = {name: codec for name, codec in CODECS.items() if isinstance(codec, Grid)}
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def keys_of(tokens: int, dtype: torch.dtype = torch.float32, heads: int = 2, dim: int = 6) -> torch.Tensor:
    drawn = torch.randn(heads, tokens, dim, generator=torch.Generator().manual_seed(tokens))
    return (drawn * torch.tensor([0.0, 0.01, 1.0, 1.0, 4.0, 20.0])[:dim]).to(dtype)


def round_trip(codec: Grid, keys: torch.Tensor, values: torch.Tensor | None = None) -> tuple[torch.Tensor, float]:
    """Return the keys as they come back, and the step."""
    values = keys if values is None else values
    stored, form = codec.pack(keys, values), Form.of(keys, values)
    assert codec.misfit(stored, form) is None
    back, _ = codec.unpack(stored, form)
    assert back.shape == keys.shape
    assert back.dtype == keys.dtype
    return back, float(stored["keys.step"])


def error(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one.double() - other.double()).abs().max())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("tokens", [1, 2, 8, 63, 64, 65, 97, 129])
def test_every_number_comes_back_within_half_a_step(name: str, tokens: int, dtype: torch.dtype) -> None:
    keys = keys_of(tokens, dtype)
    back, step = round_trip(GRIDS[name], keys)
    assert error(back, keys) <= step / 2 + torch.finfo(dtype).eps * float(keys.abs().max())


def numbers(dtype: torch.dtype) -> st.SearchStrategy[float]:
    top = torch.finfo(dtype).max
    few = st.sampled_from([0.0, -0.0, 1.0, -1.0, top, -top, torch.finfo(dtype).smallest_normal, 1e-40])
    return few | st.floats(-10, 10, width=32) | st.floats(-top, top)


@settings(deadline=None)
@given(st.data(), st.sampled_from(list(GRIDS)), st.sampled_from(DTYPES))
def test_any_finite_numbers_come_back_finite_and_near(data: st.DataObject, name: str, dtype: torch.dtype) -> None:
    heads, held, dim = (data.draw(st.integers(1, most)) for most in (2, 5, 5))
    drawn = data.draw(st.lists(numbers(dtype), min_size=heads * held * dim, max_size=heads * held * dim))
    keys = torch.tensor(drawn, dtype=torch.float64).to(dtype).reshape(heads, held, dim)
    back, step = round_trip(GRIDS[name], keys)
    assert torch.isfinite(back).all()
    rounding = torch.finfo(dtype).eps * float(keys.abs().double().max()) + 4 * torch.finfo(dtype).smallest_normal
    assert error(back, keys) <= step / 2 * 1.001 + rounding


def test_a_channel_that_does_not_move_takes_no_bits_and_the_widest_takes_most() -> None:
    keys = keys_of(640)
    widths = GRIDS["grid8"].pack(keys, keys)["keys.widths"].double().mean(dim=(0, 1))
    assert widths[0] == 0
    assert widths[1] < widths[2] < widths[4] < widths[5]
    assert 7.5 < float(widths.mean()) <= 8


def test_for_as_many_bytes_keys_of_unlike_channels_are_nearer_than_with_eight_bits_each() -> None:
    keys = keys_of(640)
    as_bytes = KVBlob(as_token_ids(range(640)), (keys,), (keys,), ("full_attention",), "mark")
    spread = {}
    for name in ("int8", "grid8"):
        data = encode(as_bytes, name)
        back = decode(data, payload_of(as_bytes, data, codec=name)).keys[0]
        spread[name] = len(data), float((back - keys).square().mean())
    assert spread["grid8"][0] < spread["int8"][0]
    assert spread["grid8"][1] < spread["int8"][1] / 4


@pytest.mark.parametrize("name", GRIDS)
def test_numbers_that_are_on_the_grid_stay_there(name: str) -> None:
    codec = GRIDS[name]
    once, step = round_trip(codec, keys_of(100))
    again, finer = round_trip(codec, once)
    assert finer <= step
    assert error(again, once) <= finer / 2
    if finer == step:
        assert torch.equal(again, once)


@pytest.mark.parametrize("number", [0.0, 1.0, -3.140625, 1e-6, 60000.0])
def test_constant_numbers_come_back_within_their_own_rounding(number: float) -> None:
    keys = torch.full((2, 70, 6), number)
    back, _ = round_trip(GRIDS["grid5"], keys)
    assert torch.allclose(back, keys, rtol=2**-14, atol=0)


@settings(deadline=None)
@given(st.integers(1, 5000))
def test_groups_are_whole_bytes_and_leave_little_room_empty(held: int) -> None:
    length = group_length(held)
    groups = -(-held // length)
    assert length % 8 == 0
    assert groups * length < held + 8 * groups + 8


@settings(deadline=None)
@given(st.lists(st.integers(0, MAX_WIDTH), min_size=1, max_size=12), st.integers(0, 2**31))
def test_codes_of_any_widths_come_back_from_their_planes(widths: list[int], seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    tops = torch.tensor([2**width for width in widths])[:, None]
    codes = (torch.rand(len(widths), 16, generator=random) * tops).int().clamp_(max=tops.int() - 1)
    kept = torch.tensor(widths, dtype=torch.uint8)
    back = torch.zeros_like(codes, dtype=torch.int16)
    for plane in (8, 4, 2, 1):
        chosen = kept.int() & plane != 0
        shift = (kept.int()[chosen] & -2 * plane).to(torch.int16)[:, None]
        back[chosen] |= unfold(fold(codes, kept, plane), plane, 16) << shift
    assert torch.equal(back.int(), codes)


def test_bit_lengths() -> None:
    assert bit_length(torch.tensor([0, 1, 2, 3, 4, 255, 256, 2**15 - 1])).tolist() == [0, 1, 2, 2, 3, 8, 9, 15]


def forged(part: str, change: Any) -> tuple[dict[str, torch.Tensor], Form]:
    keys = keys_of(70)
    stored = GRIDS["grid6"].pack(keys, keys)
    return stored | {part: change(stored[part])}, Form.of(keys, keys)


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("keys.widths", lambda tensor: tensor + 20),
        ("keys.widths", lambda tensor: tensor[:, :, 1:]),
        ("values.widths", lambda tensor: tensor.flip(2) ^ 1),
        ("values.step", lambda tensor: tensor * 0),
        ("values.step", lambda tensor: tensor * float("inf")),
        ("values.step", lambda tensor: tensor.float()),
        ("keys.base", lambda tensor: tensor.float()),
        ("keys.base", lambda tensor: tensor[:1]),
        ("keys.plane4", lambda tensor: tensor[:-1]),
    ],
)
def test_parts_that_do_not_fit_each_other_are_told(part: str, change: Any) -> None:
    stored, form = forged(part, change)
    assert GRIDS["grid6"].misfit(stored, form) is not None


def test_a_kept_cache_stays_finite_at_the_ends_of_the_dtype() -> None:
    top = torch.finfo(torch.float16).max
    keys = torch.tensor([[[top, -top, 1.0]] * 9], dtype=torch.float16)
    blob = KVBlob(as_token_ids(range(9)), (keys,), (keys,), ("full_attention",), "mark")
    data = encode(blob, "grid5")
    assert is_finite(decode(data, payload_of(blob, data, codec="grid5")))
