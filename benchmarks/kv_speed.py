"""Time to the first token and time per token with memory as stored KV, against the full prompt and transformers' reuse.

The model has the shape of Qwen3-0.6B and random weights, since neither time depends on what the weights say. It has
fewer layers by default; ratios at equal layers are what counts, and the times of the output layer, which do not shrink
with the number of layers, make them smaller than they are for the whole model.

    python benchmarks/kv_speed.py --threads 1 --out benchmarks/results/kv_speed.json

Every repeat runs all ways one after the other, so that a disturbance meets all of them; medians and minima are kept.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
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
from memos_core.engine.kv.cache import container
from memos_core.engine.kv.codec import KVBlob, as_token_ids, decode, encode
from memos_core.engine.loading import LoadedModel, MemorySource
from memos_core.engine.work import Reuse
from memos_core.testing.models import payload_of

SHAPE = {
    "vocab_size": 151936,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 40960,
    "tie_word_embeddings": True,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
    "pad_token_id": 151643,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
}
MARK = "benchmark"


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=8, help="of 28")
    parser.add_argument("--memory", type=int, nargs="*", default=[500, 1000, 2000], help="tokens of memory, for TTFT")
    parser.add_argument("--decode-memory", type=int, default=4000, help="tokens of memory while decoding")
    parser.add_argument("--question", type=int, default=32, help="tokens of the question")
    parser.add_argument("--tokens", type=int, default=16, help="tokens decoded in each repeat")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--clock", default="wall", choices=["wall", "cpu"], help="cpu: on a shared core, with one thread"
    )
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--out", type=Path, help="JSON file for the result; without it, it is only printed")
    return parser.parse_args()


class Bench:
    """The model, and prompts of memory and question with the KV of the memory."""

    def __init__(self, options: argparse.Namespace) -> None:
        torch.manual_seed(options.seed)
        config = Qwen3Config(**SHAPE, num_hidden_layers=options.layers)
        dtype = getattr(torch, options.dtype)
        self.model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", dtype=dtype).eval()
        self.loaded = LoadedModel(MemorySource(self.model, None, "Qwen3-0.6B shape"))
        self.question = options.question
        self.clock = time.perf_counter if options.clock == "wall" else time.process_time
        if self.loaded.cascade_refusal is not None:
            raise SystemExit(f"this model cannot share a prefix: {self.loaded.cascade_refusal}")

    def prompt(self, memory: int) -> list[int]:
        return torch.randint(1000, 150_000, (memory + self.question,)).tolist()

    def store(self, ids: list[int]) -> KVBlob:
        """Return the KV of the memory that ``ids`` begins with."""
        memory = ids[: -self.question]
        session = Session(self.loaded, Reuse(), memory, snapshots=True)
        run(session, memory)
        blob = session.snapshot(as_token_ids(memory), MARK)
        if blob is None:
            raise SystemExit("the model's cache holds more than keys and values")
        return blob

    def begin(self, blob: KVBlob | None, ids: list[int], *, sharing: bool = True) -> Session:
        """Return a session that begins with the whole of ``blob``; without sharing, in a ``DynamicCache``."""
        reuse = Reuse(blob=blob, length=blob.tokens) if blob is not None else Reuse()
        return Session(self.loaded, reuse, ids, snapshots=not sharing)

    def first_token(self, blob: KVBlob | None, ids: list[int]) -> torch.Tensor:
        """Return the logits of the first token."""
        session = self.begin(blob, ids)
        run(session, ids[len(session.token_ids) :])
        logits: torch.Tensor = session.logits
        return logits

    def transformers_first_token(self, ids: list[int], cache: Any = None) -> None:
        """Generate one token as a user of transformers does, ``cache`` being kept for later requests."""
        prompt = torch.tensor([ids])
        options: dict[str, Any] = {} if cache is None else {"past_key_values": copy.deepcopy(cache)}
        self.model.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=1, do_sample=False, **options
        )

    def seconds(self, work: Callable[[], Any]) -> float:
        """Return what ``work`` takes. What it returns is let go of outside of that."""
        started = self.clock()
        made = work()
        taken = self.clock() - started
        del made
        return taken


def run(session: Session, ids: list[int]) -> None:
    for _ in session.prefill(ids):
        pass


def measure(bench: Bench, ways: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, dict[str, float]]:
    """Return the median and the least of the seconds that each way takes, after one turn that does not count."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats + 1):
        for name, work in ways.items():
            once = bench.seconds(work)
            if turn:
                taken[name].append(once)
    return {name: {"median": statistics.median(each), "min": min(each)} for name, each in taken.items()}


