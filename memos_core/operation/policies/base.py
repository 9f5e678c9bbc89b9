"""What a scheduler delegates: how much each memory is worth, which of them fit, and each rather how."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import ClassVar

from memos_core.cube import MemCube, MemoryType
from memos_core.records import Inject, Placement, Weighed

__all__ = ["Candidate", "Chosen", "Policy", "PreferencePolicy", "SelectionPolicy"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A memory that may enter the prompt.

    Attributes:
        cube: The memory, or the excerpt of it that matched.
        tokens: What it takes in the prompt.
        score: How well it fits, between 0 and 1.
        why: The parts of the score, for people.
        passage: The characters of a long memory that ``cube`` holds; None: the whole.
        weighed: What the search weighed for it, if it was searched for.
    """

    cube: MemCube
    tokens: int
    score: float
    why: str
    passage: tuple[int, int] | None = None
    weighed: Weighed | None = field(default=None, repr=False)

    @property
    def cost(self) -> int:
        """What it takes of the budget: its tokens as text, nothing where it is tensors already."""
        return self.tokens if self.cube.type is MemoryType.PLAINTEXT else 0


@dataclass(frozen=True, slots=True)
class Chosen:
    """What a selection came to.

    Attributes:
        candidates: The chosen ones, best first.
        left_out: Cube id to the reason, for the others.
    """

    candidates: tuple[Candidate, ...]
    left_out: dict[str, str]


class Policy(ABC):
    """Says what memories are worth. One method; a policy of yours is named in the entry points ``memos.policies``."""

    name: ClassVar[str]
    additive: ClassVar[bool] = False
    """Whether two memories are worth the sum of what each is worth, as chances are and scores are not."""

    @abstractmethod
    def values(self, candidates: Sequence[Candidate], now: datetime) -> list[float]:
        """Return what each candidate is worth, in their order, none below 0; they are given best score first."""


class SelectionPolicy(ABC):
    """Chooses memories under a token budget."""

    @abstractmethod
    def select(self, candidates: Sequence[Candidate], budget_tokens: int, *, now: datetime) -> Chosen:
        """Return what to inject, of ``candidates`` given best first; together at most ``budget_tokens``."""


class PreferencePolicy(ABC):
    """Says how one memory should rather enter the model."""

    @abstractmethod
    def prefer(self, cube: MemCube, inject: Inject) -> tuple[Placement, str]:
        """Return the placement and the reason for it."""
