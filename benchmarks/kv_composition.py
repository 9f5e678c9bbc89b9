"""Putting KV of single memories together: how near it comes to computing everything, and time to the first token.

    python benchmarks/kv_composition.py --model FOLDER --out benchmarks/results/kv_composition.json

Without ``--model`` a tiny random llama is measured: its figures show that the measurement works, and nothing else.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Generator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from surroundings import surroundings

from memos_core.engine import EngineRequest, GenerationOptions, HFEngine
from memos_core.engine.compose import ComposePolicy, Composer
from memos_core.engine.generate import build
from memos_core.engine.kv.calibration import compare, fact_block
from memos_core.engine.kv.prefix import PrefixCache
from memos_core.engine.kv.tiers import Place
from memos_core.engine.loading import FolderSource, LoadedModel, MemorySource, shared_model
from memos_core.engine.resolve import KVRules, resolve
from memos_core.engine.work import Work
from memos_core.records import InjectionPlan, Message
from memos_core.render import MemoryBlock
from memos_core.testing.models import DictActivations, tiny_model

DEFAULT_OUT = Path(__file__).parent / "results" / "kv_composition.json"
NAMES = ("Ada", "Ben", "Clara", "Mira", "Tom", "Ruth", "Olga", "Hugo", "Nina", "Paul", "Vera", "Emil")
THINGS = ("spare key", "blue bicycle", "old camera", "violin", "passport", "red umbrella", "chess set", "tent")
PLACES = (
    "the cellar",
    "the garage",
    "the attic",
    "the office",
    "the garden shed",
    "the hall",
    "the car",
    "the library",
)
UNLIMITED = 1e9


class Seconds(NamedTuple):
    """On the clock, and of the processor: the second is less disturbed where others use the machine too."""

    wall: float
    processor: float


def policies(ratios: Sequence[float], check_layer: int | None) -> dict[str, ComposePolicy]:
    """Return what is measured, by name; figures do not decide here."""
    free: dict[str, Any] = {
        "max_divergence": UNLIMITED,
        "min_self_contained": 0.0,
        "min_cross": 0.0,
        "check_layer": check_layer,
    }
    blends = {f"blend {ratio:g}": ComposePolicy("blend", ratio=ratio, **free) for ratio in ratios}
    return {
        "full": ComposePolicy("full"),
        "exact": ComposePolicy("exact"),
        "shift": ComposePolicy("shift", **free),
        **blends,
    }


def workload(seed: int, memories: int, sentences: int, blocks: int) -> list[tuple[MemoryBlock, str]]:
    """Return memory blocks, each with a question about one of its memories."""
    chance = random.Random(seed)
    made = []
    for _ in range(blocks):
        facts = [[fact(chance) for _ in range(sentences)] for _ in range(memories)]
        name, thing, _ = chance.choice(chance.choice(facts))
        texts = [" ".join(f"{who} keeps the {what} in {where}." for who, what, where in each) for each in facts]
        made.append((fact_block(texts), f"Where does {name} keep the {thing}?"))
    return made


def fact(chance: random.Random) -> tuple[str, str, str]:
    return chance.choice(NAMES), chance.choice(THINGS), chance.choice(PLACES)


@torch.inference_mode()
def finish(work: Generator[Any, None, Any]) -> Any:
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value


def first_logits(
    loaded: LoadedModel, prefixes: PrefixCache, composer: Composer, request: EngineRequest
) -> tuple[torch.Tensor, Seconds, Work]:
    """Return the logits of the first token of the reply, the time to them and how memory entered."""
    decide = partial(composer.verdict, loaded, finish) if composer.approximate else None
    started, spent = time.perf_counter(), time.process_time()
    work = resolve(loaded, prefixes, request, KVRules(mode=composer.policy.mode, decide=decide))
    session, _, _ = finish(build(loaded, work))
    finish(session.prefill(work.prompt.token_ids[len(session.token_ids) :]))
    logits = session.logits.float().cpu()  # waits for the device
    return logits, Seconds(time.perf_counter() - started, time.process_time() - spent), work


def requests(engine: HFEngine, cases: Sequence[tuple[MemoryBlock, str]]) -> list[EngineRequest]:
    """Store the KV of each memory alone and return the requests that may use it."""
    made = []
    for index, (block, question) in enumerate(cases):
        store = DictActivations(f"user-{index}")
        for memory in range(len(block.ends)):
            store.publish(engine.prefill(block.alone(memory), store))
        made.append(
            EngineRequest(
                messages=[Message(role="user", content=question)],
                plan=InjectionPlan(inject="auto"),
                block=block,
                options=GenerationOptions(max_tokens=1),
                activations=store,
            )
        )
    return made


def measure(
    loaded: LoadedModel,
    asked: Sequence[EngineRequest],
    policy: ComposePolicy,
    expected: list[torch.Tensor],
    repeats: int,
) -> dict[str, Any]:
    """Return the figures of one mode. ``expected`` holds the logits of ``full``, and is filled by it."""
    composer, prefixes = Composer(policy), PrefixCache(Place(loaded.model.device, 2**31))
    best, found, works = [], [], []
    for request in asked:
        runs = [first_logits(loaded, prefixes, composer, request) for _ in range(repeats + 1)]
        timed = [seconds for _, seconds, _ in runs[1:]]  # the first one loads and measures
        best.append(Seconds(min(each.wall for each in timed), min(each.processor for each in timed)))
        found.append(runs[0][0])
        works.append(runs[0][2])
    if not expected:
        expected.extend(found)
    pairs = [compare(*each) for each in zip(found, expected, strict=True)]
    return {
        "kl_mean": statistics.fmean(kl for kl, _ in pairs),
        "kl_max": max(kl for kl, _ in pairs),
        "greedy_agreement": statistics.fmean(same for _, same in pairs),
        "ttft_seconds_median": statistics.median(each.wall for each in best),
        "ttft_processor_seconds_median": statistics.median(each.processor for each in best),
        "prompt_tokens_mean": statistics.fmean(len(work.token_ids) for work in works),
        "stored_tokens_mean": statistics.fmean(work.stored_tokens for work in works),
        "notes": sorted({note for work in works for note in work.reuse.notes}),
    }


def load(folder: str | None, device: str, layers: int, hidden_size: int) -> LoadedModel:
    if folder is not None:
        source = FolderSource(folder, device=device, dtype="auto", attention=None, trust_remote_code=False)
        return shared_model(source)
    heads = {"num_attention_heads": hidden_size // 32, "num_key_value_heads": hidden_size // 64}
    sizes = {"num_hidden_layers": layers, "hidden_size": hidden_size, "intermediate_size": 3 * hidden_size, **heads}
    model, tokenizer = tiny_model("llama", initializer_range=0.2 * (64 / hidden_size) ** 0.5, **sizes)
    return LoadedModel(MemorySource(model.to("cpu" if device == "auto" else device), tokenizer, "random llama"))


RUN = ("memories", "sentences", "blocks", "repeats", "check_layer", "seed")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder of a model; default: a tiny random llama")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--memories", type=int, default=8, help="memories in a block")
    parser.add_argument("--sentences", type=int, default=4, help="sentences in a memory")
    parser.add_argument("--blocks", type=int, default=8, help="blocks, each with one question")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs of each request; the best counts")
    parser.add_argument("--ratios", type=float, nargs="*", default=[0.15, 0.3, 0.5, 1.0])
    parser.add_argument("--check-layer", type=int)
    parser.add_argument("--layers", type=int, default=4, help="of the random model")
    parser.add_argument("--hidden-size", type=int, default=64, help="of the random model")
    parser.add_argument("--seed", type=int, default=2026)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    loaded = load(options.model, options.device, options.layers, options.hidden_size)
    engine = HFEngine(loaded)
    asked = requests(engine, workload(options.seed, options.memories, options.sentences, options.blocks))
    engine.close()
    expected: list[torch.Tensor] = []
    modes = {
        name: measure(loaded, asked, policy, expected, options.repeats)
        for name, policy in policies(options.ratios, options.check_layer).items()
    }
    device = next(loaded.model.parameters()).device
    result = {
        "benchmark": "kv_composition",
        "model": Path(loaded.name).name,
        "parameters": sum(each.numel() for each in loaded.model.parameters()),
        "layers": len(loaded.layout or ()),
        "dtype": str(loaded.model.dtype),
        **surroundings({key: getattr(options, key) for key in RUN}, str(device)),
        "modes": modes,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    for name, figures in modes.items():
        print(
            f"{name:12} KL {figures['kl_mean']:.2e}  same token {figures['greedy_agreement']:.2f}  "
            f"first token after {1000 * figures['ttft_seconds_median']:.1f} ms "
            f"({1000 * figures['ttft_processor_seconds_median']:.1f} ms of the processor), "
            f"{figures['stored_tokens_mean']:.0f} of {figures['prompt_tokens_mean']:.0f} tokens stored"
        )


if __name__ == "__main__":
    main()
