"""Adapters in a forward pass: by plan, and by PEFT as the alternative, in one run.

A random Qwen3-type model with adapters on all seven linear modules of each layer. Times are CPU milliseconds of this
process, the least of several rounds in which the contenders take turns.

    python benchmarks/lora.py                    28 layers, width 256, rank 8
    python benchmarks/lora.py --layers 4         smaller
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from rich.console import Console
from rich.table import Table
from surroundings import surroundings

from memos_core.cube import BlobRef, ParametricPayload
from memos_core.engine.lora.adapter import Adapter, Factors, decode, encode, peft_config
from memos_core.engine.lora.plan import LoRAPlan, Use, hooked
from memos_core.testing.models import tiny_model

ROOT = Path(__file__).resolve().parents[1]
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class Bench:
    """A model, adapters for it, and the same in PEFT."""

    def __init__(self, options: argparse.Namespace) -> None:
        width = options.width
        sizes = {"hidden_size": width, "intermediate_size": 3 * width, "num_hidden_layers": options.layers}
        self.model, _ = tiny_model("qwen3", num_attention_heads=4, initializer_range=0.05, **sizes)
        random = torch.Generator().manual_seed(options.seed)
        self.blobs = [self.blob(options.rank, random) for _ in range(options.adapters)]
        self.adapters = [self.load(blob) for blob in self.blobs]
        self.plans = [LoRAPlan([[Use(adapter)]]) for adapter in self.adapters]
        self.peft = get_peft_model(copy.deepcopy(self.model), self.config, adapter_name="a0").eval()
        for index, blob in enumerate(self.blobs):
            if index:
                self.peft.add_adapter(f"a{index}", self.config)
            self.fill(index, blob)
        self.ids = torch.randint(3, 390, (1, 48), generator=random)

    def blob(self, rank: int, random: torch.Generator) -> bytes:
        modules = {}
        for name, module in self.model.named_modules():
            if name.rsplit(".", 1)[-1] in TARGETS:
                down = torch.randn(rank, module.in_features, generator=random) / module.in_features**0.5
                modules[name] = Factors(down, 0.05 * torch.randn(module.out_features, rank, generator=random))
        self.settings = peft_config(rank, list(modules), "benchmark")
        self.config = LoraConfig(r=rank, lora_alpha=rank, target_modules=list(TARGETS), task_type="CAUSAL_LM")
        return encode(modules)

    def load(self, blob: bytes) -> Adapter:
        ref = BlobRef(address="0" * 64, size_bytes=len(blob))
        payload = ParametricPayload(blob=ref, fingerprint="", model="benchmark", peft_config=self.settings)
        return decode(blob, payload).to(self.model.device, self.model.dtype)

    def fill(self, index: int, blob: bytes) -> None:
        import safetensors.torch

        set_peft_model_state_dict(self.peft, safetensors.torch.load(blob), adapter_name=f"a{index}")

    @torch.inference_mode()
    def ours(self, index: int, ids: torch.Tensor) -> torch.Tensor:
        with self.plans[index].at(0, ids.shape[1]):
            logits: torch.Tensor = self.model(input_ids=ids).logits
        return logits

    @torch.inference_mode()
    def theirs(self, index: int, ids: torch.Tensor) -> torch.Tensor:
        self.peft.set_adapter(f"a{index}")
        logits: torch.Tensor = self.peft(input_ids=ids).logits
        return logits


def least(actions: Mapping[str, Callable[[], Any]], rounds: int, calls: int) -> dict[str, float]:
    """Return for each action the least CPU milliseconds of a call; they take turns, ``calls`` at a time."""
    times: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(rounds):
        for name, action in actions.items():
            started = time.process_time()
            for _ in range(calls):
                action()
            times[name].append((time.process_time() - started) / calls * 1000)
    return {name: min(each) for name, each in times.items()}


def forward_of_one_token(bench: Bench, options: argparse.Namespace) -> dict[str, float]:
    """Return what the next token behind a cache costs: base, base with idle hooks, by plan, by PEFT."""
    bench.peft.set_adapter("a0")
    length = bench.ids.shape[1] - 1
    with torch.inference_mode():
        cache = bench.model(input_ids=bench.ids[:, :length], use_cache=True).past_key_values

    @torch.inference_mode()
    def step(model: Any) -> None:
        model(input_ids=bench.ids[:, length:], past_key_values=cache, use_cache=True)
        cache.crop(-1)

    def by_plan() -> None:
        with bench.plans[0].at(length, 1):
            step(bench.model)

    def timed(action: Callable[[], Any]) -> float:
        return least({"x": action}, 1, options.calls)["x"]

    found: dict[str, list[float]] = {name: [] for name in ("base", "idle_hooks", "plan", "peft")}
    for _ in range(3 * options.rounds):
        found["base"].append(timed(lambda: step(bench.model)))
        with hooked(bench.model, bench.plans[0]):
            found["idle_hooks"].append(timed(lambda: step(bench.model)))
            found["plan"].append(timed(by_plan))
        found["peft"].append(timed(lambda: step(bench.peft)))
    figures = {f"{name}_ms": min(each) for name, each in found.items()}
    for name in ("idle_hooks", "plan", "peft"):
        figures[f"{name}_overhead"] = figures[f"{name}_ms"] / figures["base_ms"] - 1
    return figures


def switching(bench: Bench, options: argparse.Namespace) -> dict[str, float]:
    """Return what it takes to go over from one adapter to another, and to begin and end a request with hooks."""

    def request() -> None:
        with hooked(bench.model, bench.plans[0]):
            pass

    def switch() -> None:
        for plan in (bench.plans[0], bench.plans[1]):
            with plan.at(0, 1):
                pass

    def theirs() -> None:
        bench.peft.set_adapter("a0")
        bench.peft.set_adapter("a1")

    times = least({"switch": switch, "peft": theirs, "hooks": request}, options.rounds, options.calls)
    return {
        "switch_ms": times["switch"] / 2,
        "peft_switch_ms": times["peft"] / 2,
        "hooks_on_and_off_ms": times["hooks"],
    }


def loading(bench: Bench, options: argparse.Namespace) -> dict[str, float]:
    """Return what it takes to make an adapter usable from its bytes."""
    actions = {"load": lambda: bench.load(bench.blobs[0]), "peft": lambda: bench.fill(0, bench.blobs[0])}
    times = least(actions, 3 * options.rounds, 3)
    return {"load_ms": times["load"], "peft_load_ms": times["peft"], "adapter_bytes": float(len(bench.blobs[0]))}


def batches(bench: Bench, options: argparse.Namespace) -> dict[str, float]:
    """Return what a batch of four rows with four adapters costs."""
    ids = bench.ids[:, :16].repeat(4, 1)
    mixed = LoRAPlan([[Use(adapter)] for adapter in bench.adapters[:4]])
    names = [f"a{index}" for index in range(4)]

    @torch.inference_mode()
    def ours() -> torch.Tensor:
        with hooked(bench.model, mixed), mixed.at(0, 16):
            logits: torch.Tensor = bench.model(input_ids=ids).logits
        return logits

    @torch.inference_mode()
    def theirs() -> torch.Tensor:
        logits: torch.Tensor = bench.peft(input_ids=ids, adapter_names=names).logits
        return logits

    times = least({"plan": ours, "peft": theirs}, options.rounds, 2)
    apart = float((ours() - theirs()).abs().max())
    return {"plan_ms": times["plan"], "peft_ms": times["peft"], "max_difference": apart}


def concurrency(bench: Bench, options: argparse.Namespace) -> dict[str, float]:
    """Return how many requests of several threads with different adapters come out wrong."""
    expected = [bench.theirs(index, bench.ids) for index in range(options.adapters)]

    def wrong(answer: Callable[[int, torch.Tensor], torch.Tensor], requests: int) -> int:
        def ask(number: int) -> bool:
            index = number % options.adapters
            return not torch.allclose(answer(index, bench.ids), expected[index], atol=1e-4)

        with ThreadPoolExecutor(options.threads) as pool:
            return sum(pool.map(ask, range(requests)))

    with ExitStack() as stack:
        for plan in bench.plans:
            stack.enter_context(hooked(bench.model, plan))
        ours = wrong(bench.ours, options.requests)
        apart = max(float((bench.ours(index, bench.ids) - each).abs().max()) for index, each in enumerate(expected))
    return {
        "requests": options.requests,
        "wrong": ours,
        "peft_requests": 48,
        "peft_wrong": wrong(bench.theirs, 48),
        "max_difference_to_peft": apart,
    }


def show(result: Mapping[str, Mapping[str, float]]) -> None:
    table = Table(title="Adapters by plan and by PEFT")
    for column in ("what", "figure", "value"):
        table.add_column(column)
    for name, figures in result.items():
        for figure, value in figures.items():
            table.add_row(name, figure, f"{value:.4g}")
    Console(width=110).print(table)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print a table and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=28, help="layers of the model")
    parser.add_argument("--width", type=int, default=256, help="hidden size")
    parser.add_argument("--rank", type=int, default=8, help="rank of the adapters")
    parser.add_argument("--adapters", type=int, default=8, help="how many, four at least")
    parser.add_argument("--threads", type=int, default=8, help="threads that ask at once")
    parser.add_argument("--requests", type=int, default=1000, help="requests of these threads")
    parser.add_argument("--rounds", type=int, default=7, help="rounds, of which the quickest counts")
    parser.add_argument("--calls", type=int, default=10, help="calls in a round")
    parser.add_argument("--seed", type=int, default=2026, help="seed of weights and prompts")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "lora.json")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    bench = Bench(options)
    result = {
        "one_token": forward_of_one_token(bench, options),
        "switching": switching(bench, options),
        "loading": loading(bench, options),
        "batch_of_four": batches(bench, options),
        "threads": concurrency(bench, options),
    }
    show(result)
    workload = {name: value for name, value in vars(options).items() if name != "out"}
    told = surroundings(workload)
    told["versions"]["peft"] = version("peft")
    options.out.write_text(json.dumps({**told, **result}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
