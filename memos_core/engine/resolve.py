"""What really happens to the memories of one request: the stored prefix that serves, what is built, and why not."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from memos_core.engine.base import ActivationStore, EngineRequest, StoredActivation
from memos_core.engine.cartridges import find_cartridge
from memos_core.engine.compose import Decide, Mode
from memos_core.engine.grammar import grammar_for
from memos_core.engine.kv.assembly import Chunk, Recipe
from memos_core.engine.kv.cache import layer_types, misfit
from memos_core.engine.kv.codec import RAW, KVBlob, TokenIds, as_token_ids, decode, token_digest
from memos_core.engine.kv.prefix import PrefixCache
from memos_core.engine.limits import ensure_room, request_bytes, token_bytes
from memos_core.engine.loading import LoadedModel
from memos_core.engine.location import UNBOUNDED
from memos_core.engine.lora.bank import AdapterBank
from memos_core.engine.lora.serve import NO_ADAPTER, NO_ADAPTERS, Adapted, adapt
from memos_core.engine.prompt import Prompt
from memos_core.engine.sampling import check_options
from memos_core.engine.spans import Span, spans
from memos_core.engine.work import Reuse, Work
from memos_core.errors import BlobDamaged, ContextOverflow, InjectionUnavailable
from memos_core.records import InjectionPlan, Placement, PlannedMemory
from memos_core.render import MemoryBlock, render_block

__all__ = ["KVRules", "affordable", "find_prefix", "kv_refusal", "resolve", "room", "settle"]


@dataclass(frozen=True, slots=True)
class KVRules:
    """What an engine was told about stored KV.

    Attributes:
        codec: How KV that is built is stored.
        mode: How KV that was stored for each memory alone is put together.
        decide: Tells from the fingerprint which approximate method may be used; None: none.
        max_request_bytes: Most bytes that a request may take besides what is stored; None: what the device has.
    """

    codec: str = RAW
    mode: Mode = "exact"
    decide: Decide | None = None
    max_request_bytes: int | None = None


EXACT_RULES = KVRules()


def resolve(
    loaded: LoadedModel,
    prefixes: PrefixCache,
    request: EngineRequest,
    rules: KVRules = EXACT_RULES,
    *,
    bank: AdapterBank | None = None,
) -> Work:
    """Decide how the memories of ``request`` enter the model. Loads it where it is not loaded yet.

    Args:
        bank: Keeps adapters loaded; None: adapters play no part.

    Raises:
        AdapterMismatch: An adapter that the caller named was made for another model.
        ContextOverflow: The prompt does not fit.
        InjectionUnavailable: ``strict`` and a memory cannot enter as asked.
        InvalidInput: The form that the reply is to have is not supported.
    """
    started = time.perf_counter()
    check_options(request.options)
    inject = request.plan.inject
    adapted = NO_ADAPTERS if bank is None else adapt(loaded, bank, request)
    block = MemoryBlock() if inject == "off" else block_without(request, adapted)
    request = replace(request, block=block)
    obstacle = kv_obstacle(loaded, request)
    refuse_if_strict(request, obstacle)
    prompt = loaded.prompts.build(request.messages, block, request.shown_tools)
    token_ids = as_token_ids(prompt.token_ids)
    max_tokens = room(loaded, len(token_ids), request.options.max_tokens)
    grammar = grammar_for(request.options.response_format, request.shown_tools, request.tool_choice)
    constraint = loaded.constraints.start(grammar, max_tokens) if grammar is not None else None
    reuse, mark, build_to, recipe = Reuse(), "", 0, None
    if obstacle is None and request.activations is not None and block.text:
        mark = adapted.mark(loaded)
        reuse, recipe, build_to = serve(loaded, prefixes, request, prompt, beside(adapted, rules), mark=mark)
    computed = len(token_ids) - reuse.length + build_to
    max_tokens = min(max_tokens, affordable(loaded, prefixes, computed, rules.max_request_bytes))
    fallback = obstacle or misplaced(prompt) or reuse.declined or "no stored KV covers it"
    if not build_to and recipe is None and reuse.length < max(prompt.memory_end, 1):
        refuse_if_strict(request, misplaced(prompt))
    seconds = time.perf_counter() - started
    lora = adapted.plan(prompt.memory_end)
    return Work(
        request,
        prompt,
        token_ids,
        reuse,
        build_to,
        max_tokens,
        mark,
        fallback,
        seconds,
        recipe=recipe,
        constraint=constraint,
        adapted=adapted,
        lora=lora,
    )


def block_without(request: EngineRequest, adapted: Adapted) -> MemoryBlock:
    """Return the memory block of ``request`` without what adapters carry."""
    if not adapted.carried:
        return request.block
    return render_block([memory.cube for memory in request.plan.memories if memory.cube_id not in adapted.carried])


def beside(adapted: Adapted, rules: KVRules) -> KVRules:
    """Return the rules that hold beside adapters: what is put together approximately was measured without them."""
    return replace(rules, decide=None) if adapted.full else rules


def serve(
    loaded: LoadedModel, prefixes: PrefixCache, request: EngineRequest, prompt: Prompt, rules: KVRules, *, mark: str
) -> tuple[Reuse, Recipe | None, int]:
    """Return the stored prefix that serves, what goes on from it approximately, and up to where KV is to be built."""
    assert request.activations is not None
    # Behind the memory an adapter may act, so that KV of the base model must not reach further. One token is left over.
    reach = prompt.memory_end + 1 if request.adapters else len(prompt.token_ids)
    ids = as_token_ids(prompt.token_ids[:reach])
    find = partial(find_prefix, loaded, prefixes, request.activations, mark, ids)
    recipe = None
    if rules.mode == "full":
        reuse = Reuse(notes=("every token is computed, as compose='full' asks",))
    else:
        reuse = find(at_any_cost=request.plan.inject == "kv")
        if reuse.length < prompt.memory_end and (trained := find_cartridge(loaded, prefixes, request, prompt)):
            reuse = trained if trained.blob is not None else replace(reuse, notes=(*reuse.notes, *trained.notes))
    if rules.decide is not None and reuse.blob is not None and reuse.length < prompt.memory_end:
        reuse, recipe = extend(loaded, prefixes, request, prompt, reuse=reuse, decide=rules.decide)
    wanted = prompt.opens and wants_building(request.plan) and recipe is None and not reuse.declined
    if not wanted or reuse.length >= prompt.memory_end:
        return reuse, recipe, 0
    if rules.codec == RAW and reuse.approximate:
        again = find(exact=True)
        reuse = replace(again, notes=(*reuse.notes, *again.notes))
    return reuse, recipe, prompt.memory_end


def misplaced(prompt: Prompt) -> str | None:
    """Return why no KV of the memory in ``prompt`` can be kept for other chats, or None if it can."""
    if not prompt.memory_end:
        return "its place in the prompt is unknown, since the chat template changes it"
    return None if prompt.opens else "the chat template puts it behind a part of the chat"


def kv_obstacle(loaded: LoadedModel, request: EngineRequest) -> str | None:
    """Return why stored KV plays no part in ``request``, or None if it may."""
    inject = request.plan.inject
    if inject in {"off", "text"}:
        return "text was asked for"
    if inject == "lora":
        return NO_ADAPTER
    reason = kv_refusal(loaded)
    if reason is not None:
        return f"the KV of this model cannot be reused: {reason}"
    return "no store of KV caches was given" if request.activations is None else None


def kv_refusal(loaded: LoadedModel) -> str | None:
    """Return why the KV of this model cannot be stored, or None. Loads the model unless its configuration tells."""
    if loaded.refusal is None:
        _ = loaded.layout  # computes one token, once, to see what the model really keeps
        _ = loaded.cache_refusal
        _ = loaded.cascade_refusal  # likewise a few; here and not on the thread that others wait for
    return loaded.refusal


def refuse_if_strict(request: EngineRequest, obstacle: str | None) -> None:
    asked = request.plan.inject
    if request.strict and obstacle is not None and asked == "kv" and request.block.text:
        raise InjectionUnavailable(asked, dict.fromkeys(request.plan.cube_ids or request.block.cube_ids, obstacle))


def wants_building(plan: InjectionPlan) -> bool:
    """Tell whether KV that is missing is to be built: always if asked for, else if every memory prefers it."""
    if plan.inject == "auto":
        return bool(plan.memories) and all(memory.preferred is Placement.KV for memory in plan.memories)
    return plan.inject == "kv"


def room(loaded: LoadedModel, prompt_tokens: int, max_tokens: int) -> int:
    """Return how many tokens the reply may have."""
    window = loaded.context_window
    if prompt_tokens + 1 > window:
        raise ContextOverflow(needed=prompt_tokens + 1, window=window)
    return min(max_tokens, window - prompt_tokens)


def affordable(loaded: LoadedModel, prefixes: PrefixCache, computed: int, limit: int | None) -> int:
    """Return how many tokens of a reply the device has memory for, once ``computed`` positions of a prompt are in it.

    Raises:
        DeviceMemoryExceeded: It has not even the memory for the prompt and one token.
    """
    layout = loaded.layout if loaded.refusal is None else None
    needed = request_bytes(layout, loaded.config, computed + 1)
    left = ensure_room(prefixes, loaded.model.device, needed, limit)
    each = token_bytes(layout)
    return 1 + left // each if left is not None and each else UNBOUNDED


def find_prefix(
    loaded: LoadedModel,
    prefixes: PrefixCache,
    activations: ActivationStore,
    mark: str,
    token_ids: TokenIds,
    *,
    at_any_cost: bool = True,
    exact: bool = False,
) -> Reuse:
    """Return the stored prefix that covers most of ``token_ids``.

    A damaged or forged blob is taken out of use at the store, named in the notes, and the next best one is taken.

    Args:
        at_any_cost: Load it even where computing it anew is known to be cheaper.
        exact: Take only what is stored bit for bit: what is computed after an approximate prefix is approximate too,
            and must not be kept as if it were not.
    """
    notes: list[str] = []
    stored = list(activations.find(mark))
    owner = activations.owner
    while True:
        reading: list[StoredActivation] = []

        def read(each: StoredActivation, reading: list[StoredActivation] = reading) -> bytes | bytearray:
            reading.append(each)
            return activations.read(each.payload.blob.address)

        try:
            found = prefixes.longest(owner, stored, token_ids, read, exact=exact)
            if found is None:
                return Reuse(notes=tuple(notes))
            reading.append(found[0])
            if not (at_any_cost or prefixes.holds(owner, found[0])):
                verdict = loaded.costs.verdict(found[0].payload.blob.size_bytes, found[1])
                if not verdict.load:
                    return Reuse(notes=tuple(notes), declined=f"stored KV was not loaded, since {verdict.why}")
            blob, tier = prefixes.load(owner, found[0], partial(fetch, loaded, activations, found[0]))
            return Reuse(found[0], blob, found[1], tuple(notes), tier=tier)
        except BlobDamaged as damage:
            broken = reading[-1]
            notes.append(refuse(prefixes, activations, broken, damage))
            stored.remove(broken)


def extend(
    loaded: LoadedModel, prefixes: PrefixCache, request: EngineRequest, prompt: Prompt, *, reuse: Reuse, decide: Decide
) -> tuple[Reuse, Recipe | None]:
    """Return the recipe that goes on from ``reuse`` with chains of single memories, if any serve and a method may.

    Also returns ``reuse`` with notes of what was found on the way.
    """
    activations, blob = request.activations, reuse.blob
    if activations is None or blob is None or prompt.memory_end == len(prompt.token_ids):
        return reuse, None  # a model needs at least one token behind what it is given
    pairs = own_chains(loaded, activations, request.block, prompt, reuse.length)
    if not pairs or falls_short(request, prompt, reuse.length, {span.stop for span, _ in pairs}):
        return reuse, None
    verdict = decide(loaded.fingerprint)
    if verdict.method is None or verdict.rotation is None:
        return replace(reuse, notes=(*reuse.notes, verdict.note)), None
    notes = list(reuse.notes)
    chunks = load_chunks(loaded, prefixes, activations, pairs, notes)
    if not chunks or falls_short(request, prompt, reuse.length, {chunk.stop for chunk in chunks}):
        return replace(reuse, notes=tuple(notes)), None
    recipe = Recipe(blob, reuse.length, chunks, verdict.method, verdict.rotation)
    return replace(reuse, notes=(*notes, verdict.note)), recipe


def falls_short(request: EngineRequest, prompt: Prompt, covered: int, ends: set[int]) -> bool:
    """Tell whether ``strict`` forbids to compose: some memory has no KV, and building gives it some."""
    if not request.strict or request.plan.inject != "kv":
        return False
    return any(end > covered and end not in ends for _, end in prompt.ends)


def own_chains(
    loaded: LoadedModel, activations: ActivationStore, block: MemoryBlock, prompt: Prompt, behind: int
) -> list[tuple[Span, StoredActivation]]:
    """Return the memories behind position ``behind`` of which each alone is stored, with what holds them."""
    every = sorted(activations.find(loaded.fingerprint), key=lambda each: each.payload.codec == RAW)
    stored = {each.payload.token_digest: each for each in every}  # of equal ones the exact one, which comes last
    if not stored or behind >= prompt.memory_end:
        return []
    found = spans(loaded.prompts, block, prompt, behind)
    return [(span, each) for span in found if (each := stored.get(token_digest(span.chain))) is not None]


def load_chunks(
    loaded: LoadedModel,
    prefixes: PrefixCache,
    activations: ActivationStore,
    pairs: Sequence[tuple[Span, StoredActivation]],
    notes: list[str],
) -> tuple[Chunk, ...]:
    """Return the chains with their tensors. Damaged ones are refused and left out, with a line in ``notes``."""
    chunks = []
    for span, each in pairs:
        try:
            blob, tier = prefixes.load(activations.owner, each, partial(fetch, loaded, activations, each))
        except BlobDamaged as damage:
            notes.append(refuse(prefixes, activations, each, damage))
            continue
        chunks.append(Chunk(each.cube_id, blob, span.source, span.start, span.length, tier))
    return tuple(chunks)


def refuse(prefixes: PrefixCache, activations: ActivationStore, broken: StoredActivation, damage: BlobDamaged) -> str:
    """Take a damaged or forged blob out of use and return a note of it."""
    activations.refuse(broken.cube_id, str(damage))
    prefixes.drop(activations.owner, [broken.cube_id])
    return f"stored KV {broken.cube_id} was refused: {damage}"


def fetch(loaded: LoadedModel, activations: ActivationStore, stored: StoredActivation) -> KVBlob:
    """Read and check one blob, and put it on the model's device."""
    started = time.perf_counter()
    address = stored.payload.blob.address
    blob = decode(activations.read(address), stored.payload)
    reason = misfit(blob, loaded.layout or (), layer_types(loaded.config))
    if reason is not None:
        raise BlobDamaged(address, reason)
    placed = blob.to(loaded.model.device)
    loaded.costs.loaded(stored.payload.blob.size_bytes, time.perf_counter() - started)
    return placed


