"""What runs a model with memory in it. Heavy packages load when an engine is first used, not when it is imported."""

import importlib
from typing import TYPE_CHECKING, Any

from memos_core.engine.base import Capabilities, Engine, EngineRequest, GenerationOptions
from memos_core.errors import MissingExtra

if TYPE_CHECKING:
    from memos_core.engine.compose import ComposePolicy
    from memos_core.engine.hf import HFEngine

__all__ = ["Capabilities", "ComposePolicy", "Engine", "EngineRequest", "GenerationOptions", "HFEngine"]

HOMES = {"ComposePolicy": "compose", "HFEngine": "hf"}
NEEDED = frozenset({"torch", "transformers", "safetensors", "tokenizers", "jinja2", "llguidance"})


def __getattr__(name: str) -> Any:
    if name in HOMES:
        try:
            return getattr(importlib.import_module(f"{__name__}.{HOMES[name]}"), name)
        except ModuleNotFoundError as error:
            if error.name in NEEDED:
                raise MissingExtra(error.name, extra="local") from error
            raise
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
