"""What storing KV in fewer bits costs: size, time, and how far the next-token distributions move.

For each model and dtype, prefixes of the demo conversation are computed once. Each codec stores and loads their KV, and
the model reads on from what was loaded. The divergence is KL(raw || codec) in nats, at every token of the continuation.

    python benchmarks/kv_storage.py                       a random model, and the bundled reader where it is installed
    python benchmarks/kv_storage.py --model FOLDER        a model of yours
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from surroundings import surroundings

from memos_core.engine.kv.cache import container, layer_types, new_cache, snapshot
from memos_core.engine.kv.codec import KVBlob, as_token_ids, decode, encode
from memos_core.engine.kv.quantise import CODECS
from memos_core.infrastructure.vault.blobs import BlobStore
from memos_core.testing.models import payload_of, tiny_model

ROOT = Path(__file__).resolve().parents[1]
READER = ROOT / "memos_core" / "engine" / "reader"
DEMO = ROOT / "memos_core" / "data" / "conversation.jsonl"
DTYPES = ("float32", "bfloat16")
SALT = b"benchmark"
RANDOM = {"hidden_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 4}


@dataclass(frozen=True, slots=True)
class Case:
    """A prefix whose KV is stored, and what a model reads after it.

    Attributes:
        ids: Prefix and continuation.
        blob: KV of the prefix.
        raw: Log-probabilities after the raw KV, ``[continuation, vocabulary]``.
    """

    ids: list[int]
    blob: KVBlob
    raw: torch.Tensor


@dataclass(frozen=True, slots=True)
class Row:
    """The figures of one codec with one model."""

    model: str
    dtype: str
    codec: str
    bytes_per_token: float
    ratio_to_raw: float
    kl_mean: float
    kl_max: float
    same_top_token: float
    encode_mb_per_second: float
    decode_mb_per_second: float
    read_mb_per_second: float
    load_mb_per_second: float
    load_share_of_read: float


def load(folder: Path | None) -> tuple[str, Any, Any]:
    """Return name, model and tokenizer; without a folder a random model."""
    if folder is None:
        return "random llama, 4 layers, head_dim 64", *tiny_model("llama", initializer_range=0.1, **RANDOM)
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return folder.name, model, AutoTokenizer.from_pretrained(folder)


def windows(tokenizer: Any, length: int, count: int, seed: int) -> Iterator[list[int]]:
    """Yield ``count`` windows of ``length`` tokens from the demo conversation, which is repeated where it is short."""
    lines = [json.loads(line) for line in DEMO.read_text(encoding="utf-8").splitlines()]
    ids = tokenizer.encode("\n".join(str(line["text"]) for line in lines), add_special_tokens=False)
    ids *= 1 + (length + count) // len(ids)
    random = torch.Generator().manual_seed(seed)
    for start in torch.randint(0, len(ids) - length + 1, (count,), generator=random).tolist():
        yield ids[start : start + length]


@torch.inference_mode()
def read_on(model: Any, case_ids: Sequence[int], blob: KVBlob) -> torch.Tensor:
    """Return the log-probabilities of what follows each token after ``blob``: ``[continuation, vocabulary]``."""
    rest = torch.tensor([case_ids[blob.tokens :]])
    logits = model(input_ids=rest, past_key_values=container(model.config, blob, blob.tokens)).logits[0]
    return torch.as_tensor(logits).float().log_softmax(-1)


@torch.inference_mode()
def prepare(model: Any, ids: list[int], prefix: int) -> Case:
    cache = new_cache(model.config)
    model(input_ids=torch.tensor([ids[:prefix]]), past_key_values=cache, use_cache=True)
    blob = snapshot(cache, as_token_ids(ids[:prefix]), "benchmark", layer_types(model.config))
    if blob is None:
        raise SystemExit("the cache of this model holds more than keys and values")
    return Case(ids, blob, read_on(model, ids, blob))


def best_seconds(action: Any, repeats: int) -> float:
    """Return the least time of the processor that ``repeats`` calls take."""
    times = []
    for _ in range(repeats):
        started = time.process_time()
        action()
        times.append(time.process_time() - started)
    return min(times)


def read_into(file: Path, pool: bytearray) -> None:
    with file.open("rb", buffering=0) as opened:
        opened.readinto(pool)


def measure(model: Any, cases: Sequence[Case], codec: str, repeats: int) -> dict[str, float]:
    """Return the figures of ``codec`` over all cases; speed is raw bytes over time.

    ``load_share_of_read`` is how near loading a blob from its store, with its digest, checks and decoding, comes to
    only reading its bytes into a buffer that was used before, from a system that holds them in memory.
    """
    divergences, agreements = [], []
    for case in cases:
        data = encode(case.blob, codec)
        payload = payload_of(case.blob, data, codec=codec)
        log_probs = read_on(model, case.ids, decode(data, payload))
        divergences.append((case.raw.exp() * (case.raw - log_probs)).sum(-1).clamp(min=0))
        agreements.append((case.raw.argmax(-1) == log_probs.argmax(-1)).float())
    blob, megabytes = cases[-1].blob, cases[-1].blob.size_bytes / 1e6
    with tempfile.TemporaryDirectory() as folder:
        store = BlobStore(folder)
        address = store.put(data, SALT).address
        (file,) = Path(folder).rglob("*.blob")
        pool = bytearray(len(data))
        read = best_seconds(lambda: read_into(file, pool), repeats)
        load = best_seconds(lambda: decode(store.read(address, SALT), payload), repeats)
    every = torch.cat(divergences)
    return {
        "bytes_per_token": len(data) / blob.tokens,
        "ratio_to_raw": len(encode(blob)) / len(data),
        "kl_mean": every.mean().item(),
        "kl_max": every.max().item(),
        "same_top_token": torch.cat(agreements).mean().item(),
        "encode_mb_per_second": megabytes / best_seconds(lambda: encode(blob, codec), repeats),
        "decode_mb_per_second": megabytes / best_seconds(lambda: decode(data, payload), repeats),
        "read_mb_per_second": len(data) / 1e6 / read,
        "load_mb_per_second": len(data) / 1e6 / load,
        "load_share_of_read": read / load,
    }


def run(options: argparse.Namespace) -> list[Row]:
    folders = [options.model] if options.model else [None, *([READER] if READER.is_dir() else [])]
    rows = []
    for folder in folders:
        name, model, tokenizer = load(folder)
        samples = list(windows(tokenizer, options.tokens + options.continuation, options.samples, options.seed))
        for dtype in DTYPES:
            model = model.to(getattr(torch, dtype))
            cases = [prepare(model, ids, options.tokens) for ids in samples]
            rows += [Row(name, dtype, codec, **measure(model, cases, codec, options.repeats)) for codec in CODECS]
    return rows


def show(rows: Sequence[Row]) -> None:
    table = Table(title="Stored KV by codec")
    for column in ("model", "dtype", "codec", "bytes/token", "ratio", "KL mean", "KL max", "same top", "encode MB/s"):
        table.add_column(column)
    table.add_column("decode MB/s")
    for row in rows:
        figures = (f"{row.bytes_per_token:.0f}", f"{row.ratio_to_raw:.2f}", f"{row.kl_mean:.1e}", f"{row.kl_max:.1e}")
        speeds = (f"{row.encode_mb_per_second:.0f}", f"{row.decode_mb_per_second:.0f}")
        table.add_row(row.model, row.dtype, row.codec, *figures, f"{row.same_top_token:.1%}", *speeds)
    Console(width=140).print(table)


def conditions(options: argparse.Namespace) -> dict[str, Any]:
    """Return what the figures depend on."""
    names = ("tokens", "continuation", "samples", "repeats", "seed")
    return surroundings({name: getattr(options, name) for name in names})


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print a table and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="folder of a causal language model and its tokenizer")
    parser.add_argument("--tokens", type=int, default=1000, help="tokens whose KV is stored")
    parser.add_argument("--continuation", type=int, default=64, help="tokens read after them")
    parser.add_argument("--samples", type=int, default=4, help="prefixes")
    parser.add_argument("--repeats", type=int, default=5, help="timed runs, of which the shortest counts")
    parser.add_argument("--seed", type=int, default=2026, help="seed of the choice of prefixes")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "kv_storage.json")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows = run(options)
    show(rows)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    result = {**conditions(options), "rows": [asdict(row) for row in rows]}
    options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
