"""parametric -> activation: the KV cache of a memory prefix as the model has it under an adapter on every token."""

from __future__ import annotations

from typing import ClassVar

from memos_core.cube import MemoryType, ParametricPayload
from memos_core.engine.base import AdapterChoice
from memos_core.errors import InvalidInput
from memos_core.render import render_block
from memos_core.transform.base import Material, Meter, Pathway, Proposal
from memos_core.transform.prefill import proposal_of

__all__ = ["AdaptedPrefill"]


class AdaptedPrefill(Pathway):
    """Computes the prefix that carries the memories under the adapter. Exact with the codec ``raw``.

    The memories are those named beside the adapter, or else those that it was made from. What is made serves requests
    with exactly this adapter and no others: its digest, weight and scope are part of the key of such KV.
    """

    source: ClassVar = MemoryType.PARAMETRIC
    target: ClassVar = MemoryType.ACTIVATION

    def propose(self, material: Material) -> Proposal:
        """Compute it.

        Raises:
            AdapterMismatch: The adapter was made for another model.
            BlobDamaged: Its tensors are missing or not what was stored.
            InvalidInput: It acts behind the memory prefix only, or no memory stands that the prefix could carry.
        """
        self.check(material)
        form = material.form
        if form is None or not isinstance(form.cube.payload, ParametricPayload):
            raise InvalidInput(f"{self.name} begins with parametric memory, and none was given")
        payload, cube_id = form.cube.payload, form.cube.id
        if payload.scope != "full":
            reason = "the KV of the plain model serves beside it, so transform the memories alone"
            raise InvalidInput(f"adapter {cube_id} acts behind the memory prefix only: {reason}")
        if not material.cubes:
            raise InvalidInput(f"adapter {cube_id} was made from no memory that stands; name memories beside it")
        choice = AdapterChoice(cube_id, payload, named=True)
        with Meter.running() as meter:
            block = render_block(material.cubes)
            built = material.engine.prefill(block, material.activations, adapters=[choice])
        return proposal_of(built, material.sources, meter)
