"""Which adapters serve one request, what they carry, and why others do not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

from memos_core.engine.base import AdapterChoice, BlobReader, EngineRequest
from memos_core.engine.loading import LoadedModel
from memos_core.engine.lora.adapter import Adapter, check_fit, decode
from memos_core.engine.lora.bank import AdapterBank
from memos_core.engine.lora.plan import LoRAPlan, Use
from memos_core.errors import AdapterMismatch, BlobDamaged, InjectionUnavailable

__all__ = ["NO_ADAPTER", "NO_ADAPTERS", "Adapted", "adapt", "load"]

NO_ADAPTER = "no adapter carries it"


@dataclass(frozen=True, slots=True)
class Adapted:
    """The adapters of one request.

    Attributes:
        adapters: What acts, with its weight.
        cube_ids: The cubes of these adapters.
        carried: Memory to the adapter that carries it instead of the prompt.
        notes: What was found on the way, such as damaged blobs.
    """

    adapters: tuple[tuple[Adapter, float], ...] = ()
    cube_ids: tuple[str, ...] = ()
    carried: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def full(self) -> bool:
        """Whether one of them acts on every token, so that KV of the base model cannot serve beside it."""
        return any(adapter.scope == "full" for adapter, _ in self.adapters)

    @property
    def full_cube_ids(self) -> tuple[str, ...]:
        """The cubes of those that act on every token, under which KV is another than that of the base model."""
        pairs = zip(self.adapters, self.cube_ids, strict=True)
        return tuple(cube_id for (adapter, _), cube_id in pairs if adapter.scope == "full")

    def mark(self, loaded: LoadedModel) -> str:
        """Return the fingerprint of KV that goes with them: that of the base model unless one acts on every token."""
        if not self.full:
            return loaded.fingerprint
        acting = ((adapter.digest, weight, adapter.scope) for adapter, weight in self.adapters)
        return loaded.fingerprint_with(tuple(each for each in acting if each[2] == "full"))

    def plan(self, memory_end: int) -> LoRAPlan | None:
        """Return the plan for a prompt whose memory prefix has ``memory_end`` positions; None: no adapter acts."""
        if not self.adapters:
            return None
        starts = [memory_end if adapter.scope == "tail" else 0 for adapter, _ in self.adapters]
        uses = [Use(adapter, weight, start) for (adapter, weight), start in zip(self.adapters, starts, strict=True)]
        return LoRAPlan([uses])


NO_ADAPTERS = Adapted()


def adapt(loaded: LoadedModel, bank: AdapterBank, request: EngineRequest) -> Adapted:
    """Load the adapters of ``request``. A damaged one is taken out of use, and its memories go as text.

    Raises:
        AdapterMismatch: One that the caller named was made for another model.
        BlobDamaged: One that the caller named is damaged.
        InjectionUnavailable: ``strict``, adapters were asked for, and a memory has none.
    """
    planned = set(request.plan.cube_ids)
    used: list[tuple[AdapterChoice, Adapter]] = []
    carried: dict[str, str] = {}
    notes: list[str] = []
    for choice in request.adapters:
        if request.blobs is None:
            break
        try:
            adapter = load(loaded, bank, request.blobs, choice)
        except BlobDamaged as damage:
            request.blobs.refuse(choice.cube_id, str(damage))
            bank.drop(request.blobs.owner, [choice.cube_id])
            if choice.named:
                raise
            notes.append(f"adapter {choice.cube_id} was refused: {damage}")
            continue
        used.append((choice, adapter))
        carried |= dict.fromkeys(planned & choice.carries, choice.cube_id)
    refuse_if_strict(request, carried)
    return Adapted(
        adapters=tuple((adapter, choice.weight) for choice, adapter in used),
        cube_ids=tuple(choice.cube_id for choice, _ in used),
        carried=carried,
        notes=(*notes, *(acting(choice, adapter, planned) for choice, adapter in used)),
    )


def refuse_if_strict(request: EngineRequest, carried: Mapping[str, str]) -> None:
    if request.strict and request.plan.inject == "lora":
        missing = [cube_id for cube_id in request.plan.cube_ids if cube_id not in carried]
        if missing:
            raise InjectionUnavailable("lora", dict.fromkeys(missing, NO_ADAPTER))


def acting(choice: AdapterChoice, adapter: Adapter, planned: set[str]) -> str:
    """Return a note of what an adapter does."""
    where = "behind the memory prefix" if adapter.scope == "tail" else "on every token"
    others = len(choice.carries - planned)
    more = f"; it was made from {others} other memories too" if others else ""
    return f"adapter {choice.cube_id} acts {where}{more}"


def load(loaded: LoadedModel, bank: AdapterBank, blobs: BlobReader, choice: AdapterChoice) -> Adapter:
    """Return an adapter on the model's device, after checking that it is one of this model.

    Raises:
        AdapterMismatch: It is one of another model.
        BlobDamaged: Its tensors are missing or not what was stored.
    """
    payload = choice.payload
    if payload.fingerprint != loaded.base_fingerprint:
        reason = f"it was made for {payload.model} with other weights, tokenizer or chat template"
        raise AdapterMismatch(choice.cube_id, reason)
    make = partial(fetch, loaded, blobs, choice)
    return bank.get(blobs.owner, choice.cube_id, payload.blob.address, make)


def fetch(loaded: LoadedModel, blobs: BlobReader, choice: AdapterChoice) -> Adapter:
    adapter = decode(blobs.read(choice.payload.blob.address), choice.payload)
    check_fit(adapter.modules, loaded.model, choice.cube_id)
    return adapter.to(loaded.model.device, loaded.model.dtype)
