"""A request that would not fit the device's memory is refused before it is computed, and kept KV makes way for it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from engine_parts import ask, cubes

from memos_core.engine import HFEngine, limits
from memos_core.engine.kv.cache import probe_layout
from memos_core.engine.kv.prefix import PrefixCache
from memos_core.engine.limits import ensure_room, free_bytes, request_bytes, token_bytes
from memos_core.errors import DeviceMemoryExceeded, EngineError
from memos_core.testing.models import DictActivations, tiny_model

CPU = torch.device("cpu")


def limited(max_request_bytes: int | None) -> HFEngine:
    return HFEngine.from_model(*tiny_model(), max_request_bytes=max_request_bytes)


def test_a_request_above_the_limit_is_refused_by_name_and_the_next_one_served() -> None:
    runner = limited(1_000_000)
    with pytest.raises(DeviceMemoryExceeded, match="memory_budget") as refused:
        runner.generate(ask("text", cubes(*(f"Fact {number} is long. " * 3 for number in range(20)))))
    assert isinstance(refused.value, EngineError | MemoryError)
    assert refused.value.needed_bytes > refused.value.free_bytes == 1_000_000
    assert runner.generate(ask("text", cubes())).text
    runner.close()


def test_a_transformation_above_the_limit_is_refused() -> None:
    runner = limited(10_000)
    block = ask("kv", cubes()).block
    with pytest.raises(DeviceMemoryExceeded):
        runner.prefill(block, DictActivations())
    runner.close()


def test_a_reply_is_as_long_as_there_is_memory_for() -> None:
    model, tokenizer = tiny_model()
    runner = limited(None)
    prompt = runner.generate(ask("text", cubes(), max_tokens=1)).usage.prompt_tokens
    runner.close()
    enough = request_bytes(probe_layout(model), model.config, prompt + 1) + 4 * token_bytes(probe_layout(model))
    runner = HFEngine.from_model(model, tokenizer, max_request_bytes=enough)
    reply = runner.generate(ask("text", cubes(), max_tokens=50))
    assert reply.usage.completion_tokens == 5
    assert reply.finish_reason == "length"
    runner.close()


def test_kept_kv_makes_way(monkeypatch: pytest.MonkeyPatch) -> None:
    runner, store = limited(None), DictActivations()
    runner.generate(ask("kv", cubes(), store=store))
    prefixes: PrefixCache = runner._prefixes()
    held = prefixes.loaded_bytes
    assert held
    monkeypatch.setattr(limits, "free_bytes", lambda device: 1_000_000)
    assert ensure_room(prefixes, CPU, 890_000, None) == 10_000
    assert prefixes.loaded_bytes == held
    assert ensure_room(prefixes, CPU, 900_000 + held, None) == 0
    assert prefixes.loaded_bytes == 0
    with pytest.raises(DeviceMemoryExceeded):
        ensure_room(prefixes, CPU, 900_001, None)
    assert runner.generate(ask("kv", cubes(), store=store)).usage.memory_tokens
    runner.close()


def test_a_control_group_counts_less_what_it_can_take_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CGROUP", tmp_path)
    whole = free_bytes(CPU)
    assert whole
    (tmp_path / "memory.max").write_text("5000\n", encoding="ascii")
    (tmp_path / "memory.current").write_text("4000\n", encoding="ascii")
    assert free_bytes(CPU) == 1000
    (tmp_path / "memory.stat").write_text("anon 7\ninactive_file 300\nactive_file 9\n", encoding="ascii")
    assert free_bytes(CPU) == 1300
    (tmp_path / "memory.max").write_text("max\n", encoding="ascii")
    assert free_bytes(CPU) > 1300
    assert free_bytes(torch.device("meta")) is None
