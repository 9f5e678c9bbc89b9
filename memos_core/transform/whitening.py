"""What flows into the modules of a model on foreign questions, and inputs seen relative to it.

An adapter is to answer its own questions and to leave all else alone, so directions along which foreign activations
vary most are the worst to act on, and those that they hardly use are the best. With inputs whitened by the foreign
second moments ``C``, ``A`` is learned as ``A' (C + e)^(-1/2)``: a step along a direction costs what it does to foreign
inputs. It is the soft form of keeping an update out of the span of foreign activations (AlphaEdit, arXiv 2410.02355,
section 3), and vanishes into ``A`` when training ends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from memos_core.engine.lora.adapter import linear_modules
from memos_core.transform.lessons import Batch, Lesson
from memos_core.transform.prefixes import Prefixes

__all__ = ["second_moments", "whiteners"]

ROWS = 32


@torch.no_grad()
def second_moments(
    model: Any, lessons: Sequence[Lesson], names: Sequence[str], prefixes: Prefixes | None
) -> dict[str, torch.Tensor]:
    """Return for each module the mean outer product of its inputs behind the memory, ``[in, in]``, in float32."""
    modules = linear_modules(model)
    moments: dict[str, torch.Tensor] = {}
    tail: torch.Tensor | None = None

    def adding(name: str) -> Callable[..., None]:
        def add(module: Any, args: tuple[torch.Tensor, ...], output: Any) -> None:
            if tail is None:  # a prefix is being computed
                return
            inputs = args[0].reshape(-1, args[0].shape[-1])[tail.reshape(-1).bool()].float()
            moments[name] = moments.get(name, 0) + inputs.T @ inputs

        return add

    handles = [modules[name].register_forward_hook(adding(name)) for name in names]
    try:
        for first in range(0, len(lessons), ROWS):
            tail = None
            batch = Batch.of(lessons[first : first + ROWS], model.device, prefixes)
            tail = batch.tail
            batch.logits(model)
    finally:
        for handle in handles:
            handle.remove()
    return moments


def whiteners(moments: dict[str, torch.Tensor], floor: float) -> dict[str, torch.Tensor]:
    """Return ``(C + e)^(-1/2)`` of each module, ``[in, in]``, scaled to keep the mean square of foreign inputs.

    Args:
        floor: ``e`` over the mean of the eigenvalues of ``C``.
    """
    made = {}
    for name, moment in moments.items():
        values, vectors = torch.linalg.eigh(moment / moment.diagonal().mean().clamp_min(1e-12))
        gains = (values.clamp_min(0) + floor).rsqrt()
        gains = gains * (len(values) / (gains.square() * values.clamp_min(0)).sum().clamp_min(1e-12)).sqrt()
        made[name] = (vectors * gains) @ vectors.T
    return made
