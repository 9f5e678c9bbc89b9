"""Requests at once: tokens a second of a batch of requests on stored KV, against one after the other and transformers.

The model has the shape of Qwen3-0.6B and random weights. The batch is what the engine's scheduling thread does with
requests that are under way at the same time: one stored memory for all of them, or one for each, of different lengths.
transformers' batch pads on the left and computes the memory in every row.

    python benchmarks/kv_batch.py --threads 1 --out benchmarks/results/kv_batch.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from kv_speed import Bench, run
from surroundings import surroundings

from memos_core.engine.kv.codec import KVBlob
from memos_core.engine.kv.ragged import step


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=8, help="of 28")
    parser.add_argument("--memory", type=int, default=1000, help="tokens of memory")
    parser.add_argument("--requests", type=int, nargs="*", default=[2, 4, 8], help="requests at once")
    parser.add_argument("--question", type=int, default=32, help="tokens of the question")
    parser.add_argument("--tokens", type=int, default=16, help="tokens of each reply")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", default="wall", choices=["wall", "cpu"])
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--out", type=Path, help="JSON file for the result; without it, it is only printed")
    return parser.parse_args()


def prompts(bench: Bench, memory: int, count: int, *, shared: bool) -> tuple[list[list[int]], list[KVBlob]]:
    """Return prompts and the KV of their memories, which is one memory or one for each request."""
    first = bench.prompt(memory)
    blob = bench.store(first)
    if shared:
        return [first[:memory] + bench.prompt(0) for _ in range(count)], [blob] * count
    # Memories of different lengths, as they are.
    cut = [memory - 17 * number for number in range(count)]
    ids = [first[:length] + bench.prompt(0) for length in cut]
    return ids, [bench.store(each) for each in ids]


def decode_alone(bench: Bench, ids: list[list[int]], blobs: list[KVBlob], reply: list[int]) -> float:
    """Return the seconds that the replies take one after the other."""
    sessions = [begun(bench, one, blob) for one, blob in zip(ids, blobs, strict=True)]
    return bench.seconds(lambda: [session.feed([token]) for session in sessions for token in reply])


def decode_together(bench: Bench, ids: list[list[int]], blobs: list[KVBlob], reply: list[int]) -> float:
    """Return the seconds that the replies take as a batch."""
    sessions = [begun(bench, one, blob) for one, blob in zip(ids, blobs, strict=True)]
    caches = [session.join() for session in sessions]
    model = sessions[0].model
    return bench.seconds(lambda: [step(model, caches, [token] * len(caches)) for token in reply])


def begun(bench: Bench, ids: list[int], blob: KVBlob) -> Any:
    session = bench.begin(blob, ids)
    run(session, ids[blob.tokens :])
    return session


def padded(bench: Bench, ids: list[list[int]], tokens: int) -> float:
    """Return the seconds of transformers' batch for whole requests, padded on the left."""
    longest = max(map(len, ids))
    rows = torch.tensor([[0] * (longest - len(one)) + one for one in ids])
    mask = torch.tensor([[0] * (longest - len(one)) + [1] * len(one) for one in ids])
    options = {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False}
    return bench.seconds(lambda: bench.model.generate(rows, attention_mask=mask, **options))


def whole_requests(bench: Bench, ids: list[list[int]], blobs: list[KVBlob], reply: list[int]) -> float:
    """Return the seconds of our batch for whole requests: stored KV, the question, the reply."""

    def work() -> None:
        sessions = [begun(bench, one, blob) for one, blob in zip(ids, blobs, strict=True)]
        caches = [session.join() for session in sessions]
        for token in reply:
            step(sessions[0].model, caches, [token] * len(caches))

    return bench.seconds(work)


def median(work: Callable[[], float], repeats: int) -> float:
    return statistics.median(work() for _ in range(repeats))


def measure(bench: Bench, options: argparse.Namespace, count: int, *, shared: bool) -> dict[str, Any]:
    """Return seconds of each way for ``count`` requests at once, and ratios."""
    ids, blobs = prompts(bench, options.memory, count, shared=shared)
    reply = bench.prompt(options.tokens)[: options.tokens]
    alone = median(lambda: decode_alone(bench, ids, blobs, reply), options.repeats)
    together = median(lambda: decode_together(bench, ids, blobs, reply), options.repeats)
    whole = median(lambda: whole_requests(bench, ids, blobs, reply), options.repeats)
    theirs = median(lambda: padded(bench, ids, options.tokens), options.repeats)
    stored = {id(blob): blob.size_bytes for blob in blobs}
    return {
        "requests": count,
        "one_memory": shared,
        "kv_bytes_held": sum(stored.values()),
        "seconds": {"alone": alone, "together": together, "whole_requests": whole, "transformers_padded": theirs},
        "tokens_per_second": {
            "alone": round(count * options.tokens / alone, 1),
            "together": round(count * options.tokens / together, 1),
        },
        "speed_up": {
            "decode_against_one_by_one": round(alone / together, 2),
            "whole_against_transformers_padded": round(theirs / whole, 2),
        },
    }


def main() -> None:
    """Measure, print and write."""
    options = parse()
    torch.set_num_threads(options.threads)
    bench = Bench(options)
    started = time.time()
    names = ("layers", "memory", "question", "tokens", "repeats", "clock", "dtype", "seed")
    result = surroundings({name: getattr(options, name) for name in names})
    with torch.inference_mode():
        result["batches"] = [
            measure(bench, options, count, shared=shared) for count in options.requests for shared in (True, False)
        ]
    result["seconds_in_all"] = round(time.time() - started)
    text = json.dumps(result, indent=2) + "\n"
    print(text, end="")
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
