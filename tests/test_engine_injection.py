"""Memory enters as text or as stored KV, gives the same answer, and the plan tells which and why."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from engine_parts import FACTS, ask, cubes, engine
from transformers import AutoConfig, AutoModelForCausalLM

from memos_core.engine import HFEngine
from memos_core.engine.kv.codec import decode, encode, read_token_ids
from memos_core.errors import BlobDamaged, ContextOverflow, InjectionUnavailable, InvalidInput, VaultWriteFailed
from memos_core.records import Message, Placement
from memos_core.render import MemoryBlock, render_block
from memos_core.testing.models import FAMILIES, DictActivations, tiny_model, tiny_tokenizer


@pytest.mark.parametrize("family", FAMILIES)
def test_text_built_kv_and_served_kv_give_the_same_answer(family: str) -> None:
    memories, store, runner = cubes(), DictActivations(), engine(family)
    text = runner.generate(ask("text", memories, max_tokens=48))
    built = runner.generate(ask("kv", memories, store=store, max_tokens=48))
    served = runner.generate(ask("kv", memories, store=store, max_tokens=48))
    assert text.text == built.text == served.text
    assert text.usage.prompt_tokens == built.usage.prompt_tokens == served.usage.prompt_tokens
    assert text.usage.memory_tokens == built.usage.memory_tokens == 0
    (payload,) = store.published.values()
    assert served.usage.memory_tokens == payload.token_count < served.usage.prompt_tokens
    assert {m.placed for m in text.plan.memories} == {Placement.TEXT}
    assert {m.placed for m in served.plan.memories} == {Placement.KV}
    assert served.plan.prefix_cube_id == "kv-1"
    runner.close()


def test_the_plan_tells_served_from_built_and_text() -> None:
    memories, store, runner = cubes(), DictActivations(), engine()
    reasons = {
        name: runner.generate(ask(name, memories, store=store)).plan.memories[0].reason
        for name in ("text", "lora", "auto")
    }
    assert reasons["text"] == "chosen; as text: text was asked for"
    assert reasons["lora"] == "chosen; as text: no adapter carries it"
    assert reasons["auto"] == "chosen; as text: no stored KV covers it"
    assert "built in this request" in runner.generate(ask("kv", memories, store=store)).plan.memories[0].reason
    assert "served from stored KV" in runner.generate(ask("auto", memories, store=store)).plan.memories[0].reason


def test_off_leaves_memory_out() -> None:
    memories, runner = cubes(), engine()
    without = runner.generate(ask("off", [], block=MemoryBlock()))
    given = runner.generate(ask("off", memories, store=DictActivations()))
    assert given.text == without.text
    assert given.usage.prompt_tokens == without.usage.prompt_tokens


def test_auto_builds_only_where_every_memory_prefers_kv() -> None:
    memories, store, runner = cubes(), DictActivations(), engine()
    runner.generate(ask("auto", memories, store=store))
    assert not store.published
    reply = runner.generate(ask("auto", memories, store=store, preferred=Placement.KV))
    assert len(store.published) == 1
    assert reply.plan.memories[0].placed is Placement.KV


def test_a_longer_block_reuses_the_chain_of_a_shorter_one() -> None:
    memories, store, runner = cubes(), DictActivations(), engine()
    runner.generate(ask("kv", memories[:2], store=store))
    reply = runner.generate(ask("kv", memories, store=store))
    first = store.published["kv-1"].token_count
    assert reply.usage.memory_tokens == first
    assert [m.reason.split("; ")[1] for m in reply.plan.memories] == [
        "served from stored KV",
        "served from stored KV",
        "built in this request",
    ]
    assert reply.text == runner.generate(ask("text", memories)).text
    assert runner.generate(ask("kv", memories, store=store)).usage.memory_tokens == store.published["kv-2"].token_count


def test_a_shorter_block_reuses_a_part_of_a_longer_chain() -> None:
    memories, store, runner = cubes(), DictActivations(), engine()
    runner.generate(ask("kv", memories, store=store))
    other = [memories[0], *cubes("Something else altogether.")]
    reply = runner.generate(ask("auto", other, store=store))
    assert [m.placed for m in reply.plan.memories] == [Placement.KV, Placement.TEXT]
    assert 0 < reply.usage.memory_tokens < store.published["kv-1"].token_count
    assert reply.text == runner.generate(ask("text", other)).text


@pytest.mark.parametrize("window", [8, 24, 512])
def test_a_sliding_window_shorter_and_longer_than_memory_is_right(window: int) -> None:
    memories, store, runner = cubes(), DictActivations(), engine("mistral", sliding_window=window)
    runner.generate(ask("kv", memories[:2], store=store))
    shorter = runner.generate(ask("kv", memories, store=store, max_tokens=40))
    whole = runner.generate(ask("kv", memories, store=store, max_tokens=40))
    other = [memories[0], *cubes("Something else altogether.")]
    apart = runner.generate(ask("auto", other, store=store, max_tokens=40))
    assert shorter.text == whole.text == runner.generate(ask("text", memories, max_tokens=40)).text
    assert apart.text == runner.generate(ask("text", other, max_tokens=40)).text
    assert (apart.usage.memory_tokens > 0) == (window == 512)


def test_a_forgotten_chain_is_never_used_again() -> None:
    memories, store, runner = cubes(), DictActivations(), engine()
    runner.generate(ask("kv", memories, store=store))
    assert runner.generate(ask("auto", memories, store=store)).usage.memory_tokens
    store.forget("kv-1")
    assert runner.generate(ask("auto", memories, store=store)).usage.memory_tokens == 0


def test_the_chains_of_one_owner_do_not_serve_another() -> None:
    memories, runner = cubes(), engine()
    ada, ben = DictActivations("ada"), DictActivations("ben")
    runner.generate(ask("kv", memories, store=ada))
    assert runner.generate(ask("auto", memories, store=ben)).usage.memory_tokens == 0


def test_a_new_engine_reads_what_another_built() -> None:
    memories, store = cubes(), DictActivations()
    reply = engine().generate(ask("kv", memories, store=store))
    again = engine().generate(ask("kv", memories, store=store))
    assert again.usage.memory_tokens > 0
    assert again.text == reply.text


def test_kv_of_other_weights_is_a_miss() -> None:
    memories, store = cubes(), DictActivations()
    engine().generate(ask("kv", memories, store=store))
    assert engine(seed=1).generate(ask("auto", memories, store=store)).usage.memory_tokens == 0


@pytest.mark.parametrize("digest_too", [False, True])
@pytest.mark.parametrize("where", [0.0, 0.02, 0.4, 0.9])
def test_a_damaged_blob_is_refused_and_the_answer_is_still_right(where: float, digest_too: bool) -> None:
    memories, store = cubes(), DictActivations()
    right = engine().generate(ask("kv", memories, store=store))
    data = bytearray(store.read(store.published["kv-1"].blob.address))
    data[int(len(data) * where) + 1] ^= 0x55
    store.damage("kv-1", bytes(data), digest_too=digest_too)
    reply = engine().generate(ask("kv", memories, store=store))
    assert reply.text == right.text
    assert reply.usage.memory_tokens == 0
    assert list(store.refused) == ["kv-1"]
    assert any("kv-1 was refused" in note for note in reply.plan.notes)
    assert list(store.published) == ["kv-2"]


def test_a_blob_of_other_shape_under_a_forged_fingerprint_is_refused() -> None:
    memories, store, runner = cubes(), DictActivations(), engine()
    runner.generate(ask("kv", memories, store=store))
    payload = store.published["kv-1"]
    blob = decode(store.read(payload.blob.address), payload)
    halves = tuple(keys[:, :, :16].contiguous() for keys in blob.keys)
    forged = encode(type(blob)(blob.token_ids, halves, halves, blob.layer_types, blob.fingerprint))
    store.damage("kv-1", forged, digest_too=True)
    reply = engine().generate(ask("auto", memories, store=store))
    assert "which this model does not make" in store.refused["kv-1"]
    assert reply.text == runner.generate(ask("text", memories)).text


def test_the_next_best_chain_serves_where_the_best_is_damaged() -> None:
    memories, store = cubes(), DictActivations()
    runner = engine()
    runner.generate(ask("kv", memories[:1], store=store))
    runner.generate(ask("kv", memories, store=store))
    store.damage("kv-2", b"nothing")
    reply = engine().generate(ask("auto", memories, store=store))
    assert reply.plan.prefix_cube_id == "kv-1"
    assert reply.usage.memory_tokens == store.published["kv-1"].token_count


class Forgetful(DictActivations):
    """A store in which one of the memories is gone by the time of publishing, or the disk is full."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        self.error = error

    def publish(self, built: Any) -> str | None:
        if self.error is not None:
            raise self.error
        return None


