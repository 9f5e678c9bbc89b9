"""Cartridges in a request: where KV was asked for, one that stands for just the memory of the prompt may serve."""

from __future__ import annotations

from functools import partial

from memos_core.engine.base import ActivationStore, EngineRequest, StoredActivation
from memos_core.engine.kv.cartridge import cartridge_fingerprint, decode_cartridge, obstacle, slots_of
from memos_core.engine.kv.codec import KVBlob, as_token_ids, token_digest
from memos_core.engine.kv.prefix import PrefixCache
from memos_core.engine.loading import LoadedModel
from memos_core.engine.prompt import Prompt
from memos_core.engine.work import Reuse
from memos_core.errors import BlobDamaged

__all__ = ["find_cartridge", "owner_of"]


def owner_of(owner: str) -> str:
    """Return under whose name cartridges are kept in memory: apart from exact KV, which is looked up by prefixes."""
    return f"{owner}\ncartridges"


def find_cartridge(loaded: LoadedModel, prefixes: PrefixCache, request: EngineRequest, prompt: Prompt) -> Reuse | None:
    """Return the cartridge that stands for exactly the memory prefix of ``prompt``; None: there is none.

    Only under ``inject="kv"``, since it is approximate, and not beside adapters, which it was not examined with. A
    damaged one is taken out of use.
    """
    activations = request.activations
    if request.plan.inject != "kv" or request.adapters or activations is None or not prompt.opens:
        return None
    if not 0 < prompt.memory_end < len(prompt.token_ids) or obstacle(loaded.config) is not None:
        return None
    digest = token_digest(as_token_ids(prompt.token_ids[: prompt.memory_end]))
    notes: list[str] = []
    for each in activations.find(cartridge_fingerprint(loaded.fingerprint)):
        if each.payload.token_digest != digest:
            continue
        owner = owner_of(activations.owner)
        try:
            blob, tier = prefixes.load(owner, each, partial(fetch, loaded, activations, each))
        except BlobDamaged as damage:
            activations.refuse(each.cube_id, str(damage))
            prefixes.drop(owner, [each.cube_id])
            notes.append(f"cartridge {each.cube_id} was refused: {damage}")
            continue
        told = f"cartridge {each.cube_id} stands for {blob.tokens} tokens in {slots_of(blob)} positions"
        return Reuse(each, blob, prompt.memory_end, (*notes, told), tier=tier)
    return Reuse(notes=tuple(notes)) if notes else None


def fetch(loaded: LoadedModel, activations: ActivationStore, stored: StoredActivation) -> KVBlob:
    """Read and check one cartridge, and put it on the model's device."""
    data = activations.read(stored.payload.blob.address)
    return decode_cartridge(data, stored.payload, loaded.layout or ()).to(loaded.model.device)
