"""What an approximate way of putting KV together costs in quality, measured on the model itself.

A fixed set of small memory blocks and questions is answered twice: with every token computed, and with KV that was
computed for each memory alone. Some questions need two memories at once, since those are what composition loses first:
a memory that was stored alone has not seen the ones before it.
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
from memos_core.engine.kv.rope import Rotation
from memos_core.engine.loading import LoadedModel
from memos_core.engine.prompt import Prompt
from memos_core.engine.spans import spans
from memos_core.errors import UnsupportedOption
from memos_core.records import Message
from memos_core.render import NOTES_V1, MemoryBlock

__all__ = ["PROBES_V1", "Calibration", "Figures", "ProbeSet", "calibrate", "fact_block"]

Probe = tuple[tuple[str, ...], tuple[str, ...]]
"""Facts and questions."""


@dataclass(frozen=True, slots=True)
class ProbeSet:
    """What is asked to measure. Named and versioned: figures of different sets do not compare."""

    name: str
    probes: tuple[Probe, ...]


PROBES_V1 = ProbeSet(
    name="compose/1",
    probes=(
        (
            (
                "My cat is called Biscuit.",
                "Ada lives in Lisbon, near the harbour.",
                "The code of the garage door is 4417.",
                "Ada moved into the house of her aunt Ruth last year.",
            ),
            ("What is my cat called?", "In which city is the house of Ruth?", "What opens the garage door?"),
        ),
        (
            (
                "Ben works as a baker in the old town.",
                "The meeting with the baker is on Friday at nine.",
                "Ben's sister Clara plays the cello.",
                "The concert of Ben's sister is in Vienna.",
            ),
            ("On which day do I meet Ben?", "Where does Clara play?", "Which instrument does Clara play?"),
        ),
        (
            (
                "The train to Oslo leaves from platform 7.",
                "Mira takes the train to Oslo on the 3rd of May.",
                "Mira is allergic to peanuts.",
                "Tom drives Mira to the station.",
            ),
            ("From which platform does Mira leave?", "What must Mira not eat?", "Who drives to the station?"),
        ),
    ),
)


@dataclass(frozen=True, slots=True)
class Figures:
    """How near a method comes to computing everything.

    Attributes:
        method: The method.
        divergence: Mean Kullback-Leibler divergence of the next token's distribution from the full one's, in nats.
        agreement: Share of prompts after which the most likely token is the same.
        prompts: How many were asked.
    """

    method: Method
    divergence: float
    agreement: float
    prompts: int


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


def calibrate(
    loaded: LoadedModel, mark: str, rotation: Rotation, methods: Sequence[Method], probe_set: ProbeSet = PROBES_V1
) -> Generator[str, None, Calibration]:
    """Measure each of ``methods``, with empty yields on the way. Deterministic for one model and machine.

    Raises:
        UnsupportedOption: The probes cannot be put together on this model; the reason is named.
    """
    samples: list[list[tuple[float, bool]]] = [[] for _ in methods]
    for facts, questions in probe_set.probes:
        block = fact_block(facts)
        prompts = [loaded.prompts.build([Message(role="user", content=each)], block) for each in questions]
        recipes = yield from probe_recipes(loaded, rotation, methods, block, prompts)
        tokens = recipes[0].tokens
        full = prefill(loaded.model, prompts[0].token_ids[:tokens])
        expected = [go_on(loaded.model, full, each.token_ids[tokens:]) for each in prompts]
        for found, recipe in zip(samples, recipes, strict=True):
            cache = yield from assemble(loaded.model, recipe, prompts[0].token_ids)
            for prompt, logits in zip(prompts, expected, strict=True):
                found.append(compare(go_on(loaded.model, cache, prompt.token_ids[tokens:]), logits))
                yield ""
    figures = tuple(summary(method, found) for method, found in zip(methods, samples, strict=True))
    return Calibration(mark, probe_set.name, figures)


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
    if max(len(prompt.token_ids) for prompt in prompts) >= loaded.context_window:
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


def go_on(model: Any, cache: DynamicCache, token_ids: Sequence[int]) -> torch.Tensor:
    """Return the logits after ``token_ids``, float32 ``[vocabulary]``; ``cache`` stays as it is."""
    own = unwindowed(model.config, [layer.keys for layer in cache.layers], [layer.values for layer in cache.layers])
    output = model(input_ids=torch.tensor([list(token_ids)], device=model.device), past_key_values=own, use_cache=True)
    logits: torch.Tensor = output.logits[0, -1].float()
    return logits


def compare(found: torch.Tensor, expected: torch.Tensor) -> tuple[float, bool]:
    """Return the divergence of ``found`` from ``expected``, both ``[vocabulary]``, and whether both pick one token."""
    pair = found.log_softmax(-1), expected.log_softmax(-1)
    divergence = torch.nn.functional.kl_div(*pair, log_target=True, reduction="sum")
    return max(0.0, float(divergence)), bool(found.argmax() == expected.argmax())


def summary(method: Method, samples: Sequence[tuple[float, bool]]) -> Figures:
    count = len(samples)
    divergence = sum(each for each, _ in samples) / count
    return Figures(method, divergence, sum(same for _, same in samples) / count, count)
