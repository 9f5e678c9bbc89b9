"""The course of one distillation: the lessons to learn by, and others to be examined by, made from the memories.

What is learned and what is examined share no phrasing of a question and no foreign memory.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from memos_core.cube import MemCube
from memos_core.transform.distill import Lessons
from memos_core.transform.lessons import Lesson, Reading
from memos_core.transform.strangers import StrangerLists, Strangers, bundled_strangers, invented
from memos_core.transform.study import Question, StudyTemplates, study, words_of

__all__ = ["Course", "Exam", "Maker", "Sizes"]

CONTEXTS = 16
"""Contexts of other memories in which each form of a question is asked."""
EXAM_CONTEXTS = 3
MOST_BESIDE = 5
"""Most foreign memories in such a context."""
CLOSE, CLOSE_LEARNED = 0.15, 0.5
"""Share of memories that come close to the own among those beside a question, and beside an own one that is learned."""
COINED, COINED_EXAMINED = 0.4, 0.1
"""Share of foreign values that are made up, many of them so that they begin like the own."""
DROPPED, DROPPED_ALONE = 2, 6
"""Shortened forms of each question, in contexts and alone: words that the memory does not hold are left out at random,
so that what is learned does not hang on the words around."""
SHARPENED = 8
"""Power of the teacher's distribution. Answers change first where the model is least sure, and an adapter that makes it
no less sure changes none."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many foreign questions there are.

    Attributes:
        learned: To learn by, half with one memory and half with several in the prompt.
        learned_rivals: Likewise, about rivals of the own memories.
        learned_unrelated: Likewise, with no memory.
        checked: To tell by which of the adapters on the way is the best, of each kind, and of the own as well.
        examined: For each of the two gates on foreign memories.
        examined_rivals: For the gate on rivals.
        examined_unrelated: For the gate on unrelated questions.
    """

    learned: int = 2000
    learned_rivals: int = 3000
    learned_unrelated: int = 500
    checked: int = 80
    examined: int = 400
    examined_rivals: int = 320
    examined_unrelated: int = 100


@dataclass(frozen=True, slots=True)
class Exam:
    """Lessons that nothing was learned by.

    Attributes:
        alone: Own questions in held-out phrasings, with the answer of the model that reads the memory.
        among: The same among foreign memories in the prompt.
        foreign: Questions to foreign memories that stand in the prompt, with what the model says anyway.
        foreign_among: The same with several foreign memories in the prompt.
        rivals: The same with memories that come close to the own: about the same of another, or another of the same
            subject, or contradicting.
        unrelated: Questions to foreign memories that do not stand there, likewise.
        together: Share of the own held-out questions that the model answers right when it reads all the memories.
    """

    alone: Sequence[Lesson]
    among: Sequence[Lesson]
    foreign: Sequence[Lesson]
    foreign_among: Sequence[Lesson]
    rivals: Sequence[Lesson]
    unrelated: Sequence[Lesson]
    together: float


@dataclass(frozen=True, slots=True)
class Course:
    """Lessons and examination.

    Attributes:
        lessons: To learn by.
        checks: To choose by, among the adapters on the way. Their strangers are neither among the lessons nor in the
            examination.
        exam: To be examined by.
    """

    lessons: Lessons
    checks: Sequence[Lesson]
    exam: Exam


class Maker:
    """Makes the course for ``cubes``. The teacher reads one memory at a time: a small model reads one best.

    Attributes:
        facts: How many statements were found in the memories.
        uncovered: Memories in which none was found.
        unread: Statements that the model does not answer right even while it reads them.
    """

    def __init__(
        self,
        reading: Reading,
        cubes: Sequence[MemCube],
        templates: StudyTemplates,
        seed: int,
        *,
        strangers: StrangerLists | None = None,
        sizes: Sizes | None = None,
    ) -> None:
        self.reading = reading
        self.cubes = cubes
        self.templates = templates
        self.sizes = sizes or Sizes()
        self.rng = random.Random(seed)
        lists = strangers or bundled_strangers()
        # Half of the lists to learn by, a quarter to choose among what was learned, and a quarter to be examined by.
        self.to_learn = Strangers(lists.every(2, 0), templates, self.rng, coined=COINED)
        self.to_check = Strangers(lists.every(4, 1), templates, self.rng, coined=COINED_EXAMINED)
        self.to_examine = Strangers(lists.every(4, 3), templates, self.rng, coined=COINED_EXAMINED)
        self.questions = study(cubes, templates)
        self.facts = self.questions.facts
        covered = {question.cube for question in self.questions.learned}
        self.uncovered = tuple(cube.id for index, cube in enumerate(cubes) if index not in covered)
        self.statements = [(cube.speaker, each) for cube in cubes for each in templates.statements(cube.text)]
        self.taught: dict[int, Lesson] = {}
        self.unread = self.teach(self.questions.learned)

    def course(self, foreign: Sequence[MemCube]) -> Course:
        """Return lessons and examination, with ``foreign`` memories and invented ones beside the own."""
        sizes, own_words = self.sizes, {words_of(cube.text) for cube in self.cubes}
        others = [cube for cube in foreign if words_of(cube.text) not in own_words]
        one = self.foreign(others[0::2], self.to_learn, sizes.learned // 2, most=1)
        several = self.foreign(others[0::2], self.to_learn, sizes.learned // 2, most=MOST_BESIDE)
        nowhere = self.foreign(others[0::2], self.to_learn, sizes.learned_unrelated, most=0)
        rivals = list(self.rivals(self.to_learn, sizes.learned_rivals, absent=True))
        told = list(self.kept(self.told([*one, *several, *nowhere, *rivals])))
        lessons = Lessons(
            own=list(self.own(self.questions.learned, others[0::2])),
            foreign=[each for each in told if each.start],
            quiet=[each for each in told if not each.start],
        )
        return Course(lessons, self.checks(), self.exam(self.questions.held_out, others[1::2]))

    def checks(self) -> list[Lesson]:
        """Return own questions that are learned, among strangers that are not, and questions to those."""
        strangers, count = self.to_check, self.sizes.checked
        own = [self.rng.choice(self.questions.learned) for _ in range(count)]
        others = [
            *self.foreign((), strangers, count, most=1),
            *self.foreign((), strangers, count, most=4),
            *self.rivals(strangers, 2 * count, absent=False),
        ]
        return [*(self.ask(each, self.beside((), strangers, 3)) for each in own), *self.kept(self.told(others))]

    def teach(self, questions: Sequence[Question]) -> int:
        """Find for each fact the best answer of the model that reads its memory; return how many have no right one.

        The phrasings of one question share that answer: a phrasing that the model does not understand while it reads
        can be learned all the same.
        """
        reading = self.reading
        asked = [reading.lesson(question, [self.cubes[question.cube]]) for question in questions]
        right: set[int] = set()
        for lesson in self.told(asked):
            fact = lesson.question.fact
            if fact not in right and lesson.question.answered_by(reading.text(lesson.answer)):
                right.add(fact)
                self.taught[fact] = sharpened(lesson)
            self.taught.setdefault(fact, sharpened(lesson))
        return len(self.taught) - len(right)

    def told(self, lessons: Sequence[Lesson]) -> list[Lesson]:
        """Return the lessons with what the model says there by itself."""
        answers = self.reading.answers(lessons)
        return self.reading.taught([replace(each, answer=said) for each, said in zip(lessons, answers, strict=True)])

    def kept(self, lessons: Sequence[Lesson]) -> Iterator[Lesson]:
        """Yield what is worth keeping of what the model says by itself: not what it reads wrong.

        What it says without a memory is kept as sure as it is: one that is made surer that it does not know outdoes
        the adapter beside it that does.
        """
        for each in lessons:
            if not each.start:
                yield each
            elif each.question.answered_by(self.reading.text(each.answer)):
                yield sharpened(each)

    def own(self, questions: Sequence[Question], others: Sequence[MemCube]) -> Iterator[Lesson]:
        """Yield the questions, and shortened forms of them, alone and among other memories, rivals too."""
        for question in questions:
            shorter = [shortened(question, self.cubes[question.cube], self.rng) for _ in range(DROPPED_ALONE)]
            yield from (self.ask(each, []) for each in (question, *shorter))
            for each in (question, *shorter[:DROPPED]):
                for _ in range(CONTEXTS):
                    count = self.rng.randint(1, MOST_BESIDE)
                    yield self.ask(each, self.beside(others, self.to_learn, count, close=CLOSE_LEARNED))

    def beside(
        self, others: Sequence[MemCube], strangers: Strangers, count: int, *, close: float = CLOSE
    ) -> list[MemCube]:
        """Return ``count`` memories of others: of the scope, of strangers, and a share of ``close`` ones."""
        made: list[MemCube] = []
        while len(made) < count:
            dice = self.rng.random()
            rival = self.close(strangers, absent=True) if dice < close else None
            if rival is not None:
                made.append(rival[0])
            elif others and dice < close + 0.25:
                made.append(self.rng.choice(others))
            else:
                made.append(invented(strangers.draw()))
        return made

    def ask(self, question: Question, context: Sequence[MemCube]) -> Lesson:
        """Return an own question with the answer that was taught."""
        return answered_as(self.reading.lesson(question, context), self.taught[question.fact])

    def foreign(self, others: Sequence[MemCube], strangers: Strangers, count: int, *, most: int) -> list[Lesson]:
        """Return questions to memories of others, each with its memory and up to ``most - 1`` more in the prompt.

        ``most=0``: without any. Not yet with an answer.
        """
        lessons: list[Lesson] = []
        scope = self.rng.sample(list(others), min(len(others), count // 4))
        while len(lessons) < count:
            cube = scope.pop() if scope else invented(strangers.draw())
            questions = self.questions_to(cube, strangers)
            if questions:
                more = self.beside(others, strangers, self.rng.randrange(max(1, most)))
                lessons.append(self.reading.lesson(self.rng.choice(questions), self.shuffled([cube, *more], most)))
        return lessons

    def questions_to(self, cube: MemCube, strangers: Strangers) -> tuple[Question, ...]:
        """Return the questions to a foreign memory.

        The phrasings that the examination asks the own memories in are left out of the lessons here too: one that is
        refused for all others is refused for the own subject.
        """
        return study([cube], self.templates, held_out=0 if strangers is self.to_examine else 1).learned

    def shuffled(self, cubes: Sequence[MemCube], most: int) -> list[MemCube]:
        context = list({cube.id: cube for cube in cubes}.values()) if most else []
        self.rng.shuffle(context)
        return context

    def rivals(self, strangers: Strangers, count: int, *, absent: bool) -> Iterator[Lesson]:
        """Yield questions to memories that come close to the own, which stand in the prompt; not yet with an answer.

        Args:
            absent: Some of them stand nowhere. None of those contradicts: the own answer is the right one there.
        """
        own = {words_of(each.text) for each in (*self.questions.learned, *self.questions.held_out)}
        for _ in range(count):
            nowhere = absent and self.rng.random() < 0.4
            found = self.close(strangers, absent=nowhere)
            if found is None:
                continue
            cube, contradicts = found
            questions = self.questions_to(cube, strangers)
            asked = [each for each in questions if contradicts or words_of(each.text) not in own]
            if asked:
                more = self.beside((), strangers, self.rng.randrange(3))
                context = self.shuffled([cube, *more], 0 if nowhere else 1)
                yield self.reading.lesson(self.rng.choice(asked), context)

    def close(self, strangers: Strangers, *, absent: bool) -> tuple[MemCube, bool] | None:
        """Return a memory that comes close to an own one, and whether it contradicts it; None where none was found.

        Args:
            absent: None that contradicts.
        """
        speaker, statement = self.rng.choice(self.statements)
        dice = self.rng.randrange(2 if absent else 4)
        if dice >= 2:
            return invented(strangers.against(statement), speaker), True
        if dice == 1:
            return invented(strangers.of_the_same(statement), speaker), False
        text = strangers.of_another(statement)
        return None if text is None else (invented(text), False)

    def exam(self, held_out: Sequence[Question], others: Sequence[MemCube]) -> Exam:
        reading, sizes, strangers = self.reading, self.sizes, self.to_examine
        read = reading.answers([reading.lesson(each, self.cubes) for each in held_out])
        right = sum(each.answered_by(reading.text(said)) for each, said in zip(held_out, read, strict=True))
        contexts = max(EXAM_CONTEXTS, 100 // len(held_out))
        return Exam(
            alone=[self.ask(each, []) for each in held_out],
            among=[self.ask(each, self.beside(others, strangers, 4)) for each in held_out for _ in range(contexts)],
            foreign=self.told(self.foreign(others, strangers, sizes.examined, most=1)),
            foreign_among=self.told(self.foreign(others, strangers, sizes.examined, most=4)),
            rivals=self.told(list(self.rivals(strangers, sizes.examined_rivals, absent=False))),
            unrelated=self.told(self.foreign(others, strangers, sizes.examined_unrelated, most=0)),
            together=right / max(1, len(held_out)),
        )


def answered_as(lesson: Lesson, taught: Lesson) -> Lesson:
    """Return ``lesson`` with the answer of another, and how likely each of its tokens was there."""
    return replace(lesson, answer=taught.answer, top_ids=taught.top_ids, top_weights=taught.top_weights)


def sharpened(lesson: Lesson) -> Lesson:
    """Return ``lesson`` with a teacher that is surer of what it says."""
    weights = lesson.top_weights**SHARPENED
    return replace(lesson, top_weights=weights / weights.sum(-1, keepdim=True))


def shortened(question: Question, cube: MemCube, rng: random.Random) -> Question:
    """Return the question without some of the words that the memory does not hold."""
    held = words_of(cube.text)
    kept = [word for word in question.text.split() if words_of(word) in held or rng.random() < 0.75]
    return replace(question, text=" ".join(kept) or question.text)
