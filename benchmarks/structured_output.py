"""What it costs to hold an answer to a form: the first token, for which a schema is compiled, and each one after it.

Random logits are held to a schema by each library, each on a path of its own. ``memos`` is all that
``Constraint.take`` does: mask, choice, what is forced, and the way to the end. Other libraries are measured where they
are installed (``pip install xgrammar outlines-core``). Whole answers are measured too, held to a form and free, by a
random model of the reader's shape.

    python benchmarks/structured_output.py
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from surroundings import surroundings

from memos_core.engine import EngineRequest, GenerationOptions, HFEngine
from memos_core.engine.constraint import Constraints
from memos_core.engine.grammar import Grammar, answer_grammar
from memos_core.engine.tokens import Tokens
from memos_core.records import InjectionPlan, Message
from memos_core.testing.models import tiny_model

ROOT = Path(__file__).resolve().parents[1]
READER = ROOT / "memos_core" / "engine" / "reader"

CAT = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 30},
        "age": {"type": "integer", "minimum": 0, "maximum": 30},
        "kind": {"enum": ["cat", "dog", "bird"]},
        "likes": {"type": "array", "items": {"type": "string", "maxLength": 20}, "minItems": 2, "maxItems": 8},
    },
    "required": ["name", "age", "kind", "likes"],
    "additionalProperties": False,
}
INNER = {"type": "array", "items": {"$ref": "#/$defs/Node"}}
NODE = {
    "type": "object",
    "properties": {"value": {"type": "string", "maxLength": 20}, "inner": INNER},
    "required": ["value", "inner"],
    "additionalProperties": False,
}
TREE = {"$ref": "#/$defs/Node", "$defs": {"Node": NODE}}
LARGE = {
    "type": "object",
    "properties": {f"part_{number}": CAT for number in range(12)},
    "required": [f"part_{number}" for number in range(12)],
    "additionalProperties": False,
}
SCHEMAS = {"flat": CAT, "recursive": TREE, "large": LARGE}
Step = Callable[[torch.Tensor], int]
"""Takes logits, chooses among the tokens that are allowed, and returns how many that gave; 0 at the end."""

Begin = Callable[[], Step]
"""Compiles the schema and returns the first step."""


@dataclass(frozen=True, slots=True)
class Row:
    """The figures of one library on one schema; None: it failed, or took too long.

    Attributes:
        first_ms: Compiling and the first token.
        token_us: A token after it, on average.
    """

    vocabulary: int
    schema: str
    library: str
    first_ms: float | None
    token_us: float | None


@dataclass(frozen=True, slots=True)
class Answers:
    """Whole answers: milliseconds for each token."""

    tokens: int
    free_ms: float
    held_ms: float

    @property
    def ratio(self) -> float:
        return self.held_ms / self.free_ms


def large_tokenizer() -> Any | None:
    """Return a tokenizer of 100,000 tokens (cl100k, as LlamaIndex bundles it), or None where that is not installed."""
    spec = find_spec("llama_index.core")
    if spec is None or spec.origin is None:
        return None
    from transformers import PreTrainedTokenizerFast
    from transformers.convert_slow_tokenizer import TikTokenConverter

    cached = Path(spec.origin).parent / "_static" / "tiktoken_cache" / "9b5ad71b2ce5302211f9c61530b329a4922fc6a4"
    backend = TikTokenConverter(vocab_file=str(cached)).converted()
    made = PreTrainedTokenizerFast(tokenizer_object=backend)
    made.add_special_tokens({"eos_token": "<|end|>"})
    return made


def form(schema: dict[str, Any]) -> Grammar:
    grammar = answer_grammar({"type": "json_schema", "json_schema": {"schema": schema}})
    assert grammar is not None
    return grammar


def memos(tokenizer: Any, schema: dict[str, Any]) -> Begin:
    """``Constraint.take``: mask, choice, what is forced, and the way to the end."""
    constraints = Constraints(Tokens(tokenizer), len(tokenizer), frozenset({tokenizer.eos_token_id}))

    def begin() -> Step:
        constraint = constraints.start(form(schema), 4096)

        def step(logits: torch.Tensor) -> int:
            tokens = constraint.take(logits, lambda scores: int(scores.argmax()), 4096)
            return 0 if constraint.complete else len(tokens)

        return step

    return begin


def llguidance(tokenizer: Any, schema: dict[str, Any]) -> Begin:
    from llguidance import LLMatcher
    from llguidance.hf import from_tokenizer

    known = from_tokenizer(tokenizer, n_vocab=len(tokenizer))

    def begin() -> Step:
        matcher = LLMatcher(known, LLMatcher.grammar_from_json_schema(form(schema).source), log_level=0)

        def step(logits: torch.Tensor) -> int:
            mask = torch.frombuffer(bytearray(matcher.compute_bitmask()), dtype=torch.uint8)
            return int(matcher.consume_token(best(logits, mask)) and not matcher.is_stopped())

        return step

    return begin


def xgrammar(tokenizer: Any, schema: dict[str, Any]) -> Begin:
    import xgrammar as library

    info = library.TokenizerInfo.from_huggingface(tokenizer, vocab_size=len(tokenizer))

    def begin() -> Step:
        compiler = library.GrammarCompiler(info, max_threads=1, cache_enabled=False)
        compiled = compiler.compile_json_schema(json.dumps(schema), any_whitespace=False, separators=(", ", ": "))
        matcher, mask = library.GrammarMatcher(compiled), library.allocate_token_bitmask(1, len(tokenizer))

        def step(logits: torch.Tensor) -> int:
            matcher.fill_next_token_bitmask(mask)
            return int(matcher.accept_token(best(logits, mask[0].view(torch.uint8))) and not matcher.is_terminated())

        return step

    return begin


def outlines_core(tokenizer: Any, schema: dict[str, Any]) -> Begin:
    import outlines_core as library
    from outlines_core.json_schema import build_regex_from_schema

    vocabulary = library.Vocabulary(tokenizer.eos_token_id, ids_of(tokenizer))

    def begin() -> Step:
        guide = library.Guide(library.Index(build_regex_from_schema(json.dumps(schema)), vocabulary))

        def step(logits: torch.Tensor) -> int:
            allowed = torch.tensor(guide.get_tokens())
            guide.advance(int(allowed[logits[allowed].argmax()]))
            return int(not guide.is_finished())

        return step

    return begin


def best(logits: torch.Tensor, packed: torch.Tensor) -> int:
    bits = (packed[:, None] >> torch.arange(8, dtype=torch.uint8)) & 1
    return int(logits.masked_fill(bits.flatten()[: len(logits)] == 0, -torch.inf).argmax())


def ids_of(tokenizer: Any) -> dict[bytes, list[int]]:
    from llguidance.hf import from_tokenizer

    known = from_tokenizer(tokenizer, n_vocab=len(tokenizer))
    found: dict[bytes, list[int]] = {}
    for token in range(len(tokenizer)):
        if token not in tokenizer.all_special_ids and (text := known.decode_bytes([token])):
            found.setdefault(text, []).append(token)
    return found


LIBRARIES = {"memos": memos, "llguidance": llguidance, "xgrammar": xgrammar, "outlines_core": outlines_core}
LIMIT_SECONDS = 40
TOKENS = 120


def measure(library: str, tokenizer: Any, schema: dict[str, Any], seed: int) -> tuple[float, float]:
    """Return the milliseconds until the first token is allowed, and the median microseconds of a token after it."""
    begin = LIBRARIES[library](tokenizer, schema)
    generator = torch.Generator().manual_seed(seed)
    logits = [torch.randn(len(tokenizer), generator=generator) for _ in range(TOKENS)]
    for each in logits:
        each[tokenizer.eos_token_id] = -100.0
    started = time.process_time()
    step = begin()
    step(logits[0])
    first, times, done = time.process_time() - started, [], 1
    while done < TOKENS:
        started = time.process_time()
        count = step(logits[done])
        times.append((time.process_time() - started) / max(count, 1))
        if not count or done + count >= TOKENS:
            break
        done += count
    return first * 1e3, statistics.mean(times) * 1e6


def limited(library: str, tokenizer: Any, schema: dict[str, Any], seed: int) -> tuple[float, float] | None:
    """Return what ``measure`` returns, or None where the library fails or takes longer than ``LIMIT_SECONDS``."""
    context = multiprocessing.get_context("fork")
    results: Any = context.SimpleQueue()
    work = context.Process(target=lambda: results.put(measure(library, tokenizer, schema, seed)))
    work.start()
    work.join(LIMIT_SECONDS)
    if work.is_alive():
        work.terminate()
        work.join()
    return None if results.empty() else results.get()


def rows(tokenizer: Any, seed: int) -> Iterator[Row]:
    for name, schema in SCHEMAS.items():
        for library in LIBRARIES:
            if library == "memos" or find_spec(library) is not None:
                figures = limited(library, tokenizer, schema, seed) or (None, None)
                yield Row(len(tokenizer), name, library, *figures)


def answers(repeats: int) -> Answers:
    """Return the time of answers, held to a form and free, alternating, by a random model of the reader's shape."""
    shape = {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 5, "num_attention_heads": 4}
    engine = HFEngine.from_model(*tiny_model("llama", num_key_value_heads=4, **shape), name="random")
    held = {"type": "regex", "regex": "[a-zA-Z ,.]{60}[^|]*"}
    times: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(repeats + 1):
        for form in (None, held):
            options = GenerationOptions(max_tokens=150, response_format=form)
            request = EngineRequest([Message(role="user", content="Hello")], InjectionPlan("off"), options=options)
            started = time.process_time()
            used = engine.generate(request).usage
            times[form is not None].append((time.process_time() - started) / used.completion_tokens * 1e3)
    engine.close()
    return Answers(150, statistics.median(times[False][1:]), statistics.median(times[True][1:]))


def show(found: Sequence[Row], told: Answers) -> None:
    table = Table("vocabulary", "schema", "library", "first token ms", "token us")
    for row in found:
        cells = ["-" if each is None else f"{each:.1f}" for each in (row.first_ms, row.token_us)]
        table.add_row(str(row.vocabulary), row.schema, row.library, *cells)
    Console().print(table)
    print(f"answers: {told.free_ms:.2f} ms a token free, {told.held_ms:.2f} held to a form ({told.ratio:.2f}x)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "structured_output.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    from transformers import AutoTokenizer

    found = list(rows(AutoTokenizer.from_pretrained(READER), arguments.seed))
    large = large_tokenizer()
    if large is not None:
        found += rows(large, arguments.seed)
    told = answers(arguments.repeats)
    show(found, told)
    versions = {name: version(name.replace("_", "-")) for name in ("llguidance", *LIBRARIES) if find_spec(name)}
    workload = {"schemas": list(SCHEMAS), "tokens": TOKENS, "seed": arguments.seed, "repeats": arguments.repeats}
    workload["libraries"] = versions
    answered = {**asdict(told), "ratio": told.ratio}
    result = {**surroundings(workload), "rows": [asdict(row) for row in found], "answers": answered}
    arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
