"""A short text that changes whenever what a scope finds may have changed."""

from __future__ import annotations

import hashlib

from memos_core.infrastructure.governance import MemGovernance
from memos_core.infrastructure.vault import MemVault
from memos_core.infrastructure.vault.granting import state_of
from memos_core.principal import Principal

__all__ = ["revision_of"]


def revision_of(vault: MemVault, governance: MemGovernance, principal: Principal) -> str:
    """Return the revision of a scope; see ``Scope.revision``.

    Different scopes and vaults have different ones, unless both hold nothing. It tells nothing else.
    """
    name, now = principal.namespace, governance.clock.now()
    with vault.read() as session:
        space = session.namespace(name)
        change = session.newest_change(name)
        # What expires, or begins or ceases to hold, does so without a change.
        passed = session.moments_passed(name, now)
        granted = state_of(session, governance.reach(principal))
    state = (space.salt if space else b"", principal.agent, principal.session, change, passed, granted)
    return hashlib.sha256(repr(state).encode()).hexdigest()
