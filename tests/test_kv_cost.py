"""Stored KV is loaded where that is cheaper than computing it, by what both have cost so far."""

from __future__ import annotations

import pytest
from engine_parts import ask, cubes, engine
from hypothesis import given
from hypothesis import strategies as st

from memos_core.engine.kv.cost import RETRY_EVERY, CostModel
from memos_core.records import Placement
from memos_core.testing.models import DictActivations

SLOW_DISK = (1, 10.0)
"""One byte in ten seconds."""


def test_stored_kv_is_loaded_until_both_ways_are_measured() -> None:
    costs = CostModel()
    assert costs.verdict(10**9, 1).load
    costs.loaded(100, 1.0)
    assert costs.verdict(10**9, 1).load
    costs.computed(100, 1.0)
    assert not costs.verdict(10**9, 1).load
    assert costs.verdict(10, 100).load


def test_short_prompts_and_empty_blobs_do_not_count() -> None:
    costs = CostModel()
    costs.loaded(0, 5.0)
    costs.computed(1, 5.0)
    assert costs.verdict(10**9, 1).why == "not measured yet"


def test_one_refused_load_in_many_is_done_so_that_a_faster_disk_is_noticed() -> None:
    costs = CostModel()
    costs.loaded(*SLOW_DISK)
    costs.computed(100, 0.1)
    verdicts = [costs.verdict(100, 100).load for _ in range(2 * RETRY_EVERY)]
    assert verdicts.count(True) == 2


@given(st.integers(1, 10**9), st.integers(1, 10**5), st.floats(1e-12, 1), st.floats(1e-9, 10))
def test_the_verdict_is_the_smaller_of_the_two_estimates(
    size: int, tokens: int, per_byte: float, per_token: float
) -> None:
    costs = CostModel()
    costs.loaded(1000, 1000 * per_byte)
    costs.computed(1000, 1000 * per_token)
    verdict = costs.verdict(size, tokens)
    assert verdict.load_seconds == pytest.approx(size * per_byte)
    assert verdict.prefill_seconds == pytest.approx(tokens * per_token)
    assert verdict.load == (verdict.load_seconds <= verdict.prefill_seconds)


def served_anew(inject: str) -> tuple[int, str, Placement]:
    """Ask an engine that has stored KV on a slow disk and nothing in memory."""
    memories, store, runner = cubes(), DictActivations(), engine()
    runner.generate(ask("kv", memories, store=store))
    runner.drop(store.owner)
    runner._loaded.costs.loaded(*SLOW_DISK)
    reply = runner.generate(ask(inject, memories, store=store, preferred=Placement.KV))
    runner.close()
    assert len(store.published) == 1
    assert reply.text == engine().generate(ask("text", memories)).text
    placed = reply.plan.memories[0].placed
    assert placed is not None
    return reply.usage.memory_tokens, reply.plan.memories[0].reason, placed


def test_auto_computes_where_the_disk_is_slow_and_says_so() -> None:
    tokens, reason, placed = served_anew("auto")
    assert (tokens, placed) == (0, Placement.TEXT)
    assert "stored KV was not loaded, since computing is cheaper here" in reason


def test_who_asks_for_kv_gets_it_at_any_cost() -> None:
    tokens, _reason, placed = served_anew("kv")
    assert tokens > 0
    assert placed is Placement.KV
