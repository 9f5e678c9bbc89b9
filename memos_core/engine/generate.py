"""The loop that generates: the prompt in parts, then one token at a time. Runs on the scheduling thread."""

from __future__ import annotations

import time
from collections.abc import Generator, Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from memos_core.engine.decode import Detokenizer, StopStrings
from memos_core.engine.kv.assembly import assemble
from memos_core.engine.kv.cache import container, layer_types, new_cache, snapshot
from memos_core.engine.kv.codec import KVBlob, TokenIds
from memos_core.engine.kv.shared import SharedPrefixCache
from memos_core.engine.kv.twin import twin
from memos_core.engine.loading import LoadedModel
from memos_core.engine.lora.plan import LoRAPlan, applied, hooked
from memos_core.engine.sampling import Sampler
from memos_core.engine.together import NextToken, joinable
from memos_core.engine.work import Reuse, Work
from memos_core.records import FinishReason
from memos_core.tools import CallWatch, ToolCall, tool_name

__all__ = ["Outcome", "Session", "build", "generate", "prefill"]

PREFILL_TOKENS = 512
"""Positions computed between two looks at cancellations and at other requests."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What generating gave.

    Attributes:
        text: The reply.
        completion_tokens: Its tokens, without the one that ended it.
        finish_reason: Why it ended.
        ttft_seconds: From the first step to the first token.
        total_seconds: From the first step to the last.
        built: The cache of the memory prefix, where one was to be built and could be.
        build_seconds: What computing that took.
        calls: The tools that it calls.
    """

    text: str
    completion_tokens: int
    finish_reason: FinishReason
    ttft_seconds: float
    total_seconds: float
    built: KVBlob | None
    build_seconds: float
    calls: tuple[ToolCall, ...] = ()


