"""Quantised KV stays close to what was given, is as guarded as raw KV, and serves requests like it."""

from __future__ import annotations

import hashlib
import json
import runpy
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest
import safetensors.torch
import torch
from engine_parts import ask, cubes, engine
from hypothesis import given
from hypothesis import strategies as st

from memos_core import MemOS
from memos_core.engine import HFEngine
from memos_core.engine.hf import KVCodec
from memos_core.engine.kv.cache import container, layer_types, new_cache, snapshot
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
from memos_core.engine.kv.quantise import CODECS, GROUP_TOKENS, Form, pack_nibbles, unpack_nibbles
from memos_core.errors import BlobDamaged, InjectionUnavailable, InvalidInput
from memos_core.records import Placement, Reply
from memos_core.render import render_block
from memos_core.testing import HashEmbedder
from memos_core.testing.models import DictActivations, payload_of, tiny_model

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
@pytest.mark.parametrize("codec", CODECS)
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


@given(st.data(), st.sampled_from(list(CODECS)), st.sampled_from(DTYPES))
def test_any_finite_numbers_come_back_finite_and_near(data: st.DataObject, codec: str, dtype: torch.dtype) -> None:
    heads, held, dim = (data.draw(st.integers(1, most)) for most in (2, 5, 5))
    drawn = data.draw(st.lists(numbers(dtype), min_size=heads * held * dim, max_size=heads * held * dim))
    keys = torch.tensor(drawn, dtype=torch.float64).to(dtype).reshape(heads, held, dim)
    blob = one_layer(keys)
    assert is_finite(reread(blob, codec))
    assert within_bounds(blob, codec)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("number", [0.0, 1.0, -3.140625, 1e-6, 60000.0])
def test_constant_channels_and_tokens_come_back_exactly(codec: str, number: float, dtype: torch.dtype) -> None:
    blob = one_layer(torch.full((2, 70, 6), number, dtype=dtype))
    again = reread(blob, codec)
    if codec == "fp8":  # the peak comes back by a division and a multiplication
        assert torch.allclose(again.keys[0], blob.keys[0], rtol=torch.finfo(dtype).eps, atol=0)
    else:
        assert same(again, blob)


@pytest.mark.parametrize("codec", APPROXIMATE)
def test_a_channel_of_huge_keys_leaves_the_others_alone(codec: str) -> None:
    blob = make(128)
    keys = blob.keys[0].clone()
    keys[:, :, 2] *= 1e30
    outlier = KVBlob(blob.token_ids, (keys, blob.keys[1]), blob.values, TYPES, "mark")
    others = [0, 1, 3, 4]
    assert torch.equal(reread(outlier, codec).keys[0][..., others], reread(blob, codec).keys[0][..., others])


@pytest.mark.parametrize("codec", APPROXIMATE)
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


@given(st.integers(1, 200), st.sampled_from(list(CODECS)), st.sampled_from(DTYPES))
def test_what_is_kept_in_memory_is_what_will_be_read(tokens: int, codec: str, dtype: torch.dtype) -> None:
    blob = make(tokens, dtype=dtype)
    assert same(as_stored(blob, codec), reread(blob, codec))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("codec", CODECS)
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


