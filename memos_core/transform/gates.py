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
        foreign: Questions to a foreign memory in the prompt that are answered right, of those that are answered right
            without the adapter.
        foreign_among: The same with several foreign memories in the prompt.
        rivals: The same with memories that come close to the own, or contradict them: what the prompt says counts.
        unrelated: Questions to memories that are nowhere, answered as without the adapter.
        peers: ``recall`` beside up to three other adapters of the scope, and what those know beside this one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    recall: float = Field(default=1.0, ge=0, le=1)
    among: float = Field(default=0.98, ge=0, le=1)
    foreign: float = Field(default=0.99, ge=0, le=1)
    foreign_among: float = Field(default=0.98, ge=0, le=1)
    rivals: float = Field(default=0.95, ge=0, le=1)
    unrelated: float = Field(default=0.95, ge=0, le=1)
    peers: float = Field(default=0.95, ge=0, le=1)


def examine(
    reading: Reading,
    adapter: Adapter,
    exam: Exam,
    settings: GateSettings,
    *,
    peers: Sequence[Adapter] = (),
    theirs: Sequence[Lesson] = (),
) -> tuple[Gate, ...]:
    """Measure ``adapter`` and return the gates with their figures.

    Args:
        theirs: Questions to the memories of ``peers``, with what these say, all of them together.
    """
    alone = plan_of(adapter)
    gates = [
        own_gate(reading, "recall", exam.alone, alone, settings.recall),
        own_gate(reading, "recall among foreign memories", exam.among, alone, settings.among),
    ]
    for name, lessons, required in (
        ("foreign memory in context", exam.foreign, settings.foreign),
        ("several foreign memories in context", exam.foreign_among, settings.foreign_among),
        ("rival memories in context", exam.rivals, settings.rivals),
    ):
        gates.append(kept_gate(reading, name, lessons, alone, required))
    same = share(reading.says(exam.unrelated, alone))
    gates.append(Gate("unrelated questions", same, settings.unrelated, len(exam.unrelated)))
    if peers:
        together = plan_of(adapter, *peers)
        gates.append(own_gate(reading, f"recall beside {len(peers)} peers", exam.alone, together, settings.peers))
        gates.append(kept_gate(reading, "recall of peers beside it", theirs, together, settings.peers))
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


def kept_gate(reading: Reading, name: str, lessons: Sequence[Lesson], plan: LoRAPlan, required: float) -> Gate:
    """Return the share of right answers that stay right, with what becomes of all answers.

    What is to be kept is what the model knows without the adapter. An answer that is wrong without it and another wrong
    one with it is nothing lost; it is counted in the note. Accuracy is also what knowledge editing calls locality of
    facts in context, and what our own measurements called so: on a model that read everything right.
    """
    same = reading.says(lessons, plan)
    before = [each.question.answered_by(reading.text(each.answer)) for each in lessons]
    after = list(knows(reading, lessons, same, plan))
    kept = [right for right, was in zip(after, before, strict=True) if was]
    found = sum(right and not was for right, was in zip(after, before, strict=True))
    other = sum(not (right or was or alike) for right, was, alike in zip(after, before, same, strict=True))
    note = (
        f"of all {len(lessons)} answers {sum(same)} stay word for word, {found} become right, {other} wrong ones change"
    )
    return Gate(name, share(kept), required, len(kept), note)


def knows(reading: Reading, lessons: Sequence[Lesson], same: Sequence[bool], plan: LoRAPlan) -> Iterator[bool]:
    """Tell for each lesson whether the answer is right: by the memory where it tells, else by what the teacher said.

    Args:
        same: For which of them the model says what the teacher said.
    """
    changed = [each for each, alike in zip(lessons, same, strict=True) if not alike and each.question.value is not None]
    said = iter(reading.answers(changed, plan))
    for lesson, as_taught in zip(lessons, same, strict=True):
        question = lesson.question
        if question.value is None:
            yield as_taught
        else:
            yield question.answered_by(reading.text(lesson.answer if as_taught else next(said)))


def share(marks: Sequence[bool]) -> float:
    return sum(marks) / len(marks) if marks else 0.0
