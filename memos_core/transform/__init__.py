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
    "PATHWAYS",
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

PATHWAYS: Mapping[tuple[MemoryType, MemoryType], tuple[str, str]] = {
    (MemoryType.PLAINTEXT, MemoryType.ACTIVATION): ("prefill", "Prefill"),
    (MemoryType.PLAINTEXT, MemoryType.PARAMETRIC): ("parametric", "Distillation"),
    (MemoryType.ACTIVATION, MemoryType.PLAINTEXT): ("recite", "Recitation"),
    (MemoryType.PARAMETRIC, MemoryType.PLAINTEXT): ("elicit", "Elicitation"),
    (MemoryType.PARAMETRIC, MemoryType.ACTIVATION): ("adapted", "AdaptedPrefill"),
}
"""From and to, and the module and class of the pathway; it is imported when it is first asked for."""


def pathway(source: MemoryType, target: MemoryType) -> Pathway:
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
