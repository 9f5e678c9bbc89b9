"""A process of its own that makes forms of memories; started by tests that kill it.

python form_worker.py <root> training      does the next job, prints a word at the first step, and goes on
python form_worker.py <root> publishing    does the next job, prints a word before the end of its transaction, and waits
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch
from pydantic import JsonValue

from memos_core import HFEngine, MemOS
from memos_core.infrastructure.vault import Job, WriteSession
from memos_core.operation.background import TransformTask
from memos_core.operation.forms.transforms import MemTransform
from memos_core.operation.jobs import JobSettings, Progress, Publish
from memos_core.operation.worker import Worker
from memos_core.testing import HashEmbedder
from memos_core.transform import CARTRIDGE, Material, Pathway
from memos_core.transform.cartridge import TextCartridge
from memos_core.transform.trained_kv import CartridgeSettings


class Quick(MemTransform):
    """Trains few steps, whatever comes of it."""

    def pathway(self, material: Material, to: str) -> Pathway:
        if to == CARTRIDGE:
            return TextCartridge(CartridgeSettings(ratios=(10,), steps=50), recall=0)
        return super().pathway(material, to)

    @classmethod
    def of(cls, memos: MemOS) -> Quick:
        made = memos._layers.transforms
        return cls(made.vault, made.governance, made.ids, activations=made.activations, emit=made.emit)


class Told(TransformTask):
    """Tells of its first step."""

    def prepare(self, job: Job, report: Progress) -> Publish:
        def heard(done: int, total: int) -> None:
            if done:
                print("step", flush=True)
            report(done, total)

        return super().prepare(job, heard)


class Halting(TransformTask):
    """Stops for ever between what it publishes and the end of the transaction."""

    def prepare(self, job: Job, report: Progress) -> Publish:
        publish = super().prepare(job, report)

        def halting(session: WriteSession) -> JsonValue:
            made = publish(session)
            print(made, flush=True)
            time.sleep(3600)
            return made

        return halting


def main() -> None:
    root, action = sys.argv[1:]
    torch.set_num_threads(1)
    engine = HFEngine.from_pretrained("memos-reader")
    settings = JobSettings(lease_seconds=0.5)
    with MemOS.open(Path(root), engine=engine, embedder=HashEmbedder(), jobs=settings) as memos:
        task = (Told if action == "training" else Halting)(Quick.of(memos), engine)
        Worker(memos.jobs, [task]).run_due()


if __name__ == "__main__":
    main()
