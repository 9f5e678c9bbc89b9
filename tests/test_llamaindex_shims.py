"""LlamaIndex's own way of naming integrations: ``llama_index.memory.memos`` and its like."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_names_lead_to_our_classes_and_shadow_nothing() -> None:
    code = (
        "import llama_index.core, memos_llamaindex as ours\n"
        "from llama_index.core import VectorStoreIndex\n"
        "from llama_index.llms.memos import MemosLLM\n"
        "from llama_index.memory.memos import MemosMemory, MemosMemoryBlock\n"
        "from llama_index.vector_stores.memos import MemosVectorStore\n"
        "assert MemosMemory is ours.MemosMemory and MemosMemoryBlock is ours.MemosMemoryBlock\n"
        "assert MemosLLM is ours.MemosLLM and MemosVectorStore is ours.MemosVectorStore\n"
    )
    paths = os.pathsep.join([str(ROOT / "shims"), *filter(None, sys.path)])
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": paths})


def test_only_the_last_folder_is_a_package() -> None:
    # An __init__.py any higher up would hide llama_index.core, or what other integrations put beside ours.
    inits = sorted(path.parent.relative_to(ROOT / "shims").as_posix() for path in (ROOT / "shims").rglob("__init__.py"))
    assert inits == ["llama_index/llms/memos", "llama_index/memory/memos", "llama_index/vector_stores/memos"]
