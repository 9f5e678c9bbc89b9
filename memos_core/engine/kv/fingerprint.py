"""What stored KV depends on, as one digest. Any difference is a miss.

A KV cache is a function of the token ids and of: the weights, the configuration with its rotary scheme, the dtype, the
attention implementation, the layer types and the adapters in effect. The tokenizer and the chat template are part of it
too: they decide the token ids, and a cache made under another one would be a cache of other words.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from memos_core.cube import canonical_json
from memos_core.engine.kv.cache import layer_types
from memos_core.engine.kv.codec import FORMAT

__all__ = ["base_fingerprint", "fingerprint", "folder_digest", "module_digest", "tokenizer_digest", "weights_stamp"]

VOLATILE = frozenset({
    "_name_or_path", "_attn_implementation_internal", "_experts_implementation_internal", "_commit_hash",
    "transformers_version", "use_cache", "output_attentions", "output_hidden_states", "return_dict",
    "architectures", "torch_dtype", "dtype",
})  # fmt: skip
"""Fields of a configuration that say nothing about the values in a cache, or that are digested on their own."""

_digests: dict[tuple[str, int, int], str] = {}
_digests_lock = threading.Lock()


def fingerprint(
    *,
    weights: str,
    config: Any,
    tokenizer: str,
    template: str | None,
    dtype: torch.dtype,
    attention: str,
    adapters: Sequence[tuple[str, float, str]] = (),
) -> str:
    """Return the digest of everything that the KV of given token ids depends on.

    Args:
        weights: ``folder_digest`` or ``module_digest``.
        tokenizer: ``tokenizer_digest``.
        template: Source of the chat template in use.
        attention: Name of the attention implementation, such as ``sdpa`` or ``eager``.
        adapters: For each adapter in effect its digest, its weight and the tokens that it acts on.
    """
    parts = {
        "format": FORMAT,
        "weights": weights,
        "config": stable_config(config),
        "layer_types": layer_types(config),
        "tokenizer": tokenizer,
        "template": template,
        "dtype": str(dtype),
        "attention": attention,
        "adapters": [list(adapter) for adapter in adapters],
    }
    return hashlib.sha256(canonical_json(parts)).hexdigest()


def base_fingerprint(*, weights: str, config: Any, tokenizer: str, template: str | None) -> str:
    """Return the digest of what an adapter was made for: it does not depend on how the model computes.

    The template and the tokenizer are part of it, since they decide what the model reads, and an adapter was measured
    on that.
    """
    parts = {
        "format": "memos-adapter/1",
        "weights": weights,
        "config": without_attention(stable_config(config)),
        "tokenizer": tokenizer,
        "template": template,
    }
    return hashlib.sha256(canonical_json(parts)).hexdigest()


def without_attention(config: Any) -> Any:
    return {key: value for key, value in config.items() if "attn_implementation" not in key}


def stable_config(config: Any) -> Any:
    """Return the configuration as JSON values, with its rotary parameters and without volatile fields."""
    return without_volatile(json.loads(config.to_json_string(use_diff=False)))


def without_volatile(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_volatile(each) for key, each in value.items() if key not in VOLATILE}
    return [without_volatile(each) for each in value] if isinstance(value, list) else value


def folder_digest(folder: Path) -> str:
    """Return the sha256 over the safetensors files, and any Python code, of a model folder, in order of their names."""
    digest = hashlib.sha256()
    for path in sorted([*folder.glob("*.safetensors"), *folder.glob("*.py")]):
        digest.update(f"{path.name}:{file_digest(path)}\n".encode())
    return digest.hexdigest()


def file_digest(path: Path) -> str:
    """Return the sha256 of a file, computed once per process as long as its time and size stay."""
    status = path.stat()
    key = (os.path.realpath(path), status.st_mtime_ns, status.st_size)
    with _digests_lock:
        if key in _digests:
            return _digests[key]
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    with _digests_lock:
        _digests[key] = digest
    return digest


def module_digest(model: torch.nn.Module) -> str:
    """Return the sha256 over the names, types, shapes and bytes of a model's parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted([*model.named_parameters(), *model.named_buffers()], key=lambda item: item[0]):
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def weights_stamp(model: torch.nn.Module) -> int:
    """Return a number that changes when a parameter is replaced or written to, without reading its values."""
    return hash(tuple((p.data_ptr(), 0 if p.is_inference() else p._version) for p in model.parameters()))


def tokenizer_digest(tokenizer: Any) -> str:
    """Return the digest of how ``tokenizer`` makes ids; truncation and padding, which a call may set, do not count."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        described = {"class": type(tokenizer).__name__, "vocabulary": tokenizer.get_vocab()}
    else:
        described = json.loads(backend.to_str())
        described.pop("truncation", None)
        described.pop("padding", None)
    return hashlib.sha256(canonical_json(described)).hexdigest()
