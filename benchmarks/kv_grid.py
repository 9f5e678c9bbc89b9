"""Time to the first token with stored KV over a grid of contexts and queries, against computing the whole prompt.

The grid is that of published figures: contexts of 583, 2773 and 6064 tokens, queries of 167, 303 and 953. On a GPU the
models have the shapes of Qwen3-8B and Qwen3-32B, with random weights in bfloat16, since no time depends on what the
weights say:

    python benchmarks/kv_grid.py --device cuda --shape qwen3-8b --out benchmarks/results/kv_grid_8b.json

On a CPU a small shape and a quarter of the tokens show that the measurement works and how the share saved goes with the
lengths; its figures are not compared with those:

    python benchmarks/kv_grid.py --threads 1 --clock cpu --out benchmarks/results/kv_grid_cpu.json

The baseline of a cell is the faster of one forward over the whole prompt and of the engine's own, in parts. Both, and
the way from stored KV, take turns in every repeat; medians count. Reading KV from disk is timed apart from using it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from surroundings import surroundings
from transformers import AutoModelForCausalLM, Qwen3Config

from memos_core.engine.generate import Session
from memos_core.engine.kv.codec import KVBlob, as_token_ids, decode, encode
from memos_core.engine.loading import LoadedModel, MemorySource
from memos_core.engine.work import Reuse
from memos_core.testing.models import payload_of

COMMON = {
    "vocab_size": 151936,
    "max_position_embeddings": 40960,
    "tie_word_embeddings": False,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
SHAPES: dict[str, dict[str, Any]] = {
    "qwen3-8b": {
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
    },
    "qwen3-32b": {
        "hidden_size": 5120,
        "intermediate_size": 25600,
        "num_hidden_layers": 64,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "head_dim": 128,
    },
    "small": {
        "hidden_size": 256,
        "intermediate_size": 768,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "vocab_size": 8192,
    },
}
CONTEXTS, QUERIES = (583, 2773, 6064), (167, 303, 953)
TO_BEAT: dict[str, dict[tuple[int, int], float]] = {
    "qwen3-8b": {
        (6064, 953): 79.1, (6064, 303): 91.1, (6064, 167): 94.2,
        (2773, 953): 64.6, (2773, 303): 85.1, (2773, 167): 89.7,
        (583, 953): 23.0, (583, 303): 55.6, (583, 167): 71.3,
    },
    "qwen3-32b": {
        (6064, 953): 71.4, (6064, 303): 84.3, (6064, 167): 88.8,
        (2773, 953): 56.9, (2773, 303): 75.1, (2773, 167): 81.2,
        (583, 953): 18.6, (583, 303): 39.6, (583, 167): 53.5,
    },
}  # fmt: skip
"""Published shares of the time to the first token that stored KV saves, in percent."""


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="small", choices=SHAPES)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--divide", type=int, help="all lengths are divided by this; default: 4 for the small shape")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", default="wall", choices=["wall", "cpu"], help="cpu: on a shared core")
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--out", type=Path, help="JSON file for the result; without it, it is only printed")
    options = parser.parse_args()
    if options.divide is None:
        options.divide = 4 if options.shape == "small" else 1
    return options


class Bench:
    """The model, and the ways to a first token."""

    def __init__(self, options: argparse.Namespace) -> None:
        torch.manual_seed(options.seed)
        config = Qwen3Config(**{**COMMON, **SHAPES[options.shape]})
        with torch.device(options.device):  # made where it is used: weights of 64 GB do not fit twice
            model = AutoModelForCausalLM.from_config(
                config, attn_implementation="sdpa", dtype=getattr(torch, options.dtype)
            )
        self.model = model.eval()
        self.loaded = LoadedModel(MemorySource(self.model, None, options.shape))
        self.device = torch.device(options.device)
        self.clock = time.perf_counter if options.clock == "wall" else time.process_time
        self.why_not = self.loaded.cascade_refusal

    def prompt(self, tokens: int) -> list[int]:
        return torch.randint(2, 8000, (tokens,)).tolist()

    def build(self, ids: list[int]) -> KVBlob:
        """Return the KV of ``ids``."""
        session = Session(self.loaded, Reuse(), ids, snapshots=True)
        run(session, ids)
        blob = session.snapshot(as_token_ids(ids), "benchmark")
        if blob is None:
            raise SystemExit("the model's cache holds more than keys and values")
        return blob

    def in_one(self, ids: list[int]) -> Any:
        """One forward, as transformers' users do, with the logits of the last token only."""
        return self.model(input_ids=torch.tensor([ids], device=self.device), logits_to_keep=1, use_cache=True)

    def in_parts(self, ids: list[int]) -> Any:
        """The engine's own way through a prompt."""
        session = Session(self.loaded, Reuse(), ids, snapshots=False)
        run(session, ids)
        return session

    def from_kv(self, blob: KVBlob, ids: list[int]) -> Any:
        """The first token with the context's KV on the device."""
        session = Session(self.loaded, Reuse(blob=blob, length=blob.tokens), ids, snapshots=False)
        run(session, ids[blob.tokens :])
        return session

    def seconds(self, work: Callable[[], Any]) -> float:
        """Return what ``work`` takes, with everything that it started on the device."""
        self.wait()
        started = self.clock()
        made = work()
        self.wait()
        taken = self.clock() - started
        del made
        return taken

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def run(session: Session, ids: list[int]) -> None:
    for _ in session.prefill(ids):
        pass


