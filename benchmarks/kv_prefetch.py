"""What reading KV ahead of a prompt saves: the time to the first token from stored bytes, and after ``prefetch``.

A random model, and a store that holds its bytes in memory: what a disk takes to read them comes on top. In each repeat
one request checks and decodes its KV, and one finds it decoded, as ``prefetch`` left it. Both must say the same.

    python benchmarks/kv_prefetch.py --threads 1 --clock cpu --out benchmarks/results/kv_prefetch.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from surroundings import surroundings

from memos_core.engine import EngineRequest, GenerationOptions, HFEngine
from memos_core.engine.kv.calibration import fact_block
from memos_core.records import Inject, InjectionPlan, Message, Reply
from memos_core.render import MemoryBlock
from memos_core.testing.models import DictActivations, tiny_model

SHAPE = {
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "initializer_range": 0.02,
}
CODECS = ("raw", "int8", "grid8")


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--facts", type=int, default=40, help="memories in the prompt")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", default="wall", choices=["wall", "cpu"], help="cpu: on a shared core")
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--out", type=Path, help="JSON file for the result; without it, it is only printed")
    return parser.parse_args()


def request(inject: Inject, block: MemoryBlock, store: DictActivations | None) -> EngineRequest:
    message = Message(role="user", content="What is in the red box?")
    options = GenerationOptions(max_tokens=1)
    return EngineRequest([message], InjectionPlan(inject=inject), block=block, options=options, activations=store)


def measure(codec: Any, options: argparse.Namespace) -> dict[str, Any]:
    """Return medians of the seconds to one token, from stored bytes and after reading ahead."""
    engine = HFEngine.from_model(*tiny_model("llama", seed=options.seed, **SHAPE), kv_codec=codec)
    clock = time.perf_counter if options.clock == "wall" else time.process_time
    block = fact_block(
        [f"Box number {number} holds {number * 7} screws and a lamp." for number in range(options.facts)]
    )
    store = DictActivations()
    built = engine.generate(request("kv", block, store))
    asked = request("kv", block, store)

    def timed() -> tuple[float, Reply]:
        started = clock()
        reply = engine.generate(asked)
        return clock() - started, reply

    taken: dict[str, list[float]] = {"disk": [], "ahead": [], "text": []}
    tokens = 0
    for turn in range(options.repeats + 1):
        engine.drop(store.owner)
        disk, reply = timed()
        engine.drop(store.owner)
        tokens = engine.prefetch(asked).result()
        ahead, again = timed()
        assert reply.text == again.text
        started = clock()
        engine.generate(request("text", block, None))
        text = clock() - started
        if turn:
            for name, seconds in (("disk", disk), ("ahead", ahead), ("text", text)):
                taken[name].append(seconds)
    engine.close()
    medians = {name: statistics.median(each) for name, each in taken.items()}
    return {
        "prompt_tokens": built.usage.prompt_tokens,
        "tokens_from_kv": tokens,
        "seconds": medians,
        "ahead_against_disk": round(medians["disk"] / medians["ahead"], 2),
    }


def main() -> None:
    """Measure, print and write."""
    options = parse()
    torch.set_num_threads(options.threads)
    run_with = {name: value for name, value in vars(options).items() if name != "out"}
    result = {**surroundings(run_with), "codecs": {codec: measure(codec, options) for codec in CODECS}}
    print(json.dumps(result["codecs"], indent=2))
    if options.out is not None:
        options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
