"""The contract of a pathway: how a memory takes another form.

A pathway is given what it may use and returns a proposal. It commits nothing, reads no vault and knows no scope; so it
can run in a request, in a job of another process or in a benchmark, and be thrown away at any time. The operation
layer commits what passes (``operation/forms/transforms.py``).
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from pydantic import JsonValue

from memos_core.cube import MemCube, MemoryType
from memos_core.engine.base import ActivationStore, BuiltActivation, BuiltAdapter, Engine
from memos_core.errors import InvalidInput

__all__ = [
    "BuiltText",
    "Checkpoint",
    "Cost",
    "Form",
    "Gate",
    "Material",
    "Meter",
    "Pathway",
    "Peer",
    "Product",
    "Progress",
    "Proposal",
    "ignore_progress",
]


@dataclass(frozen=True, slots=True)
class BuiltText:
    """A text that a pathway made and proposes to keep.

    Attributes:
        text: The memory.
        title: A short name for people.
        kind: Semantic kind of the cube.
    """

    text: str
    title: str | None = None
    kind: str = "elicited"


Product = BuiltText | BuiltActivation | BuiltAdapter
TARGETS: Mapping[type, MemoryType] = {
    BuiltText: MemoryType.PLAINTEXT,
    BuiltActivation: MemoryType.ACTIVATION,
    BuiltAdapter: MemoryType.PARAMETRIC,
}


@dataclass(frozen=True, slots=True)
class Cost:
    """What a pathway took.

    Attributes:
        seconds: On the clock.
        cpu_seconds: Of this process, all threads.
        bytes: Size of what it made.
    """

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Gate:
    """One condition that a product has to meet before it may serve.

    Attributes:
        name: Such as ``recall`` or ``foreign in context``.
        measured: The figure.
        required: The least that passes.
        count: How many questions it was measured with; 0: it was not measured, and says so in ``note``.
        note: What is to be known about the figure.
    """

    name: str
    measured: float
    required: float
    count: int
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether the figure reaches what is required. Not measured is not failed: ``note`` says why it was not."""
        return self.count == 0 or self.measured >= self.required

    def __str__(self) -> str:
        if not self.count:
            return f"{self.name} was not measured: {self.note}"
        words = f"{self.name} {self.measured:.3f} of {self.count} questions, {self.required:g} is required"
        return f"{words} ({self.note})" if self.note else words


