"""Which small adapters of a scope are worth being one, and which were replaced and may go."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from memos_core.cube import MemCube, ParametricPayload, State

__all__ = ["FusionPolicy", "fusible", "together", "unproven"]


class FusionPolicy(Protocol):
    """What a policy says of fusion."""

    @property
    def fuse_from(self) -> int | None:
        """Small adapters of a scope from which on they are fused; None: never."""
        ...

    @property
    def fuse_max_memories(self) -> int:
        """Most memories of an adapter that is made by fusion."""
        ...


def together(derived: Sequence[MemCube], policy: FusionPolicy) -> tuple[MemCube, ...]:
    """Return the adapters that are to become one, the smallest first; none where the policy does not ask for it.

    Args:
        derived: The forms of a scope that serve.
    """
    if policy.fuse_from is None:
        return ()
    small = sorted((cube for cube in derived if fusible(cube)), key=lambda cube: (len(sources(cube)), cube.id))
    if len(small) < policy.fuse_from:
        return ()
    chosen: list[MemCube] = []
    held: set[str] = set()
    for cube in small:
        if len(held | sources(cube)) > policy.fuse_max_memories:
            break
        chosen.append(cube)
        held |= sources(cube)
    return tuple(chosen) if len(chosen) > 1 else ()


def fusible(cube: MemCube) -> bool:
    """Tell whether an adapter can be distilled anew from its memories."""
    payload = cube.payload
    if not isinstance(payload, ParametricPayload) or cube.state is not State.ACTIVE or cube.header.governance.frozen:
        return False
    return payload.scope == "tail" and bool(sources(cube))


def unproven(derived: Sequence[MemCube]) -> set[str]:
    """Return the adapters whose successor stands and has not served yet; they are kept until it has."""
    successors = [cube for cube in derived if cube.state is State.ACTIVE and not cube.header.behaviour.injected_lora]
    return {str(old) for cube in successors for old in fused_of(cube)}


def fused_of(cube: MemCube) -> Collection[str]:
    found: Collection[str] = cube.header.descriptive.lineage.parameters.get("fused", ())
    return found


def sources(cube: MemCube) -> frozenset[str]:
    return frozenset(cube_id for cube_id, _ in cube.header.descriptive.lineage.sources)