def settle(work: Work, built: str | None, built_notes: Sequence[str] = ()) -> InjectionPlan:
    """Return the plan as it came out.

    Args:
        built: Cube id under which the KV that was built now is kept, if any.
    """
    plan = work.request.plan
    ends = dict(work.prompt.ends)
    placed = tuple(place(memory, ends.get(memory.cube_id), work, built) for memory in plan.memories)
    notes = [*plan.notes, *work.prompt.notes, *work.adapted.notes, *work.reuse.notes]
    if work.reuse.stored is not None:
        kind = f" ({work.reuse.stored.payload.codec}, approximate)" if work.reuse.approximate else ""
        source = f"stored KV {work.reuse.stored.cube_id}{kind}"
        notes.append(f"{work.reuse.length} of {len(work.token_ids)} tokens from {source}, from {work.reuse.tier}")
    if work.recipe is not None:
        served = ", ".join(f"{chunk.cube_id} (from {chunk.tier})" for chunk in work.recipe.chunks)
        notes.append(f"{work.recipe.kept} further tokens from stored KV of single memories: {served}")
    if work.constraint is not None and not work.constraint.guarded:
        notes.append("no short way to a complete answer of this form was found, so max_tokens may cut it")
    if work.constraint is not None and work.constraint.closed:
        notes.append("the answer was closed early, to be whole within its tokens")
    if built is not None:
        notes.append(f"KV of the first {work.build_to} tokens was built and kept as {built}")
    served_by = work.reuse.stored.cube_id if work.reuse.stored is not None else None
    return replace(
        plan,
        memories=placed,
        notes=(*notes, *built_notes),
        prefix_cube_id=served_by,
        adapter_cube_ids=work.adapted.cube_ids,
    )


def place(memory: PlannedMemory, end: int | None, work: Work, built: str | None) -> PlannedMemory:
    if work.request.plan.inject == "off":
        return memory
    if memory.cube_id in work.adapted.carried:
        placed, why = Placement.LORA, f"carried by adapter {work.adapted.carried[memory.cube_id]}"
    elif end is not None and end <= work.reuse.length:
        placed, why = Placement.KV, "served from stored KV"
    elif work.recipe is not None and end in {chunk.stop for chunk in work.recipe.chunks}:
        placed, why = Placement.KV, f"from its own stored KV by {work.recipe.method.name}, approximately"
    elif end is not None and built is not None:
        placed, why = Placement.KV, "built in this request"
    else:
        why = "the KV built for it was not kept" if work.build_to and end is not None else work.fallback
        placed, why = Placement.TEXT, f"as text: {why}"
    return replace(memory, placed=placed, reason=f"{memory.reason}; {why}" if memory.reason else why)
