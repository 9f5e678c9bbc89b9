"""What an approximate way of putting KV together costs in quality, measured on the model itself.

Questions about small blocks of memories are answered twice: with every token computed, and with KV that was computed
for each memory alone. What counts is whether the answers stay: how many of the questions that the model answers right
when everything is computed it still answers right, apart for questions that one memory answers and for those that need
two. How far the distribution of the next token moves is measured beside it.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache

from memos_core.engine.kv.assembly import Chunk, Method, Recipe, assemble
from memos_core.engine.kv.cache import layer_types, new_cache, snapshot, unwindowed
from memos_core.engine.kv.codec import KVBlob, TokenIds, as_token_ids
from memos_core.engine.kv.probes import PROBES_V2, Kind, Probe, ProbeSet
from memos_core.engine.kv.rope import Rotation
from memos_core.engine.loading import LoadedModel
from memos_core.engine.prompt import Prompt
from memos_core.engine.spans import spans
from memos_core.errors import UnsupportedOption
from memos_core.records import Message
from memos_core.render import NOTES_V1, MemoryBlock

__all__ = ["KINDS", "Answers", "Calibration", "Figures", "calibrate", "compare", "fact_block"]

KINDS: tuple[Kind, ...] = ("self-contained", "cross")

ANSWER_TOKENS = 16
"""Of an answer that are looked at."""


@dataclass(frozen=True, slots=True)
class Answers:
    """What became of the answers to one kind of question.

    Attributes:
        kind: Of question.
        prompts: How many were asked.
        same: Greedy answers that are, token by token, those of computing everything.
        right_in_full: Right answers where everything is computed.
        kept: How many of these are still right.
    """

    kind: Kind
    prompts: int
    same: int
    right_in_full: int
    kept: int


@dataclass(frozen=True, slots=True)
class Figures:
    """How near a method comes to computing everything.

    Attributes:
        method: The method.
        divergence: Mean Kullback-Leibler divergence of the next token's distribution from the full one's, in nats.
        agreement: Share of prompts after which the most likely token is the same.
        answers: For each kind of question.
    """

    method: Method
    divergence: float
    agreement: float
    answers: tuple[Answers, ...]

    @property
    def prompts(self) -> int:
        """How many were asked."""
        return sum(each.prompts for each in self.answers)


@dataclass(frozen=True, slots=True)
class Calibration:
    """What was measured on one model.

    Attributes:
        fingerprint: Of the model.
        probes: Name of the probe set.
        figures: For each method, in the order asked for.
    """

    fingerprint: str
    probes: str
    figures: tuple[Figures, ...]


@dataclass(frozen=True, slots=True)
class Expected:
    """What the model says to a prompt with everything computed.

    Attributes:
        logits: Of the first token of the answer, float32 ``[vocabulary]``.
        answer: Its greedy tokens, with the one that ended it.
        right: Whether it holds what was asked for.
    """

    probe: Probe
    prompt: Prompt
    logits: torch.Tensor
    answer: list[int]
    right: bool


@dataclass(frozen=True, slots=True)
class Sample:
    """How one prompt came out with a method."""

    expected: Expected
    divergence: float
    agrees: bool
    same: bool
    kept: bool


def calibrate(
    loaded: LoadedModel, mark: str, rotation: Rotation, methods: Sequence[Method], probe_set: ProbeSet = PROBES_V2
) -> Generator[str, None, Calibration]:
    """Measure each of ``methods``, with empty yields on the way. Deterministic for one model and machine.

    Raises:
        UnsupportedOption: The probes cannot be put together on this model; the reason is named.
    """
    samples: list[list[Sample]] = [[] for _ in methods]
    for asked in probe_set.blocks:
        block = fact_block(asked.facts)
        prompts = [loaded.prompts.build([Message(role="user", content=each.question)], block) for each in asked.probes]
        recipes = yield from probe_recipes(loaded, rotation, methods, block, prompts)
        tokens = recipes[0].tokens
        full = prefill(loaded.model, prompts[0].token_ids[:tokens])
        expected = []
        for probe, prompt in zip(asked.probes, prompts, strict=True):
            logits, answer = yield from greedy(loaded, full, prompt.token_ids[tokens:])
            expected.append(Expected(probe, prompt, logits, answer, holds(loaded, answer, probe)))
        for found, recipe in zip(samples, recipes, strict=True):
            cache = yield from assemble(loaded.model, recipe, prompts[0].token_ids)
            for each in expected:
                found.append((yield from sample(loaded, cache, each, tokens)))
    figures = tuple(summary(method, found) for method, found in zip(methods, samples, strict=True))
    return Calibration(mark, probe_set.name, figures)


def sample(loaded: LoadedModel, cache: DynamicCache, expected: Expected, tokens: int) -> Generator[str, None, Sample]:
    """Ask a prompt whose first ``tokens`` tokens are in ``cache``; yields after each forward."""
    question = expected.prompt.token_ids[tokens:]
    # One forward over question and expected answer tells whether greedy decoding would give the same, all of it.
    logits = go_on(loaded.model, cache, [*question, *expected.answer[:-1]])[len(question) - 1 :]
    yield ""
    same = logits.argmax(-1).tolist() == expected.answer
    kept = expected.right
    if expected.right and not same:
        _, answer = yield from greedy(loaded, cache, question)
        kept = holds(loaded, answer, expected.probe)
    return Sample(expected, *compare(logits[0], expected.logits), same, kept)


def greedy(
    loaded: LoadedModel, cache: DynamicCache, token_ids: Sequence[int]
) -> Generator[str, None, tuple[torch.Tensor, list[int]]]:
    """Return the logits after ``token_ids`` and the greedy answer; ``cache`` stays as it is."""
    own = shared(loaded.model, cache)
    first = logits = forward(loaded.model, own, token_ids)[-1]
    answer = [int(logits.argmax())]
    while len(answer) < ANSWER_TOKENS and answer[-1] not in loaded.end_ids:
        yield ""
        logits = forward(loaded.model, own, answer[-1:])[-1]
        answer.append(int(logits.argmax()))
    yield ""
    return first, answer


def holds(loaded: LoadedModel, answer: Sequence[int], probe: Probe) -> bool:
    """Tell whether an answer is right: it has the words that it must have, in any case."""
    return probe.answer.casefold() in loaded.tokens.decode(list(answer)).casefold()


def fact_block(facts: Sequence[str]) -> MemoryBlock:
    """Return the block of plain facts, as memories without a source are rendered."""
    text, ends = NOTES_V1.heading, []
    for fact in facts:
        text += f"\n{NOTES_V1.bullet}{fact}"
        ends.append(len(text))
    return MemoryBlock(text, tuple(ends), tuple(f"probe-{index}" for index in range(len(facts))))


def probe_recipes(
    loaded: LoadedModel, rotation: Rotation, methods: Sequence[Method], block: MemoryBlock, prompts: Sequence[Prompt]
) -> Generator[str, None, list[Recipe]]:
    """Return for each method how the prefix that ``prompts`` share is put together, from KV computed here."""
    found = list(spans(loaded.prompts, block, prompts[0], 0))
    if len(found) < 2 or not prompts[0].opens:
        raise UnsupportedOption("the chat template or the tokenizer writes a memory alone and among others differently")
    if max(len(prompt.token_ids) for prompt in prompts) + ANSWER_TOKENS > loaded.context_window:
        raise UnsupportedOption("the model's context window is too small to measure composition in")
    blobs = []
    for span in found:
        blobs.append(stored(loaded.model, span.chain))
        yield ""
    length = found[0].start + found[0].length
    chunks = tuple(
        Chunk(f"probe-{index}", blob, span.source, span.start, span.length)
        for index, (span, blob) in enumerate(zip(found[1:], blobs[1:], strict=True), 1)
    )
    return [Recipe(blobs[0], length, chunks, method, rotation) for method in methods]


def prefill(model: Any, token_ids: Sequence[int]) -> DynamicCache:
    cache = new_cache(model.config)
    model.get_decoder()(
        input_ids=torch.tensor([list(token_ids)], device=model.device), past_key_values=cache, use_cache=True
    )
    return cache


def stored(model: Any, chain: TokenIds) -> KVBlob:
    """Return the KV of a chain as a store would give it back."""
    cache = prefill(model, chain.tolist())
    blob = snapshot(cache, as_token_ids(chain.tolist()), "", layer_types(model.config))
    if blob is None:
        raise UnsupportedOption("the model's cache does not hold the keys and values of every token")
    return blob


def shared(model: Any, cache: DynamicCache) -> DynamicCache:
    """Return a cache of its own that begins with the tensors of ``cache``."""
    return unwindowed(model.config, [layer.keys for layer in cache.layers], [layer.values for layer in cache.layers])


def go_on(model: Any, cache: DynamicCache, token_ids: Sequence[int]) -> torch.Tensor:
    """Return the logits after each of ``token_ids``, float32 ``[tokens, vocabulary]``; ``cache`` stays as it is."""
    return forward(model, shared(model, cache), token_ids)


def forward(model: Any, cache: DynamicCache, token_ids: Sequence[int]) -> torch.Tensor:
    """Return the logits after each of ``token_ids``, float32 ``[tokens, vocabulary]``; ``cache`` grows by them."""
    output = model(
        input_ids=torch.tensor([list(token_ids)], device=model.device), past_key_values=cache, use_cache=True
    )
    logits: torch.Tensor = output.logits[0].float()
    return logits


def compare(found: torch.Tensor, expected: torch.Tensor) -> tuple[float, bool]:
    """Return the divergence of ``found`` from ``expected``, both ``[vocabulary]``, and whether both pick one token."""
    pair = found.log_softmax(-1), expected.log_softmax(-1)
    divergence = torch.nn.functional.kl_div(*pair, log_target=True, reduction="sum")
    return max(0.0, float(divergence)), bool(found.argmax() == expected.argmax())


def summary(method: Method, samples: Sequence[Sample]) -> Figures:
    divergence = sum(each.divergence for each in samples) / len(samples)
    agreement = sum(each.agrees for each in samples) / len(samples)
    return Figures(method, divergence, agreement, tuple(counted(kind, samples) for kind in KINDS))


def counted(kind: Kind, samples: Sequence[Sample]) -> Answers:
    mine = [each for each in samples if each.expected.probe.kind == kind]
    return Answers(
        kind,
        len(mine),
        same=sum(each.same for each in mine),
        right_in_full=sum(each.expected.right for each in mine),
        kept=sum(each.kept for each in mine),
    )
