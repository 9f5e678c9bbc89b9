"""What each pathway between forms of a memory costs, what it keeps, and after how many reads it has paid.

Invented facts are kept in a vault and transformed by the model. For each pathway and size: seconds on the clock and of
the CPU, bytes, peak memory beyond what the process held before, fidelity, and break-even: the CPU seconds of the
pathway over what the first token of one answer costs less afterwards. Fidelity is measured alike for every form: the
share of held-out questions that are answered right, before (all of it read as text) and after; the divergence from the
text at each token of the answers (nats); and the share of unrelated questions whose answer stays word for word (behind
KV and cartridges: as with the text; under an adapter: as with no memory).

    python benchmarks/pathways.py                                  all but the slow ones
    python benchmarks/pathways.py --sizes 96 --cartridges 96 --adapters 96         the slow ones
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from fidelity import Fidelity, facts, in_adapter, in_slots
from surroundings import surroundings

from memos_core import HFEngine, MemCube, MemOS, Scope
from memos_core.cube import BlobRef
from memos_core.engine.base import BuiltActivation, BuiltAdapter
from memos_core.engine.kv.cartridge import CODEC, decode_cartridge
from memos_core.engine.kv.codec import decode
from memos_core.errors import GateFailed
from memos_core.operation.forms.transforms import payload_of
from memos_core.principal import Principal
from memos_core.testing import HashEmbedder
from memos_core.transform.base import Peer, Proposal
from memos_core.transform.elicit import Elicitation
from memos_core.transform.gates import plan_of
from memos_core.transform.lessons import Reading
from memos_core.transform.parametric import adapter_of

ROOT = Path(__file__).resolve().parents[1]
QUESTION = "What is the name of the cat?"
SLOW_SECONDS = 300.0
ADA = Principal("ada")


@dataclass
class Peak:
    """Most bytes that the process held during a block beyond what it held before; None where no system call tells."""

    bytes: int | None = None


@contextmanager
def watched() -> Iterator[Peak]:
    peak, status, reset = Peak(), Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not reset.exists():
        yield peak
        return
    gc.collect()
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)  # what was freed before would be used again and not be seen
    reset.write_text("5")  # Linux: the high-water mark begins anew
    before = held(status, "VmRSS")
    yield peak
    peak.bytes = max(0, held(status, "VmHWM") - before)


def held(status: Path, name: str) -> int:
    (line,) = (each for each in status.read_text().splitlines() if each.startswith(name))
    return int(line.split()[1]) * 1024


def least_cpu(action: Callable[[], Any], repeats: int) -> float:
    """Return the least CPU seconds of a call."""
    times = []
    for _ in range(repeats):
        started = time.process_time()
        action()
        times.append(time.process_time() - started)
    return min(times)


@dataclass
class Case:
    """One memory in a vault of its own.

    Attributes:
        size: Facts.
        cubes: Its texts.
        rows: What was measured.
    """

    scope: Scope
    size: int
    cubes: list[MemCube]
    engine: HFEngine
    repeats: int
    rows: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.transforms = self.scope._layers.transforms
        self.fidelity = Fidelity(Reading(self.engine.loaded), self.cubes)
        self.text_cost = self.read_cost(inject="text")

    def read_cost(self, **options: Any) -> float:
        """Return the CPU seconds of the first token of an answer."""
        ids = [cube.id for cube in self.cubes]
        return least_cpu(lambda: self.scope.chat(QUESTION, memory_ids=ids, max_tokens=1, **options), self.repeats)

    def propose(self, sources: Sequence[str], to: str) -> tuple[Proposal, int | None]:
        with watched() as peak:
            made = self.transforms.propose(ADA, self.engine, sources, to)
        return made, peak.bytes

    def add(self, made: Proposal, peak: int | None, figures: dict[str, Any], read: float | None = None) -> None:
        """Note what a pathway made; ``read``: CPU seconds of a first token afterwards."""
        saved = None if read is None else self.text_cost - read
        row = {
            "pathway": made.pathway,
            "facts": self.size,
            "seconds": round(made.cost.seconds, 4),
            "cpu_seconds": round(made.cost.cpu_seconds, 4),
            "bytes": made.cost.bytes,
            "peak_bytes": peak,
            "slow": made.cost.seconds > SLOW_SECONDS,
            "passed": made.passed,
            "failures": list(made.failures),
            **figures,
            "read_cpu_seconds": None if read is None else {"text": self.text_cost, "after": read},
            "break_even_reads": round(made.cost.cpu_seconds / saved, 1) if saved and saved > 0 else None,
            "parameters": dict(made.parameters),
        }
        self.rows.append(row)
        shown = ("pathway", "facts", "cpu_seconds", "bytes", "peak_bytes", "passed", "recall", "kl", "break_even_reads")
        print(json.dumps({name: row.get(name) for name in shown}), flush=True)

    def slots(self, made: Proposal) -> dict[str, float]:
        """Return the fidelity of KV or a cartridge."""
        built = made.product
        assert isinstance(built, BuiltActivation)
        payload = payload_of(built, BlobRef(address="measured", size_bytes=len(built.data)))
        layout = self.engine.loaded.layout or ()
        blob = decode_cartridge(built.data, payload, layout) if built.codec == CODEC else decode(built.data, payload)  # type: ignore[arg-type]
        return self.fidelity.of(in_slots(self.fidelity.reading, blob))

    def keep(self, made: Proposal) -> str:
        """Keep what was made whether it passed or not, so that what it would serve can be measured."""
        cube_id = self.transforms.publish(ADA, made)
        assert cube_id is not None
        return cube_id

    def activation(self) -> None:
        """Text to KV, KV back to text, and down to the text again."""
        made, peak = self.propose([cube.id for cube in self.cubes], "activation")
        kv = self.keep(made)
        self.add(made, peak, self.slots(made), self.read_cost(inject="kv"))
        back, peak = self.propose([kv], "plaintext")
        self.add(back, peak, dict(back.fidelity))
        started, cpu = time.perf_counter(), time.process_time()
        gone = self.scope.demote(kv)
        took = {"seconds": round(time.perf_counter() - started, 4), "cpu_seconds": round(time.process_time() - cpu, 4)}
        self.rows.append({"pathway": "activation->(demoted)", "facts": self.size, **took, "bytes": -gone.size_bytes})

    def cartridge(self) -> None:
        kv = self.keep(self.propose([cube.id for cube in self.cubes], "activation")[0])
        made, peak = self.propose([kv], "cartridge")
        self.scope.demote(kv)
        kept = self.keep(made)
        figures = {**self.slots(made), **{name: made.parameters[name] for name in ("tokens", "slots", "steps_done")}}
        self.add(made, peak, figures, self.read_cost(inject="kv"))
        self.scope.demote(kept)

    def parametric(self) -> None:
        """Text to an adapter, the adapter back to text, and KV under it as if it acted on every token."""
        try:
            made, peak = self.propose([cube.id for cube in self.cubes], "parametric")
        except GateFailed as refusal:
            self.rows.append({"pathway": "plaintext->parametric", "facts": self.size, "refused": str(refusal)})
            return
        built = made.product
        assert isinstance(built, BuiltAdapter)
        adapter = adapter_of(Peer("measured", built.data, built.peft_config), self.engine.loaded)
        lora = self.keep(made)
        figures = self.fidelity.of(in_adapter(self.fidelity.reading, plan_of(adapter)))
        self.add(made, peak, {**figures, "gates": [str(gate) for gate in made.gates]}, self.read_cost_of(lora))
        told = Elicitation(required=0).propose(self.transforms.material(ADA, self.engine, [lora]))
        self.add(told, None, dict(told.fidelity))
        full = self.keep(replace(made, product=replace(built, scope="full")))
        under, peak = self.propose([full], "activation")
        self.keep(under)
        self.add(under, peak, self.beside(full), self.read_cost(inject="kv", adapter=full))

    def read_cost_of(self, lora: str) -> float:
        return least_cpu(lambda: self.scope.chat(QUESTION, inject="off", adapter=lora, max_tokens=1), self.repeats)

    def beside(self, adapter: str) -> dict[str, Any]:
        """Return how many answers under an adapter are the same from KV as from text."""
        ids = [cube.id for cube in self.cubes]
        questions = [each.question.text for each in self.fidelity.held_out]
        ask = [
            [self.scope.chat(q, memory_ids=ids, inject=i, adapter=adapter) for i in ("text", "kv")] for q in questions
        ]
        same = [text.text == kv.text and kv.usage.memory_tokens > 0 for text, kv in ask]
        return {"answers_as_from_text": sum(same) / len(same), "questions": len(same)}


def run(options: argparse.Namespace, save: Callable[[list[dict[str, Any]]], None]) -> None:
    """Measure and hand the rows on after each pathway, so that an interrupted run leaves what it has."""
    engine, rows = HFEngine.from_pretrained(options.model), list[dict[str, Any]]()
    for size in options.sizes:
        with tempfile.TemporaryDirectory() as folder, opened(folder, engine) as memos:
            scope = memos.scope(ADA.user)
            cubes = [scope.get(receipt.cube_id or "") for receipt in scope.add_many(facts(size))]
            case = Case(scope, size, cubes, engine, options.repeats)
            case.activation()
            save([*rows, *case.rows])
            for wanted, pathway in ((options.cartridges, case.cartridge), (options.adapters, case.parametric)):
                if size in wanted:
                    pathway()
                else:
                    name = "activation->cartridge" if pathway == case.cartridge else "plaintext->parametric"
                    case.rows.append(
                        {"pathway": name, "facts": size, "not_run": "takes minutes, and was not asked for"}
                    )
                save([*rows, *case.rows])
            rows += case.rows


def opened(folder: str, engine: HFEngine) -> MemOS:
    return MemOS.open(folder, engine=engine, embedder=HashEmbedder())


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="memos-reader", help="name or folder of the model")
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[1, 4, 12, 24, 96], help="facts of a memory, 96 at most"
    )
    parser.add_argument("--cartridges", type=int, nargs="*", default=[1, 4, 12, 24], help="sizes with a cartridge")
    parser.add_argument("--adapters", type=int, nargs="*", default=[1, 4, 12, 24], help="sizes with an adapter")
    parser.add_argument("--repeats", type=int, default=5, help="timed reads, of which the quickest counts")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "pathways.json")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    told = surroundings({name: value for name, value in vars(options).items() if name != "out"} | {"seed": 0})

    def save(rows: list[dict[str, Any]]) -> None:
        options.out.write_text(json.dumps({**told, "rows": rows}, indent=2) + "\n", encoding="utf-8")

    run(options, save)


if __name__ == "__main__":
    main()
