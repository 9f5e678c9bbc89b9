"""A worker is killed while it trains, and while it publishes: nothing half-made is seen, and another makes it whole."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from form_worker import Quick

from memos_core import HFEngine, MemOS
from memos_core.operation.background import TransformTask
from memos_core.operation.jobs import JobSettings
from memos_core.operation.worker import Worker
from memos_core.testing import HashEmbedder

WORKER = Path(__file__).parent / "form_worker.py"
pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")


@pytest.fixture
def memos(tmp_path: Path) -> Iterator[MemOS]:
    engine, settings = HFEngine.from_pretrained("memos-reader"), JobSettings(lease_seconds=0.5)
    with MemOS.open(tmp_path / "memory", engine=engine, embedder=HashEmbedder(), jobs=settings) as memos:
        yield memos
    engine.close()


def killed(memos: MemOS, action: str) -> str:
    """Let a worker process begin, kill it at its first word and return that."""
    command = [sys.executable, "-W", "error", str(WORKER), str(memos.path), action]
    environment = {**os.environ, "PYTHONPATH": str(WORKER.parent.parent)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    word = process.stdout.readline().strip()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return word


@pytest.mark.parametrize(("action", "to"), [("training", "cartridge"), ("publishing", "activation")])
def test_what_a_killed_worker_was_making_is_made_once_by_another(memos: MemOS, action: str, to: str) -> None:
    ada = memos.scope("ada")
    texts = ["Belka's cat is called Nimbus.", "Torin lives in Ashwick.", "Dunya plays the harp."]
    job = ada.transform_later([receipt.cube_id or "" for receipt in ada.add_many(texts)], to=to)
    word = killed(memos, action)
    assert word
    assert ada.count(type="activation") == 0
    assert ada.job(job.id).state == "running"
    assert memos.verify()
    worker = Worker(memos.jobs, [TransformTask(Quick.of(memos), memos.engine)])  # type: ignore[arg-type]
    until = time.monotonic() + 300
    while ada.job(job.id).state != "done":
        assert time.monotonic() < until, ada.job(job.id)
        time.sleep(0.1)
        worker.run_due()
    (made,) = ada.list(type="activation")
    assert ada.job(job.id).result == made.id != word
    assert ada.job(job.id).attempts == 2
    assert memos.verify()
    assert len(list(memos._layers.vault.blobs.addresses())) == 1
