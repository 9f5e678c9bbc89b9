"""Conversations with questions, from a file or made by program, and how they are brought to memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby
from pathlib import Path

from memos_core import Scope
from memos_core.interface.evidence import read_evidence
from memos_core.interface.ingest import read_turns
from tools.ranker.talks import Talk
from tools.ranker.variants import Said, Variant, fields_of

__all__ = ["Annotated", "Moment", "Posed", "brought", "of_file", "of_talk"]


@dataclass(frozen=True, slots=True)
class Posed:
    """A question.

    Attributes:
        text: What is asked.
        gold: Ids of the turns that answer it.
        before: Only turns with a smaller order exist yet; None: all do.
    """

    text: str
    gold: tuple[str, ...]
    before: int | None = None

    @property
    def when(self) -> float:
        return float("inf") if self.before is None else self.before


@dataclass(frozen=True, slots=True)
class Annotated:
    """A conversation, the user whose memory it is, and questions about it."""

    user: str
    turns: Sequence[Said]
    questions: Sequence[Posed]


@dataclass(frozen=True, slots=True)
class Moment:
    """What memory holds when a question is asked.

    Attributes:
        question: The question, as the variant asks it.
        turns: The turns so far.
        held: Ids of the turns that each memory holds, by its id.
        end: The moment just after the last turn, where all have a time.
        before: The same where later turns of the source do not exist yet.
    """

    question: Posed
    turns: Sequence[Said]
    held: dict[str, tuple[str, ...]]
    end: datetime | None

    @property
    def before(self) -> datetime | None:
        return None if self.question.before is None else self.end


def of_file(path: Path) -> list[Annotated]:
    """Return the conversations of a file."""
    evidence, turns = read_evidence(path), dict[str, list[Said]]()
    for entry in read_turns(path):
        turn, user, ref = entry.turn, str(entry.user), str(entry.turn.ref)
        order = evidence.turns[user].order[ref]
        said = Said((ref,), order, turn.text, turn.speaker or None, turn.session, turn.at, ref)
        turns.setdefault(user, []).append(said)
    return [
        Annotated(user, of, [Posed(q.text, q.gold, q.before) for q in evidence.questions if q.user == user])
        for user, of in turns.items()
    ]


def of_talk(talk: Talk) -> Annotated:
    """Return a conversation made by program."""
    turns = [
        Said((one.ref,), order, one.text, one.speaker, one.session, one.at, one.ref)
        for order, one in enumerate(talk.turns)
    ]
    return Annotated(talk.name, turns, [Posed(one.text, one.gold) for one in talk.questions])


def brought(scope: Scope, source: Annotated, variant: Variant) -> Iterator[Moment]:
    """Bring a conversation to memory as it goes on, and yield each question at the time when it is asked."""
    talk = variant.turns(source.turns)
    held: dict[str, tuple[str, ...]] = {}
    done: set[int] = set()
    for when, questions in groupby(sorted(source.questions, key=lambda one: one.when), key=lambda one: one.when):
        now = [one for one in talk if one.order < when]
        new = [one for one in now if id(one) not in done]
        done.update(map(id, new))
        for cube_id, ids in added(scope, new, at_once=variant.at_once):
            held[cube_id] = (*held.get(cube_id, ()), *ids)
        end = moment_after(now)
        for one in questions:
            yield Moment(Posed(variant.asked(one.text), one.gold, one.before), now, held, end)


def added(scope: Scope, turns: Sequence[Said], *, at_once: bool) -> list[tuple[str, tuple[str, ...]]]:
    """Add turns and return the ids of their memories with those of the turns."""
    fields = [fields_of(one) for one in turns]
    receipts = scope.add_many(fields) if at_once else [scope.add_many([one])[0] for one in fields]
    return [(str(receipt.cube_id), one.ids) for receipt, one in zip(receipts, turns, strict=True)]


def moment_after(turns: Sequence[Said]) -> datetime | None:
    moments = [one.at for one in turns if one.at is not None]
    return max(moments) + timedelta(microseconds=1) if moments and len(moments) == len(turns) else None