@given(st.lists(st.integers(0, 15), min_size=1, max_size=40), st.integers(1, 3))
def test_nibbles_come_back(codes: list[int], rows: int) -> None:
    tensor = torch.tensor([codes] * rows, dtype=torch.uint8)
    packed = pack_nibbles(tensor)
    assert packed.shape == (rows, (len(codes) + 1) // 2)
    assert packed.dtype == torch.uint8
    assert torch.equal(unpack_nibbles(packed, len(codes)), tensor)


@pytest.mark.parametrize("codec", CODECS)
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
        for position in (entry["data_offsets"][0], entry["data_offsets"][1] - 1):
            changed = bytearray(original)
            changed[base + position] ^= 0x10
            with pytest.raises(BlobDamaged, match=name if name != "token_ids" else "token"):
                decode(bytes(changed), payload_of(blob, original, codec=codec))


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


# A model reads on from quantised KV.


@torch.inference_mode()
def divergence(family: str, codec: str, tokens: int) -> float:
    """Return the mean KL(raw || codec) of the next token over 16 positions, in nats."""
    model, tokenizer = tiny_model(family)
    ids = torch.randint(3, len(tokenizer), (tokens + 16,), generator=torch.Generator().manual_seed(5)).tolist()
    cache = new_cache(model.config)
    model(input_ids=torch.tensor([ids[:tokens]]), past_key_values=cache, use_cache=True)
    blob = snapshot(cache, as_token_ids(ids[:tokens]), "mark", layer_types(model.config))
    assert blob is not None
    rest = torch.tensor([ids[tokens:]])
    raw, other = (
        model(input_ids=rest, past_key_values=container(model.config, each, tokens)).logits[0].log_softmax(-1)
        for each in (blob, reread(blob, codec))
    )
    return float((raw.exp() * (raw - other)).sum(-1).mean())


@pytest.mark.parametrize("tokens", [9, 48, 130])
@pytest.mark.parametrize("family", ["llama", "qwen3", "mistral", "gpt_neox", "gemma3"])
def test_the_next_token_hardly_moves(family: str, tokens: int) -> None:
    moved = {codec: divergence(family, codec, tokens) for codec in CODECS}
    assert moved["raw"] == 0
    assert abs(moved["int8"]) < 1e-3
    assert moved["fp8"] < 2e-2
    assert moved["int4"] < 2e-1


# Requests.


def runner_of(codec: Any, family: str = "llama", **overrides: Any) -> HFEngine:
    return HFEngine.from_model(*tiny_model(family, **overrides), name=family, kv_codec=codec)


@pytest.mark.parametrize("family", ["llama", "mistral"])
@pytest.mark.parametrize("codec", CODECS)
def test_stored_kv_serves_alike_from_memory_and_from_disk(codec: str, family: str) -> None:
    memories, store, runner = cubes(), DictActivations(), runner_of(codec, family)
    built = runner.generate(ask("kv", memories, store=store))
    kept = runner.generate(ask("kv", memories, store=store))
    read = runner_of(codec, family).generate(ask("kv", memories, store=store))
    (payload,) = store.published.values()
    assert payload.codec == codec
    assert kept.text == read.text
    assert kept.usage.memory_tokens == read.usage.memory_tokens == payload.token_count
    assert {memory.placed for memory in kept.plan.memories} == {Placement.KV}
    served = f"{payload.token_count} of {kept.usage.prompt_tokens} tokens from stored KV kv-1"
    approximate = codec != "raw"
    assert kept.plan.notes[0] == (f"{served} ({codec}, approximate)" if approximate else served)
    assert (f"it is stored as {codec}, approximate" in built.plan.notes) == approximate
    assert built.text == engine(family).generate(ask("text", memories)).text


def test_int8_answers_like_text() -> None:
    memories, store, runner = cubes(), DictActivations(), runner_of("int8")
    runner.generate(ask("kv", memories, store=store))
    assert runner.generate(ask("kv", memories, store=store)).text == runner.generate(ask("text", memories)).text


def test_prefill_writes_with_the_codec() -> None:
    memories, store, runner = cubes(), DictActivations(), runner_of("int4")
    built = runner.prefill(render_block(memories), store)
    assert built.codec == "int4"
    store.publish(built)
    assert runner.generate(ask("auto", memories, store=store)).usage.memory_tokens == built.token_count


def test_an_engine_takes_every_codec_there_is() -> None:
    assert get_args(KVCodec) == tuple(CODECS)


def test_an_unknown_codec_is_refused_with_the_choices() -> None:
    for make_engine in (
        lambda: HFEngine.from_model(None, None, kv_codec="int2"),  # type: ignore[arg-type]
        lambda: HFEngine.from_pretrained("owner/model", kv_codec="int2"),  # type: ignore[arg-type]
        lambda: encode(make(), "int2"),
    ):
        with pytest.raises(InvalidInput, match="'int2'; choose one of raw, int8, int4, fp8"):
            make_engine()


def test_of_equally_long_chains_the_exact_one_serves() -> None:
    memories = cubes()
    for order in (("int8", "raw"), ("raw", "int8")):
        store = DictActivations()
        for codec in order:
            store.publish(runner_of(codec).prefill(render_block(memories), DictActivations()))
        exact, rounded = (f"kv-{1 + order.index(codec)}" for codec in ("raw", "int8"))
        whole = runner_of("raw").generate(ask("kv", memories, store=store))
        part = runner_of("raw").generate(ask("auto", [memories[0], *cubes("Something else.")], store=store))
        assert whole.usage.memory_tokens > part.usage.memory_tokens > 0
        assert whole.plan.prefix_cube_id == part.plan.prefix_cube_id == exact
        store.forget(exact)
        assert runner_of("raw").generate(ask("kv", memories, store=store)).plan.prefix_cube_id == rounded


def test_a_longer_approximate_chain_goes_before_a_shorter_exact_one() -> None:
    memories, store = cubes(), DictActivations()
    store.publish(runner_of("raw").prefill(render_block(memories[:2]), store))
    store.publish(runner_of("fp8").prefill(render_block(memories), store))
    reply = engine().generate(ask("kv", memories, store=store))
    assert reply.plan.prefix_cube_id == "kv-2"
    assert "fp8, approximate" in reply.plan.notes[0]


def test_what_is_kept_as_raw_is_never_computed_after_an_approximate_prefix() -> None:
    memories, store = cubes(), DictActivations()
    runner_of("int4").generate(ask("kv", memories[:2], store=store))
    reply = runner_of("raw").generate(ask("kv", memories, store=store))
    assert reply.usage.memory_tokens == 0
    alone = DictActivations()
    engine().generate(ask("kv", memories, store=alone))
    raw, expected = store.published["kv-2"], alone.published["kv-1"]
    assert raw.codec == "raw"
    assert store.read(raw.blob.address) == alone.read(expected.blob.address)
    # An engine that stores approximately may go on from anything.
    again = DictActivations()
    runner_of("int4").generate(ask("kv", memories[:2], store=again))
    assert runner_of("int4").generate(ask("kv", memories, store=again)).usage.memory_tokens > 0


@pytest.mark.parametrize("codec", APPROXIMATE)
def test_kv_that_is_not_finite_is_not_kept_and_the_plan_tells(codec: str) -> None:
    model, tokenizer = tiny_model()
    with torch.no_grad():
        model.model.layers[1].self_attn.v_proj.weight[0, 0] = float("inf")
    memories, store = cubes(), DictActivations()
    runner = HFEngine.from_model(model, tokenizer, kv_codec=codec)
    reply = runner.generate(ask("kv", memories, store=store))
    assert not store.published
    assert any("infinite or NaN" in note for note in reply.plan.notes)
    assert {memory.placed for memory in reply.plan.memories} == {Placement.TEXT}
    with pytest.raises(InjectionUnavailable, match="infinite or NaN"):
        runner.prefill(render_block(memories), store)


@pytest.mark.parametrize("codec", APPROXIMATE)
def test_a_damaged_quantised_blob_is_refused_and_rebuilt(codec: str) -> None:
    memories, store = cubes(), DictActivations()
    runner_of(codec).generate(ask("kv", memories, store=store))
    data = bytearray(store.read(store.published["kv-1"].blob.address))
    data[-3] ^= 0x20
    store.damage("kv-1", bytes(data), digest_too=True)
    reply = runner_of(codec).generate(ask("kv", memories, store=store))
    assert list(store.refused) == ["kv-1"]
    assert list(store.published) == ["kv-2"]
    assert reply.text == engine().generate(ask("text", memories)).text


def test_a_vault_keeps_and_serves_int8(tmp_path: Path) -> None:
    def chat() -> Reply:
        runner = runner_of("int8")
        with MemOS.open(tmp_path / "memory", engine=runner, embedder=HashEmbedder()) as memos:
            ada = memos.scope(user="ada")
            if not ada.list(type="plaintext"):
                ada.add_many(["My cat is called Biscuit.", "The meeting with Ada is on Friday."])
            reply = ada.chat("What is my cat called?", inject="kv", max_tokens=8)
            (cube,) = ada.list(type="activation")
            assert cube.payload.codec == "int8"
            memos.verify()
        runner.close()
        return reply

    built, served = chat(), chat()
    assert built.plan.prefix_cube_id is None
    assert "it is stored as int8, approximate" in built.plan.notes
    assert served.usage.memory_tokens > 0
    assert any("(int8, approximate)" in note for note in served.plan.notes)
    assert served.text == built.text


def test_the_benchmark_of_storage_runs(tmp_path: Path) -> None:
    script = Path(__file__).resolve().parents[1] / "benchmarks" / "kv_storage.py"
    out = tmp_path / "figures.json"
    sizes = ["--tokens", "70", "--continuation", "4", "--samples", "1", "--repeats", "1"]
    runpy.run_path(str(script))["main"]([*sizes, "--out", str(out)])
    result = json.loads(out.read_text(encoding="utf-8"))
    assert result["workload"]["tokens"] == 70
    figures = {(row["dtype"], row["codec"]): row for row in result["rows"] if row["model"].startswith("random")}
    assert {codec for _, codec in figures} == set(CODECS)
    assert figures["bfloat16", "raw"]["kl_max"] == 0
    assert figures["bfloat16", "int4"]["ratio_to_raw"] > figures["bfloat16", "int8"]["ratio_to_raw"] > 1
