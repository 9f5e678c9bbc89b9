"""Measures the bundled reader on held-out names and on the demo conversation; writes the figures and the model card."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))

from reader.card import write_card
from reader.evaluate import evaluate, evaluate_demo, load
from reader.train import latest_checkpoint

PACKAGE = Path(__file__).resolve().parent.parent / "memos_core"


def main() -> None:
    """Evaluates and writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=PACKAGE / "engine" / "reader", help="folder of the reader")
    parser.add_argument("--demo", type=Path, default=PACKAGE / "data", help="folder of the demo conversation")
    parser.add_argument("--seed", type=int, default=2026, help="seed of the measured contexts")
    parser.add_argument("--questions", type=int, default=1000, help="questions a case, a third at 48 facts")
    parser.add_argument("--seen", action="store_true", help="use the names of the training inventory instead")
    parser.add_argument("--out", type=Path, help="file to write the figures to")
    parser.add_argument("--runs", type=Path, nargs="+", help="folders of the training runs; writes the model card too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, encoder = load(options.model)
    result = {
        "seed": options.seed,
        "names": "seen in training" if options.seen else "held out",
        "parameters": model.num_parameters(),
        "cases": evaluate(model, encoder, options.seed, options.questions, not options.seen),
    }
    if (options.demo / "questions.jsonl").exists():
        result["demo"] = evaluate_demo(model, encoder, options.demo)
        print(result["demo"])
    if options.out:
        options.out.write_text(json.dumps(result, indent=2) + "\n")
    if options.runs:
        states = [json.loads((latest_checkpoint(run) / "state.json").read_text()) for run in options.runs]
        write_card(options.model, result, states)


if __name__ == "__main__":
    main()
