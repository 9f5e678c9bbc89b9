"""The KV that the next turn will likely begin with, brought from the disk into memory before anybody waits for it."""

from __future__ import annotations

from functools import partial

from memos_core.engine.base import EngineRequest
from memos_core.engine.kv.ahead import Foreseen
from memos_core.engine.kv.codec import as_token_ids
from memos_core.engine.kv.prefix import Key, PrefixCache, whole_prefixes
from memos_core.engine.loading import LoadedModel
from memos_core.engine.prompt import PROBE
from memos_core.engine.resolve import fetch, kv_refusal, refuse
from memos_core.errors import BlobDamaged

__all__ = ["bring"]


def bring(loaded: LoadedModel, prefixes: PrefixCache, request: EngineRequest, foreseen: Foreseen[Key]) -> int:
    """Load the longest stored chain that a chat with the memories of ``request`` begins with, within the budget.

    Only chains that such a chat would use whole count, since those are known by their digests and nothing has to be
    read to find them.

    Returns:
        The tokens in it; 0 where there is none, or it is in memory already or too large.
    """
    activations = request.activations
    if activations is None or not request.block.text or kv_refusal(loaded) is not None:
        return 0
    prompt = loaded.prompts.build([PROBE], request.block)
    token_ids = as_token_ids(prompt.token_ids)
    stored = activations.find(loaded.fingerprint)
    fitting = whole_prefixes(stored, token_ids, prompt.memory_end)
    if not fitting:
        return 0
    best, owner = fitting[-1], activations.owner
    size_bytes = best.payload.blob.size_bytes
    if prefixes.holds(owner, best) or size_bytes > foreseen.max_bytes:
        return 0
    for key in foreseen.book((owner, best.cube_id), size_bytes, prefixes.has):
        prefixes.let_go(key)
    try:
        prefixes.load(owner, best, partial(fetch, loaded, activations, best))
    except BlobDamaged as damage:
        refuse(prefixes, activations, best, damage)
        return 0
    return best.payload.token_count
