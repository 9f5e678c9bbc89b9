"""The course of one distillation: the lessons to learn by, and others to be examined by, made from the memories.

What is learned and what is examined share no phrasing of a question and no foreign memory.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from memos_core.cube import Descriptive, Governance, Header, MemCube, MemoryType, PlaintextPayload
from memos_core.transform.distill import Lessons
from memos_core.transform.lessons import Lesson, Reading
from memos_core.transform.study import Question, StudyTemplates, study, words_of

__all__ = ["Course", "Exam", "Maker"]

CONTEXTS = 6
"""Contexts of other memories in which each question is asked, besides none at all."""
EXAM_CONTEXTS = 3
MOST_BESIDE = 5
"""Most foreign memories in such a context."""
DROPPED = 2
"""Shortened forms of each question: words that the memory does not hold are left out at random, so that what is
learned does not hang on the words around."""
MAX_FOREIGN = 48
NOBODY = Governance(owner="nobody", namespace="nobody")
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Exam:
    """Lessons that nothing was learned by.

    Attributes:
        alone: Own questions in held-out phrasings, with the answer of the model that reads the memory.
        among: The same among foreign memories in the prompt.
        foreign: Questions to foreign memories that stand in the prompt, with what the model says anyway.
        foreign_among: The same with several foreign memories in the prompt.
        unrelated: Questions to foreign memories that do not stand there, likewise.
        together: Share of the own held-out questions that the model answers right when it reads all the memories.
    """

    alone: Sequence[Lesson]
    among: Sequence[Lesson]
    foreign: Sequence[Lesson]
    foreign_among: Sequence[Lesson]
    unrelated: Sequence[Lesson]
    together: float


@dataclass(frozen=True, slots=True)
class Course:
    """Lessons and examination.

    Attributes:
        lessons: To learn by.
        exam: To be examined by.
    """

    lessons: Lessons
    exam: Exam


class Maker:
    """Makes the course for ``cubes``. The teacher reads one memory at a time: a small model reads one best.

    Attributes:
        facts: How many statements were found in the memories.
        uncovered: Memories in which none was found.
        unread: Statements that the model does not answer right even while it reads them.
    """

    def __init__(self, reading: Reading, cubes: Sequence[MemCube], templates: StudyTemplates, seed: int) -> None:
        self.reading = reading
        self.cubes = cubes
        self.templates = templates
        self.rng = random.Random(seed)
        self.questions = study(cubes, templates)
        self.facts = self.questions.facts
        covered = {question.cube for question in self.questions.learned}
        self.uncovered = tuple(cube.id for index, cube in enumerate(cubes) if index not in covered)
        self.taught: dict[int, Lesson] = {}
        self.unread = self.teach(self.questions.learned)

    def course(self, foreign: Sequence[MemCube]) -> Course:
        """Return lessons and examination, with ``foreign`` memories and invented ones beside the own."""
        own_words = {words_of(cube.text) for cube in self.cubes}
        others = [*foreign, *(invented(text) for text in self.templates.others)]
        others = [cube for cube in others if words_of(cube.text) not in own_words][:MAX_FOREIGN]
        lessons = Lessons(
            own=list(self.own(self.questions.learned, others[0::2])),
            foreign=self.foreign(others[0::2], most=MOST_BESIDE),
            quiet=self.foreign(others[0::2], most=0),
        )
        return Course(lessons, self.exam(self.questions.held_out, others[1::2]))

    def teach(self, questions: Sequence[Question]) -> int:
        """Find for each fact the best answer of the model that reads its memory; return how many have no right one.

        The phrasings of one question share that answer: a phrasing that the model does not understand while it reads
        can be learned all the same.
        """
        reading = self.reading
        asked = [reading.lesson(question, [self.cubes[question.cube]]) for question in questions]
        right: set[int] = set()
        for lesson in reading.taught([replace(lesson, answer=reading.answer(lesson)) for lesson in asked]):
            fact = lesson.question.fact
            if fact not in right and lesson.question.answered_by(reading.text(lesson.answer)):
                right.add(fact)
                self.taught[fact] = lesson
            self.taught.setdefault(fact, lesson)
        return len(self.taught) - len(right)

    def own(self, questions: Sequence[Question], others: Sequence[MemCube]) -> Iterator[Lesson]:
        """Yield the questions, and shortened forms of them, alone and among other memories."""
        for question in questions:
            cube = self.cubes[question.cube]
            for each in (question, *(shortened(question, cube, self.rng) for _ in range(DROPPED))):
                counts = [0, *(self.rng.randint(1, MOST_BESIDE) for _ in range(CONTEXTS))]
                for count in counts:
                    yield self.ask(each, self.some(others, count))

    def ask(self, question: Question, context: Sequence[MemCube]) -> Lesson:
        """Return an own question with the answer that was taught."""
        return answered_as(self.reading.lesson(question, context), self.taught[question.fact])

    def foreign(self, others: Sequence[MemCube], *, most: int) -> list[Lesson]:
        """Return questions to foreign memories, each with its memory and up to ``most - 1`` more in the prompt.

        ``most=0``: without any. What is to be said is what the model says there by itself.
        """
        lessons = []
        for question in self.two_of_each(study(others, self.templates, held_out=0).learned):
            context = [others[question.cube], *self.some(others, self.rng.randrange(max(1, most)))]
            context = list({cube.id: cube for cube in context}.values()) if most else []
            self.rng.shuffle(context)
            lesson = self.reading.lesson(question, context)
            lessons.append(replace(lesson, answer=self.reading.answer(lesson)))
        return self.reading.taught(lessons)

    def two_of_each(self, questions: Sequence[Question]) -> list[Question]:
        """Return two phrasings of each question."""
        by_fact: dict[int, list[Question]] = {}
        for question in questions:
            by_fact.setdefault(question.fact, []).append(question)
        return [each for group in by_fact.values() for each in self.rng.sample(group, min(2, len(group)))]

    def exam(self, held_out: Sequence[Question], others: Sequence[MemCube]) -> Exam:
        reading = self.reading
        read = [reading.text(reading.answer(reading.lesson(each, self.cubes))) for each in held_out]
        right = sum(each.answered_by(text) for each, text in zip(held_out, read, strict=True))
        return Exam(
            alone=[self.ask(each, []) for each in held_out],
            among=[self.ask(each, self.some(others, 4)) for each in held_out for _ in range(EXAM_CONTEXTS)],
            foreign=self.foreign(others, most=1),
            foreign_among=self.foreign(others, most=4),
            unrelated=self.foreign(others, most=0),
            together=right / max(1, len(held_out)),
        )

    def some(self, others: Sequence[MemCube], count: int) -> list[MemCube]:
        return self.rng.sample(list(others), min(count, len(others)))


def answered_as(lesson: Lesson, taught: Lesson) -> Lesson:
    """Return ``lesson`` with the answer of another, and how likely each of its tokens was there."""
    return replace(lesson, answer=taught.answer, top_ids=taught.top_ids, top_weights=taught.top_weights)


def shortened(question: Question, cube: MemCube, rng: random.Random) -> Question:
    """Return the question without some of the words that the memory does not hold."""
    held = words_of(cube.text)
    kept = [word for word in question.text.split() if words_of(word) in held or rng.random() < 0.75]
    return replace(question, text=" ".join(kept) or question.text)


def invented(text: str) -> MemCube:
    """Return a memory about somebody who does not exist; it is in no vault."""
    descriptive = Descriptive(id=text, type=MemoryType.PLAINTEXT, created=LONG_AGO, updated=LONG_AGO)
    return MemCube(header=Header(descriptive=descriptive, governance=NOBODY), payload=PlaintextPayload(text=text))
