"""Any memories in any order, over whatever chains are stored by then, and a prefix cut anywhere: KV is what text is."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from engine_parts import FACTS, ask, cubes, engine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kv_parts import LENGTH, prompt_ids, stored

from memos_core.engine import HFEngine
from memos_core.engine.kv.cache import container
from memos_core.testing.models import FAMILIES, DictActivations, tiny_model

SLOW = settings(
    max_examples=4, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
MEMORIES = cubes(*FACTS, "Ben bought a red bicycle in March.", "The harbour is closed on Sunday.")
ORDERS = st.lists(st.integers(0, len(MEMORIES) - 1), min_size=1, max_size=len(MEMORIES), unique=True)


@pytest.fixture(scope="module")
def runners() -> Iterator[Callable[[str], tuple[HFEngine, DictActivations]]]:
    made: list[HFEngine] = []

    @functools.cache
    def runner(family: str) -> tuple[HFEngine, DictActivations]:
        made.append(engine(family))
        return made[-1], DictActivations()

    yield runner
    for each in made:
        each.close()


@pytest.mark.parametrize("family", FAMILIES)
@SLOW
@given(order=ORDERS, gone=st.booleans())
def test_any_memories_in_any_order_say_the_same_as_kv_and_as_text(
    runners: Callable[[str], tuple[HFEngine, DictActivations]], family: str, order: list[int], gone: bool
) -> None:
    runner, store = runners(family)
    if gone:
        runner.drop(store.owner)  # what is stored is read from its bytes
    chosen = [MEMORIES[number] for number in order]
    text = runner.generate(ask("text", chosen, max_tokens=6)).text
    kv = [runner.generate(ask("kv", chosen, store=store, max_tokens=6)) for _ in range(2)]
    assert [reply.text for reply in kv] == [text, text]
    assert kv[1].usage.memory_tokens >= kv[0].usage.memory_tokens


@functools.cache
def whole(family: str) -> tuple[Any, torch.Tensor]:
    model, _ = tiny_model(family)
    with torch.inference_mode():
        return model, model(input_ids=torch.tensor([prompt_ids()])).logits[0]


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(split=st.integers(1, LENGTH - 1), parts=st.lists(st.integers(1, 20), max_size=4))
@torch.inference_mode()
def test_behind_any_split_the_rest_in_any_parts_has_the_logits_of_the_whole(
    family: str, split: int, parts: list[int]
) -> None:
    model, full = whole(family)
    ids = prompt_ids()
    cache, got, at = container(model.config, stored(model, ids[:split]), split), [], split
    for length in [*parts, LENGTH]:
        if part := ids[at : at + length]:
            got.append(model(input_ids=torch.tensor([part]), past_key_values=cache).logits[0])
        at += length
    assert (torch.cat(got) - full[split:]).abs().max() <= 1e-4
