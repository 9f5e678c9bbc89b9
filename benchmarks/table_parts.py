"""What every table is made with: where results lie, how they are read, and Markdown."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["NAMES", "RESULTS", "ROOT", "SETS", "load", "table"]

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
SETS = {"locomo-dev.json.gz": "LoCoMo, development", "realmem-dev.json.gz": "RealMem, users held out"}
NAMES = {
    "memos": "MemOS",
    "chroma": "Chroma",
    "langchain ensemble": "LangChain EnsembleRetriever",
    "llamaindex fusion": "LlamaIndex QueryFusionRetriever",
    "txtai hybrid": "txtai, hybrid",
    "llamaindex index": "LlamaIndex VectorStoreIndex",
    "langgraph InMemoryStore": "LangGraph InMemoryStore",
}


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def load(path: Path) -> Any:
    """Reads a result."""
    return json.loads(path.read_text(encoding="utf-8"))
