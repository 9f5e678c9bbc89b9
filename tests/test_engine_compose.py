"""Memories that were stored each alone serve one request together: named as approximate, measured, never stored."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from engine_parts import FACTS, QUESTION, ask, cubes
from kv_parts import ONE_BLOCK
from tokenizers import Regex, pre_tokenizers, trainers

from memos_core import MemOS
from memos_core.cube import MemCube
from memos_core.engine import ComposePolicy, HFEngine
from memos_core.engine.compose import Mode
from memos_core.engine.kv.probes import Block, Probe, ProbeSet
from memos_core.errors import InvalidInput
from memos_core.records import Message, Placement
from memos_core.render import MemoryBlock, render_block
from memos_core.testing import HashEmbedder
from memos_core.testing.models import DictActivations, tiny_model

FAMILIES = ["llama", "qwen2", "qwen3", "gpt_neox", "phi3"]


def lenient(mode: Mode, **options: Any) -> ComposePolicy:
    """Return a policy that random weights pass."""
    free = {"max_divergence": 1e9, "min_self_contained": 0.0, "min_cross": 0.0, "probes": ONE_BLOCK}
    return ComposePolicy(mode, **{**free, **options})


def engine(compose: Mode | ComposePolicy, family: str = "llama", **overrides: Any) -> HFEngine:
    return HFEngine.from_model(*tiny_model(family, **overrides), name=family, compose=compose)


def store_each(engine: HFEngine, memories: list[MemCube]) -> DictActivations:
    """Return a store that holds the KV of each memory alone."""
    store = DictActivations()
    for memory in memories:
        store.publish(engine.prefill(render_block([memory]), store))
    return store


def notes(reply: Any) -> str:
    return "\n".join(reply.plan.notes)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("mode", ["shift", "blend"])
def test_every_memory_comes_from_its_own_kv_and_the_plan_says_so(mode: Mode, family: str) -> None:
    memories = cubes()
    with_kv = engine(lenient(mode), family)
    store = store_each(with_kv, memories)
    reply = with_kv.generate(ask("kv", memories, store=store))
    exact = engine("exact", family).generate(ask("kv", memories, store=store_each(with_kv, memories[:1])))
    assert [memory.placed for memory in reply.plan.memories] == [Placement.KV] * 3
    assert "approximately" in reply.plan.memories[1].reason
    assert f"{mode} against computing everything: self-contained " in notes(reply)
    assert "approximate" in notes(reply)
    assert "kv-2 (from disk), kv-3 (from disk)" in notes(reply)
    assert reply.usage.prompt_tokens == exact.usage.prompt_tokens
    assert reply.usage.memory_tokens > 30
    assert reply.plan.prefix_cube_id == "kv-1"


@pytest.mark.parametrize("family", FAMILIES)
def test_blending_everything_answers_as_text_does(family: str) -> None:
    memories = cubes()
    blending = engine(lenient("blend", ratio=1.0), family)
    store = store_each(blending, memories)
    composed = blending.generate(ask("kv", memories, store=store))
    text = blending.generate(ask("text", memories))
    assert composed.text == text.text
    assert composed.usage.memory_tokens < composed.usage.prompt_tokens


def test_what_is_composed_is_never_stored() -> None:
    memories = cubes()
    shifting = engine(lenient("shift"))
    store = store_each(shifting, memories)
    for _ in range(2):
        shifting.generate(ask("kv", memories, store=store))
    assert sorted(store.published) == ["kv-1", "kv-2", "kv-3"]


def test_a_chain_computed_ahead_is_exact_whatever_the_mode() -> None:
    memories = cubes()
    shifting, plain = engine(lenient("shift")), engine("exact")
    store = store_each(shifting, memories)
    ahead = shifting.prefill(render_block(memories), store)
    assert ahead.data == plain.prefill(render_block(memories), store).data


def test_without_being_asked_an_engine_stays_exact() -> None:
    memories = cubes()
    plain = engine("exact")
    store = store_each(plain, memories)
    reply = plain.generate(ask("kv", memories, store=store))
    assert reply.text == plain.generate(ask("text", memories)).text
    assert "approximate" not in notes(reply)
    assert len(store.published) == 4


def test_figures_that_do_not_pass_give_way_to_exact() -> None:
    memories = cubes()
    strict = engine(lenient("shift", max_divergence=1e-9))
    store = store_each(strict, memories)
    reply = strict.generate(ask("kv", memories, store=store))
    assert reply.text == strict.generate(ask("text", memories)).text
    assert "gave way to exact: shift against computing everything: self-contained" in notes(reply)
    assert "the limits are 0% and 0% of right answers kept, KL 1e-09" in notes(reply)
    assert len(store.published) == 4


def test_auto_takes_the_cheapest_that_passes() -> None:
    memories = cubes()
    found = {}
    for limit in (1e9, 1e-4, 0.0):
        choosing = engine(lenient("auto", ratio=1.0, max_divergence=limit))
        found[limit] = notes(choosing.generate(ask("kv", memories, store=store_each(choosing, memories))))
    assert "shift against" in found[1e9]
    assert "blend against" in found[1e-4]
    assert "shift against" not in found[1e-4]
    assert "gave way to exact: shift against" in found[0.0]


def test_full_computes_everything() -> None:
    memories = cubes()
    full = engine("full")
    store = store_each(full, memories)
    reply = full.generate(ask("auto", memories, store=store))
    assert reply.usage.memory_tokens == 0
    assert "every token is computed" in notes(reply)
    assert [memory.placed for memory in reply.plan.memories] == [Placement.TEXT] * 3


def test_a_memory_that_was_not_stored_is_computed_among_those_that_were() -> None:
    memories = cubes()
    blending = engine(lenient("blend", ratio=1.0))
    store = store_each(blending, [memories[0], memories[2]])
    reply = blending.generate(ask("auto", memories, store=store))
    assert [memory.placed for memory in reply.plan.memories] == [Placement.KV, Placement.TEXT, Placement.KV]
    assert reply.text == blending.generate(ask("text", memories)).text


def test_strict_builds_what_is_missing_and_stays_exact() -> None:
    memories = cubes()
    shifting = engine(lenient("shift"))
    store = store_each(shifting, [memories[0], memories[2]])
    reply = shifting.generate(ask("kv", memories, store=store, strict=True))
    assert [memory.placed for memory in reply.plan.memories] == [Placement.KV] * 3
    assert "approximate" not in notes(reply)


def test_strict_builds_too_where_a_chain_turns_out_damaged() -> None:
    memories = cubes()
    store = store_each(engine("exact"), memories)
    store.damage("kv-2", b"\0" * 64, digest_too=True)
    reply = engine(lenient("shift")).generate(ask("kv", memories, store=store, strict=True))
    assert list(store.refused) == ["kv-2"]
    assert [memory.placed for memory in reply.plan.memories] == [Placement.KV] * 3
    assert "approximate" not in notes(reply)


def test_one_chain_serves_as_heading_and_in_its_place() -> None:
    memories = cubes()
    blending = engine(lenient("blend", ratio=0.0))
    reply = blending.generate(ask("auto", memories, store=store_each(blending, memories[2:])))
    assert [memory.placed for memory in reply.plan.memories] == [Placement.TEXT, Placement.TEXT, Placement.KV]


def test_the_first_memory_need_not_be_stored() -> None:
    memories = cubes()
    blending = engine(lenient("blend", ratio=1.0))
    store = store_each(blending, memories[1:])
    reply = blending.generate(ask("auto", memories, store=store))
    assert reply.plan.memories[0].placed is Placement.TEXT
    assert reply.text == blending.generate(ask("text", memories)).text


def test_a_full_stop_that_the_tokenizer_joins_with_the_line_end_is_computed() -> None:
    """As in Qwen and Llama 3, whose tokenizers make one token of a full stop and the line end behind it."""
    model, tokenizer = tiny_model(vocab_size=500)
    backend = tokenizer.backend_tokenizer
    split = pre_tokenizers.Split(Regex(r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s+|[^\s\p{P}]+"), "isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|pad|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    memories = cubes()
    backend.train_from_iterator([render_block(memories).text] * 3, trainer)
    assert ".\n" in [tokenizer.decode([each]) for each in tokenizer("town.\n- My").input_ids]
    blending = HFEngine.from_model(model, tokenizer, compose=lenient("blend", ratio=1.0))
    store = store_each(blending, memories)
    reply = blending.generate(ask("kv", memories, store=store))
    assert [memory.placed for memory in reply.plan.memories] == [Placement.KV] * 3
    assert reply.text == blending.generate(ask("text", memories)).text


def test_a_sliding_window_is_refused_by_name_and_stays_exact() -> None:
    memories = cubes()
    mistral = engine(lenient("shift"), "mistral", sliding_window=512)
    store = store_each(mistral, memories)
    reply = mistral.generate(ask("kv", memories, store=store))
    assert "gave way to exact: mistral has layers with a sliding window" in notes(reply)
    assert reply.text == mistral.generate(ask("text", memories)).text


def test_a_damaged_chain_is_refused_and_its_memory_computed() -> None:
    memories = cubes()
    writer = engine("exact")
    store = store_each(writer, memories)
    store.damage("kv-2", b"\0" * 64, digest_too=True)
    blending = engine(lenient("blend", ratio=1.0))
    reply = blending.generate(ask("auto", memories, store=store))
    assert list(store.refused) == ["kv-2"]
    assert "stored KV kv-2 was refused" in notes(reply)
    assert reply.text == blending.generate(ask("text", memories)).text


def test_the_system_text_of_the_caller_stands_behind_what_is_composed() -> None:
    memories = cubes()
    blending = engine(lenient("blend", ratio=1.0))
    store = store_each(blending, memories)
    messages = [Message(role="system", content="Be brief."), Message(role="user", content=QUESTION)]
    reply = blending.generate(ask("kv", memories, store=store, messages=messages))
    assert reply.usage.memory_tokens > 0
    assert reply.text == blending.generate(ask("text", memories, messages=messages)).text


def test_memories_transformed_one_by_one_serve_a_chat_with_all_of_them(tmp_path: Path) -> None:
    blending = engine(lenient("blend", ratio=1.0))
    with closing(blending), MemOS.open(tmp_path / "memory", engine=blending, embedder=HashEmbedder()) as memos:
        ada = memos.scope(user="ada")
        added = ada.add_many(["My cat is called Biscuit.", "My cat likes to sleep.", "The cat is called by Ben."])
        for receipt in added:
            ada.transform(receipt.cube_id, to="activation")
        reply = ada.chat(QUESTION, inject="kv", max_tokens=12)
        text = ada.chat(QUESTION, inject="text", max_tokens=12)
        kept = len(list(ada.list(type="activation")))
    assert {memory.placed for memory in reply.plan.memories} == {Placement.KV}
    assert "blend against computing everything" in notes(reply)
    assert reply.text == text.text
    assert kept == 3


def test_a_policy_with_nonsense_is_refused() -> None:
    with pytest.raises(InvalidInput, match="compose is one of"):
        ComposePolicy("fast")  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="ratio is a share"):
        ComposePolicy("blend", ratio=1.5)
    with pytest.raises(InvalidInput, match="min_cross is a share"):
        ComposePolicy("blend", min_cross=95)
    with pytest.raises(InvalidInput, match="at least two facts"):
        ComposePolicy("blend", probes=ProbeSet("empty", (Block(("One.",), (Probe("What?", "One"),)),)))


def test_a_memory_alone_is_the_block_it_would_have() -> None:
    memories = cubes()
    block = render_block(memories)
    for index, memory in enumerate(memories):
        assert block.alone(index) == render_block([memory])
    assert MemoryBlock().starts == ()
    assert block.text[block.starts[0] : block.ends[0]].endswith(FACTS[0])
