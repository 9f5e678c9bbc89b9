"""What an adapter must show before it may serve: that it knows its memories, and that it harms nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pydantic import BaseModel, ConfigDict, Field

from memos_core.engine.lora.adapter import Adapter
from memos_core.engine.lora.plan import LoRAPlan, Use
from memos_core.transform.base import Gate
from memos_core.transform.course import Exam
from memos_core.transform.lessons import Lesson, Reading

__all__ = ["GateSettings", "examine", "knows"]


class GateSettings(BaseModel):
    """The least that passes, as shares of questions.

    Attributes:
        recall: Own questions in phrasings that were not learned, without any memory in the prompt.
        among: The same with foreign memories in the prompt, or their KV, which is the same to the model.
        foreign: Questions to a foreign memory in the prompt that are answered as without the adapter.
        foreign_among: The same with several foreign memories in the prompt.
        unrelated: Questions to memories that are nowhere, answered as without the adapter.
        peers: ``recall`` beside up to three other adapters of the scope.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    recall: float = Field(default=1.0, ge=0, le=1)
    among: float = Field(default=0.98, ge=0, le=1)
    foreign: float = Field(default=0.99, ge=0, le=1)
    foreign_among: float = Field(default=0.98, ge=0, le=1)
    unrelated: float = Field(default=0.95, ge=0, le=1)
    peers: float = Field(default=0.95, ge=0, le=1)


def examine(
    reading: Reading, adapter: Adapter, exam: Exam, settings: GateSettings, peers: Sequence[Adapter] = ()
) -> tuple[Gate, ...]:
    """Measure ``adapter`` and return the gates with their figures."""
    alone = plan_of(adapter)
    gates = [
        own_gate(reading, "recall", exam.alone, alone, settings.recall),
        own_gate(reading, "recall among foreign memories", exam.among, alone, settings.among),
    ]
    for name, lessons, required in (
        ("foreign memory in context", exam.foreign, settings.foreign),
        ("several foreign memories in context", exam.foreign_among, settings.foreign_among),
        ("unrelated questions", exam.unrelated, settings.unrelated),
    ):
        gates.append(Gate(name, share(reading.says(lessons, alone)), required, len(lessons)))
    beside = list(peers)[:3]
    if beside:
        together = plan_of(adapter, *beside)
        gates.append(own_gate(reading, f"recall beside {len(beside)} peers", exam.alone, together, settings.peers))
    else:
        gates.append(Gate("recall beside peers", 0.0, settings.peers, 0, "there are no other adapters yet"))
    return tuple(gates)


def plan_of(*adapters: Adapter) -> LoRAPlan:
    return LoRAPlan([[Use(adapter) for adapter in adapters]])


def own_gate(reading: Reading, name: str, lessons: Sequence[Lesson], plan: LoRAPlan, required: float) -> Gate:
    """Return the share of questions answered right, with how many were answered just as the teacher did."""
    same = reading.says(lessons, plan)
    right = list(knows(reading, lessons, same, plan))
    return Gate(name, share(right), required, len(lessons), f"{sum(same)} word for word as when reading")


def knows(reading: Reading, lessons: Sequence[Lesson], same: Sequence[bool], plan: LoRAPlan) -> Iterator[bool]:
    """Tell for each lesson whether the answer is right: by the memory where it tells, else by what the teacher said.

    Args:
        same: For which of them the model says what the teacher said.
    """
    for lesson, as_taught in zip(lessons, same, strict=True):
        question = lesson.question
        if question.value is None:
            yield as_taught
        elif as_taught:
            yield question.answered_by(reading.text(lesson.answer))
        else:
            yield question.answered_by(reading.text(reading.answer(lesson, placed(plan, lesson.start))))


def placed(plan: LoRAPlan, start: int) -> LoRAPlan:
    """Return ``plan`` with all adapters acting from ``start`` on."""
    return LoRAPlan([[Use(use.adapter, use.weight, start) for use in row] for row in plan.rows])


def share(marks: Sequence[bool]) -> float:
    return sum(marks) / len(marks) if marks else 0.0
