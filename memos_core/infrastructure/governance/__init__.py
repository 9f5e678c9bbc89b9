"""MemGovernance: who may see what, what may come in, how long it stays, and how it goes."""

from memos_core.infrastructure.governance.admission import Limits, admit
from memos_core.infrastructure.governance.governance import MemGovernance

__all__ = ["Limits", "MemGovernance", "admit"]
