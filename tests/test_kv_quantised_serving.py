"""Requests are served from quantised KV as from raw KV, and the plan says what is approximate."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from engine_parts import ask, cubes, engine

from memos_core import MemOS
from memos_core.engine import HFEngine
from memos_core.engine.hf import KVCodec
from memos_core.engine.kv.cache import container, layer_types, new_cache, snapshot
from memos_core.engine.kv.codec import as_token_ids, codec_for, decode, encode
from memos_core.engine.kv.quantise import CODECS
from memos_core.errors import InjectionUnavailable, InvalidInput
from memos_core.records import Placement, Reply
from memos_core.render import render_block
from memos_core.testing import HashEmbedder
from memos_core.testing.models import DictActivations, payload_of, tiny_model

APPROXIMATE = [name for name, codec in CODECS.items() if codec.approximate]


@torch.inference_mode()
def divergence(family: str, codec: str, tokens: int) -> float:
    """Return the mean KL(raw || codec) of the next token over 16 positions, in nats."""
    model, tokenizer = tiny_model(family)
    ids = torch.randint(3, len(tokenizer), (tokens + 16,), generator=torch.Generator().manual_seed(5)).tolist()
    cache = new_cache(model.config)
    model(input_ids=torch.tensor([ids[:tokens]]), past_key_values=cache, use_cache=True)
    blob = snapshot(cache, as_token_ids(ids[:tokens]), "mark", layer_types(model.config))
    assert blob is not None
    data = encode(blob, codec)
    rest = torch.tensor([ids[tokens:]])
    raw, other = (
        model(input_ids=rest, past_key_values=container(model.config, each, tokens)).logits[0].log_softmax(-1)
        for each in (blob, decode(data, payload_of(blob, data, codec=codec)))
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
    told = f"{served} ({codec}, approximate)" if approximate else served
    assert kept.plan.notes[0] == f"{told}, from RAM"
    assert read.plan.notes[0] == f"{told}, from disk"
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
        lambda: codec_for("int2"),
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
    store.forget("kv-2")
    prefilled = runner_of("raw").prefill(render_block(memories), store)
    assert prefilled.parameters["reused_tokens"] == 0
    assert prefilled.data == alone.read(expected.blob.address)
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
