"""Trains the bundled reader model from scratch on generated notes and questions, on one CPU thread."""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))

from reader.train import Settings, Trainer, export, latest_checkpoint, prepare_tokenizer
from reader.warm import take_over


def parse() -> argparse.Namespace:
    """Reads the command line."""
    base = Settings()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="folder of the checkpoints and the tokenizer")
    parser.add_argument("--out", type=Path, help="folder to export the finished model to")
    parser.add_argument("--seed", type=int, default=base.seed, help="seed of weights and data")
    parser.add_argument("--steps", type=int, default=base.steps, help="training steps in total")
    parser.add_argument("--decay", type=int, default=base.decay, help="steps of the final fall of the learning rate")
    parser.add_argument("--rate", type=float, default=base.rate, help="highest learning rate")
    parser.add_argument("--budget", type=int, default=base.budget, help="tokens of a batch")
    parser.add_argument("--layers", type=int, default=base.layers, help="number of layers")
    parser.add_argument("--width", type=int, default=base.width, help="hidden size, a multiple of 32")
    parser.add_argument("--inner", type=int, default=base.inner, help="width of the feed-forward part")
    parser.add_argument("--architecture", default=base.architecture, choices=["llama", "gpt_neox"])
    parser.add_argument("--theta", type=float, default=base.theta, help="base of the rotary positions")
    parser.add_argument(
        "--spell", action=argparse.BooleanOptionalAction, default=base.spell, help="spell some names freely"
    )
    parser.add_argument("--guide", type=float, default=base.guide, help="weight of the losses of the guided heads")
    parser.add_argument("--save-every", type=int, default=base.save_every, help="steps between checkpoints")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint of --run")
    parser.add_argument("--start", type=Path, help="go on from this checkpoint folder instead")
    parser.add_argument("--warm", type=Path, help="with gpt_neox: begin from this checkpoint of a Llama reader")
    parser.add_argument("--stage", type=int, help="with --start: begin to count anew, at this stage")
    parser.add_argument("--hold", action="store_true", help="stay at the stage that the run begins with")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    return parser.parse_args()


def main() -> None:
    """Trains and exports."""
    options = parse()
    torch.set_num_threads(options.threads)
    settings = Settings(**{each.name: getattr(options, each.name) for each in fields(Settings)})
    tokenizer = prepare_tokenizer(options.run, settings.seed)
    trainer = Trainer(settings, options.run, tokenizer, hold=options.hold)
    if options.resume:
        trainer.load(latest_checkpoint(options.run))
    elif options.start:
        trainer.load(options.start, options.stage)
    elif options.warm:
        take_over(trainer.model, options.warm)
        trainer.progress.stage = options.stage or 0
    trainer.run()
    if options.out:
        export(trainer.model, tokenizer, options.out)


if __name__ == "__main__":
    main()