def medians(bench: Bench, ways: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Return the median seconds of each way, after one turn that does not count."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats + 1):
        for name, work in ways.items():
            once = bench.seconds(work)
            if turn:
                taken[name].append(once)
    return {name: statistics.median(each) for name, each in taken.items()}


def context(bench: Bench, ids: list[int], repeats: int, folder: Path) -> tuple[KVBlob, dict[str, float]]:
    """Return the KV of a context, and what building, storing and loading it takes."""
    blob = bench.build(ids)
    data = encode(blob)
    payload, file = payload_of(blob, data), folder / f"{len(ids)}.safetensors"
    file.write_bytes(data)
    taken = medians(
        bench,
        {
            "build": lambda: bench.build(ids),
            "load": lambda: decode(file.read_bytes(), payload).to(bench.device),
        },
        repeats,
    )
    return blob, {**taken, "kv_bytes": float(blob.size_bytes)}


def cell(bench: Bench, blob: KVBlob, ids: list[int], load: float, repeats: int) -> dict[str, float]:
    """Return seconds to the first token of one context and query, and the share that stored KV saves."""
    taken = medians(
        bench,
        {
            "direct_in_one": lambda: bench.in_one(ids),
            "direct_in_parts": lambda: bench.in_parts(ids),
            "kv": lambda: bench.from_kv(blob, ids),
        },
        repeats,
    )
    direct = min(taken["direct_in_one"], taken["direct_in_parts"])
    saved, loading = (100 * (1 - seconds / direct) for seconds in (taken["kv"], taken["kv"] + load))
    return {**taken, "percent_saved": round(saved, 1), "percent_saved_with_loading": round(loading, 1)}


@torch.inference_mode()
def grid(bench: Bench, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Return the figures of every context and, in it, of every query."""
    told: dict[str, Any] = {}
    for tokens in CONTEXTS:
        ids = bench.prompt(tokens // options.divide)
        blob, figures = context(bench, ids, options.repeats, folder)
        queries = {}
        for query in QUERIES:
            whole = ids + bench.prompt(query // options.divide)
            found = cell(bench, blob, whole, figures["load"], options.repeats)
            published = TO_BEAT.get(options.shape, {}).get((tokens, query))
            queries[str(query)] = found | ({} if published is None else {"published_percent_saved": published})
            print(f"context {tokens:5} query {query:4}: {queries[str(query)]}", flush=True)
        told[str(tokens)] = {**figures, "queries": queries}
    return told


def main() -> None:
    """Measure, print and write."""
    options = parse()
    torch.set_num_threads(options.threads)
    bench = Bench(options)
    run_with = {name: str(value) for name, value in vars(options).items() if name != "out"}
    with tempfile.TemporaryDirectory() as folder:
        contexts = grid(bench, options, Path(folder))
    result = {
        **surroundings(run_with, options.device),
        "reads_kv_where_it_lies": bench.why_not or True,
        "contexts": contexts,
    }
    if options.out is not None:
        options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
