"""An engine reads stored KV where it lies: the same text, the model as it was, and nothing mixes among requests."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from engine_parts import ask, cubes
from kv_parts import COVERED, OTHERS, prompt_ids, state_of, stored
from transformers import DynamicCache

from memos_core.engine import HFEngine
from memos_core.engine.generate import Session
from memos_core.engine.kv.shared import SharedPrefixCache
from memos_core.engine.loading import LoadedModel, MemorySource
from memos_core.engine.work import Reuse
from memos_core.testing.models import DictActivations, tiny_model


class Served:
    """An engine over a tiny model, with memories whose KV is stored."""

    def __init__(self, family: str = "qwen3", *texts: str) -> None:
        self.model, self.tokenizer = tiny_model(family)
        self.runner = HFEngine.from_model(self.model, self.tokenizer)
        self.store = DictActivations()
        self.memories = cubes(*texts)
        self.expected = self.runner.generate(ask("text", self.memories, max_tokens=40)).text
        self.runner.generate(ask("kv", self.memories, store=self.store))

    def answer(self, runner: HFEngine | None = None) -> str:
        reply = (runner or self.runner).generate(ask("kv", self.memories, store=self.store, max_tokens=40))
        assert reply.usage.memory_tokens
        return reply.text


@pytest.fixture
def served() -> Iterator[Served]:
    made = Served()
    yield made
    made.runner.close()


def session(family: str, *, snapshots: bool = False) -> Session:
    model, tokenizer = tiny_model(family)
    blob = stored(model, prompt_ids(20))
    loaded = LoadedModel(MemorySource(model, tokenizer, family))
    return Session(loaded, Reuse(blob=blob, length=18), prompt_ids(20), snapshots=snapshots)


@pytest.mark.parametrize("family", COVERED)
def test_a_served_prefix_is_shared_unless_a_snapshot_is_to_be_taken(family: str) -> None:
    assert isinstance(session(family).cache, SharedPrefixCache)
    assert isinstance(session(family, snapshots=True).cache, DynamicCache)


@pytest.mark.parametrize("family", OTHERS)
def test_a_family_that_is_not_covered_falls_back_and_gives_the_same_text(family: str) -> None:
    model, tokenizer = tiny_model(family)
    blob = stored(model, prompt_ids(12))
    loaded = LoadedModel(MemorySource(model, tokenizer, family))
    made = Session(loaded, Reuse(blob=blob, length=12), prompt_ids(12), snapshots=False)
    assert isinstance(made.cache, DynamicCache)
    kept = Served(family)
    assert kept.answer() == kept.expected
    kept.runner.close()


def test_a_model_set_up_anew_by_its_owner_is_looked_at_anew() -> None:
    model, tokenizer = tiny_model("llama")
    loaded = LoadedModel(MemorySource(model, tokenizer, "llama"))
    assert loaded.cascade_refusal is None
    model.set_attn_implementation("eager")
    assert "eager" in str(loaded.cascade_refusal)


def test_the_fingerprint_and_the_model_are_the_same_before_while_and_after(served: Served) -> None:
    before, mark = state_of(served.model), served.runner.fingerprint
    stream = served.runner.stream(ask("kv", served.memories, store=served.store, max_tokens=40))
    for _ in range(3):
        next(stream)
        assert state_of(served.model) == before
        assert served.runner.fingerprint == mark
    stream.close()  # cancels
    assert served.answer() == served.expected
    assert state_of(served.model) == before
    assert {payload.fingerprint for payload in served.store.published.values()} == {mark}


def test_an_error_in_a_layer_reaches_the_caller_and_leaves_the_model_as_it_was(served: Served) -> None:
    before = state_of(served.model)

    def fail(*_: Any) -> None:
        raise RuntimeError("the layer broke")

    hook = served.model.model.layers[1].register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="the layer broke"):
        served.answer()
    hook.remove()
    assert state_of(served.model) == before
    assert served.answer() == served.expected


def in_threads(*works: Callable[[], str]) -> list[str]:
    """Return what ``works`` return, each run in a thread of its own."""
    results: dict[int, str] = {}
    threads = [
        threading.Thread(target=lambda number=number, work=work: results.update({number: work()}))
        for number, work in enumerate(works)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [results[number] for number in range(len(works))]


def test_stored_tensors_are_byte_identical_after_generations_from_several_threads(served: Served) -> None:
    served.answer()
    tiers = served.runner._prefixes()._tiers
    (blob,) = map(tiers.peek, tiers.keys())
    assert blob is not None
    before = [tensor.clone() for tensor in (*blob.keys, *blob.values)]
    assert in_threads(*[served.answer] * 6) == [served.expected] * 6
    assert all(torch.equal(one, other) for one, other in zip(before, (*blob.keys, *blob.values), strict=True))


def test_requests_with_and_without_a_prefix_take_turns_and_do_not_mix(served: Served) -> None:
    others = cubes("The harbour is closed on Sunday.", "Ada works in the library.")
    plain = served.runner.generate(ask("text", others, max_tokens=40)).text
    served.runner.generate(ask("kv", others, store=served.store))

    def text() -> str:
        return served.runner.generate(ask("text", others, max_tokens=40)).text

    def kv() -> str:
        return served.runner.generate(ask("kv", others, store=served.store, max_tokens=40)).text

    assert plain != served.expected
    assert in_threads(*[served.answer, text, kv] * 2) == [served.expected, plain, plain] * 2


def test_two_engines_on_one_model_do_not_see_each_other(served: Served) -> None:
    other = HFEngine.from_model(served.model, served.tokenizer)
    works = [served.answer, functools.partial(served.answer, other)] * 3
    assert in_threads(*works) == [served.expected] * 6
    other.close()


def test_a_chain_grows_from_a_shared_prefix_and_what_was_built_is_shared_at_once(served: Served) -> None:
    longer = [*served.memories, *cubes("The harbour is closed on Sunday.")]
    expected = served.runner.generate(ask("text", longer, max_tokens=40)).text
    built = served.runner.generate(ask("kv", longer, store=served.store, max_tokens=40))
    assert built.usage.memory_tokens
    assert len(served.store.published) == 2
    assert built.text == expected
    again = served.runner.generate(ask("kv", longer, store=served.store, max_tokens=40))
    assert again.text == expected
    assert again.plan.prefix_cube_id == "kv-2"
