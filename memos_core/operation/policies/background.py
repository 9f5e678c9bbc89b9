"""Preference that leaves the building of KV to a worker."""

from __future__ import annotations

from memos_core.cube import MemCube
from memos_core.operation.policies.base import PreferencePolicy
from memos_core.records import Inject, Placement, PlannedMemory

__all__ = ["BackgroundPreference"]

LATER = "its KV is left to a worker"


class BackgroundPreference(PreferencePolicy):
    """Takes another preference's word, but has ``inject="auto"`` build nothing within a request.

    KV that is stored already serves all the same. What the other preference would have kept is queued when the reply
    is there (``operation.evolve``).

    Args:
        inner: Says which memories come back.
    """

    def __init__(self, inner: PreferencePolicy) -> None:
        self.inner = inner

    def prefer(self, cube: MemCube, inject: Inject) -> tuple[Placement, str]:
        placement, reason = self.inner.prefer(cube, inject)
        if inject == "auto" and placement is Placement.KV:
            return Placement.TEXT, f"{reason}; {LATER}"
        return placement, reason

    @staticmethod
    def comes_back(memory: PlannedMemory) -> bool:
        """Tell whether the other preference would have kept the KV of a planned memory."""
        return LATER in memory.reason
