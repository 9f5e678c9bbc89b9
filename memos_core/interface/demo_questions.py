"""The questions about the bundled conversation, and when an answer is right."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import memos_core
from memos_core.cube import normalised

__all__ = ["DATA", "BundledQuestion", "bundled_questions", "same_answer"]

DATA = Path(memos_core.__file__).parent / "data"


@dataclass(frozen=True, slots=True)
class BundledQuestion:
    """A question about the bundled conversation, its answer, and the turns that hold it."""

    text: str
    answer: str
    refs: tuple[str, ...]
    kind: str


def bundled_questions(limit: int | None = None) -> list[BundledQuestion]:
    """Return the questions about the bundled conversation, or ``limit`` of them spread evenly."""
    lines = (DATA / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines if line.strip()]
    questions = [
        BundledQuestion(row["question"], row["answer"], tuple(row.get("refs", ())), row.get("kind", "")) for row in rows
    ]
    count = min(limit or len(questions), len(questions))
    return [questions[number * len(questions) // count] for number in range(count)]


def same_answer(given: str, expected: str) -> bool:
    """Tell whether two answers are the same but for case, white space, punctuation at the ends and an article."""

    def bare(text: str) -> str:
        return re.sub(r"^(the|a|an) ", "", normalised(text).strip(" .,;:!?\"'"))

    return bare(given) == bare(expected)
