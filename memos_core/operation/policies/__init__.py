"""Strategies of the scheduler, one file each."""

from memos_core.operation.policies.background import BackgroundPreference
from memos_core.operation.policies.base import Candidate, Chosen, Policy, PreferencePolicy, SelectionPolicy
from memos_core.operation.policies.packing import Packing
from memos_core.operation.policies.registry import POLICIES, policy_named
from memos_core.operation.policies.reuse import ReusePreference

__all__ = [
    "POLICIES",
    "BackgroundPreference",
    "Candidate",
    "Chosen",
    "Packing",
    "Policy",
    "PreferencePolicy",
    "ReusePreference",
    "SelectionPolicy",
    "policy_named",
]
