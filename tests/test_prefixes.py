"""Lessons behind shared keys and values: the same logits, answers and gradients as whole sequences give."""

from __future__ import annotations

import pytest
import torch
from engine_parts import cubes
from lora_parts import FAMILIES, random_factors

from memos_core import HFEngine
from memos_core.engine.lora.adapter import Adapter
from memos_core.engine.lora.plan import hooked
from memos_core.testing.models import tiny_model
from memos_core.transform.gates import plan_of
from memos_core.transform.lessons import Batch, Lesson, Reading, placed
from memos_core.transform.prefixes import Prefixes, divisible
from memos_core.transform.study import Question

MEMORIES = cubes(
    "My cat is called Biscuit.", "I live in Lisbon now.", "Ben's exam is on Friday.", "I am allergic to soy."
)


def lessons(reading: Reading) -> list[Lesson]:
    """Return questions behind no memory, one, two and four."""
    asked = [("Where do I live?", 0), ("When is the exam?", 1), ("What is my cat called?", 2), ("Hm?", 4)]
    made = [reading.lesson(Question(text, 0, 0), MEMORIES[:count]) for text, count in asked]
    return reading.taught(
        [
            Lesson(each.question, each.prompt, each.start, (5 + n, 7, 9)[: 1 + n % 3], each.top_ids, each.top_weights)
            for n, each in enumerate(made)
        ]
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_behind_a_prefix_equal_those_of_whole_sequences(family: str) -> None:
    model, tokenizer = tiny_model(family)
    reading = Reading(HFEngine.from_model(model, tokenizer).loaded)
    batch = lessons(reading)
    if not divisible(model.config):
        assert reading.prefixes is None
        return
    plan = plan_of(Adapter("x", random_factors(model)))
    behind, whole = Batch.of(batch, "cpu", Prefixes(model)), Batch.of(batch, "cpu")
    assert behind.ids.shape[1] < whole.ids.shape[1]
    with torch.no_grad(), hooked(model, plan):
        with plan.masked([behind.tail]):
            found = behind.logits(model)
        with plan.masked([whole.tail]):
            expected = whole.logits(model)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_of_a_batch_equal_those_of_one_at_a_time(family: str) -> None:
    model, tokenizer = tiny_model(family)
    reading = Reading(HFEngine.from_model(model, tokenizer).loaded, max_answer_tokens=6)
    plan = plan_of(Adapter("x", random_factors(model)))
    batch = lessons(reading)
    assert reading.answers(batch) == [reading.answer(each) for each in batch]
    assert reading.answers(batch, plan) == [reading.answer(each, placed(plan, each.start)) for each in batch]
    assert reading.answers([]) == []


def test_prefixes_are_kept_within_their_budget() -> None:
    model, _ = tiny_model("llama")
    few = Prefixes(model, max_bytes=1)
    first = few.past([(5, 6, 7), (), (8, 9)])
    assert first.mask.tolist() == [[1, 1, 1], [0, 0, 0], [0, 1, 1]]
    again = few.past([(5, 6, 7), (), (8, 9)])
    assert all(torch.equal(one, other) for one, other in zip(first.keys, again.keys, strict=True))
    few.past([(10, 11)])
    assert [*few.kept] == [(10, 11)]
    assert few.past([(), ()]).keys == ()
