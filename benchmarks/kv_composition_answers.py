"""Right answers when the KV of single memories is put together, against computing the whole prompt.

The bundled reader answers questions about generated notes with names that it never saw in training. Each note is a
memory whose KV was stored alone. A question is about one note (self-contained) or needs two (two-hop).

    python benchmarks/kv_composition_answers.py --out benchmarks/results/kv_composition_answers.json
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import torch
from kv_composition import policies
from surroundings import surroundings

from memos_core.engine import EngineRequest, GenerationOptions, HFEngine
from memos_core.engine.compose import ComposePolicy
from memos_core.engine.kv.calibration import fact_block
from memos_core.records import InjectionPlan, Message
from memos_core.testing.models import DictActivations

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))

from reader.context import Context, ContextMaker, Mix
from reader.evaluate import contexts
from reader.names import Inventory

KINDS = {
    "self-contained": ("direct", Mix(4, absent=0.0, wrapped=0.15)),
    "self-contained, rivals": ("direct", Mix(4, absent=0.0, wrapped=0.15, rivals=1.0)),
    "two-hop": ("two-hop", Mix(4, absent=0.0, wrapped=0.15, two_hop=1.0)),
}
RUN = ("facts", "questions", "ratios", "seed")


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--facts", type=int, default=8, help="notes of a context")
    parser.add_argument("--questions", type=int, default=200, help="questions of each kind")
    parser.add_argument("--ratios", type=float, nargs="*", default=[0.15, 0.5], help="shares that blending recomputes")
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--out", type=Path, help="JSON file for the result; without it, it is only printed")
    return parser.parse_args()


def asked(engine: HFEngine, context: Context, store: DictActivations) -> Iterator[tuple[EngineRequest, str]]:
    """Store the KV of each note alone; yield each question with its answer."""
    block = fact_block(context.notes)
    for memory in range(len(block.ends)):
        store.publish(engine.prefill(block.alone(memory), store))
    for question, answer, _ in context.questions:
        message = Message(role="user", content=question)
        options = GenerationOptions(max_tokens=24)
        plan = InjectionPlan(inject="auto")
        yield EngineRequest([message], plan, block=block, options=options, activations=store), answer


def measure(cases: Sequence[Context], policy: ComposePolicy) -> dict[str, Any]:
    """Return how many questions are answered right, and how many tokens came from stored KV."""
    engine = HFEngine.from_pretrained("memos-reader", device="cpu", compose=policy)
    right, served, read = [], 0, 0
    for number, context in enumerate(cases):
        for request, answer in asked(engine, context, DictActivations(f"user-{number}")):
            reply = engine.generate(request)
            right.append(reply.text == answer)
            served += reply.usage.memory_tokens
            read += reply.usage.prompt_tokens
    engine.close()
    return {"right": sum(right), "questions": len(right), "from_stored_kv": round(served / read, 3)}


def main() -> None:
    """Measure, print and write."""
    options = parse()
    torch.set_num_threads(1)
    result = surroundings({name: getattr(options, name) for name in RUN} | {"model": "memos-reader"})
    result["kinds"] = {}
    for kind, (wanted, plain) in KINDS.items():
        maker = ContextMaker(Inventory(held_out=True))
        mix = replace(plain, facts=options.facts)
        cases = list(contexts(Random(f"{options.seed}-{kind}"), maker, wanted, mix, options.questions))
        modes = {name: measure(cases, policy) for name, policy in policies(options.ratios, None).items()}
        whole = modes["full"]
        for name, figures in modes.items():
            figures["accuracy"] = round(figures["right"] / figures["questions"], 4)
            figures["share_of_full"] = round(figures["right"] / max(1, whole["right"]), 4)
            print(f"{kind:24} {name:12} {figures}", flush=True)
        result["kinds"][kind] = modes
    if options.out is not None:
        options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
