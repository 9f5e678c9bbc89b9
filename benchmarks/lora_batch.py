"""Requests under different adapters: one token of each as one batch, against one request after the other.

A random model of the family of Llama, and an adapter of its own for each request, on every linear module. Both ways
are held to the same tokens. Joining the matrices, once for each set of requests, is in the time of the batch.

    python benchmarks/lora_batch.py --threads 1 --clock cpu --out benchmarks/results/lora_batch.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from surroundings import surroundings

from memos_core.engine.generate import Session
from memos_core.engine.loading import LoadedModel, MemorySource
from memos_core.engine.lora.adapter import Adapter, Factors, linear_modules
from memos_core.engine.lora.plan import LoRAPlan, Use, hooked
from memos_core.engine.together import NextToken
from memos_core.engine.work import Reuse
from memos_core.testing.models import tiny_model

SHAPE = {
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "initializer_range": 0.02,
}


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, nargs="*", default=[2, 4, 8], help="requests at once")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--prompt", type=int, default=64, help="tokens of each prompt")
    parser.add_argument("--tokens", type=int, default=16, help="tokens of each reply")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", default="wall", choices=["wall", "cpu"], help="cpu: on a shared core")
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--out", type=Path, help="JSON file for the result; without it, it is only printed")
    return parser.parse_args()


def adapter(model: Any, rank: int, seed: int) -> Adapter:
    """Return random matrices for every linear module but the head."""
    random = torch.Generator().manual_seed(seed)
    modules = {
        name: Factors(
            torch.randn(rank, module.in_features, generator=random) / module.in_features**0.5,
            torch.randn(rank, module.out_features, generator=random).mT / 8,
        )
        for name, module in linear_modules(model).items()
        if name != "lm_head"
    }
    return Adapter(str(seed), modules)


def begin(loaded: LoadedModel, adapters: list[Adapter], options: argparse.Namespace) -> list[Session]:
    """Return a session for each adapter, with its prompt computed; the adapters' hooks must be on the model."""
    sessions = []
    for number, each in enumerate(adapters):
        ids = torch.randint(3, 390, (options.prompt,), generator=torch.Generator().manual_seed(number)).tolist()
        session = Session(loaded, Reuse(), ids, snapshots=False, lora=LoRAPlan([[Use(each)]]))
        for _ in session.prefill(ids):
            pass
        sessions.append(session)
    return sessions


def alone(sessions: list[Session], tokens: list[int]) -> None:
    for session in sessions:
        for token in tokens:
            session.feed([token])


def together(sessions: list[Session], tokens: list[int]) -> None:
    for token in tokens:
        steps = [NextToken("", session, token) for session in sessions]
        steps[0].take(steps)


@torch.inference_mode()
def measure(loaded: LoadedModel, count: int, options: argparse.Namespace) -> dict[str, float]:
    """Return medians of the seconds of both ways, and how far their logits lie apart."""
    clock = time.perf_counter if options.clock == "wall" else time.process_time
    adapters = [adapter(loaded.model, options.rank, seed) for seed in range(count)]
    tokens = list(range(5, 5 + options.tokens))
    taken: dict[str, list[float]] = {"alone": [], "together": []}
    apart = 0.0
    with ExitStack() as stack:
        for each in adapters:
            stack.enter_context(hooked(loaded.model, LoRAPlan([[Use(each)]])))
        for _ in range(options.repeats):
            last = []
            for name, way in (("alone", alone), ("together", together)):
                sessions = begin(loaded, adapters, options)
                started = clock()
                way(sessions, tokens)
                taken[name].append(clock() - started)
                last.append(torch.stack([session.logits for session in sessions]))
            apart = max(apart, float((last[0] - last[1]).abs().max()))
    medians = {name: statistics.median(each) for name, each in taken.items()}
    ratio = round(medians["alone"] / medians["together"], 2)
    return {"requests": count, **medians, "speed_up": ratio, "largest_logit_difference": apart}


def main() -> None:
    """Measure, print and write."""
    options = parse()
    torch.set_num_threads(options.threads)
    model, tokenizer = tiny_model("llama", seed=options.seed, **SHAPE)
    loaded = LoadedModel(MemorySource(model, tokenizer, "random llama"))
    run_with = {name: value for name, value in vars(options).items() if name != "out"}
    result = {**surroundings(run_with), "batches": [measure(loaded, count, options) for count in options.requests]}
    print(json.dumps(result["batches"], indent=2))
    if options.out is not None:
        options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
