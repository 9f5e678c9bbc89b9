"""The same memory for another model: what is kept when forms are made again from their lineage.

A vault is filled and its forms are made with one model. It is opened with another one, of another architecture. What
was made for the first is refused, and the memories serve as text; then background work makes the forms again. Retention
is the share of held-out questions answered right with a form that was made again, over the share answered right with
text, both on the second model. Forms that miss their gates on it stay text, and are told so; what they would answer is
measured all the same, and named ``would``.

    python benchmarks/cross_model.py --both             from each bundled reader to the other, some seven minutes
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from fidelity import facts
from surroundings import surroundings

from memos_core import HFEngine, MemCube, MemOS, Scope
from memos_core.errors import AdapterMismatch, GateFailed
from memos_core.principal import Principal
from memos_core.testing import HashEmbedder
from memos_core.transform.study import Question, bundled_templates, study

ROOT = Path(__file__).resolve().parents[1]


def opened(folder: str, engine: HFEngine) -> MemOS:
    return MemOS.open(folder, engine=engine, embedder=HashEmbedder())


def right(scope: Scope, questions: Sequence[Question], **options: Any) -> float:
    """Return the share of the questions that are answered right."""
    marks = [each.answered_by(scope.chat(each.text, max_tokens=24, **options).text) for each in questions]
    return sum(marks) / len(marks)


def made(scope: Scope, ids: list[str], forms: Sequence[str]) -> dict[str, str]:
    """Make these forms, keep them whether they pass their gates or not, and return their ids and what failed."""
    transforms, ada, engine = scope._layers.transforms, Principal(scope.user), scope.engine
    assert engine is not None
    found: dict[str, str] = {}
    for to in forms:
        try:
            proposal = transforms.propose(ada, engine, ids, to)
        except GateFailed as refusal:
            found[f"{to} refused"] = str(refusal)
            continue
        found[to] = transforms.publish(ada, proposal) or ""
        if proposal.failures:
            found[f"{to} failed"] = "; ".join(proposal.failures)
    return found


def before(scope: Scope, ids: list[str], forms: dict[str, str], questions: Sequence[Question]) -> dict[str, Any]:
    """Return how the second model treats forms of the first one."""
    # One question: "auto" makes KV of its own for memories that come back.
    reply = scope.chat(questions[0].text, memory_ids=ids, inject="auto", max_tokens=24)
    text = scope.chat(questions[0].text, memory_ids=ids, inject="text", max_tokens=24).text
    told: dict[str, Any] = {
        "tokens_served_from_kv_of_the_first": reply.usage.memory_tokens,
        "answer_as_from_text": reply.text == text,
    }
    if "parametric" in forms:
        try:
            scope.chat("?", adapter=forms["parametric"], max_tokens=1)
            told["adapter_of_the_first"] = "served"
        except AdapterMismatch:
            told["adapter_of_the_first"] = "refused"
    return told


def again(memos: MemOS, scope: Scope) -> dict[str, Any]:
    """Make the forms again and return what that took and what came of each."""
    started, cpu = time.perf_counter(), time.process_time()
    memos.run_pending()
    jobs = {str(job.parameters["to"]): job for job in scope.jobs() if "remade_from" in job.parameters}
    return {
        "seconds": round(time.perf_counter() - started, 3),
        "cpu_seconds": round(time.process_time() - cpu, 3),
        "forms": {to: {"state": str(job.state), "reason": job.reason, "made": job.result} for to, job in jobs.items()},
    }


def retained(scope: Scope, ids: list[str], forms: dict[str, Any], questions: Sequence[Question]) -> dict[str, Any]:
    """Return the shares of right answers on the second model, by what the memory enters as."""
    shares = {"nothing": right(scope, questions, inject="off")}
    shares["text"] = right(scope, questions, memory_ids=ids, inject="text")
    for to in ("activation", "cartridge", "parametric"):
        if to not in forms:
            continue
        cube_id = forms[to]["made"]
        name = to if cube_id else f"{to}, would"
        cube_id = cube_id or made(scope, ids, [to]).get(to)
        if cube_id is None:
            continue
        if to == "parametric":
            shares[name] = right(scope, questions, inject="off", adapter=cube_id)
            continue
        shares[name] = right(scope, questions, memory_ids=ids, inject="kv")
        scope.demote(cube_id)  # exact KV goes before a cartridge
    retention = {name: value / shares["text"] for name, value in shares.items() if shares["text"] and name != "text"}
    return {"right": shares, "retention": retention}


def measure(first: HFEngine, other: HFEngine, size: int, adapters: bool) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        with opened(folder, first) as memos:
            scope = memos.scope("ada")
            ids = [receipt.cube_id or "" for receipt in scope.add_many(facts(size))]
            cubes: list[MemCube] = [scope.get(cube_id) for cube_id in ids]
            forms = made(scope, ids, ["activation", "cartridge", *(["parametric"] if adapters else [])])
        questions = study(cubes, bundled_templates()).held_out
        with opened(folder, other) as memos:
            scope = memos.scope("ada")
            row = {"facts": size, "questions": len(questions), "made_with_the_first": forms}
            row["before"] = before(scope, ids, forms, questions)
            row["remade"] = again(memos, scope)
            return {**row, **retained(scope, ids, row["remade"]["forms"], questions)}


def run(options: argparse.Namespace, save: Callable[[list[dict[str, Any]]], None]) -> None:
    rows = []
    pairs = [(options.model, options.other), (options.other, options.model)]
    for first, other in pairs[: 2 if options.both else 1]:
        engines = HFEngine.from_pretrained(first), HFEngine.from_pretrained(other)
        for size in options.sizes:
            row = {
                "first": shown(engines[0]),
                "other": shown(engines[1]),
                **measure(*engines, size, size in options.adapters),
            }
            rows.append(row)
            print(
                json.dumps({name: row[name] for name in ("first", "other", "facts", "right", "retention")}), flush=True
            )
            save(rows)


def shown(engine: HFEngine) -> str:
    """Return the name of a model and its architecture."""
    return f"{Path(engine.model_name).name} ({engine.loaded.config.model_type})"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="memos-reader", help="name or folder of the first model")
    parser.add_argument("--other", default="memos-reader-neox", help="name or folder of the second model")
    parser.add_argument("--sizes", type=int, nargs="+", default=[4, 12], help="facts of a memory, 96 at most")
    parser.add_argument("--adapters", type=int, nargs="*", default=[4], help="sizes with an adapter too")
    parser.add_argument("--both", action="store_true", help="and from the second model to the first")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "cross_model.json")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    told = surroundings({name: value for name, value in vars(options).items() if name != "out"} | {"seed": 0})

    def save(rows: list[dict[str, Any]]) -> None:
        options.out.write_text(json.dumps({**told, "rows": rows}, indent=2) + "\n", encoding="utf-8")

    run(options, save)


if __name__ == "__main__":
    main()
