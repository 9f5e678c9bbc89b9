"""The two decisions that a scheduler delegates: which memories, and each rather how."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from memos_core.cube import MemCube
from memos_core.records import Inject, Placement

__all__ = ["Candidate", "Chosen", "PreferencePolicy", "SelectionPolicy"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A memory that may enter the prompt.

    Attributes:
        cube: The memory, or the excerpt of it that matched.
        tokens: What it takes in the prompt.
        score: How well it fits, between 0 and 1.
        why: The parts of the score, for people.
        passage: The characters of a long memory that ``cube`` holds; None: the whole.
    """

    cube: MemCube
    tokens: int
    score: float
    why: str
    passage: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Chosen:
    """What a selection came to.

    Attributes:
        candidates: The chosen ones, best first.
        left_out: Cube id to the reason, for the others.
    """

    candidates: tuple[Candidate, ...]
    left_out: dict[str, str]


class SelectionPolicy(ABC):
    """Chooses memories under a token budget."""

    @abstractmethod
    def select(self, candidates: Sequence[Candidate], budget_tokens: int) -> Chosen:
        """Return what to inject, of ``candidates`` given best first; together at most ``budget_tokens``."""


class PreferencePolicy(ABC):
    """Says how one memory should rather enter the model."""

    @abstractmethod
    def prefer(self, cube: MemCube, inject: Inject) -> tuple[Placement, str]:
        """Return the placement and the reason for it."""
