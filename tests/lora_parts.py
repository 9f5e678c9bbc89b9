"""Parts that the tests of adapters share: random adapters, their payloads and PEFT's own application of them."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from typing import Any

import safetensors.torch
import torch

from memos_core import HFEngine, MemCube, Scope
from memos_core.cube import BlobRef, ParametricPayload
from memos_core.engine.base import AdapterChoice, BuiltAdapter
from memos_core.engine.lora.adapter import Adapter, Factors, decode, encode, linear_modules, peft_config
from memos_core.errors import BlobDamaged
from memos_core.principal import Principal
from memos_core.transform.base import Proposal

FAMILIES = ("llama", "qwen3", "mistral", "gpt_neox")


def random_factors(model: Any, *, rank: int = 4, seed: int = 0, skip: Sequence[str] = ()) -> dict[str, Factors]:
    """Return matrices for every linear module but the head, large enough to change each answer."""
    random = torch.Generator().manual_seed(seed)
    made = {}
    for name, module in linear_modules(model).items():
        if name in {"lm_head", "embed_out"} or name.endswith(tuple(skip) or ("nothing",)):
            continue
        down = torch.randn(rank, module.in_features, generator=random) / module.in_features**0.5
        made[name] = Factors(down, torch.randn(module.out_features, rank, generator=random) / 4)
    return made


def payload(
    data: bytes, config: dict[str, Any], *, fingerprint: str = "", scope: Any = "tail", model: str = "tiny"
) -> ParametricPayload:
    blob = BlobRef(address=hashlib.sha256(data).hexdigest(), size_bytes=len(data))
    return ParametricPayload(blob=blob, fingerprint=fingerprint, model=model, peft_config=config, scope=scope)


def random_adapter(model: Any, *, rank: int = 4, seed: int = 0, scope: Any = "tail", alpha: float = 6) -> Adapter:
    """Return an adapter that went through its bytes, with a factor other than 1."""
    factors = random_factors(model, rank=rank, seed=seed)
    data = encode(factors)
    config = {**peft_config(rank, list(factors), "tiny"), "lora_alpha": alpha}
    return decode(data, payload(data, config, scope=scope))


def in_peft(model: Any, adapters: Sequence[Adapter]) -> Any:
    """Return a copy of ``model`` in PEFT with these adapters, named ``a0``, ``a1`` ..."""
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict

    wrapped: Any = None
    for index, adapter in enumerate(adapters):
        rank = next(iter(adapter.modules.values())).down.shape[0]
        config = LoraConfig(r=rank, lora_alpha=rank, target_modules=list(adapter.modules), task_type="CAUSAL_LM")
        name = f"a{index}"
        if wrapped is None:
            wrapped = get_peft_model(copy.deepcopy(model), config, adapter_name=name)
        else:
            wrapped.add_adapter(name, config)
        tensors = safetensors.torch.load(encode(adapter.modules))
        missing = set_peft_model_state_dict(wrapped, tensors, adapter_name=name)
        assert not missing.unexpected_keys
    return wrapped.eval()


class DictBlobs:
    """A ``BlobReader`` in a dict.

    Attributes:
        refused: Cube id to the reason.
    """

    def __init__(self, owner: str = "user") -> None:
        self._owner = owner
        self.held: dict[str, bytes] = {}
        self.refused: dict[str, str] = {}

    @property
    def owner(self) -> str:
        return self._owner

    def read(self, address: str) -> bytes:
        data = self.held.get(address)
        if data is None or hashlib.sha256(data).hexdigest() != address:
            raise BlobDamaged(address, "it is missing or damaged")
        return data

    def refuse(self, cube_id: str, reason: str) -> None:
        self.refused[cube_id] = reason

    def offer(
        self,
        model: Any,
        fingerprint: str,
        *,
        cube_id: str = "adapter-1",
        seed: int = 0,
        scope: Any = "tail",
        **more: Any,
    ) -> AdapterChoice:
        """Keep a random adapter and return it as a request names it."""
        factors = random_factors(model, seed=seed)
        data = encode(factors)
        made = payload(data, peft_config(4, list(factors), "tiny"), fingerprint=fingerprint, scope=scope)
        self.held[made.blob.address] = data
        return AdapterChoice(cube_id, made, **more)


def adapt(scope: Scope, cube_ids: list[str], *, seed: int = 0, acts: Any = "tail") -> MemCube:
    """Keep a random adapter as if it had been distilled from these memories."""
    engine = scope.engine
    assert isinstance(engine, HFEngine)
    factors = random_factors(engine.loaded.model, seed=seed)
    config = peft_config(4, list(factors), "tiny")
    built = BuiltAdapter(encode(factors), config, engine.base_fingerprint, "tiny", acts)
    sources = tuple((cube_id, scope.get(cube_id).version) for cube_id in cube_ids)
    proposal = Proposal("plaintext->parametric", sources, built, {"steps": 3})
    return scope.get(scope._layers.transforms.commit(Principal(scope.user), proposal))
