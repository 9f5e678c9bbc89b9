"""How adapters of one scope go together: each is made with the others beside it, and at the end all act at once.

Sets of invented facts are kept in a vault and distilled by the bundled reader, and computed as KV beside that. For
each: seconds on the clock and of the CPU, bytes, every gate with its figure, and break-even: the CPU seconds over what
one question costs less afterwards. ``pathways.py`` measures single memories of many sizes, whatever they become.

    python benchmarks/adapters_together.py                     sizes 1 and 4, four sets of 4 facts (some 10 minutes)
    python benchmarks/adapters_together.py --sizes 4 12 --sets 1
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from surroundings import surroundings

from memos_core import HFEngine, MemCube, MemoryType, MemOS, Scope
from memos_core.errors import GateFailed
from memos_core.principal import Principal
from memos_core.testing import HashEmbedder
from memos_core.transform.base import Proposal
from memos_core.transform.course import Maker
from memos_core.transform.gates import knows, plan_of, share
from memos_core.transform.lessons import Reading
from memos_core.transform.parametric import Peer, adapter_of
from memos_core.transform.study import bundled_templates

ROOT = Path(__file__).resolve().parents[1]
FACTS = Path(__file__).parent / "data" / "invented_facts.txt"
QUESTION = "What is the name of the cat?"


def facts(number: int, size: int) -> list[str]:
    """Return the first ``size`` facts of a set of twelve."""
    return FACTS.read_text(encoding="utf-8").splitlines()[12 * number : 12 * number + size]


def least_cpu(action: Callable[[], Any], repeats: int) -> float:
    """Return the least CPU seconds of a call."""
    times = []
    for _ in range(repeats):
        started = time.process_time()
        action()
        times.append(time.process_time() - started)
    return min(times)


def propose(scope: Scope, cubes: Sequence[MemCube], to: MemoryType) -> Proposal:
    transforms = scope._layers.transforms
    assert scope.engine is not None
    return transforms.propose(Principal(scope.user), scope.engine, [cube.id for cube in cubes], to)


def row(size: int, number: int, made: Proposal) -> dict[str, Any]:
    """Return the figures of a proposal."""
    return {
        "pathway": made.pathway,
        "facts": size,
        "set": number,
        "seconds": round(made.cost.seconds, 3),
        "cpu_seconds": round(made.cost.cpu_seconds, 3),
        "bytes": made.cost.bytes,
        "fidelity": {name: round(value, 4) for name, value in made.fidelity.items()},
        "passed": made.passed,
        "failures": list(made.failures),
        "parameters": dict(made.parameters),
    }


def reading_cost(scope: Scope, cubes: Sequence[MemCube], repeats: int) -> dict[str, float]:
    """Return the CPU seconds of the first token of an answer with these memories as text, and as stored KV."""
    ids = [cube.id for cube in cubes]

    def ask(inject: Any) -> None:
        scope.chat(QUESTION, memory_ids=ids, inject=inject, max_tokens=1)

    ask("kv")
    return {name: least_cpu(lambda name=name: ask(name), repeats) for name in ("text", "kv", "off")}  # type: ignore[misc]


def with_break_even(figures: dict[str, Any], costs: dict[str, float]) -> dict[str, Any]:
    """Return ``figures`` with what a read costs before and after, and after how many reads the pathway has paid."""
    after = costs["kv"] if figures["pathway"].endswith("activation") else costs["off"]
    saved = costs["text"] - after
    reads = figures["cpu_seconds"] / saved if saved > 0 else None
    return {**figures, "read_cpu_seconds": {"text": costs["text"], "after": after}, "break_even_reads": reads}


def remembered(scope: Scope, texts: Sequence[str]) -> list[MemCube]:
    return [scope.get(receipt.cube_id or "") for receipt in scope.add_many(list(texts))]


def together(engine: HFEngine, made: Sequence[tuple[list[MemCube], Proposal]]) -> dict[str, Any]:
    """Return what each set knows while the adapters of all sets act at once."""
    reading = Reading(engine.loaded)
    peers = [Peer(str(n), p.product.data, p.product.peft_config) for n, (_, p) in enumerate(made)]  # type: ignore[union-attr]
    plan = plan_of(*(adapter_of(peer, engine.loaded) for peer in peers))
    shares = []
    for cubes, _ in made:
        maker = Maker(reading, cubes, bundled_templates(), 0)
        lessons = [maker.ask(each, []) for each in maker.questions.held_out]
        shares.append(share(list(knows(reading, lessons, reading.says(lessons, plan), plan))))
    return {"adapters": len(made), "recall": shares, "mean": sum(shares) / len(shares)}


def run(options: argparse.Namespace, save: Callable[[dict[str, Any]], None]) -> None:
    """Measure and hand the result on after each step, so that an interrupted run leaves what it has."""
    engine = HFEngine.from_pretrained(options.model)
    result: dict[str, Any] = {"rows": []}
    made: list[tuple[list[MemCube], Proposal]] = []
    for index, size in enumerate(options.sizes):
        for number in range(options.sets if index == len(options.sizes) - 1 else 1):
            with (
                tempfile.TemporaryDirectory() as folder,
                MemOS.open(folder, engine=engine, embedder=HashEmbedder()) as m,
            ):
                scope = m.scope("ada")
                for cubes, proposal in made:
                    again = remembered(scope, [cube.text for cube in cubes])
                    keep(scope, again, proposal)
                cubes = remembered(scope, facts(number, size))
                for target in (MemoryType.ACTIVATION, MemoryType.PARAMETRIC):
                    try:
                        found = propose(scope, cubes, target)
                    except GateFailed as refusal:
                        result["rows"].append({"facts": size, "set": number, "refused": str(refusal)})
                        continue
                    figures = with_break_even(row(size, number, found), reading_cost(scope, cubes, options.repeats))
                    result["rows"].append(figures)
                    print(json.dumps({k: figures[k] for k in ("pathway", "facts", "set", "cpu_seconds", "fidelity")}))
                    if target is MemoryType.PARAMETRIC and index == len(options.sizes) - 1:
                        made.append((cubes, found))
                    save(result)
    if len(made) > 1:
        save({**result, "together": together(engine, made)})


def opened(folder: str, engine: HFEngine) -> MemOS:
    return MemOS.open(folder, engine=engine, embedder=HashEmbedder())


def keep(scope: Scope, cubes: Sequence[MemCube], proposal: Proposal) -> None:
    """Keep an adapter for the same memories in another vault, whether its gates were passed or not."""
    sources = tuple((cube.id, cube.version) for cube in cubes)
    scope._layers.transforms.publish(Principal(scope.user), replace(proposal, sources=sources))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="memos-reader", help="name or folder of the model")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 4], help="facts of a memory, 12 at most")
    parser.add_argument("--sets", type=int, default=4, help="sets of the last size, 4 at most")
    parser.add_argument("--repeats", type=int, default=5, help="timed reads, of which the quickest counts")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "adapters_together.json")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    told = surroundings({name: value for name, value in vars(options).items() if name != "out"} | {"seed": 0})

    def save(result: dict[str, Any]) -> None:
        options.out.write_text(json.dumps({**told, **result}, indent=2) + "\n", encoding="utf-8")

    run(options, save)


if __name__ == "__main__":
    main()
