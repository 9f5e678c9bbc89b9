"""Whatever requests are under way together, each gets what it gets alone: drawn mixes, for several families."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from engine_parts import FACTS, ask, cubes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kv_parts import COVERED, prompt_ids, stored
from lora_parts import DictBlobs

from memos_core.engine import EngineRequest, HFEngine
from memos_core.engine.kv.ragged import step
from memos_core.engine.kv.shared import SharedPrefixCache
from memos_core.engine.kv.twin import feed, twin
from memos_core.errors import ContextOverflow
from memos_core.records import Inject, Message
from memos_core.testing.models import DictActivations, tiny_model

MIXED = ("llama", "qwen3", "mistral", "gemma3", "gpt_neox", "phi3")
QUESTIONS = ("What is my cat called?", "Who?", "When do we meet, and where, and who else is there?")
MEMORIES = ((), FACTS[:1], FACTS[:2], FACTS)
ADAPTERS = ((), (0,), (1,), (0, 1), ("full",))
SLOW = settings(
    max_examples=3, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)


@dataclass(frozen=True)
class Row:
    """A request, and what becomes of it.

    Attributes:
        memory: Which of ``MEMORIES``.
        adapters: Which of ``ADAPTERS``.
        fate: ``ends``; ``leaves`` after two pieces; ``fails`` since it does not fit.
    """

    inject: Inject
    memory: int
    adapters: int
    question: int
    max_tokens: int
    seed: int | None
    fate: str


ROWS = st.lists(
    st.builds(
        Row,
        inject=st.sampled_from(["kv", "text", "auto", "off"]),
        memory=st.integers(0, len(MEMORIES) - 1),
        adapters=st.integers(0, len(ADAPTERS) - 1),
        question=st.integers(0, len(QUESTIONS) - 1),
        max_tokens=st.integers(1, 12),
        seed=st.sampled_from([None, None, 3, 8]),
        fate=st.sampled_from(["ends", "ends", "ends", "leaves", "fails"]),
    ),
    min_size=2,
    max_size=7,
)


class House:
    """An engine of one family, with memories, their stored KV and adapters; and what each row says alone."""

    def __init__(self, family: str) -> None:
        model, tokenizer = tiny_model(family, max_position_embeddings=512)
        self.runner = HFEngine.from_model(model, tokenizer, name=family)
        self.store, self.blobs = DictActivations(), DictBlobs()
        self.memories = [cubes(*texts) if texts else [] for texts in MEMORIES]
        offer = functools.partial(self.blobs.offer, model, self.runner.base_fingerprint)
        self.adapters = {seed: offer(cube_id=f"adapter-{seed}", seed=seed) for seed in (0, 1)}
        self.adapters["full"] = offer(cube_id="adapter-full", seed=2, scope="full")
        self.alone = functools.cache(self._alone)

    def request(self, row: Row) -> EngineRequest:
        words = QUESTIONS[row.question] * (200 if row.fate == "fails" else 1)
        sampled = {} if row.seed is None else {"temperature": 0.9, "seed": row.seed}
        asked = ask(
            row.inject,
            self.memories[row.memory],
            store=self.store,
            messages=[Message(role="user", content=words)],
            max_tokens=row.max_tokens,
            **sampled,
        )
        chosen = tuple(self.adapters[name] for name in ADAPTERS[row.adapters])
        return replace(asked, adapters=chosen, blobs=self.blobs)

    def _alone(self, row: Row) -> str:
        return self.runner.generate(self.request(replace(row, fate="ends"))).text

    async def together(self, rows: list[Row]) -> list[str | None]:
        return list(await asyncio.gather(*(self.one(row) for row in rows)))

    async def one(self, row: Row) -> str | None:
        """Return what a row says; None where it leaves or fails as it should."""
        if row.fate == "fails":
            with pytest.raises(ContextOverflow):
                await self.runner.agenerate(self.request(row))
            return None
        if row.fate == "ends":
            return (await self.runner.agenerate(self.request(row))).text
        chunks = self.runner.astream(self.request(row))
        async for _ in chunks:
            break
        await chunks.aclose()  # type: ignore[attr-defined]
        return None


@pytest.fixture(scope="module")
def houses() -> Iterator[Callable[[str], House]]:
    made = functools.cache(House)
    known: dict[str, House] = {}

    def house(family: str) -> House:
        known[family] = made(family)
        return known[family]

    yield house
    for each in known.values():
        each.runner.close()


@pytest.mark.parametrize("family", MIXED)
@SLOW
@given(rows=ROWS)
def test_each_row_of_any_mix_says_what_it_says_alone(
    houses: Callable[[str], House], family: str, rows: list[Row]
) -> None:
    house = houses(family)
    expected = [house.alone(row) if row.fate == "ends" else None for row in rows]
    assert asyncio.run(house.together(rows)) == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", COVERED)
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    shape=st.lists(
        st.tuples(st.integers(0, 40), st.lists(st.integers(3, 379), min_size=1, max_size=5)), min_size=2, max_size=5
    )
)
@torch.inference_mode()
def test_logits_of_a_row_are_those_of_the_row_alone(
    family: str, dtype: torch.dtype, shape: list[tuple[int, list[int]]]
) -> None:
    other, blob, noise = measured(family, dtype)

    def begun() -> list[SharedPrefixCache]:
        caches = [SharedPrefixCache(blob, length) for length, _ in shape]
        for cache, (_, tail) in zip(caches, shape, strict=True):
            feed(other, tail, past_key_values=cache, shared_prefix=cache)
        return caches

    together = step(other, begun(), [7] * len(shape))
    alone = [feed(other, [7], past_key_values=cache, shared_prefix=cache)[-1] for cache in begun()]
    assert (together.float() - torch.stack(alone).float()).abs().max() <= noise


@functools.cache
@torch.inference_mode()
def measured(family: str, dtype: torch.dtype) -> tuple[Any, Any, float]:
    """Return the twin of a model, the KV of a chain and how far its dtype alone moves a logit."""
    model, _ = tiny_model(family, initializer_range=0.05)
    ids = torch.tensor([prompt_ids()])
    exact = model(input_ids=ids).logits
    model = model.to(dtype)
    noise = float((model(input_ids=ids).logits.float() - exact).abs().max())
    return twin(model), stored(model, prompt_ids()), max(noise, 1e-4)
