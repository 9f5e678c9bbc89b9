"""Preference by reuse: what was read often enough is worth keeping as a KV cache."""

from __future__ import annotations

from memos_core.cube import MemCube
from memos_core.operation.policies.base import PreferencePolicy
from memos_core.records import Inject, Placement

__all__ = ["ReusePreference"]


class ReusePreference(PreferencePolicy):
    """With ``inject="auto"``, prefers KV for memories that were injected ``kv_after`` times; else what was asked for.

    Building a KV cache costs no more than the prefill that the request needs anyway, but it takes disk: some
    100 KiB for each token of a small model. So a memory has to come back before it is kept in that form.
    """

    def __init__(self, kv_after: int = 2) -> None:
        self.kv_after = kv_after

    def prefer(self, cube: MemCube, inject: Inject) -> tuple[Placement, str]:
        if inject == "kv":
            return Placement.KV, "asked for as kv"
        if inject == "lora":
            return Placement.LORA, "asked for as lora"
        if inject == "auto":
            behaviour = cube.header.behaviour
            times = behaviour.injected_text + behaviour.injected_kv
            if times >= self.kv_after:
                return Placement.KV, f"injected {times} times before"
            return Placement.TEXT, f"injected {times} times before, kv from {self.kv_after} on"
        return Placement.TEXT, "asked for as text"