@pytest.mark.parametrize("error", [None, VaultWriteFailed("the disk is full")])
def test_what_cannot_be_kept_costs_no_answer(error: Exception | None) -> None:
    memories, runner = cubes(), engine()
    reply = runner.generate(ask("kv", memories, store=Forgetful(error)))
    assert reply.text == runner.generate(ask("text", memories)).text
    assert {m.placed for m in reply.plan.memories} == {Placement.TEXT}
    assert "not kept" in reply.plan.memories[0].reason
    assert any("kept" in note or "disk is full" in note for note in reply.plan.notes)


def test_prefill_gives_the_chain_with_which_chats_begin() -> None:
    memories, store, runner = cubes(), DictActivations(), engine()
    block = render_block(memories)
    built = runner.prefill(block, store)
    assert built.cube_ids == block.cube_ids
    assert built.parameters["reused_tokens"] == 0
    assert store.publish(built) == "kv-1"
    for question in ("What is my cat called?", "And on which day do we meet?"):
        messages = [Message(role="system", content="Be brief."), Message(role="user", content=question)]
        reply = runner.generate(ask("kv", memories, store=store, messages=messages, strict=True))
        assert reply.usage.memory_tokens == built.token_count
        assert reply.text == runner.generate(ask("text", memories, messages=messages)).text
    assert list(store.published) == ["kv-1"]
    payload = store.published["kv-1"]
    assert runner._loaded.tokens.decode(read_token_ids(built.data, payload).tolist()).endswith(FACTS[-1])


