"""Run by tests/test_kv_processes.py: one process that answers from a vault which others use at the same time."""

from __future__ import annotations

import json
import sys

from memos_core import MemOS
from memos_core.engine import HFEngine
from memos_core.testing import HashEmbedder
from memos_core.testing.models import tiny_model


def main(folder: str, rounds: int) -> None:
    engine = HFEngine.from_model(*tiny_model("llama"), name="llama")
    with MemOS.open(folder, engine=engine, embedder=HashEmbedder()) as memos:
        ada = memos.scope(user="ada")
        asked = [ada.chat("What is my cat called?", inject="kv", max_tokens=8) for _ in range(rounds)]
        text = ada.chat("What is my cat called?", inject="text", max_tokens=8)
        notes = [note for reply in asked for note in reply.plan.notes]
    told = {
        "same": all(reply.text == text.text for reply in asked),
        "served": asked[-1].usage.memory_tokens,
        "refused": [note for note in notes if "refused" in note],
    }
    print(json.dumps(told))
    engine.close()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
