"""What runs a model with memory in it. Heavy packages load when an engine is first used, not when it is imported."""

from typing import TYPE_CHECKING, Any

from memos_core.engine.base import Capabilities, Engine, EngineRequest, GenerationOptions
from memos_core.errors import MissingExtra

if TYPE_CHECKING:
    from memos_core.engine.hf import HFEngine

__all__ = ["Capabilities", "Engine", "EngineRequest", "GenerationOptions", "HFEngine"]

NEEDED = frozenset({"torch", "transformers", "safetensors", "tokenizers", "jinja2"})


def __getattr__(name: str) -> Any:
    if name == "HFEngine":
        try:
            from memos_core.engine.hf import HFEngine
        except ModuleNotFoundError as error:
            if error.name in NEEDED:
                raise MissingExtra(error.name, extra="local") from error
            raise
        return HFEngine
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
