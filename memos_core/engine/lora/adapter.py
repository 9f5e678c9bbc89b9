"""An adapter as PEFT stores it, in and out: ``adapter_model.safetensors`` beside ``adapter_config.json``.

LoRA (arXiv 2106.09685, section 4.1) adds ``B A x`` times a factor to what a linear module gives for ``x``. PEFT's file
holds ``A`` as ``base_model.model.<module>.lora_A.weight``, ``[rank, in]``, and ``B`` as ``lora_B.weight``,
``[out, rank]``; the factor follows from the configuration.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import safetensors.torch
import torch

from memos_core.cube import ParametricPayload
from memos_core.engine.tensors import load_tensors
from memos_core.errors import AdapterMismatch, BlobDamaged, InvalidInput

__all__ = [
    "Adapter",
    "Factors",
    "check_config",
    "check_fit",
    "decode",
    "encode",
    "linear_modules",
    "parse_config",
    "peft_config",
]

PREFIX = "base_model.model."
DOWN, UP = ".lora_A.weight", ".lora_B.weight"

UNSUPPORTED: Mapping[str, tuple[Any, ...]] = {
    "bias": ("none", None),
    "use_dora": (False, None),
    "use_qalora": (False, None),
    "use_bdlora": (None, False),
    "lora_bias": (False, None),
    "modules_to_save": (None, []),
    "target_parameters": (None, []),
    "trainable_token_indices": (None, [], {}),
    "alora_invocation_tokens": (None, []),
    "layer_replication": (None, []),
    "arrow_config": (None,),
    "kasa_config": (None,),
    "velora_config": (None,),
    "monteclora_config": (None,),
}
"""Fields of a configuration that change what an adapter computes, and the values under which they do not."""


class Factors(NamedTuple):
    """The two matrices of one module.

    Attributes:
        down: ``[rank, in]``.
        up: ``[out, rank]``, with the factor of the configuration in it.
    """

    down: torch.Tensor
    up: torch.Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Adapter:
    """A loaded adapter. Its tensors are shared by all requests and never written to.

    Attributes:
        digest: Identity of its content.
        modules: Name of the module in the base model, to its matrices.
        scope: ``tail``: it acts behind the memory prefix; ``full``: on every token.
    """

    digest: str
    modules: Mapping[str, Factors]
    scope: Literal["tail", "full"] = "tail"

    @property
    def size_bytes(self) -> int:
        """What it holds in memory. Matrices may be views of one buffer, which then counts as a whole."""
        storages = (tensor.untyped_storage() for pair in self.modules.values() for tensor in pair)
        return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Adapter:
        """Return it on a device in a dtype; tensors that are there already are shared."""
        device = torch.device(device)
        if all(each.dtype == dtype and each.device == device for pair in self.modules.values() for each in pair):
            return self
        modules = {name: Factors(*(each.to(device, dtype) for each in pair)) for name, pair in self.modules.items()}
        return Adapter(self.digest, modules, self.scope)


def check_config(config: Mapping[str, Any]) -> None:
    """Raise ``InvalidInput`` where a configuration asks for more than plain LoRA."""
    if str(config.get("peft_type", "LORA")).rsplit(".", 1)[-1] != "LORA":
        raise InvalidInput(f"the adapter is of type {config['peft_type']}; only LORA can be applied")
    for field, harmless in UNSUPPORTED.items():
        if config.get(field) not in harmless:
            raise InvalidInput(f"the adapter has {field}={config[field]!r}, which cannot be applied")
    if not isinstance(config.get("r"), int) or config["r"] < 1:
        raise InvalidInput(f"the adapter's rank is {config.get('r')!r}; it must be a positive whole number")


def decode(data: bytes | bytearray, payload: ParametricPayload) -> Adapter:
    """Return the adapter in ``data``, on the CPU.

    Raises:
        BlobDamaged: The bytes are no such file, or its matrices do not fit each other.
    """
    address = payload.blob.address
    try:
        tensors = load_tensors(data)
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise BlobDamaged(address, f"its tensors cannot be read: {error}") from error
    try:
        return Adapter(address, pair_up(tensors, payload.peft_config), payload.scope)
    except InvalidInput as error:
        raise BlobDamaged(address, str(error)) from error


def pair_up(tensors: Mapping[str, torch.Tensor], config: Mapping[str, Any]) -> dict[str, Factors]:
    """Return the matrices by module, with the factor in ``up``.

    Raises:
        InvalidInput: A key is foreign, a half is missing, or shapes or values are not what they should be.
    """
    check_config(config)
    names = [key.removeprefix(PREFIX).removesuffix(DOWN) for key in tensors if key.endswith(DOWN)]
    foreign = set(tensors) - {f"{PREFIX}{name}{half}" for name in names for half in (DOWN, UP)}
    if foreign or not names:
        raise InvalidInput(f"it holds {min(foreign, default='no matrices')}, which is no part of a LoRA adapter")
    modules = {}
    for name in names:
        down, up = (tensors.get(f"{PREFIX}{name}{half}") for half in (DOWN, UP))
        if down is None or up is None or down.dim() != 2 or up.dim() != 2 or down.shape[0] != up.shape[1]:
            raise InvalidInput(f"the matrices of {name} do not fit each other")
        if not (down.is_floating_point() and up.is_floating_point()):
            raise InvalidInput(f"the matrices of {name} are not of a floating point type")
        scaling = factor(name, config, down.shape[0])
        # Laid out by rows of the rank, as a product for few positions reads it: a fifth less time for a token.
        rows = up.mT.contiguous()
        modules[name] = Factors(down, (rows if scaling == 1 else rows * scaling).mT)
    return modules


def factor(name: str, config: Mapping[str, Any], rank: int) -> float:
    """Return what ``B A x`` is multiplied by in the module of that name."""
    alpha = matched(config.get("alpha_pattern") or {}, name, config.get("lora_alpha", 8))
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def matched(pattern: Mapping[str, Any], name: str, default: Any) -> Any:
    """Return the value of the pattern that names the module or its end, as PEFT looks it up."""
    return next((value for key, value in pattern.items() if name == key or name.endswith(f".{key}")), default)


def encode(modules: Mapping[str, Factors]) -> bytes:
    """Return ``adapter_model.safetensors``. Equal adapters give equal bytes."""
    tensors = {}
    for name, pair in sorted(modules.items()):
        tensors[f"{PREFIX}{name}{DOWN}"] = pair.down.detach().cpu().contiguous()
        tensors[f"{PREFIX}{name}{UP}"] = pair.up.detach().cpu().contiguous()
    data: bytes = safetensors.torch.save(tensors, {"format": "pt"})
    return data


def peft_config(rank: int, names: list[str], model: str) -> dict[str, Any]:
    """Return ``adapter_config.json`` of an adapter whose factor is in its matrices already."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": model,
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "target_modules": sorted(names),
    }


def linear_modules(model: torch.nn.Module) -> dict[str, torch.nn.Linear]:
    """Return the linear modules of ``model`` by name; these are what an adapter can act on."""
    return {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}


def check_fit(modules: Mapping[str, Factors], model: torch.nn.Module, name: str) -> None:
    """Raise ``AdapterMismatch`` where an adapter acts on modules that ``model`` does not have, or has otherwise."""
    linear = linear_modules(model)
    for module, pair in modules.items():
        found = linear.get(module)
        if found is None:
            raise AdapterMismatch(name, f"it acts on {module}, which the model does not have as a linear module")
        if (found.in_features, found.out_features) != (pair.down.shape[1], pair.up.shape[0]):
            raise AdapterMismatch(name, f"its matrices do not fit {module}")


def parse_config(text: str | bytes) -> dict[str, Any]:
    """Return the content of ``adapter_config.json``. Raises ``InvalidInput`` where it is none."""
    try:
        config = json.loads(text)
    except ValueError as error:
        raise InvalidInput(f"adapter_config.json cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise InvalidInput("adapter_config.json holds no JSON object")
    check_config(config)
    return config
