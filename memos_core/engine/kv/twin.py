"""Models that attend by cascade: twins that share everything with the original but the name of the implementation.

transformers reads the implementation off the configuration in each layer and call. Writing ours there would be seen by
everybody who uses the model at that time, on any thread; so the modules that hold the configuration are copied, a few
dozen Python objects, and the model itself is left as it was found.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch

from memos_core.engine.kv.attention import NAME, register
from memos_core.engine.kv.cache import FULL, container, layer_types, new_cache, snapshot
from memos_core.engine.kv.codec import as_token_ids
from memos_core.engine.kv.shared import SharedPrefixCache

__all__ = ["CODE_ERRORS", "PREFIX", "cascade_obstacle", "difference", "feed", "probe_cache", "probe_cascade", "twin"]

PREFIX = (5, 3, 8, 4, 9, 7, 6)
PARTS = ((3, 6, 4), (8,), (5, 7))
"""Token ids of the probe: the tail begins, goes on by one token, and goes on by several."""

CODE_ERRORS = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What a kernel, our attention or a model that was not written for either may raise in the probe."""


def cascade_obstacle(model: Any) -> str | None:
    """Return why ``model``, as it is set up now, cannot attend by cascade, or None where only a probe can tell."""
    if model.config._attn_implementation != "sdpa":
        return f"its attention is {model.config._attn_implementation}, not sdpa"
    if set(layer_types(model.config)) != {FULL}:
        return "not all of its layers see every token"
    return "a module of it was compiled, or its forward was replaced" if bound_elsewhere(model) else None


def twin(model: Any) -> Any:
    """Return a model like ``model`` that attends by ``cascade_attention``; for use with a ``SharedPrefixCache`` only.

    Parameters, buffers, hooks and every module without a configuration are the same objects, so changes of the weights
    show in both. Copies no tensor. ``model`` is not changed.
    """
    register()
    config = model.config.get_text_config(decoder=True)
    named = copy.deepcopy(config)
    named._attn_implementation = NAME
    return renamed(model, config, named)


def renamed(module: torch.nn.Module, config: Any, named: Any) -> torch.nn.Module:
    """Return ``module``, or a copy where it or something in it holds ``config``, with ``named`` in its place."""
    changed = {}
    for name, child in module._modules.items():
        if child is not None and (other := renamed(child, config, named)) is not child:
            changed[name] = other
    holds = vars(module).get("config") is config
    if not changed and not holds:
        return module
    # Not copy.copy, whose protocol takes four times as long: each request makes a twin.
    made = module.__class__.__new__(module.__class__)
    vars(made).update(vars(module))
    if changed:
        vars(made)["_modules"] = {**module._modules, **changed}
    if holds:
        vars(made)["config"] = named
    return made


def bound_elsewhere(module: torch.nn.Module) -> bool:
    """Tell whether ``module`` or something in it was compiled or wrapped: a copy of it would run the original."""
    own = vars(module)
    if "forward" in own or own.get("_compiled_call_impl") is not None:
        return True
    return any(bound_elsewhere(child) for child in module._modules.values() if child is not None)


@torch.inference_mode()
def probe_cascade(model: Any) -> str | None:
    """Return why ``model`` does not compute the same by cascade, or None if it does, found by computing a few tokens.

    Whether a model asks the attention interface at all, hands on what it is given and wants nothing besides a softmax
    is written in its code and not in its configuration.
    """
    plain = new_cache(model.config)
    feed(model, PREFIX, past_key_values=plain)
    blob = snapshot(plain, as_token_ids(PREFIX), "", layer_types(model.config))
    if blob is None:
        return "its cache holds more than keys and values"
    shared = SharedPrefixCache(blob, len(PREFIX))
    plain = container(model.config, blob, len(PREFIX))
    try:
        other = twin(model)
        got = [feed(other, part, past_key_values=shared, shared_prefix=shared) for part in PARTS]
    except CODE_ERRORS as error:
        return f"it cannot attend by cascade: {error}"
    expected = [feed(model, part, past_key_values=plain) for part in PARTS]
    return difference(torch.cat(got), torch.cat(expected))


@torch.inference_mode()
def probe_cache(model: Any) -> str | None:
    """Return why ``model`` does not go on from a stored cache as from the tokens themselves, or None if it does, found
    by computing a few tokens. Where its cache cannot be stored, the model's own is looked at.

    transformers lets a family count positions, keep tokens of its own or pass its cache by in code; what comes out then
    looks like an answer.
    """
    whole = torch.tensor([[*PREFIX, *sum(PARTS, ())]], device=model.device)
    try:
        expected = model(input_ids=whole, use_cache=False).logits[0, len(PREFIX) :]
        cache = new_cache(model.config)
        feed(model, PREFIX, past_key_values=cache)
        blob = snapshot(cache, as_token_ids(PREFIX), "", layer_types(model.config))
        cache = cache if blob is None else container(model.config, blob, len(PREFIX))
        got = torch.cat([feed(model, part, past_key_values=cache) for part in PARTS])
    except CODE_ERRORS as error:
        return f"it cannot go on from its own cache: {error}"
    if got.shape != expected.shape:
        return "it computes other positions behind its cache than it is given"
    # Experts are chosen by rounded scores, so that here and there a position may differ much; a memory that was not
    # seen shows in all.
    scale = float(expected.float().abs().max())
    if not 0 < scale < float("inf"):
        return None  # a model that gives no numbers gives none behind a prefix either
    apart = sorted(((got.float() - expected.float()).abs().amax(-1) / scale).tolist())
    usual = apart[len(apart) * 2 // 3 - 1]
    if usual <= torch.finfo(expected.dtype).eps ** 0.5:
        return None
    return f"behind a stored prefix its logits are off by {usual:.1%}"


def difference(got: torch.Tensor, expected: torch.Tensor) -> str | None:
    """Return how far logits, ``[positions, vocabulary]``, lie apart, or None if rounding explains it."""
    apart = float((got.float() - expected.float()).abs().max() / expected.float().abs().max())
    # Half of the digits of the dtype: rounding stays well below, a memory that was not seen far above.
    return None if apart <= torch.finfo(expected.dtype).eps ** 0.5 else f"by cascade its logits are off by {apart:.1%}"


def feed(model: Any, token_ids: Sequence[int], **options: Any) -> torch.Tensor:
    ids = torch.tensor([list(token_ids)], device=model.device)
    logits: torch.Tensor = model(input_ids=ids, use_cache=True, **options).logits[0]
    return logits