def test_prefill_goes_on_from_a_stored_chain() -> None:
    memories, store, runner = cubes(), DictActivations(), engine()
    store.publish(runner.prefill(render_block(memories[:2]), store))
    built = runner.prefill(render_block(memories), store)
    assert built.parameters["reused_tokens"] > 0
    alone = engine().prefill(render_block(memories), DictActivations())
    assert built.token_digest == alone.token_digest


def test_prefill_of_nothing_is_refused() -> None:
    with pytest.raises(InvalidInput):
        engine().prefill(MemoryBlock(), DictActivations())


DYNAMIC = {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}}


def test_a_model_whose_kv_cannot_be_stored_says_so_and_takes_text() -> None:
    memories, runner = cubes(), engine(**DYNAMIC)
    assert runner.capabilities.placements == {Placement.TEXT, Placement.LORA}
    assert "dynamic NTK" in str(runner.capabilities.refusal)
    reply = runner.generate(ask("kv", memories, store=DictActivations()))
    assert "dynamic NTK" in reply.plan.memories[0].reason
    with pytest.raises(InjectionUnavailable, match="dynamic NTK"):
        runner.generate(ask("kv", memories, store=DictActivations(), strict=True))
    with pytest.raises(InjectionUnavailable, match="dynamic NTK"):
        runner.prefill(render_block(memories), DictActivations())


def test_strict_raises_where_memory_cannot_enter_as_asked() -> None:
    memories, runner = cubes(), engine()
    with pytest.raises(InjectionUnavailable, match="no store") as raised:
        runner.generate(ask("kv", memories, strict=True))
    assert set(raised.value.reasons) == {each.id for each in memories}
    with pytest.raises(InjectionUnavailable, match="no adapter"):
        runner.generate(ask("lora", memories, store=DictActivations(), strict=True))
    assert runner.generate(ask("kv", memories, store=DictActivations(), strict=True)).text
    assert runner.generate(ask("text", memories, strict=True)).text


def test_a_prompt_that_does_not_fit_is_refused() -> None:
    memories, runner = cubes("word " * 400), engine(max_position_embeddings=64)
    with pytest.raises(ContextOverflow) as raised:
        runner.generate(ask("text", memories))
    assert raised.value.window == 64 < raised.value.needed
    with pytest.raises(ContextOverflow):
        runner.prefill(render_block(memories), DictActivations())


