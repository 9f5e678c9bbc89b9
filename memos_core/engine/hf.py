"""HFEngine: any causal language model of transformers, with memory as text or as stored KV."""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import threading
import time
from collections.abc import AsyncIterator, Generator, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import torch

from memos_core.engine.base import (
    ActivationStore,
    AdapterChoice,
    BuiltActivation,
    Capabilities,
    Engine,
    EngineRequest,
)
from memos_core.engine.cartridges import owner_of
from memos_core.engine.compose import ComposePolicy, Composer, Mode
from memos_core.engine.generate import Outcome, generate, prefill
from memos_core.engine.kv.ahead import Ahead, Foreseen
from memos_core.engine.kv.calibration import Calibration
from memos_core.engine.kv.cartridge import cartridge_fingerprint
from memos_core.engine.kv.codec import KVBlob, as_stored, as_token_ids, codec_for, encode, is_finite, token_digest
from memos_core.engine.kv.prefix import Key, PrefixCache
from memos_core.engine.kv.tiers import Place
from memos_core.engine.loading import FolderSource, LoadedModel, MemorySource, shared_model
from memos_core.engine.lora.bank import AdapterBank
from memos_core.engine.lora.serve import adapt
from memos_core.engine.next_turn import bring
from memos_core.engine.prompt import PROBE
from memos_core.engine.resolve import KVRules, affordable, find_prefix, kv_refusal, resolve, room, settle
from memos_core.engine.work import Work
from memos_core.engine.worker import Done, Failed, Piece, Worker
from memos_core.errors import InjectionUnavailable, InvalidInput, VaultError
from memos_core.records import InjectionPlan, Placement, Reply, ReplyChunk, Usage
from memos_core.render import MemoryBlock

__all__ = ["HFEngine"]

DEFAULT_KV_BYTES = 2 * 2**30
DEFAULT_KV_HOST_BYTES = 8 * 2**30
DEFAULT_ADAPTER_BYTES = 2**28
Event = Piece | Done | Failed
KVCodec = Literal["raw", "int8", "int4", "fp8", "grid10", "grid8", "grid7", "grid6", "grid5"]