class Session:
    """One sequence under way: a cache of its own, which may begin with a stored prefix.

    Args:
        snapshots: Whether ``snapshot`` is to be taken, for which the cache must hold every token itself.
        lora: The adapters that act; their hooks must be on the model.

    Attributes:
        model: The model, or a twin of it that reads a stored prefix where it lies.
        token_ids: All positions computed or taken over so far.
        logits: Of the last position, ``[vocabulary]``.
        batch_plan: The adapters of a batch that this session stood first in, by what acted in it.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        reuse: Reuse,
        token_ids: Sequence[int],
        *,
        snapshots: bool,
        lora: LoRAPlan | None = None,
    ) -> None:
        self.loaded = loaded
        self.lora = lora
        self.batch_plan: tuple[Hashable, LoRAPlan] | None = None
        self.model = loaded.model
        self.token_ids = list(token_ids[: reuse.length])
        self.logits: Any = None
        self.cache: Any = None
        self.options: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in loaded.accepts else {}
        if reuse.blob is not None and not (snapshots or loaded.cascade_refusal):
            self.share(reuse.blob, reuse.length)
        elif "past_key_values" in loaded.accepts and loaded.cache_refusal is None:
            config = self.model.config
            self.keep(container(config, reuse.blob, reuse.length) if reuse.blob else new_cache(config))

    def keep(self, cache: Any) -> None:
        """Go on with ``cache``, which holds the tokens so far."""
        self.cache = cache
        self.options |= {"past_key_values": cache, "use_cache": True}

    def share(self, blob: KVBlob, length: int) -> None:
        """Go on from the first ``length`` tokens of ``blob``, which are the tokens so far, without copying them."""
        self.model = twin(self.loaded.model)
        self.keep(SharedPrefixCache(blob, length))
        self.options["shared_prefix"] = self.cache

    def join(self) -> SharedPrefixCache:
        """Make ready to take steps together with other sessions and return the cache. Copies nothing."""
        if not isinstance(self.cache, SharedPrefixCache):
            self.model = twin(self.loaded.model)
            self.keep(SharedPrefixCache.after(self.cache))
            self.options["shared_prefix"] = self.cache
        cache: SharedPrefixCache = self.cache
        return cache

    def prefill(self, token_ids: Sequence[int]) -> Generator[str, None, None]:
        """Compute ``token_ids`` in parts, with an empty yield after each."""
        # Layers with a running state are only defined for a prompt that arrives in one piece.
        whole = self.loaded.refusal is not None or self.cache is None
        step = max(1, len(token_ids)) if whole else PREFILL_TOKENS
        for start in range(0, len(token_ids), step):
            self.feed(token_ids[start : start + step])
            yield ""

    def follow(self, piece: str, token_ids: Sequence[int]) -> Generator[str | NextToken, None, None]:
        """Compute the tokens of the reply that were chosen together, while ``piece`` is delivered."""
        if len(token_ids) == 1 and joinable(self):
            step = NextToken(piece, self, token_ids[0])
            yield step
            if step.error is not None:
                raise step.error
            return
        yield piece
        # Behind a running state there is room for one token at a time only.
        count = 1 if self.loaded.refusal is not None else len(token_ids)
        for start in range(0, len(token_ids), count):
            self.feed(token_ids[start : start + count])

    def feed(self, token_ids: Sequence[int]) -> None:
        """Compute further positions. The model makes its own masks and positions from the length of the cache."""
        self.token_ids += token_ids
        unseen = token_ids if self.cache is not None else self.token_ids
        first = len(self.token_ids) - len(unseen)
        with applied(self.lora, first, len(unseen)):
            output = self.model(input_ids=torch.tensor([list(unseen)], device=self.model.device), **self.options)
        self.logits = output.logits[0, -1]

    def snapshot(self, token_ids: TokenIds, fingerprint: str) -> KVBlob | None:
        """Return the cache as it is now, or None where it does not hold exactly the tokens so far."""
        return snapshot(self.cache, token_ids, fingerprint, layer_types(self.model.config))


def hooks(loaded: LoadedModel, work: Work) -> AbstractContextManager[None]:
    """Keep the hooks on the model that the adapters of ``work`` need; none for a request without any."""
    return nullcontext() if work.lora is None else hooked(loaded.model, work.lora)


def prefill(loaded: LoadedModel, work: Work) -> Generator[str, None, tuple[KVBlob | None, float]]:
    """Compute the prefix that ``work`` asks for and return its cache and the seconds it took."""
    with hooks(loaded, work):
        _, blob, seconds = yield from build(loaded, work)
    return blob, seconds


def build(loaded: LoadedModel, work: Work) -> Generator[str, None, tuple[Session, KVBlob | None, float]]:
    """Compute up to ``work.build_to`` and return the session, the cache there and the seconds it took."""
    started = time.perf_counter()
    keeps = bool(work.build_to) or work.recipe is not None
    session = Session(loaded, work.reuse, work.prompt.token_ids, snapshots=keeps, lora=work.lora)
    if work.recipe is not None:
        session.keep((yield from assemble(loaded.model, work.recipe, work.prompt.token_ids)))
        session.token_ids = list(work.prompt.token_ids[: work.recipe.tokens])
    if not work.build_to:
        return session, None, 0.0
    yield from session.prefill(work.prompt.token_ids[work.reuse.length : work.build_to])
    blob = session.snapshot(work.token_ids[: work.build_to], work.fingerprint)
    if blob is not None and loaded.cascade_refusal is None:
        session.share(blob, work.build_to)  # what follows is as if the prefix had been found
    return session, blob, time.perf_counter() - started


def generate(loaded: LoadedModel, work: Work) -> Generator[str | NextToken, None, Outcome]:
    """Yield the reply in pieces, some of them empty, most with a step to take together; return the outcome."""
    with hooks(loaded, work):
        return (yield from write(loaded, work))


def write(loaded: LoadedModel, work: Work) -> Generator[str | NextToken, None, Outcome]:
    started = time.perf_counter()
    session, built, build_seconds = yield from build(loaded, work)
    yield from session.prefill(work.prompt.token_ids[len(session.token_ids) :])
    reply = Writer(loaded, work)
    tokens = reply.next(session.logits)
    first = time.perf_counter()
    # The turns of other requests are in it on purpose: while many run, computing costs more than loading does.
    loaded.costs.computed(len(session.token_ids) - work.stored_tokens, first - started)
    piece = reply.take(tokens)
    while not reply.finished:
        yield from session.follow(piece, tokens)
        tokens = reply.next(session.logits)
        piece = reply.take(tokens)
    yield piece + reply.flush()
    ttft, total = first - started, time.perf_counter() - started
    text, reason = "".join(reply.pieces), reply.finish_reason
    return Outcome(text, reply.count, reason, ttft, total, built, build_seconds, reply.calls)


class Writer:
    """Picks tokens, turns them into the text of a reply and tells when it ends."""

    def __init__(self, loaded: LoadedModel, work: Work) -> None:
        self.max_tokens = work.max_tokens
        self.count = 0
        self.pieces: list[str] = []
        self._sampler = Sampler(work.request.options)
        self._end_ids = loaded.end_ids
        self._ended = False
        self._constraint = work.constraint
        self._detokenizer = Detokenizer(loaded.tokens.decode)
        self._stops = StopStrings((*work.request.options.stop, *work.prompt.stop))
        self._calls = CallWatch([tool_name(tool) for tool in work.request.shown_tools])

    def next(self, logits: torch.Tensor) -> list[int]:
        """Return the next tokens: one, or several where a form that was asked for leaves no choice."""
        if self._constraint is None:
            return [self._sampler.pick(logits)]
        return self._constraint.take(logits, self._sampler.pick, self.max_tokens - self.count)

    @property
    def finished(self) -> bool:
        return self._ended or self._stops.found or self.count == self.max_tokens

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        return self._calls.calls

    @property
    def finish_reason(self) -> FinishReason:
        form = self._constraint
        if form is not None and form.closed:
            return "length"
        if self._ended or self._stops.found or (form is not None and form.complete):
            return "tool_calls" if self.calls else "stop"
        return "length"

    def take(self, tokens: Sequence[int]) -> str:
        """Add tokens up to the one that ends the reply, if one does, and return the text that became safe to show."""
        text = ""
        for token in tokens:
            text += self.add(token)
            if self.finished:
                break
        return text

    def add(self, token: int) -> str:
        """Return the text that became safe to show. A token that ends the turn adds none."""
        if token in self._end_ids:
            self._ended = True
            return ""
        self.count += 1
        return self._keep(self._stops.add(self._detokenizer.add(token)))

    def flush(self) -> str:
        """Return what was held back, once the reply has ended."""
        held = "" if self._stops.found else self._stops.add(self._detokenizer.flush()) + self._stops.flush()
        text = self._calls.add(held) + self._calls.flush()
        self.pieces.append(text)
        return text

    def _keep(self, text: str) -> str:
        text = self._calls.add(text)
        self.pieces.append(text)
        return text
