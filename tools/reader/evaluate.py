"""Measures a trained reader on names that training never drew.

An answer counts as right where every one of its tokens, the end token included, is the model's first choice given the
tokens before it; that is the case exactly where greedy generation writes the answer and stops. Each question sees the
notes alone, as in a chat with one question.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from .batches import Encoder
from .context import Context, ContextMaker, Mix
from .names import Inventory
from .train import batch_loss

PLAIN = Mix(4, absent=0.0, wrapped=0.15)
ABSENT = replace(PLAIN, absent=1.0)
CASES: dict[str, tuple[str, Mix]] = {
    **{f"direct, {count} facts": ("direct", replace(PLAIN, facts=count)) for count in (4, 12, 24, 48)},
    **{
        f"direct, {count} facts with small talk": ("direct", replace(PLAIN, facts=count, chatter=1.0, wrapped=0.5))
        for count in (4, 12, 24)
    },
    **{f"rivals, {count} facts": ("direct", replace(PLAIN, facts=count, rivals=1.0)) for count in (4, 12, 24)},
    **{f"two-hop, {count} facts": ("two-hop", replace(PLAIN, facts=count, two_hop=1.0)) for count in (4, 12, 24)},
    **{f"not in the notes, {count} facts": ("absent", replace(ABSENT, facts=count)) for count in (4, 12, 24)},
    "later note replaces an earlier one, 8 facts": ("update", replace(PLAIN, facts=8, update=1.0)),
    "no notes at all": ("empty", ABSENT),
}


def contexts(rng: Random, maker: ContextMaker, kind: str, mix: Mix, questions: int) -> Iterator[Context]:
    """Yields contexts whose questions are all of one kind, until enough questions have been asked."""
    left = questions
    while left > 0:
        context = maker.make(rng, mix, 1 if kind == "update" else min(8, mix.facts))
        wanted = {"update": "direct", "empty": "absent"}.get(kind, kind)
        context.questions = [item for item in context.questions if item[2] == wanted][:left]
        if kind == "empty":
            context = Context([], context.questions, rng.choice(["", "Answer briefly."]))
        if context.questions:
            left -= len(context.questions)
            yield context


@torch.inference_mode()
def right_answers(model: PreTrainedModel, encoder: Encoder, context: Context) -> list[bool]:
    """Says for each question of a context whether the model answers it exactly."""
    batch = encoder.collate([encoder.row(context, shared=True)])
    _loss, right, answers = batch_loss(model, batch)
    return [bool(right[answers == number].all()) for number in answers.unique()]


def evaluate(model: PreTrainedModel, encoder: Encoder, seed: int, questions: int, held_out: bool = True) -> dict:
    """Measures all cases.

    Args:
        model: The reader.
        encoder: Encoder with the reader's tokenizer.
        seed: Seed of the contexts.
        questions: Questions of each case.
        held_out: Whether to use the held-out names.

    Returns:
        For each case the number of questions and the share answered exactly.
    """
    maker = ContextMaker(Inventory(held_out))
    table = {}
    for name, (kind, mix) in CASES.items():
        rng = Random(f"{seed}-{name}")
        count = questions if mix.facts <= 24 else questions // 3
        drawn = contexts(rng, maker, kind, mix, count)
        marks = [mark for item in drawn for mark in right_answers(model, encoder, item)]
        table[name] = {"questions": len(marks), "exact": round(sum(marks) / len(marks), 4)}
        print(f"{name:50} {len(marks):5} {table[name]['exact']:.4f}", flush=True)
    return table


def evaluate_demo(model: PreTrainedModel, encoder: Encoder, folder: Path, others: int = 7) -> dict:
    """Measures the questions of the demo conversation.

    Each question sees the turns that hold its answer and those of the other turns that share most words with it.

    Args:
        model: The reader.
        encoder: Encoder with the reader's tokenizer.
        folder: Folder of ``conversation.jsonl`` and ``questions.jsonl``.
        others: Number of other turns.

    Returns:
        The number of questions, the share answered exactly, and the questions answered wrongly.
    """
    turns = [json.loads(line) for line in (folder / "conversation.jsonl").read_text().splitlines()]
    questions = [json.loads(line) for line in (folder / "questions.jsonl").read_text().splitlines()]
    wrong = []
    for item in questions:
        context = Context(demo_notes(turns, item, others), [(item["question"], item["answer"], item["kind"])])
        if not all(right_answers(model, encoder, context)):
            wrong.append(item["question"])
    return {"questions": len(questions), "exact": round(1 - len(wrong) / len(questions), 4), "wrong": wrong}


def _words(text: str) -> set[str]:
    """Splits a text into lower-case words, endings of the possessive left out."""
    return {word.strip(".,!?:;()").removesuffix("'s") for word in text.lower().split()}


def demo_notes(turns: list[dict], question: dict, others: int) -> list[str]:
    """Chooses the turns that a question sees and writes them as notes, in chronological order."""
    asked = _words(question["question"])
    frequency: dict[str, int] = {}
    for turn in turns:
        for word in _words(f"{turn['speaker']} {turn['text']}"):
            frequency[word] = frequency.get(word, 0) + 1

    def weight(turn: dict) -> float:
        return sum(1 / frequency[word] for word in asked & _words(f"{turn['speaker']} {turn['text']}"))

    rest = sorted((turn for turn in turns if turn["ref"] not in question["refs"]), key=weight, reverse=True)[:others]
    kept = {turn["ref"] for turn in rest} | set(question["refs"])
    return [f"{turn['speaker']}, {turn['at'][:10]}: {turn['text']}" for turn in turns if turn["ref"] in kept]


def load(folder: Path) -> tuple[PreTrainedModel, Encoder]:
    """Loads a reader and its encoder from a folder."""
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    return model, Encoder(AutoTokenizer.from_pretrained(folder))