@dataclass(frozen=True, slots=True)
class Proposal:
    """What a pathway made, what it cost and how good it is. Nothing is stored yet.

    Attributes:
        pathway: Such as ``plaintext->parametric``.
        sources: Ids and versions of the cubes that it was made from, in order.
        product: Text, KV or adapter.
        parameters: What it was made with; JSON values, kept in the lineage.
        cost: What it took.
        fidelity: Measured figures, by name.
        gates: The conditions that were checked.
        replaces: Forms that go out of use in the moment in which this one is kept.
    """

    pathway: str
    sources: tuple[tuple[str, int], ...]
    product: Product
    parameters: Mapping[str, JsonValue] = field(default_factory=dict)
    cost: Cost = Cost()
    fidelity: Mapping[str, float] = field(default_factory=dict)
    gates: tuple[Gate, ...] = ()
    replaces: tuple[str, ...] = ()

    @property
    def target(self) -> MemoryType:
        return TARGETS[type(self.product)]

    @property
    def passed(self) -> bool:
        """Whether it may serve."""
        return all(gate.passed for gate in self.gates)

    @property
    def failures(self) -> tuple[str, ...]:
        """Why it may not serve, a sentence for each gate that failed."""
        return tuple(str(gate) for gate in self.gates if not gate.passed)

    @property
    def record(self) -> dict[str, JsonValue]:
        """Parameters, cost, fidelity and gates as JSON values, for the lineage."""
        return {
            **self.parameters,
            "seconds": round(self.cost.seconds, 6),
            "cpu_seconds": round(self.cost.cpu_seconds, 6),
            "bytes": self.cost.bytes,
            "fidelity": {name: round(value, 6) for name, value in self.fidelity.items()},
            "gates": [str(gate) for gate in self.gates],
        }


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a pathway is.

    Attributes:
        stage: What it does now.
        done: Steps done of ``total``.
        figures: What is measured on the way, such as the loss.
    """

    stage: str
    done: int
    total: int
    figures: Mapping[str, float] = field(default_factory=dict)


def ignore_progress(progress: Progress) -> None:
    """Do nothing."""


class Checkpoint(Protocol):
    """Where a long pathway keeps its state, so that a later run goes on from there."""

    def load(self) -> bytes | None:
        """Return what was saved last, or None."""
        ...

    def save(self, data: bytes) -> None:
        """Keep ``data`` in place of what was saved before, whole or not at all."""
        ...


@dataclass(frozen=True, slots=True)
class Form:
    """The form of a memory that a pathway begins with, where that is not text.

    Attributes:
        cube: The derived cube.
        data: Its blob.
    """

    cube: MemCube
    data: bytes | bytearray


@dataclass(frozen=True, slots=True)
class Peer:
    """Another adapter for the same model.

    Attributes:
        name: Its cube id.
        data: Its blob.
        peft_config: Content of its ``adapter_config.json``.
        cubes: The memories that it was made from; none: it is not examined what it knows.
    """

    name: str
    data: bytes | bytearray
    peft_config: Mapping[str, Any]
    cubes: tuple[MemCube, ...] = ()


@dataclass(frozen=True, slots=True)
class Material:
    """What a pathway may use.

    Attributes:
        engine: Runs the model.
        cubes: The memories as text, in the order of every prompt. Where ``form`` is given: those that were named
            beside it, else those of its sources that still stand, to score against.
        activations: The KV caches of the scope.
        form: What it begins with; None: with the text.
        fused: The adapters whose memories are ``cubes``, where several become one.
        foreign: Other memories of the scope, for distractors and locality.
        peers: Other adapters of the scope.
        seed: Of everything random.
        progress: Is told how far it is; whatever it raises ends the pathway, which leaves nothing behind.
        checkpoint: Where state is kept; None: nowhere.
    """

    engine: Engine
    cubes: tuple[MemCube, ...]
    activations: ActivationStore
    form: Form | None = None
    fused: tuple[MemCube, ...] = ()
    foreign: tuple[MemCube, ...] = ()
    peers: tuple[Peer, ...] = ()
    seed: int = 0
    progress: Callable[[Progress], None] = ignore_progress
    checkpoint: Checkpoint | None = None

    @property
    def sources(self) -> tuple[tuple[str, int], ...]:
        """Ids and versions of what the product is made from; of another form also what that was made from."""
        if self.form is None:
            return tuple((cube.id, cube.version) for cube in self.cubes)
        # What is made from a form has to fall with the memories of that form, which the ledger looks up one step deep.
        cube = self.form.cube
        below = cube.header.descriptive.lineage.sources
        known = {cube_id for cube_id, _ in below}
        beside = ((each.id, each.version) for each in self.cubes if each.id not in known)
        return ((cube.id, cube.version), *below, *beside)


class Pathway(ABC):
    """One way from one form of memory to another. Holds settings and no state; thread-safe.

    A subclass is one file, one row in ``transform.PATHWAYS`` and one row in its test.
    """

    source: ClassVar[MemoryType]
    target: ClassVar[MemoryType]

    @property
    def name(self) -> str:
        return f"{self.source}->{self.target}"

    @abstractmethod
    def propose(self, material: Material) -> Proposal:
        """Make the other form, measure it, and return it with what it cost. Stores nothing.

        Raises:
            InvalidInput: There is nothing to begin with.
            InjectionUnavailable: The engine's model does not allow it; the reason is named.
            UnsupportedOption: The engine has no such pathway.
            GateFailed: It is plain before anything is made that nothing good can come of it.
        """

    def check(self, material: Material) -> None:
        """Raise ``InvalidInput`` where what the pathway begins with is missing."""
        given = material.form.cube.type if material.form is not None else MemoryType.PLAINTEXT
        if given != self.source or (material.form is None and not material.cubes):
            raise InvalidInput(f"{self.name} begins with {self.source} memory, and none was given")


@dataclass(slots=True)
class Meter:
    """Measures the cost of a piece of work: ``with Meter.running() as meter: ...; meter.cost(bytes)``."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0

    @classmethod
    @contextmanager
    def running(cls) -> Iterator[Meter]:
        meter = cls()
        started, cpu = time.perf_counter(), time.process_time()
        try:
            yield meter
        finally:
            meter.seconds = time.perf_counter() - started
            meter.cpu_seconds = time.process_time() - cpu

    def cost(self, size_bytes: int) -> Cost:
        """Return what it took to make something of that size."""
        return Cost(self.seconds, self.cpu_seconds, size_bytes)
