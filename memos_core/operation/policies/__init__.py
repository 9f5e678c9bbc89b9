"""Strategies of the scheduler, one file each."""

from memos_core.operation.policies.background import BackgroundPreference
from memos_core.operation.policies.base import Candidate, Chosen, PreferencePolicy, SelectionPolicy
from memos_core.operation.policies.greedy import GreedySelection
from memos_core.operation.policies.reuse import ReusePreference

__all__ = [
    "BackgroundPreference",
    "Candidate",
    "Chosen",
    "GreedySelection",
    "PreferencePolicy",
    "ReusePreference",
    "SelectionPolicy",
]
