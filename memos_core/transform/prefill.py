"""plaintext -> activation: the KV cache of the prompt prefix that carries the memories."""

from __future__ import annotations

from typing import ClassVar

from memos_core.cube import MemoryType
from memos_core.engine.base import BuiltActivation
from memos_core.render import render_block
from memos_core.transform.base import Material, Meter, Pathway, Proposal

__all__ = ["Prefill", "proposal_of"]


class Prefill(Pathway):
    """Computes the prefix with which every chat with these memories begins. Exact with the codec ``raw``."""

    source: ClassVar = MemoryType.PLAINTEXT
    target: ClassVar = MemoryType.ACTIVATION

    def propose(self, material: Material) -> Proposal:
        self.check(material)
        with Meter.running() as meter:
            built = material.engine.prefill(render_block(material.cubes), material.activations)
        return proposal_of(built, material.sources, meter)


def proposal_of(built: BuiltActivation, sources: tuple[tuple[str, int], ...], meter: Meter) -> Proposal:
    """Return KV that an engine built, here or within a request, as a proposal."""
    begins, parameters = MemoryType.PLAINTEXT, dict(built.parameters)
    if built.adapter_cube_ids:  # its sources name the memories of the adapter too, so what lies in the prefix is told
        begins = MemoryType.PARAMETRIC
        parameters |= {"adapters": list(built.adapter_cube_ids), "memories": list(built.cube_ids)}
    return Proposal(
        pathway=f"{begins}->{MemoryType.ACTIVATION}",
        sources=sources,
        product=built,
        parameters=parameters,
        cost=meter.cost(len(built.data)),
    )