def test_the_reply_ends_where_the_context_does() -> None:
    memories, runner = cubes("My cat is called Biscuit."), engine(max_position_embeddings=64, eos_token_id=None)
    reply = runner.generate(ask("text", memories, max_tokens=500))
    assert reply.usage.prompt_tokens + reply.usage.completion_tokens <= 64
    assert reply.finish_reason == "length" or reply.usage.completion_tokens < 20


def test_stored_bytes_stay_the_same_under_a_thousand_requests_from_eight_threads() -> None:
    memories, store, runner = cubes(), DictActivations(), engine()
    expected = runner.generate(ask("kv", memories, store=store, max_tokens=2)).text
    payload = store.published["kv-1"]
    before = encode(decode(store.read(payload.blob.address), payload))
    texts = []

    def work() -> None:
        for _ in range(125):
            texts.append(runner.generate(ask("kv", memories, store=store, max_tokens=2)).text)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == [expected] * 1000
    loaded, _ = runner._prefixes().load("user", store.find(payload.fingerprint)[0], lambda: pytest.fail("not kept"))
    assert encode(loaded) == before


def test_drop_lets_go_of_loaded_tensors() -> None:
    memories, store, runner = cubes(), DictActivations(), engine()
    runner.generate(ask("kv", memories, store=store))
    assert runner._prefixes().loaded_bytes
    runner.drop("user", ["kv-1"])
    assert runner._prefixes().loaded_bytes == 0
    assert runner.generate(ask("kv", memories, store=store)).usage.memory_tokens


def test_a_store_that_lost_the_blob_is_told() -> None:
    memories, store = cubes(), DictActivations()
    engine().generate(ask("kv", memories, store=store))
    store._blobs.clear()
    with pytest.raises(BlobDamaged):
        store.read(store.published["kv-1"].blob.address)
    assert engine().generate(ask("auto", memories, store=store)).usage.memory_tokens == 0
    assert "missing" in store.refused["kv-1"]


def test_a_model_in_training_mode_is_switched_to_answering() -> None:
    model, tokenizer = tiny_model("llama", attention_dropout=0.5)
    expected = HFEngine.from_model(model, tokenizer).generate(ask("text", cubes())).text
    assert HFEngine.from_model(model.train(), tokenizer).generate(ask("text", cubes())).text == expected


SIZES = {"vocab_size": 400, "hidden_size": 64, "num_hidden_layers": 2, "bos_token_id": 1, "eos_token_id": 2}
OTHERS: dict[str, dict[str, Any]] = {
    "gpt2": {**SIZES, "num_attention_heads": 2, "n_positions": 512},
    "bloom": {**SIZES, "n_layer": 2, "n_head": 2},
    "mamba": {**SIZES, "state_size": 8},
    "rwkv": {**SIZES, "context_length": 512},
}


@pytest.mark.parametrize("family", OTHERS)
def test_any_other_family_answers_as_transformers_does(family: str) -> None:
    """Learned positions, ALiBi, a running state, and a model without ``past_key_values``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = AutoConfig.for_model(family, **OTHERS[family], initializer_range=0.2)
        model = AutoModelForCausalLM.from_config(config).eval()
    runner = HFEngine.from_model(model, tiny_tokenizer(), name=family)
    memories, store = cubes(), DictActivations()
    request = ask("text", memories)
    ids = torch.tensor([runner._loaded.prompts.build(request.messages, request.block).token_ids])
    plain = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=16, do_sample=False, eos_token_id=2, pad_token_id=0
    )
    text = runner.generate(request).text
    assert text == runner._loaded.tokens.decode(plain[0, ids.shape[1] :].tolist())
    for _ in range(2):
        reply = runner.generate(ask("kv", memories, store=store))
        assert reply.text == text
    keeps = Placement.KV in runner.capabilities.placements
    assert keeps == (family in {"gpt2", "bloom"})
    assert (reply.usage.memory_tokens > 0) == keeps
    assert keeps or "cannot be reused" in reply.plan.memories[0].reason


def test_forgetting_needs_no_model() -> None:
    HFEngine.from_pretrained("nobody/no-such-model").drop("ada", ["kv-1"])
