"""Tensors that are views of one buffer are those that safetensors gives, and what it refuses is refused."""

from __future__ import annotations

import json

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from memos_core.engine.tensors import load_tensors


def sample(dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(1)
    shapes = {"a": (3, 5), "b": (8, 1), "c": (2, 3, 4), "d": (7,), "e": (0, 4)}
    return {name: torch.randn(shape, generator=random).to(dtype) for name, shape in shapes.items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_they_are_the_tensors_of_the_file(dtype: torch.dtype) -> None:
    expected = sample(dtype)
    found = load_tensors(safetensors.torch.save(expected))
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == dtype
        assert found[name].is_contiguous()
        assert torch.equal(found[name], tensor)


def test_of_several_dtypes_and_of_none_they_are_too() -> None:
    mixed = {"a": torch.ones(3), "b": torch.ones(3, dtype=torch.bfloat16)}
    assert all(torch.equal(load_tensors(safetensors.torch.save(mixed))[name], mixed[name]) for name in mixed)
    assert load_tensors(safetensors.torch.save({})) == {}
    empty = {"a": torch.empty(0, 4)}
    assert load_tensors(safetensors.torch.save(empty))["a"].shape == (0, 4)


def test_writing_to_one_changes_neither_the_bytes_nor_another() -> None:
    data = safetensors.torch.save(sample())
    before = bytes(data)
    found = load_tensors(data)
    found["a"].zero_()
    assert data == before
    assert torch.equal(found["b"], sample()["b"])


def test_of_a_buffer_that_is_the_callers_own_they_are_views() -> None:
    data = bytearray(safetensors.torch.save({**sample(), "codes": torch.arange(5, dtype=torch.uint8)}))
    whole = torch.frombuffer(data, dtype=torch.uint8)
    found = load_tensors(data)
    assert {each.untyped_storage().data_ptr() for each in found.values()} == {whole.data_ptr()}
    assert torch.equal(found["b"], sample()["b"])
    assert found["codes"].tolist() == [0, 1, 2, 3, 4]


def test_a_tensor_that_lies_askew_is_copied() -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    header += b" " * (-len(header) % 8 + 1)
    data = bytearray(len(header).to_bytes(8, "little") + header + torch.ones(2).numpy().tobytes())
    assert load_tensors(data)["a"].tolist() == [1.0, 1.0]


@given(st.integers(0, 2**31), st.integers(0, 7))
def test_a_flipped_bit_gives_what_safetensors_gives_or_an_error(place: int, bit: int) -> None:
    data = bytearray(safetensors.torch.save(sample()))
    data[place % len(data)] ^= 1 << bit
    try:
        expected = safetensors.torch.load(bytes(data))
    except Exception:  # noqa: BLE001 - whatever it raises, ours must not return
        with pytest.raises((ValueError, KeyError, TypeError, RuntimeError, safetensors.SafetensorError)):
            load_tensors(bytes(data))
        return
    try:
        found = load_tensors(bytes(data))
    except (ValueError, KeyError, TypeError, RuntimeError, safetensors.SafetensorError):
        return  # stricter is fine
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name].nan_to_num(), expected[name].nan_to_num()) for name in expected)


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [3, 6]},
        {"shape": [-3, -5]},
        {"shape": [True, 15]},
        {"data_offsets": [4, 64]},
        {"data_offsets": [0, 10**9]},
        {"data_offsets": [0]},
    ],
)
def test_a_forged_header_is_refused(change: dict[str, object]) -> None:
    data = safetensors.torch.save({"a": torch.ones(3, 5)})
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["a"] |= change
    told = json.dumps(header).encode()
    forged = len(told).to_bytes(8, "little") + told + data[8 + length :]
    with pytest.raises((ValueError, KeyError, TypeError)):
        load_tensors(forged)
