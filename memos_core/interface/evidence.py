"""How much of the annotated evidence a search recalls.

A file of conversations may hold ``queries``: questions with the turns that answer them (``gold``), a ``category``, and
``before``: only turns with a smaller ``order`` exist when the question is asked. Recall@k of a question is the share of
its evidence among the first k memories found; figures are means over questions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from memos_core.clock import as_utc
from memos_core.interface.formats import SourceText, leading_time, load_json, read_source

if TYPE_CHECKING:
    from memos_core.memos import MemOS

__all__ = ["CUTOFFS", "Evidence", "Question", "Recalled", "TurnOrder", "read_evidence", "recall_table", "spread"]

T = TypeVar("T")

CUTOFFS = (1, 5, 10)
"""The k for which recall@k is reported."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question with annotated evidence.

    Attributes:
        text: What is asked.
        user: The conversation that it is about.
        gold: References of the turns that hold the evidence.
        category: What kind of question it is.
        before: Only turns with a smaller order exist yet; None: all do.
        answer: The expected answer, where the source gives one.
    """

    text: str
    user: str
    gold: tuple[str, ...]
    category: str
    before: int | None
    answer: str


@dataclass(frozen=True, slots=True)
class TurnOrder:
    """Where the turns of one conversation stand: reference to order and to time, if known."""

    order: Mapping[str, int]
    times: Mapping[str, datetime | None]

    def window(self, before: int | None) -> tuple[datetime | None, int]:
        """Return the moment that ends the time before ``before``, and how many later turns it lets through.

        Times are often coarser than the order, such as a day for a whole session: so the moment is just after the last
        turn that exists, and what else it lets through is left out afterwards, by order. None: times do not help.
        """
        if before is None:
            return None, 0
        existing = [self.times[ref] for ref, order in self.order.items() if order < before]
        later = [self.times[ref] for ref, order in self.order.items() if order >= before]
        known = [moment for moment in existing if moment is not None]
        if not known or len(known) < len(existing):
            return None, len(later)
        end = max(known) + timedelta(microseconds=1)
        return end, sum(moment is None or moment < end for moment in later)

    def exists(self, ref: str | None, before: int | None) -> bool:
        return before is None or (ref is not None and self.order.get(ref, before) < before)


@dataclass(frozen=True, slots=True)
class Recalled:
    """What a search brought for one question: references, best first."""

    question: Question
    refs: tuple[str | None, ...]

    def recall(self, k: int) -> float:
        """Return the share of the evidence among the first ``k``."""
        gold = set(self.question.gold)
        return len(gold.intersection(self.refs[:k])) / len(gold)


@dataclass(frozen=True, slots=True)
class Evidence:
    """The questions of a file, and the order of its turns."""

    questions: tuple[Question, ...]
    turns: Mapping[str, TurnOrder]

    def recall(self, memos: MemOS, question: Question, k: int = max(CUTOFFS)) -> Recalled:
        """Search for the answer to ``question`` in the memory of its conversation, as it was when it was asked."""
        order = self.turns[question.user]
        before, extra = order.window(question.before)
        hits = memos.scope(question.user).search(question.text, k=k + extra, before=before)
        refs = [hit.ref for hit in hits if order.exists(hit.ref, question.before)]
        return Recalled(question, tuple(refs[:k]))

    def recall_all(
        self, memos: MemOS, questions: Sequence[Question], progress: Callable[[int, int], None]
    ) -> list[Recalled]:
        """Return what is recalled for each of ``questions``."""
        found = []
        for number, question in enumerate(questions, start=1):
            found.append(self.recall(memos, question))
            progress(number, len(questions))
        return found


def read_evidence(path: str | Path) -> Evidence:
    """Return the questions of a file of conversations that have evidence.

    Raises:
        InvalidFile: It is no such file, or holds no question with evidence.
    """
    source = read_source(path)
    data = load_json(source.text, source, None)
    corpora = data.get("corpora") if isinstance(data, dict) else None
    queries = data.get("queries") if isinstance(data, dict) else None
    if not isinstance(corpora, dict) or not isinstance(queries, list):
        raise source.error("no annotated conversations: it needs an object 'corpora' and a list 'queries'")
    turns = {name: turn_order(name, rows, source) for name, rows in corpora.items()}
    questions = [question_of(row, number, turns, source) for number, row in enumerate(queries)]
    with_evidence = tuple(question for question in questions if question.gold)
    if not with_evidence:
        raise source.error("no question of this file has annotated evidence ('gold')")
    return Evidence(with_evidence, turns)


def turn_order(name: str, rows: Any, source: SourceText) -> TurnOrder:
    """Return the order of one conversation; where the file gives none, it is that of the list."""
    if not isinstance(rows, list) or not all(isinstance(row, dict) and "id" in row for row in rows):
        raise source.error(f"conversation {name!r} must be a list of turns with an 'id'")
    order, times = {}, {}
    for position, row in enumerate(rows):
        given = row.get("order")
        moment = leading_time(row.get("ts"))
        order[str(row["id"])] = given if isinstance(given, int) else position
        times[str(row["id"])] = None if moment is None else as_utc(moment)
    return TurnOrder(order, times)


def question_of(row: Any, number: int, turns: Mapping[str, TurnOrder], source: SourceText) -> Question:
    """Return one question of a file."""
    if not isinstance(row, dict) or not isinstance(row.get("text"), str) or not row["text"].strip():
        raise source.error(f"question {number} must be an object with a 'text'")
    gold, before = row.get("gold") or [], row.get("before")
    if row.get("ns") not in turns:
        raise source.error(f"question {number} is about {row.get('ns')!r}, which is no conversation of this file")
    if not isinstance(gold, list) or not (before is None or isinstance(before, int)):
        raise source.error(f"question {number} needs a list 'gold' and a number or null as 'before'")
    return Question(
        text=row["text"],
        user=row["ns"],
        gold=tuple(dict.fromkeys(map(str, gold))),
        category=str(row.get("category") or "all"),
        before=before,
        answer=str(row.get("answer") or ""),
    )


def recall_table(found: Iterable[Recalled]) -> dict[str, dict[str, float]]:
    """Return questions and recall@k by category, ``all`` first."""
    groups: dict[str, list[Recalled]] = {"all": []}
    for item in found:
        groups["all"].append(item)
        if item.question.category != "all":
            groups.setdefault(item.question.category, []).append(item)
    return {
        name: {
            "questions": len(group),
            **{f"recall@{k}": sum(item.recall(k) for item in group) / len(group) for k in CUTOFFS},
        }
        for name, group in groups.items()
    }


def spread(items: Sequence[T], count: int, *, key: Callable[[T], str]) -> list[T]:
    """Return ``count`` items, in turn from each group and evenly through it, in the order given.

    Args:
        items: What to choose from.
        count: How many.
        key: The group of an item.
    """
    groups: dict[str, list[int]] = {}
    for number, item in enumerate(items):
        groups.setdefault(key(item), []).append(number)
    shares = dict.fromkeys(groups, 0)
    while sum(shares.values()) < min(count, len(items)):
        for name, numbers in groups.items():
            if shares[name] < len(numbers) and sum(shares.values()) < count:
                shares[name] += 1
    chosen = [
        numbers[step * len(numbers) // shares[name]] for name, numbers in groups.items() for step in range(shares[name])
    ]
    return [items[number] for number in sorted(chosen)]
