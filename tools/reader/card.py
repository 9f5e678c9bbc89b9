"""The model card, written from what was measured."""

from __future__ import annotations

import json
from pathlib import Path

CARD = """\
---
license: apache-2.0
language: en
pipeline_tag: text-generation
library_name: transformers
---

# {name}

A reading-comprehension toy: it answers short questions from the notes in its context, and nothing else. It ships so
that MemOS can be tried and tested without a download, with real answers instead of noise. It is no assistant, knows
nothing about the world, and is not to be used for anything but showing and testing how memory reaches a model.

- Architecture: {architecture}, {parameters:,} parameters, {layers} layers, width {width}, {heads} heads of 32;
  byte-level BPE of {vocabulary} tokens; float32 safetensors.
- Chat template: each message is `<|role|> text<|end|>`, so every segment begins and ends with a special token.
- Context: positions up to 8,192; trained with note blocks of up to some 30 facts and with positions stretched
  to 5,000.
- {origin} by `tools/train_reader.py` in {runs} (docs/log.md has the commands): {steps:,} steps,
  {tokens:,} tokens, {minutes:.0f} minutes, much of it on a shared CPU core, seed {seed}. Data:
  generated notes about invented people, places, projects, appointments and preferences, with small talk, two-hop
  references and questions that the notes do not answer. Two attention heads were shown where to look: from a value to
  the name that it is about, and from an answer to the place that it copies.

## Measured

Exact match (every token of the answer, and then the end), names never seen in training:
`tools/evaluate_reader.py`, seed {evaluation_seed}.

| case | questions | exact |
|---|---|---|
{rows}

On the demo conversation, which was written by hand, each question with the turns that hold its answer and seven
others: {demo_exact:.0%} of {demo_questions} questions.

*Direct*: notes about mostly different things. *Rivals*: all facts are of one or two kinds, so that only the subject
tells them apart.

## Limits

It follows phrasings like those it was trained on and often fails on others. It copies: an answer is a span of a
note. It is wrong at the rates shown above, most often where a question needs two notes or where the notes do not hold
the answer: then it ought to say "I do not know".
"""

NAMES = {
    "llama": ("memos-reader", "Llama", "Made from scratch"),
    "gpt_neox": (
        "memos-reader-neox",
        "GPT-NeoX (parallel feed-forward parts, layer norms, biases, one matrix for queries, keys and values)",
        "Trained, from the embeddings and the attention of memos-reader and fresh feed-forward parts,",
    ),
}
"""Name, architecture and origin of each bundled reader."""


def write_card(folder: Path, evaluation: dict, trainings: list[dict]) -> None:
    """Writes README.md into a reader's folder.

    Args:
        folder: Folder of the exported reader.
        evaluation: What ``evaluate_reader.py`` wrote.
        trainings: Settings and progress of each run, as in the ``state.json`` of the checkpoint that was gone on from.
    """
    config = json.loads((folder / "config.json").read_text())
    done = [training["progress"] for training in trainings]
    cases = evaluation["cases"].items()
    architecture = config["model_type"]
    card = CARD.format(
        name=NAMES[architecture][0],
        architecture=NAMES[architecture][1],
        origin=NAMES[architecture][2],
        parameters=evaluation["parameters"],
        layers=config["num_hidden_layers"],
        width=config["hidden_size"],
        heads=config["num_attention_heads"],
        vocabulary=config["vocab_size"],
        runs="one run" if len(done) == 1 else f"{len(done)} runs, each going on from the one before",
        steps=sum(progress["step"] for progress in done),
        tokens=sum(progress["tokens"] for progress in done),
        minutes=sum(progress["seconds"] for progress in done) / 60,
        seed=trainings[0]["settings"]["seed"],
        evaluation_seed=evaluation["seed"],
        rows="\n".join(f"| {name} | {row['questions']} | {row['exact']:.3f} |" for name, row in cases),
        demo_exact=evaluation["demo"]["exact"],
        demo_questions=evaluation["demo"]["questions"],
    )
    (folder / "README.md").write_text(card)
