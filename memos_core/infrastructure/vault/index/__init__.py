"""Vector indexes: one contract, an exact one and Chroma. All are disposable; the ledger is the record."""

from memos_core.infrastructure.vault.index.base import Candidates, Place, VectorIndex
from memos_core.infrastructure.vault.index.exact import ExactIndex

__all__ = ["Candidates", "ExactIndex", "Place", "VectorIndex"]
