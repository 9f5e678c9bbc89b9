"""MemVault: the ledger, the blobs and the indexes over them."""

from memos_core.infrastructure.vault.blobs import BlobStore
from memos_core.infrastructure.vault.inserting import NewCube
from memos_core.infrastructure.vault.jobs import Job, JobState
from memos_core.infrastructure.vault.reading import ReadSession
from memos_core.infrastructure.vault.surveying import Mask, Survey, Wording
from memos_core.infrastructure.vault.values import (
    DEFAULT_COLLECTION,
    ErasedRows,
    Namespace,
    Passage,
    PassageHit,
    SearchFilter,
    UsageDelta,
    VaultReport,
    Visibility,
    WordHit,
    WordMatch,
)
from memos_core.infrastructure.vault.vault import MemVault
from memos_core.infrastructure.vault.writing import WriteSession

__all__ = [
    "DEFAULT_COLLECTION",
    "BlobStore",
    "ErasedRows",
    "Job",
    "JobState",
    "Mask",
    "MemVault",
    "Namespace",
    "NewCube",
    "Passage",
    "PassageHit",
    "ReadSession",
    "SearchFilter",
    "Survey",
    "UsageDelta",
    "VaultReport",
    "Visibility",
    "WordHit",
    "WordMatch",
    "Wording",
    "WriteSession",
]
