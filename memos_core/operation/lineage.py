"""Where a memory comes from and what was made from it, as a tree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from memos_core.cube import MemCube, PlaintextPayload, State
from memos_core.infrastructure.governance import MemGovernance
from memos_core.infrastructure.vault import MemVault, ReadSession, Visibility
from memos_core.operation.operator import found
from memos_core.principal import Principal

__all__ = ["LineageTree", "MemLineage", "SourceNode"]

DEPTH = 32
"""Generations that are followed; a merge of merges rarely has more than a few."""


@dataclass(frozen=True, slots=True)
class SourceNode:
    """A memory that another one was made from.

    Attributes:
        cube: It, as it is now.
        version: The version that was used.
        sources: What it was made from itself.
    """

    cube: MemCube
    version: int
    sources: tuple[SourceNode, ...] = ()

    @property
    def stands(self) -> bool:
        """Whether it is in use and still at the version that was used."""
        return self.cube.state is State.ACTIVE and self.cube.version == self.version


@dataclass(frozen=True, slots=True)
class LineageTree:
    """A memory with its sources and with what was made from it, as far as the scope sees them.

    Attributes:
        cube: The memory.
        sources: What it was made from, in order.
        derived: What was made from it, each with what was made from that; their ``sources`` are left empty.
    """

    cube: MemCube
    sources: tuple[SourceNode, ...] = ()
    derived: tuple[LineageTree, ...] = ()

    @property
    def pathway(self) -> str | None:
        """How it was made, such as ``plaintext->activation`` or ``merge``; None: it was brought from outside."""
        return self.cube.header.descriptive.lineage.pathway

    @property
    def parameters(self) -> Mapping[str, Any]:
        """What the pathway was called with, what it cost and how good it measured its work to be."""
        return self.cube.header.descriptive.lineage.parameters

    @property
    def size_bytes(self) -> int:
        """Size of the payload: text in UTF-8, or tensors as stored."""
        payload = self.cube.payload
        return len(payload.text.encode()) if isinstance(payload, PlaintextPayload) else payload.blob.size_bytes


class MemLineage:
    """Reads lineage. Thread-safe."""

    def __init__(self, vault: MemVault, governance: MemGovernance) -> None:
        self.vault = vault
        self.governance = governance

    def lineage(self, principal: Principal, cube_id: str) -> LineageTree:
        """Return where a memory comes from and what was made from it.

        Raises:
            CubeNotFound: It is not visible here.
        """
        visibility = self.governance.reach(principal)
        with self.vault.read() as session:
            cube = found(session.cube(visibility, cube_id), cube_id)
            return LineageTree(
                cube, sources_of(session, visibility, cube, DEPTH), below(session, visibility, cube, DEPTH)
            )


def sources_of(session: ReadSession, visibility: Visibility, cube: MemCube, depth: int) -> tuple[SourceNode, ...]:
    sources = cube.header.descriptive.lineage.sources
    if not depth or not sources:
        return ()
    seen = {each.id: each for each in session.cubes(visibility, [source for source, _ in sources])}
    return tuple(
        SourceNode(seen[source], version, sources_of(session, visibility, seen[source], depth - 1))
        for source, version in sources
        if source in seen
    )


def below(session: ReadSession, visibility: Visibility, cube: MemCube, depth: int) -> tuple[LineageTree, ...]:
    if not depth:
        return ()
    made = session.cubes(visibility, session.derived(visibility, [cube.id], recursive=False))
    return tuple(LineageTree(each, (), below(session, visibility, each, depth - 1)) for each in made)
