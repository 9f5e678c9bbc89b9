"""Requests that are under way at the same time take their steps together, and each gets what it would get alone."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from engine_parts import FACTS, ask, cubes, engine
from lora_parts import DictBlobs

from memos_core.engine import EngineRequest, HFEngine
from memos_core.engine import together as joint_steps
from memos_core.engine.worker import Done, Failed, Piece, Ticket, serve_round
from memos_core.records import Message, Reply
from memos_core.testing.models import DictActivations


class Step:
    """A joint step that writes down with whom it was taken."""

    def __init__(self, key: str, log: list[list[str]], name: str) -> None:
        self.piece, self.key, self.log, self.name = name, key, log, name

    def take(self, steps: Sequence[Step]) -> None:
        self.log.append([each.name for each in steps])


def work(key: str, log: list[list[str]], name: str, steps: int) -> Generator[Any, None, str]:
    for _ in range(steps):
        yield Step(key, log, name)
    return name


def test_a_round_takes_the_steps_of_one_key_together() -> None:
    log: list[list[str]] = []
    heard: list[Any] = []
    names = [("x", "a", 2), ("y", "b", 1), ("x", "c", 1)]
    active = deque(Ticket(work(key, log, name, steps), heard.append) for key, name, steps in names)
    serve_round(active)
    assert log == [["a", "c"], ["b"]]
    assert heard == [Piece("a"), Piece("b"), Piece("c")]
    serve_round(active)
    assert log[2:] == [["a"]]
    assert [item.value for item in heard if isinstance(item, Done)] == ["b", "c"]
    serve_round(active)
    assert not active


def test_a_cancelled_request_leaves_its_round_and_the_others_go_on() -> None:
    log: list[list[str]] = []
    heard: list[Any] = []
    active = deque(Ticket(work("x", log, name, 3), heard.append) for name in "ab")
    serve_round(active)
    active[0].cancel()
    serve_round(active)
    assert log == [["a", "b"], ["b"]]
    assert [type(item) for item in heard] == [Piece, Piece, Failed, Piece]


class Broken(Step):
    def take(self, steps: Sequence[Step]) -> None:
        raise ValueError("broken")


def test_a_step_that_raises_ends_its_requests_and_not_the_thread() -> None:
    heard: list[Any] = []

    def broken() -> Generator[Any, None, str]:
        yield Broken("x", [], "c")
        return "never"

    log: list[list[str]] = []
    active = deque([Ticket(broken(), heard.append), Ticket(work("y", log, "a", 1), heard.append)])
    serve_round(active)
    assert [type(item) for item in heard] == [Piece, Piece, Failed]
    serve_round(active)
    assert isinstance(heard[-1], Done)


def requests(store: DictActivations) -> list[EngineRequest]:
    """Return requests with KV memory, text memory and none, several of them on one memory."""
    one, two = cubes(), cubes(*FACTS[:1])
    said = [[Message(role="user", content=text)] for text in ("What is my cat called?", "Who?", "When do we meet?")]
    return [
        *(ask("kv", one, store=store, messages=each, max_tokens=24) for each in said),
        ask("kv", two, store=store, messages=said[1], max_tokens=20),
        ask("text", two, messages=said[0], max_tokens=30),
        ask("off", [], messages=said[2], max_tokens=12),
        ask("text", one, messages=said[2], max_tokens=16, temperature=0.8, seed=5),
    ]


async def at_once(runner: HFEngine, asked: list[EngineRequest]) -> list[Reply]:
    return list(await asyncio.gather(*(runner.agenerate(each) for each in asked)))


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The size of every batch that was computed."""
    sizes: list[int] = []
    whole = joint_steps.step

    def counted(model: Any, caches: Any, token_ids: Any) -> torch.Tensor:
        sizes.append(len(token_ids))
        return whole(model, caches, token_ids)

    monkeypatch.setattr(joint_steps, "step", counted)
    return sizes


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt_neox"])
async def test_requests_at_once_are_batched_and_get_what_they_get_alone(family: str, batches: list[int]) -> None:
    store = DictActivations()
    runner = engine(family)
    asked = requests(store)
    alone = [runner.generate(each) for each in asked]
    assert not batches
    together = await at_once(runner, asked)
    assert [reply.text for reply in together] == [reply.text for reply in alone]
    served = [runner.generate(each).usage for each in asked]  # alone once more: by now all KV is stored
    assert [reply.usage.memory_tokens for reply in together] == [usage.memory_tokens for usage in served]
    assert max(batches) > 2
    runner.close()


def adapted_requests(runner: HFEngine) -> list[EngineRequest]:
    """Return requests with adapters of their own, some on one memory, one with two adapters and two with none."""
    blobs, store = DictBlobs(), DictActivations()
    model, mark = runner.loaded.model, runner.base_fingerprint
    one, two, three = (blobs.offer(model, mark, cube_id=f"adapter-{seed}", seed=seed) for seed in range(3))
    chosen = [(one,), (two,), (), (three,), (one, replace(two, weight=0.5)), (two,), ()]
    asked = requests(store)
    return [replace(each, adapters=ours, blobs=blobs) for each, ours in zip(asked, chosen, strict=True)]


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
async def test_requests_under_different_adapters_are_one_batch_and_get_what_they_get_alone(
    family: str, batches: list[int]
) -> None:
    runner = engine(family)
    asked = adapted_requests(runner)
    alone = [runner.generate(each) for each in asked]
    assert len({reply.text for reply in alone}) > 4
    assert not batches
    together = await at_once(runner, asked)
    assert [reply.text for reply in together] == [reply.text for reply in alone]
    assert max(batches) > 4
    runner.close()


def test_threads_under_different_adapters_do_not_mix() -> None:
    runner = engine()
    asked = adapted_requests(runner)
    alone = [runner.generate(each).text for each in asked]
    said: dict[int, str] = {}

    def go(number: int) -> None:
        said[number] = runner.generate(asked[number % len(asked)]).text

    threads = [threading.Thread(target=go, args=(number,)) for number in range(21)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert said == {number: alone[number % len(asked)] for number in range(21)}
    runner.close()


async def test_a_family_that_cannot_be_batched_takes_turns(batches: list[int]) -> None:
    runner = engine("mistral")  # a sliding window
    asked = requests(DictActivations())
    alone = [runner.generate(each) for each in asked]
    assert [reply.text for reply in await at_once(runner, asked)] == [reply.text for reply in alone]
    assert not batches
    runner.close()


async def test_a_batch_that_fails_is_taken_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = engine()
    asked = requests(DictActivations())
    alone = [runner.generate(each) for each in asked]
    whole = joint_steps.step

    def without_memory(model: Any, caches: Any, token_ids: Any) -> torch.Tensor:
        whole(model, caches, token_ids)  # what was written before it failed must not count
        raise RuntimeError("out of memory")

    monkeypatch.setattr(joint_steps, "step", without_memory)
    assert [reply.text for reply in await at_once(runner, asked)] == [reply.text for reply in alone]
    runner.close()


def test_fifty_threads_with_memories_of_their_own_do_not_mix() -> None:
    runner = engine()
    asked = [
        ask("kv", cubes(f"The code of box {number} is {number * 7919 % 1000}."), store=DictActivations(), max_tokens=8)
        for number in range(50)
    ]
    alone = [runner.generate(each).text for each in asked]
    found: dict[int, str] = {}

    def run(number: int) -> None:
        found[number] = runner.generate(asked[number]).text

    threads = [threading.Thread(target=run, args=(number,)) for number in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[number] for number in range(50)] == alone
    runner.close()