class HFEngine(Engine):
    """Runs a causal language model of transformers.

    Use ``from_pretrained`` or ``from_model``. Loading is lazy, and engines of one model share its weights. Requests run
    on one scheduling thread that takes turns among them; callers wait on it, sync or async.

    Args:
        loaded: The model.
        kv_memory_bytes: Budget for stored KV that is kept loaded on the device between requests.
        kv_host_bytes: Budget for stored KV that the device let go and the host keeps; of no use on a CPU.
        kv_codec: How KV that is built from now on is stored. ``raw`` is exact; the others round it. The request that
            builds it answers from what it computed; later ones, in this process or another, from what was stored.
            KV that was stored with any codec is used, and the notes of the plan name what is approximate.
        compose: What to do with KV that was stored for each memory alone; see ``ComposePolicy``.
        max_request_bytes: Most bytes of the device's memory that one request may take besides stored KV; None: what is
            free. A request that needs more is refused with ``DeviceMemoryExceeded`` before anything is computed.
        adapter_memory_bytes: Budget for adapters that are kept loaded between requests.
        read_ahead_bytes: Most stored KV that is read, while no request is under way, for a turn that may come and has
            not come yet; 0, the default: none.

    Raises:
        InvalidInput: There is no such codec, or no such way to compose.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        kv_memory_bytes: int = DEFAULT_KV_BYTES,
        kv_host_bytes: int = DEFAULT_KV_HOST_BYTES,
        kv_codec: KVCodec = "raw",
        compose: Mode | ComposePolicy = "exact",
        max_request_bytes: int | None = None,
        adapter_memory_bytes: int = DEFAULT_ADAPTER_BYTES,
        read_ahead_bytes: int = 0,
    ) -> None:
        self._loaded = loaded
        self._max_request_bytes = max_request_bytes
        self._codec = codec_for(kv_codec)
        self._kv_memory_bytes, self._kv_host_bytes = kv_memory_bytes, kv_host_bytes
        self._bank = AdapterBank(adapter_memory_bytes)
        self._composer = Composer(compose if isinstance(compose, ComposePolicy) else ComposePolicy(compose))
        self._worker = Worker(f"memos-{loaded.name}", torch.inference_mode, forked=single_thread)
        self._ahead = Ahead(f"memos-ahead-{loaded.name}", lambda: self._worker.busy)
        self._foreseen: Foreseen[Key] = Foreseen(read_ahead_bytes)
        self._prefix_cache: PrefixCache | None = None
        self._lock = threading.Lock()
        self._pid = os.getpid()

    @classmethod
    def from_pretrained(
        cls,
        location: str | os.PathLike[str],
        *,
        device: str = "auto",
        dtype: str | torch.dtype = "auto",
        attn_implementation: str | None = None,
        kv_memory_bytes: int = DEFAULT_KV_BYTES,
        kv_host_bytes: int = DEFAULT_KV_HOST_BYTES,
        kv_codec: KVCodec = "raw",
        trust_remote_code: bool = False,
        compose: Mode | ComposePolicy = "exact",
        max_request_bytes: int | None = None,
        read_ahead_bytes: int = 0,
    ) -> HFEngine:
        """Return an engine for a model in a folder, on the hub, or ``memos-reader``, which ships with MemOS.

        Args:
            location: Folder, hub id or name.
            device: Torch device; ``auto`` takes CUDA, then Apple's GPU, then the CPU.
            dtype: Torch dtype; ``auto`` is the one that the model's configuration names, float32 if it names none.
            attn_implementation: ``sdpa``, ``eager`` and so on; None is transformers' choice.
            kv_memory_bytes: Budget for stored KV that is kept loaded on the device between requests.
            kv_host_bytes: Budget for stored KV that the device let go and the host keeps; of no use on a CPU.
            kv_codec: How KV is stored: ``raw`` is exact, ``int8``, ``fp8`` and ``int4`` are smaller and approximate.
            trust_remote_code: Run Python code that comes with the model.
            compose: What to do with KV that was stored for each memory alone: ``exact`` uses the longest common prefix
                and computes the rest; ``shift`` and ``blend`` move it to its place, approximately; ``auto`` takes the
                cheapest of these whose measured figures pass; ``full`` computes everything. See ``ComposePolicy``.
            max_request_bytes: Most bytes that one request may take besides stored KV; None: what the device has.
            read_ahead_bytes: Most stored KV that is read for a turn that may come; 0: none.

        Raises:
            ModelNotFound: There is nothing at that path. A hub id is looked up at first use, which then raises it.
            InvalidInput: There is no such codec.
        """
        source = FolderSource(
            os.fspath(location),
            device=device,
            dtype=dtype,
            attention=attn_implementation,
            trust_remote_code=trust_remote_code,
        )
        return cls(
            shared_model(source),
            kv_memory_bytes=kv_memory_bytes,
            kv_host_bytes=kv_host_bytes,
            kv_codec=kv_codec,
            compose=compose,
            max_request_bytes=max_request_bytes,
            read_ahead_bytes=read_ahead_bytes,
        )

    @classmethod
    def from_model(
        cls,
        model: Any,
        tokenizer: Any,
        *,
        name: str = "local",
        kv_memory_bytes: int = DEFAULT_KV_BYTES,
        kv_host_bytes: int = DEFAULT_KV_HOST_BYTES,
        kv_codec: KVCodec = "raw",
        compose: Mode | ComposePolicy = "exact",
        max_request_bytes: int | None = None,
        read_ahead_bytes: int = 0,
    ) -> HFEngine:
        """Return an engine for a model that is in memory already, in evaluation mode. It is used where it is."""
        loaded = LoadedModel(MemorySource(model, tokenizer, name))
        return cls(
            loaded,
            kv_memory_bytes=kv_memory_bytes,
            kv_host_bytes=kv_host_bytes,
            kv_codec=kv_codec,
            compose=compose,
            max_request_bytes=max_request_bytes,
            read_ahead_bytes=read_ahead_bytes,
        )

    @property
    def capabilities(self) -> Capabilities:
        refusal = self._loaded.refusal
        placements = {Placement.TEXT, Placement.LORA} if refusal else set(Placement)
        return Capabilities(self._loaded.name, self._loaded.context_window, frozenset(placements), refusal)

    @property
    def fingerprint(self) -> str:
        """Digest of what this engine's KV depends on besides the tokens. Loads the model."""
        return self._loaded.fingerprint

    @property
    def loaded(self) -> LoadedModel:
        """The model itself, shared by all engines of it; what trains or measures on it changes nothing of it."""
        return self._loaded

    @property
    def base_fingerprint(self) -> str:
        return self._loaded.base_fingerprint

    @property
    def model_name(self) -> str:
        return self._loaded.name

    @property
    def is_loaded(self) -> bool:
        return self._loaded.is_loaded

    @property
    def form_fingerprints(self) -> frozenset[str]:
        return frozenset([self.fingerprint, self.base_fingerprint, cartridge_fingerprint(self.fingerprint)])

    def encode(self, text: str) -> list[int]:
        return list(self._loaded.tokens.encode(text)[0])

    def stream(self, request: EngineRequest) -> Iterator[ReplyChunk]:
        work = self._resolve(request)
        inbox: queue.SimpleQueue[Event] = queue.SimpleQueue()
        ticket = self._worker.submit(generate(self._loaded, work), inbox.put)
        try:
            while not isinstance(item := inbox.get(), Done):
                if text := piece_of(item):
                    yield ReplyChunk(text)
        finally:
            ticket.cancel()
        yield ReplyChunk("", self._finish(work, item.value))

    async def astream(self, request: EngineRequest) -> AsyncIterator[ReplyChunk]:
        work = await asyncio.to_thread(self._resolve, request)
        inbox = LoopInbox()
        ticket = self._worker.submit(generate(self._loaded, work), inbox.put)
        try:
            while not isinstance(item := await inbox.get(), Done):
                if text := piece_of(item):
                    yield ReplyChunk(text)
        finally:
            ticket.cancel()
        yield ReplyChunk("", await asyncio.to_thread(self._finish, work, item.value))

    def prefill(
        self, block: MemoryBlock, activations: ActivationStore, *, adapters: Sequence[AdapterChoice] = ()
    ) -> BuiltActivation:
        if not block.text:
            raise InvalidInput("there is no memory to compute the KV of")
        work = self._prefill_work(block, activations, adapters)
        blob, seconds = self._run(prefill(self._loaded, work))
        if blob is None:
            raise InjectionUnavailable("kv", dict.fromkeys(block.cube_ids, "the model's cache lost tokens of it"))
        if not self._storable(blob):
            raise InjectionUnavailable("kv", dict.fromkeys(block.cube_ids, self._not_finite))
        return self._built(work, blob, seconds)

    def calibrate(self, policy: ComposePolicy | None = None) -> Calibration:
        """Measure on this model what putting KV of single memories together does to its answers.

        Args:
            policy: Which ways, and by which questions; None: every approximate way at its defaults.

        Raises:
            UnsupportedOption: This model's KV cannot be put together; the reason is named.
        """
        composer = Composer(ComposePolicy("auto") if policy is None else policy)
        return composer.calibration(self._loaded, self._run, self.fingerprint)

    def prefetch(self, request: EngineRequest) -> Future[int]:
        request = replace(request, strict=False)  # nobody waits to be told
        return self._ahead.submit(lambda: self._resolve(request).stored_tokens, 0)

    def read_ahead(self, request: EngineRequest) -> Future[int]:
        if not (self._foreseen.max_bytes and self.is_loaded):
            return super().read_ahead(request)
        return self._ahead.submit(lambda: bring(self._loaded, self._prefixes(), request, self._foreseen), 0)

    @property
    def read_ahead_counts(self) -> dict[str, int]:
        return self._foreseen.counts

    def pin(self, owner: str, cube_id: str, *, pinned: bool = True) -> None:
        if pinned or self._prefix_cache is not None:
            self._prefixes().pin(owner, cube_id, pinned=pinned)

    def drop(self, owner: str, cube_ids: Sequence[str] | None = None) -> None:
        if self._prefix_cache is not None:  # forgetting must not need a model that was never loaded
            for name in (owner, owner_of(owner)):
                self._prefixes().drop(name, cube_ids)
        self._bank.drop(owner, cube_ids)

    def close(self) -> None:
        self._ahead.close()
        self._worker.close()
        self._prefix_cache = None
        self._bank = AdapterBank(self._bank.max_bytes)

    def _prefixes(self) -> PrefixCache:
        if self._pid != os.getpid():
            # Locks that other threads held at the fork stay locked for ever in the child.
            self._loaded.after_fork()
            self._lock, self._prefix_cache, self._pid = threading.Lock(), None, os.getpid()
            self._bank = AdapterBank(self._bank.max_bytes)
        window = self._loaded.window
        with self._lock:
            if self._prefix_cache is None:
                place = Place(self._loaded.model.device, self._kv_memory_bytes, self._kv_host_bytes)
                self._prefix_cache = PrefixCache(place, window)
            return self._prefix_cache

    def _resolve(self, request: EngineRequest) -> Work:
        _ = self._loaded.model  # loaded by the caller's thread: a slow disk must not hold up other requests
        # Likewise what is found out by computing a little.
        _ = self._loaded.cache_refusal or self._loaded.refusal or self._loaded.batch_refusal
        decide = partial(self._composer.verdict, self._loaded, self._run) if self._composer.approximate else None
        rules = KVRules(self._codec.name, self._composer.policy.mode, decide, self._max_request_bytes)
        work = resolve(self._loaded, self._prefixes(), request, rules, bank=self._bank)
        stored, store = work.reuse.stored, request.activations
        if stored is None or store is None or not self._foreseen.use((store.owner, stored.cube_id)):
            return work
        return replace(work, reuse=replace(work.reuse, tier=f"{work.reuse.tier}, read ahead"))

    def _prefill_work(
        self, block: MemoryBlock, activations: ActivationStore, adapters: Sequence[AdapterChoice]
    ) -> Work:
        refusal = kv_refusal(self._loaded)
        prompt = self._loaded.prompts.build([PROBE], block)
        if refusal is None and not prompt.memory_end:
            refusal = "the chat template changes the memory block"
        if refusal is not None:
            raise InjectionUnavailable("kv", dict.fromkeys(block.cube_ids, refusal))
        prompt = replace(prompt, token_ids=prompt.token_ids[: prompt.memory_end])
        token_ids = as_token_ids(prompt.token_ids)
        room(self._loaded, len(token_ids), 1)
        affordable(self._loaded, self._prefixes(), len(token_ids), self._max_request_bytes)
        request = EngineRequest(
            messages=(),
            plan=InjectionPlan(inject="kv"),
            block=block,
            activations=activations,
            adapters=adapters,
            blobs=activations,
        )
        adapted = adapt(self._loaded, self._bank, request)
        mark = adapted.mark(self._loaded)
        exact = not self._codec.approximate
        reuse = find_prefix(self._loaded, self._prefixes(), activations, mark, token_ids, exact=exact)
        lora = adapted.plan(len(token_ids))
        return Work(request, prompt, token_ids, reuse, len(token_ids), 1, mark, "", 0.0, adapted=adapted, lora=lora)

    def _run(self, work: Generator[Any, None, Any]) -> Any:
        """Run ``work`` on the scheduling thread and return its result."""
        inbox: queue.SimpleQueue[Event] = queue.SimpleQueue()
        ticket = self._worker.submit(work, inbox.put)
        try:
            while not isinstance(item := inbox.get(), Done):
                piece_of(item)
        finally:
            ticket.cancel()
        return item.value

    def _built(self, work: Work, blob: KVBlob, seconds: float) -> BuiltActivation:
        return BuiltActivation(
            data=encode(blob, self._codec.name),
            fingerprint=blob.fingerprint,
            token_digest=token_digest(blob.token_ids),
            token_count=blob.tokens,
            model=self._loaded.name,
            codec=self._codec.name,
            cube_ids=work.request.block.cube_ids,
            parameters={"prefill_seconds": round(seconds, 6), "reused_tokens": work.reuse.length},
            adapter_cube_ids=work.adapted.full_cube_ids,
        )

    def _finish(self, work: Work, outcome: Outcome) -> Reply:
        """Keep what was built and return the reply. Runs in the caller's thread: it may write to disk."""
        started = time.perf_counter()
        cube_id, notes = self._publish(work, outcome)
        usage = Usage(
            prompt_tokens=len(work.token_ids),
            memory_tokens=work.stored_tokens,
            completion_tokens=outcome.completion_tokens,
            ttft_seconds=work.seconds + outcome.ttft_seconds,
            total_seconds=work.seconds + outcome.total_seconds + time.perf_counter() - started,
            carried_tokens=sum(m.tokens for m in work.request.plan.memories if m.cube_id in work.adapted.carried),
        )
        return Reply(outcome.text, usage, settle(work, cube_id, notes), outcome.finish_reason, outcome.calls)

    def _publish(self, work: Work, outcome: Outcome) -> tuple[str | None, list[str]]:
        """Return the cube that now holds what was built, if any, and what to say where it could not be kept."""
        activations = work.request.activations
        if not work.build_to or activations is None:
            return None, []
        if outcome.built is None:
            return None, ["the model's cache does not hold the keys and values of every token, so none were kept"]
        if not self._storable(outcome.built):
            return None, [f"no KV was kept: {self._not_finite}"]
        try:
            cube_id = activations.publish(self._built(work, outcome.built, outcome.build_seconds))
        except VaultError as error:
            # The answer is there; that its KV could not be stored costs time later and nothing else.
            return None, [f"the KV that was built could not be stored: {error}"]
        if cube_id is None:
            return None, ["the KV was not kept: a memory in it has changed or gone, or the quota is full"]
        # As a later process will read it: an answer must not depend on whether a cache is still in memory.
        self._prefixes().keep(activations.owner, cube_id, as_stored(outcome.built, self._codec.name))
        return cube_id, [f"it is stored as {self._codec.name}, approximate"] if self._codec.approximate else []

    def _storable(self, blob: KVBlob) -> bool:
        return not self._codec.approximate or is_finite(blob)

    @property
    def _not_finite(self) -> str:
        return f"a key or value is infinite or NaN, which {self._codec.name} cannot hold"


class LoopInbox:
    """Carries events from the scheduling thread to a coroutine."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Event] = asyncio.Queue()

    def put(self, item: Event) -> None:
        # The loop may have ended without waiting for this request; then nobody wants the item any more.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._queue.put_nowait, item)

    async def get(self) -> Event:
        return await self._queue.get()


def piece_of(item: Event) -> str:
    """Return the text of a piece. Raises what the work raised."""
    if isinstance(item, Failed):
        raise item.error
    return str(item.value)


def single_thread() -> None:
    """Keep torch from using the thread pool of the parent process, which does not exist in a forked child."""
    torch.set_num_threads(1)
