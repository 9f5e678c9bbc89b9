"""How well a form of a memory stands for its text: measured alike for KV, cartridges and adapters."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from memos_core import MemCube
from memos_core.engine.generate import Session
from memos_core.engine.kv.codec import KVBlob
from memos_core.engine.lora.plan import LoRAPlan
from memos_core.engine.work import Reuse
from memos_core.transform.lessons import Batch, Lesson, Reading
from memos_core.transform.study import Question, bundled_templates, study
from memos_core.transform.trained_kv import behind

FACTS = Path(__file__).parent / "data" / "invented_facts.txt"
MAX_UNRELATED = 24


def facts(size: int, start: int = 0) -> list[str]:
    """Return ``size`` invented statements, each about somebody else."""
    return FACTS.read_text(encoding="utf-8").splitlines()[start : start + size]


@dataclass(frozen=True)
class Form:
    """A form of a memory in the model.

    Attributes:
        logits: Of the tokens of all answers of some lessons, one after the other, ``[said, vocabulary]``.
        answer: What is answered to a lesson.
        carries: Whether the prompt holds no memory at all.
    """

    logits: Callable[[Sequence[Lesson]], torch.Tensor]
    answer: Callable[[Lesson], tuple[int, ...]]
    carries: bool = False


def in_slots(reading: Reading, blob: KVBlob) -> Form:
    """Return exact KV or a cartridge as a form."""
    slots = list(zip(blob.keys, blob.values, strict=True))
    return Form(
        lambda lessons: behind(reading.loaded.model, slots, lessons), lambda each: answered(reading, each, blob)
    )


def in_adapter(reading: Reading, plan: LoRAPlan) -> Form:
    """Return an adapter as a form."""

    def logits(lessons: Sequence[Lesson]) -> torch.Tensor:
        batch = Batch.of(lessons, reading.loaded.model.device)
        with reading.acting(plan), plan.masked([batch.tail] * len(plan.rows[0])):
            return batch.logits(reading.loaded.model)

    return Form(logits, lambda each: reading.answer(each, plan), carries=True)


@torch.inference_mode()
def answered(reading: Reading, lesson: Lesson, blob: KVBlob) -> tuple[int, ...]:
    """Return the answer behind stored positions that stand for the memory of ``lesson``."""
    session = Session(reading.loaded, Reuse(None, blob, lesson.start), lesson.prompt, snapshots=False)
    for _ in session.prefill(lesson.prompt[lesson.start :]):
        pass
    said: list[int] = []
    while len(said) < reading.max_answer_tokens and (not said or said[-1] not in reading.loaded.end_ids):
        if said:
            session.feed(said[-1:])
        said.append(int(session.logits.argmax()))
    return tuple(said)


class Fidelity:
    """Questions to a memory and to others, with what the model answers while it reads the memory."""

    def __init__(self, reading: Reading, cubes: Sequence[MemCube]) -> None:
        self.reading, self.cubes = reading, list(cubes)
        self.held_out = [self.read(question, self.cubes) for question in study(cubes, bundled_templates()).held_out]
        strange = [each for each in unrelated_questions() if each.text not in {q.question.text for q in self.held_out}]
        self.unrelated = [self.read(each, self.cubes) for each in strange]
        self.before = share([self.right(each, each.answer) for each in self.held_out])

    def read(self, question: Question, context: Sequence[MemCube]) -> Lesson:
        lesson = self.reading.lesson(question, context)
        return replace(lesson, answer=self.reading.answer(lesson))

    def right(self, lesson: Lesson, answer: Sequence[int]) -> bool:
        return lesson.question.answered_by(self.reading.text(answer))

    def of(self, form: Form) -> dict[str, float]:
        """Return recall before and after, divergence and locality of a form."""
        asked = self.held_out
        if form.carries:
            asked = [replace(self.reading.lesson(e.question, []), answer=e.answer) for e in self.held_out]
            unrelated = [self.read(each.question, []) for each in self.unrelated]
        else:
            unrelated = self.unrelated
        after = share([self.right(each, form.answer(each)) for each in asked])
        kept = share([form.answer(each) == each.answer for each in unrelated])
        return {
            "recall_before": self.before,
            "recall": after,
            "kl": self.divergence(form, asked),
            "locality": kept,
            "questions": len(asked),
            "unrelated": len(unrelated),
        }

    @torch.inference_mode()
    def divergence(self, form: Form, asked: Sequence[Lesson]) -> float:
        """Return the mean over the tokens of all answers of KL(text || form), in nats."""
        parts = []
        for first in range(0, len(asked), 8):
            text = Batch.of(self.held_out[first : first + 8], self.reading.loaded.model.device)
            told = text.logits(self.reading.loaded.model).log_softmax(-1)
            said = form.logits(asked[first : first + 8]).log_softmax(-1)
            parts.append((told.exp() * (told - said)).sum(-1))
        return float(torch.cat(parts).mean().clamp_min(0))


def unrelated_questions() -> list[Question]:
    """Return questions about people of whom no fact of the memory tells."""
    texts = [
        "Quillon's cat is called Ember.",
        "Zora lives in Thornby.",
        "Umberto plays the oboe.",
        "Wren is 63 years old.",
    ]
    texts += ["Xenia's flight is on Monday.", "Yusuf collects clocks.", "Orla hates celery.", "Basil speaks Greek."]
    found: list[Question] = []
    for text in texts:
        for phrasings, value in bundled_templates().questions(text):
            found += [Question(asked, 0, 0, value) for asked in phrasings[:3]]
    random.Random(0).shuffle(found)
    return found[:MAX_UNRELATED]


def share(marks: Sequence[Any]) -> float:
    return round(sum(map(bool, marks)) / len(marks), 4) if marks else 0.0
