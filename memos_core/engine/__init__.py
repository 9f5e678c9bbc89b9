"""What runs a model with memory in it. Heavy packages load when an engine is first used, not when it is imported."""

from typing import TYPE_CHECKING, Any

from memos_core.engine.base import Capabilities, Engine, EngineRequest, GenerationOptions

if TYPE_CHECKING:
    from memos_core.engine.hf import HFEngine

__all__ = ["Capabilities", "Engine", "EngineRequest", "GenerationOptions", "HFEngine"]


def __getattr__(name: str) -> Any:
    if name == "HFEngine":
        from memos_core.engine.hf import HFEngine

        return HFEngine
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
