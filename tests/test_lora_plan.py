"""Adapters by plan: what PEFT computes, per row and position, with no module ever holding an adapter."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from lora_parts import FAMILIES, in_peft, random_adapter

from memos_core.engine.lora.adapter import Adapter
from memos_core.engine.lora.plan import LoRAPlan, Use, hooked
from memos_core.errors import InvalidInput, UnsupportedOption
from memos_core.testing.models import tiny_model

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
"""PEFT 0.21 asks transformers 5.23 for a name that it deprecates."""

IDS = torch.randint(3, 380, (4, 24), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Iterator[tuple[Any, list[Adapter], Any]]:
    """Model, four adapters, and both in PEFT."""
    model, _ = tiny_model(request.param)
    adapters = [random_adapter(model, seed=seed, rank=2 + seed) for seed in range(4)]
    return model, adapters, in_peft(model, adapters)


@pytest.fixture(scope="module")
def llama() -> tuple[Any, list[Adapter]]:
    model, _ = tiny_model("llama")
    return model, [random_adapter(model, seed=seed) for seed in range(4)]


@torch.inference_mode()
def logits(model: Any, plan: LoRAPlan | None, ids: torch.Tensor = IDS, position: int = 0) -> torch.Tensor:
    if plan is None:
        plain: torch.Tensor = model(input_ids=ids).logits
        return plain
    with hooked(model, plan), plan.at(position, ids.shape[1]):
        found: torch.Tensor = model(input_ids=ids).logits
    return found


@torch.inference_mode()
def peft_logits(wrapped: Any, name: str, ids: torch.Tensor = IDS) -> torch.Tensor:
    wrapped.set_adapter(name)
    found: torch.Tensor = wrapped(input_ids=ids).logits
    return found


def test_one_adapter_computes_what_peft_does(family: Any) -> None:
    model, adapters, wrapped = family
    base = logits(model, None)
    for index, adapter in enumerate(adapters[:2]):
        found = logits(model, LoRAPlan([[Use(adapter)]]))
        assert (found - base).abs().max() > 0.1
        torch.testing.assert_close(found, peft_logits(wrapped, f"a{index}"), atol=1e-5, rtol=1e-5)


def test_rows_of_a_batch_have_adapters_of_their_own(family: Any) -> None:
    model, adapters, wrapped = family
    plan = LoRAPlan([[Use(adapters[0])], [], [Use(adapters[2])], [Use(adapters[3])]])
    found = logits(model, plan)
    expected = [peft_logits(wrapped, "a0"), logits(model, None), peft_logits(wrapped, "a2"), peft_logits(wrapped, "a3")]
    for row, each in enumerate(expected):
        torch.testing.assert_close(found[row], each[row], atol=1e-5, rtol=1e-5)


def test_several_adapters_of_a_row_are_the_exact_concatenation(family: Any) -> None:
    model, adapters, wrapped = family
    wrapped.add_weighted_adapter(["a0", "a1"], [1.0, 0.5], "both", combination_type="cat")
    found = logits(model, LoRAPlan([[Use(adapters[0]), Use(adapters[1], weight=0.5)]]))
    torch.testing.assert_close(found, peft_logits(wrapped, "both"), atol=1e-5, rtol=1e-5)


def test_a_tail_adapter_acts_from_its_position_on(llama: Any) -> None:
    model, adapters = llama
    base = logits(model, None)
    found = logits(model, LoRAPlan([[Use(adapters[0], start=10)]]))
    torch.testing.assert_close(found[:, :10], base[:, :10], atol=1e-6, rtol=1e-6)
    assert (found[:, 10:] - base[:, 10:]).abs().amax((0, 2)).min() > 0.01


@pytest.mark.parametrize("rows", ["alike", "different"])
def test_in_parts_behind_a_cache_it_gives_what_it_gives_at_once(llama: Any, rows: str) -> None:
    model, adapters = llama
    row = [Use(adapters[0], start=10), Use(adapters[1], weight=0.5, start=15)]
    plan = LoRAPlan([row] if rows == "alike" else [row, [Use(adapters[2], start=3)], [], [Use(adapters[3])]])
    whole = logits(model, plan)
    cache, found = None, []
    with torch.inference_mode(), hooked(model, plan):
        for start, end in ((0, 7), (7, 12), (12, 13), (13, 24)):
            with plan.at(start, end - start):
                out = model(input_ids=IDS[:, start:end], past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            found.append(out.logits)
    torch.testing.assert_close(torch.cat(found, 1), whole, atol=1e-5, rtol=1e-5)


def test_base_kv_and_a_tail_adapter_give_what_the_whole_prompt_gives(llama: Any) -> None:
    model, adapters = llama
    with torch.inference_mode():
        cache = model(input_ids=IDS[:, :10], use_cache=True).past_key_values
        plan = LoRAPlan([[Use(adapters[0], start=10)]])
        with hooked(model, plan), plan.at(10, 14):
            found = model(input_ids=IDS[:, 10:], past_key_values=cache, use_cache=True).logits
    torch.testing.assert_close(found, logits(model, plan)[:, 10:], atol=1e-5, rtol=1e-5)


def test_1000_requests_of_8_threads_with_different_adapters_are_all_right(llama: Any) -> None:
    model, adapters = llama
    plans = [LoRAPlan([[Use(adapter)]]) for adapter in adapters]
    ids = IDS[:1, :8]
    expected = [logits(model, None, ids), *(logits(model, plan, ids) for plan in plans)]

    def right(number: int) -> bool:
        which = number % 5
        found = logits(model, plans[which - 1] if which else None, ids)
        return bool(torch.allclose(found, expected[which], atol=1e-5))

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(right, range(1000))) == 1000
    assert not any(module._forward_hooks for module in model.modules())


def test_hooks_go_when_the_last_user_goes_whatever_happens(llama: Any) -> None:
    model, adapters = llama
    plan, other = LoRAPlan([[Use(adapters[0])]]), LoRAPlan([[Use(adapters[1])]])
    with ExitStack() as stack:
        stack.enter_context(hooked(model, plan))
        with pytest.raises(KeyboardInterrupt), hooked(model, other), other.at(0, 4):
            raise KeyboardInterrupt
        torch.testing.assert_close(model(input_ids=IDS).logits, logits(model, None))
        assert any(module._forward_hooks for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())


def test_another_thread_computes_without_the_plan_of_this_one(llama: Any) -> None:
    model, adapters = llama
    base, plan, found = logits(model, None), LoRAPlan([[Use(adapters[0])]]), []
    with hooked(model, plan), plan.at(0, 24):
        thread = threading.Thread(target=lambda: found.append(logits(model, None)))
        thread.start()
        thread.join()
    torch.testing.assert_close(found[0], base)


def test_a_plan_that_does_not_fit_is_refused(llama: Any) -> None:
    model, adapters = llama
    with pytest.raises(InvalidInput):
        LoRAPlan([])
    with pytest.raises(InvalidInput):
        LoRAPlan([[Use(adapters[0], start=-1)]])
    with pytest.raises(UnsupportedOption, match="2 rows"):
        logits(model, LoRAPlan([[Use(adapters[0])], [Use(adapters[1])]]))
    other, _ = tiny_model("gpt_neox")
    with pytest.raises(UnsupportedOption, match="no linear module"), hooked(other, LoRAPlan([[Use(adapters[0])]])):
        pass
    assert not any(module._forward_hooks for module in other.modules())
