"""On an accelerator: the same answers as by text, and nothing is left on another device. Run by ``pytest -m gpu``."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import torch
from engine_parts import ask, cubes
from hypothesis import given, settings
from hypothesis import strategies as st
from test_engine_batching import adapted_requests, requests

from memos_core.engine import HFEngine
from memos_core.engine.kv.attention import attend, attend_plainly
from memos_core.engine.kv.quantise import CODECS
from memos_core.engine.loading import LoadedModel, MemorySource
from memos_core.testing.models import FAMILIES, DictActivations, tiny_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]
FORM = {"type": "regex", "regex": "[a-z]{3}"}


def on_device(family: str = "llama", **options: Any) -> HFEngine:
    model, tokenizer = tiny_model(family)
    return HFEngine(LoadedModel(MemorySource(model.to("cuda"), tokenizer, family)), **options)


@pytest.mark.parametrize("family", FAMILIES)
def test_kv_says_what_text_says_built_served_and_read_back(family: str) -> None:
    runner, memories, store = on_device(family), cubes(), DictActivations()
    text = runner.generate(ask("text", memories)).text
    got = [runner.generate(ask("kv", memories, store=store)) for _ in range(2)]
    runner.drop(store.owner)
    got.append(runner.generate(ask("kv", memories, store=store)))
    assert [reply.text for reply in got] == [text] * 3
    assert any(note.endswith("from device") for note in got[1].plan.notes)
    runner.close()


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt_neox"])
def test_requests_at_once_get_what_they_get_alone_with_adapters_and_without(family: str) -> None:
    runner = on_device(family)
    for asked in (requests(DictActivations()), adapted_requests(runner)):
        alone = [runner.generate(each).text for each in asked]

        async def together(asked: Any = asked) -> list[str]:
            return [each.text for each in await asyncio.gather(*(runner.agenerate(each) for each in asked))]

        assert asyncio.run(together()) == alone
    runner.close()


@settings(max_examples=40, deadline=None)
@given(
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    sizes=st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 70), st.integers(1, 300)),
    dim=st.sampled_from([32, 36, 64, 80, 128]),
)
def test_attention_with_its_sums_is_that_of_the_definition(
    dtype: torch.dtype, sizes: tuple[int, int, int, int], dim: int
) -> None:
    batch, heads, rows, held = sizes
    draw = torch.Generator("cuda").manual_seed(held)
    query, keys, values = (
        torch.randn(batch, heads, length, dim, generator=draw, device="cuda", dtype=dtype)
        for length in (rows, held, held)
    )
    got, expected = attend(query, keys, values, dim**-0.5), attend_plainly(query, keys, values, dim**-0.5)
    error = 1e-3 if dtype == torch.float32 else 3e-2
    assert (got.output.float() - expected.output.float()).abs().max() <= error
    assert (got.lse - expected.lse).abs().max() <= error


def test_what_the_device_lets_go_comes_back_from_page_locked_memory() -> None:
    memories, store = cubes(), DictActivations()
    maker = on_device()
    text = maker.generate(ask("kv", memories, store=store)).text
    size = maker._prefixes().loaded_bytes
    runner = on_device(kv_memory_bytes=size, kv_host_bytes=10 * size)
    runner.generate(ask("kv", memories, store=store))
    assert runner._prefixes().release(size) == size
    again = runner.generate(ask("kv", memories, store=store))
    assert any(note.endswith("from RAM") for note in again.plan.notes)
    assert again.text == text
    maker.close()
    runner.close()


@pytest.mark.parametrize("codec", CODECS)
def test_every_codec_serves_alike_from_the_device_and_from_its_bytes(codec: Any) -> None:
    runner, memories, store = on_device(kv_codec=codec), cubes(), DictActivations()
    runner.generate(ask("kv", memories, store=store))
    held = runner.generate(ask("kv", memories, store=store)).text
    runner.drop(store.owner)
    assert runner.generate(ask("kv", memories, store=store)).text == held
    runner.close()


def test_a_form_is_kept_and_a_seed_gives_the_draws_of_the_cpu() -> None:
    runner, memories = on_device(), cubes()
    reply = runner.generate(ask("text", memories, response_format=FORM, max_tokens=8))
    assert reply.text.isalpha()
    assert len(reply.text) == 3
    cpu = HFEngine.from_model(*tiny_model("llama"))
    sampled = ask("text", memories, temperature=0.8, seed=5, max_tokens=8)
    assert runner.generate(sampled).text == cpu.generate(sampled).text
    cpu.close()
    runner.close()
