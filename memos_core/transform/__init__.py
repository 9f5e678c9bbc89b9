"""Pathways between the forms of a memory, one file each. They return proposals; the operation layer commits them."""

import importlib
from collections.abc import Mapping

from memos_core.cube import MemoryType
from memos_core.errors import InvalidInput
from memos_core.transform.base import (
    BuiltText,
    Checkpoint,
    Cost,
    Form,
    Gate,
    Material,
    Pathway,
    Peer,
    Progress,
    Proposal,
)

__all__ = [
    "CARTRIDGE",
    "PATHWAYS",
    "TARGETS",
    "BuiltText",
    "Checkpoint",
    "Cost",
    "Form",
    "Gate",
    "Material",
    "Pathway",
    "Peer",
    "Progress",
    "Proposal",
    "pathway",
]

CARTRIDGE = "cartridge"

PATHWAYS: Mapping[tuple[MemoryType, str], tuple[str, str]] = {
    (MemoryType.PLAINTEXT, MemoryType.ACTIVATION): ("prefill", "Prefill"),
    (MemoryType.PLAINTEXT, MemoryType.PARAMETRIC): ("parametric", "Distillation"),
    (MemoryType.ACTIVATION, MemoryType.PLAINTEXT): ("recite", "Recitation"),
    (MemoryType.ACTIVATION, MemoryType.PARAMETRIC): ("from_kv", "KVDistillation"),
    (MemoryType.PARAMETRIC, MemoryType.PLAINTEXT): ("elicit", "Elicitation"),
    (MemoryType.PARAMETRIC, MemoryType.ACTIVATION): ("adapted", "AdaptedPrefill"),
    (MemoryType.PARAMETRIC, MemoryType.PARAMETRIC): ("fuse", "Fusion"),
    (MemoryType.PLAINTEXT, CARTRIDGE): ("cartridge", "TextCartridge"),
    (MemoryType.ACTIVATION, CARTRIDGE): ("cartridge", "Cartridge"),
}
"""From and to, and the module and class of the pathway; it is imported when it is first asked for."""

TARGETS = (*map(str, MemoryType), CARTRIDGE)
"""What memories can be made into: the memory types, and cartridges, which are activation memory of their own kind."""


def pathway(source: MemoryType, target: str) -> Pathway:
    """Return the pathway from one form to another, with its default settings.

    Raises:
        InvalidInput: There is none.
    """
    home = PATHWAYS.get((source, target))
    if home is None:
        known = ", ".join(f"{one}->{other}" for one, other in PATHWAYS)
        raise InvalidInput(f"there is no pathway {source}->{target}; there are {known}")
    made: Pathway = getattr(importlib.import_module(f"{__name__}.{home[0]}"), home[1])()
    return made
