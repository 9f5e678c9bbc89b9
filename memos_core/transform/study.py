"""Self-study: questions that a memory answers, made from it by templates that ship as data, or by the model itself.

A template is a form of statement and several phrasings of the question that it answers (``data/study.json``).
What the form calls ``{value}`` is the answer as the memory has it, so that what a model says can be told right or wrong
without anybody's judgement. After Cartridges (arXiv 2506.06266, section 4) and prompt distillation (2412.14964), which
let a large model ask; a small one cannot.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from memos_core.cube import MemCube

__all__ = ["Question", "Statement", "Study", "StudyTemplates", "bundled_templates", "parse_templates", "study"]

PATH = Path(__file__).resolve().parents[1] / "data" / "study.json"
DAYS = "(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day"
SLOTS = {
    "who": r"(?P<who>I|We|[A-Z][\w-]*(?: [A-Z][\w-]*)?)",
    "whose": r"(?P<whose>[Mm]y|[Oo]ur|[A-Z][\w-]*(?: [A-Z][\w-]*)?'s)",
    "thing": r"(?P<thing>[a-z][\w-]*(?: [\w-]+){0,2}?)",
    "name": r"(?P<name>[A-Z][\w-]*(?: [A-Z][\w-]*)?)",
    "day": rf"(?P<value>{DAYS}(?: \w+)?|\d{{1,2}} [A-Z]\w+|[A-Z]\w+ \d{{1,2}}|tomorrow|today)",
    "value": r"(?P<value>[^.!?,;]+?)",
}
WORDS = re.compile(r"[^\W_]+")
SENTENCES = re.compile(r"(?<=[.!?])\s+")


@dataclass(frozen=True, slots=True)
class Question:
    """A question to a memory.

    Attributes:
        text: As it is asked.
        cube: Index of the memory among those studied.
        fact: Questions of one fact are phrasings of each other.
        value: The answer as the memory has it; None where it is not known.
    """

    text: str
    cube: int
    fact: int
    value: str | None = None

    def answered_by(self, answer: str) -> bool:
        """Tell whether ``answer`` holds the value, whatever stands around it."""
        return self.value is not None and words_of(self.value) in words_of(answer)


@dataclass(frozen=True, slots=True)
class Study:
    """Questions to learn by, and other phrasings of the same to be examined by."""

    learned: tuple[Question, ...]
    held_out: tuple[Question, ...]

    @property
    def facts(self) -> int:
        return len({question.fact for question in self.learned})


@dataclass(frozen=True, slots=True)
class Template:
    forms: tuple[re.Pattern[str], ...]
    questions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Statement:
    """A sentence and the form that fits it."""

    template: Template
    match: re.Match[str]

    @property
    def value(self) -> str:
        return self.match["value"]

    def slot(self, name: str) -> str:
        """Return what stands in a slot; empty where the form has none of that name."""
        return self.match.groupdict().get(name) or ""

    def replaced(self, **slots: str) -> str:
        """Return the sentence with other words in some of its slots."""
        text = self.match.string
        spans = sorted(((*self.match.span(name), words) for name, words in slots.items()), reverse=True)
        for start, end, words in spans:
            text = text[:start] + words + text[end:]
        return text


@dataclass(frozen=True, slots=True)
class StudyTemplates:
    """Named, versioned templates.

    Attributes:
        name: Name and version; kept in the lineage of what was learned by them.
        templates: The first one whose form fits a sentence makes its questions.
        others: Statements about invented people, to keep apart from what is learned.
    """

    name: str
    templates: tuple[Template, ...]
    others: tuple[str, ...]

    def statements(self, text: str) -> Iterator[Statement]:
        """Yield each statement in ``text`` that a form fits."""
        for sentence in SENTENCES.split(text.strip()):
            fitting = ((each, form.fullmatch(sentence.strip())) for each in self.templates for form in each.forms)
            template, match = next(((each, found) for each, found in fitting if found), (None, None))
            if template is not None and match is not None:
                yield Statement(template, match)

    def questions(self, text: str, speaker: str | None = None) -> list[tuple[tuple[str, ...], str]]:
        """Return for each statement in ``text`` that a form fits the phrasings of its question, and the answer.

        Args:
            speaker: Who said it: what is "mine" in a statement is theirs in a question.
        """
        made = []
        for found in self.statements(text):
            slots = filled(found.match.groupdict(), speaker)
            asked = tuple(dict.fromkeys(sentence_case(each.format(**slots)) for each in found.template.questions))
            made.append((asked, found.value))
        return made


@cache
def bundled_templates() -> StudyTemplates:
    """Return the templates that ship with MemOS."""
    return parse_templates(json.loads(PATH.read_text(encoding="utf-8")))


def parse_templates(record: dict[str, object]) -> StudyTemplates:
    patterns, others = record["patterns"], record["others"]
    assert isinstance(patterns, list)
    assert isinstance(others, list)
    templates = tuple(Template(tuple(map(form, each["statements"])), tuple(each["questions"])) for each in patterns)
    return StudyTemplates(str(record["name"]), templates, tuple(others))


def form(statement: str) -> re.Pattern[str]:
    """Return the expression of a form: slots by name, everything else as in a regular expression."""
    expression = re.sub(r"\{(\w+)\}", lambda slot: SLOTS[slot[1]], statement)
    if expression[0].islower():
        expression = f"[{expression[0].upper()}{expression[0]}]{expression[1:]}"
    return re.compile(expression + r"[.!]?")


def filled(groups: dict[str, str | None], speaker: str | None) -> dict[str, str]:
    """Return what stands for each slot of a question, with the verbs that go with the subject."""
    who, whose = groups.get("who") or "", groups.get("whose") or ""
    mine = who in {"I", "We"} or whose.lower() in {"my", "our"}
    plural = who == "We" or whose.lower() == "our"
    if mine and speaker:
        who, whose, mine = speaker, f"{speaker}'s", False
    elif mine:
        who, whose = ("we", "our") if plural else ("I", "my")
    else:
        who = who or whose.removesuffix("'s")
        whose = whose or f"{who}'s"
    whom = ("us" if plural else "me") if mine else who
    verbs = {"do": "do" if mine else "does", "am": ("are" if plural else "am") if mine else "is"}
    return {
        "who": who,
        "whom": whom,
        "whose": whose,
        "thing": groups.get("thing") or "",
        "name": groups.get("name") or "",
        **verbs,
    }


def sentence_case(text: str) -> str:
    return text[:1].upper() + text[1:]


def words_of(text: str) -> str:
    """Return ``text`` as its words between single spaces, folded, with a space at either end."""
    return f" {' '.join(WORDS.findall(text.casefold()))} "


def study(cubes: Sequence[MemCube], templates: StudyTemplates, *, held_out: int = 1) -> Study:
    """Return the questions that ``cubes`` answer.

    Args:
        held_out: Phrasings of each question that are kept for the examination, a third of them at most, but one.
    """
    learned: list[Question] = []
    kept: list[Question] = []
    fact = 0
    for index, cube in enumerate(cubes):
        for phrasings, value in templates.questions(cube.text, cube.speaker):
            made = [Question(text, index, fact, value) for text in phrasings]
            count = min(held_out, max(1, len(made) // 3), len(made) - 1)
            # Phrasings are ordered from common to rare: the last are too rare to examine by, the first to do without.
            examined = made[1 : 1 + count] if len(made) > 1 else made
            learned += [each for each in made if each not in examined or len(made) == 1]
            kept += examined
            fact += 1
    return Study(tuple(learned), tuple(kept))