def time_to_first_token(bench: Bench, memory: int, repeats: int, folder: Path) -> dict[str, Any]:
    """Return seconds to the first token with ``memory`` tokens, by each way, and ratios of their medians."""
    ids = bench.prompt(memory)
    blob = bench.store(ids)
    data = encode(blob)
    payload, file = payload_of(blob, data), folder / f"{memory}.safetensors"
    file.write_bytes(data)
    apart = (bench.first_token(blob, ids) - bench.first_token(None, ids)).float().abs().max()
    kept = container(bench.model.config, blob, blob.tokens)
    taken = measure(
        bench,
        {
            "full_prompt": lambda: bench.first_token(None, ids),
            "full_prompt_transformers": lambda: bench.transformers_first_token(ids),
            "transformers_reuse": lambda: bench.transformers_first_token(ids, kept),
            "stored_kv_ram": lambda: bench.first_token(blob, ids),
            "stored_kv_warm_disk": lambda: bench.first_token(decode(file.read_bytes(), payload), ids),
            "question_alone": lambda: bench.first_token(None, ids[-bench.question :]),
            "set_up": lambda: bench.begin(blob, ids),
        },
        repeats,
    )
    ratios = {
        name: round(ratio(taken, name), 2) for name in ("transformers_reuse", "stored_kv_ram", "stored_kv_warm_disk")
    }
    cold = cold_read(file, repeats)
    if cold is not None:
        # On top of the whole of the warm way, which reads the file from memory once more: so rather too much.
        slowest = {name: each + cold for name, each in taken["stored_kv_warm_disk"].items()}
        taken |= {"stored_kv_cold_disk": slowest, "cold_read": {"median": cold, "min": cold}}
        ratios["stored_kv_cold_disk"] = round(ratio(taken, "stored_kv_cold_disk"), 2)
    return {"kv_bytes": blob.size_bytes, "largest_logit_difference": float(apart), "seconds": taken, "speed_up": ratios}


def cold_read(file: Path, repeats: int) -> float | None:
    """Return the median of the seconds by the wall clock that reading ``file`` takes when the system holds none of it
    in memory; None where it cannot be told to let go."""
    if not hasattr(os, "posix_fadvise"):
        return None
    taken = []
    for _ in range(repeats):
        with file.open("rb+") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        started = time.perf_counter()
        file.read_bytes()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def ratio(taken: dict[str, dict[str, float]], name: str) -> float:
    """Return how many times faster ``name`` is than the full prompt, in the faster of its two ways."""
    full = min(taken["full_prompt"]["median"], taken["full_prompt_transformers"]["median"])
    return full / taken[name]["median"]


def time_per_token(bench: Bench, memory: int, tokens: int, repeats: int) -> dict[str, Any]:
    """Return milliseconds for each token after a prompt with ``memory`` tokens of stored KV.

    All replies are the same random tokens, so that their logits can be compared: what a model with random weights
    would choose hangs on the last bit.
    """
    ids = bench.prompt(memory)
    reply = bench.prompt(tokens)[:tokens]
    blob = bench.store(ids)
    taken: dict[str, list[float]] = {"dynamic_cache": [], "shared_prefix": []}
    logits: dict[str, torch.Tensor] = {}
    for _ in range(repeats):
        for name, each in taken.items():
            session = bench.begin(blob, ids, sharing=name == "shared_prefix")
            run(session, ids[-bench.question :])
            each += [1000 * bench.seconds(lambda s=session, t=token: s.feed([t])) for token in reply]
            logits[name] = session.logits.float()
    found = {name: {"median": statistics.median(each), "min": min(each)} for name, each in taken.items()}
    return {
        "memory_tokens": memory,
        "milliseconds": found,
        "speed_up": round(found["dynamic_cache"]["median"] / found["shared_prefix"]["median"], 2),
        "largest_logit": float(logits["dynamic_cache"].abs().max()),
        "largest_logit_difference": float((logits["shared_prefix"] - logits["dynamic_cache"]).abs().max()),
    }


def workload(options: argparse.Namespace) -> dict[str, Any]:
    """Return what is run."""
    return {
        "model": f"Qwen3-0.6B shape, random weights, {options.layers} of 28 layers",
        "layers": options.layers,
        "dtype": options.dtype,
        "question_tokens": options.question,
        "decoded_tokens": options.tokens,
        "repeats": options.repeats,
        "clock": options.clock,
        "seed": options.seed,
    }


def main() -> None:
    """Measure, print and write."""
    options = parse()
    torch.set_num_threads(options.threads)
    bench = Bench(options)  # not in inference mode: weights made in it are multiplied in a slower way
    result = surroundings(workload(options))
    with torch.inference_mode(), tempfile.TemporaryDirectory() as folder:
        result["ttft"] = {
            str(memory): time_to_first_token(bench, memory, options.repeats, Path(folder)) for memory in options.memory
        }
        result["decode"] = time_per_token(bench, options.decode_memory, options.tokens, options.repeats)
    text = json.dumps(result, indent=2) + "\n"
    print(text, end="")
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
