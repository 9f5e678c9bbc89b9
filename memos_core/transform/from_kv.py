"""activation -> parametric: an adapter for the memories of a KV cache, which is the teacher's reading of them."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from memos_core.cube import MemoryType
from memos_core.errors import InvalidInput
from memos_core.transform.base import Form, Material, Pathway, Proposal
from memos_core.transform.parametric import Distillation

__all__ = ["KVDistillation", "check_standing"]


class KVDistillation(Pathway):
    """Distils what a KV cache holds. Its lineage names the memories alone, so the KV may go.

    Args:
        distillation: How.
    """

    source: ClassVar = MemoryType.ACTIVATION
    target: ClassVar = MemoryType.PARAMETRIC

    def __init__(self, distillation: Distillation | None = None) -> None:
        self.distillation = distillation or Distillation()

    def propose(self, material: Material) -> Proposal:
        """Train and examine an adapter.

        Raises:
            GateFailed: As ``Distillation.propose``.
            InvalidInput: A memory of the KV has changed or is out of use.
        """
        self.check(material)
        if material.form is not None:
            check_standing(material, material.form)
        made = self.distillation.propose(replace(material, form=None))
        return replace(made, pathway=self.name)


def check_standing(material: Material, form: Form) -> None:
    """Raise ``InvalidInput`` unless ``material.cubes`` are all that ``form`` was made from, as they were then."""
    standing = {(cube.id, cube.version) for cube in material.cubes}
    if set(form.cube.header.descriptive.lineage.sources) != standing:
        raise InvalidInput(f"a memory that {form.cube.id} was made from has changed or is out of use")
