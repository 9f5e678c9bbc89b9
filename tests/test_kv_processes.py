"""Two processes use the KV of one vault at the same time: each answers as from text, and nothing is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from memos_core import MemOS
from memos_core.testing import HashEmbedder

WORKER = Path(__file__).parent / "kv_worker.py"


def test_two_processes_build_and_read_kv_in_one_folder(tmp_path: Path) -> None:
    folder = tmp_path / "memory"
    with MemOS.open(folder, embedder=HashEmbedder()) as memos:
        memos.scope(user="ada").add_many(["My cat is called Biscuit.", "My cat likes to sleep."])
    command = [sys.executable, "-W", "ignore", str(WORKER), str(folder), "6"]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    told = [json.loads(process.communicate(timeout=600)[0]) for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert all(each["same"] for each in told)
    assert all(each["served"] > 0 for each in told)
    assert not any(each["refused"] for each in told)
    with MemOS.open(folder, embedder=HashEmbedder()) as memos:
        memos.verify()
