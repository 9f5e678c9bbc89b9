"""Policies by name: those that come with the project, and those that installed packages bring.

A package brings a policy through an entry point of the group ``memos.policies``:

    [project.entry-points."memos.policies"]
    mine = "my_package:MyPolicy"
"""

from __future__ import annotations

from importlib.metadata import entry_points

from memos_core.errors import InvalidInput
from memos_core.operation.policies.base import Policy
from memos_core.operation.policies.fifo import FirstInFirstOut
from memos_core.operation.policies.hybrid import Hybrid
from memos_core.operation.policies.learned import Learned
from memos_core.operation.policies.lfu import LeastFrequentlyUsed
from memos_core.operation.policies.lru import LeastRecentlyUsed
from memos_core.operation.policies.recency import Recency
from memos_core.operation.policies.semantic import Semantic
from memos_core.operation.policies.semantic_recency import SemanticRecency

__all__ = ["GROUP", "POLICIES", "policy_named"]

GROUP = "memos.policies"

POLICIES: dict[str, type[Policy]] = {
    policy.name: policy
    for policy in (
        LeastRecentlyUsed,
        LeastFrequentlyUsed,
        FirstInFirstOut,
        Recency,
        Semantic,
        SemanticRecency,
        Hybrid,
        Learned,
    )
}
"""What comes with the project."""


def policy_named(name: str) -> Policy:
    """Return the policy of that name.

    Raises:
        InvalidInput: There is none, or what the entry point names is no policy.
    """
    if name in POLICIES:
        return POLICIES[name]()
    points = entry_points(group=GROUP)
    if name not in points.names:
        known = sorted({*POLICIES, *points.names})
        raise InvalidInput(f"unknown policy {name!r}; known are {', '.join(known)}")
    made = points[name].load()
    policy = made() if isinstance(made, type) else made
    if not isinstance(policy, Policy):
        raise InvalidInput(f"policy {name!r} of {points[name].value} is a {type(policy).__name__}, not a Policy")
    return policy
