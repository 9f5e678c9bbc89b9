"""Both indexes keep the contract."""

from __future__ import annotations

import pytest

from memos_core.infrastructure.vault import MemVault
from memos_core.testing.conformance_index import IndexConformance


class TestExactIndex(IndexConformance):
    def open(self, root, clock, embedder):
        return MemVault.open(root, embedder=embedder, clock=clock, index="exact")


class TestChromaIndex(IndexConformance):
    def open(self, root, clock, embedder):
        pytest.importorskip("chromadb")
        return MemVault.open(root, embedder=embedder, clock=clock, index="chroma")
