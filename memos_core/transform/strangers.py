"""Memories about people who do not exist, drawn without end from lists that ship as data (``data/strangers.json``).

What an adapter must not change is what the model says about everything else, and that is learned only as far as it is
shown. So names, kinds of statement and values are many, and a quarter of them is kept for the examination. Rivals are
strangers that come closest: the same statement about somebody else, another one about the same person, and one that
contradicts.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from memos_core.cube import Descriptive, Governance, Header, MemCube, MemoryType, PlaintextPayload, Source
from memos_core.transform.study import Statement, StudyTemplates

__all__ = ["Kind", "StrangerLists", "Strangers", "bundled_strangers", "invented"]

PATH = Path(__file__).resolve().parents[1] / "data" / "strangers.json"
NOBODY = Governance(owner="nobody", namespace="nobody")
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)
PERSONS = re.compile(r"\[([^|]*)\|([^\]]*)\]")
"""``[in the first person|in the third]``"""
FIRST = frozenset({"I", "We", "My", "Our", "my", "our"})
DIGITS = re.compile(r"\d+")
CONSONANTS, VOWELS = "bcdfghjklmnprstvwz", "aeiou"
THIRD = {"am": "is", "are": "is", "have": "has", "were": "was", "do": "does"}


@dataclass(frozen=True, slots=True)
class Kind:
    """Statements of one kind: some forms, what they may be about, and values."""

    forms: tuple[str, ...]
    things: tuple[str, ...]
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StrangerLists:
    """Named, versioned lists.

    Attributes:
        name: Name and version; kept in the lineage of what was learned beside them.
        names: Of people.
        kinds: Of statements.
    """

    name: str
    names: tuple[str, ...]
    kinds: tuple[Kind, ...]

    def every(self, step: int, start: int) -> StrangerLists:
        """Return every ``step``-th name and value from the one at ``start`` on."""
        kinds = tuple(replace(kind, values=kind.values[start::step]) for kind in self.kinds)
        return StrangerLists(self.name, self.names[start::step], kinds)


@cache
def bundled_strangers() -> StrangerLists:
    """Return the lists that ship with MemOS."""
    record = json.loads(PATH.read_text(encoding="utf-8"))
    return StrangerLists(record["name"], words(record["names"]), tuple(map(parse_kind, record["kinds"])))


def parse_kind(record: dict[str, Any]) -> Kind:
    return Kind(tuple(record["forms"]), words(record.get("things", "")) or ("",), words(record["values"]))


def words(text: str) -> tuple[str, ...]:
    """Return what stands between spaces, with a space for each underscore."""
    return tuple(each.replace("_", " ") for each in text.split())


class Strangers:
    """Draws statements.

    Args:
        lists: Names and values.
        templates: By which statements are understood.
        rng: Decides.
        coined: Share of the values that no list holds.
    """

    def __init__(
        self, lists: StrangerLists, templates: StudyTemplates, rng: random.Random, *, coined: float = 0.0
    ) -> None:
        self.lists = lists
        self.templates = templates
        self.rng = rng
        self.coined = coined

    def draw(self, subject: str | None = None, kind: Kind | None = None) -> str:
        """Return a statement about a stranger, or about ``subject``; ``I`` speaks of itself."""
        kind = kind or self.rng.choice(self.lists.kinds)
        name = subject or self.rng.choice(self.lists.names)
        form = PERSONS.sub(lambda both: both[1 if name == "I" else 2], self.rng.choice(kind.forms))
        slots = {"name": name, "thing": self.rng.choice(kind.things), "value": self.rng.choice(kind.values)}
        text = f"{form.format(**slots)}."
        if self.rng.random() >= self.coined:
            return text
        made = f"{form.format(**slots | {'value': self.coin(slots['value'])})}."
        return made if self.alike(made, text) else text  # there is no other Monday

    def of_another(self, statement: Statement) -> str | None:
        """Return the same statement about a stranger, with another value; None where it cannot be turned so."""
        slot = "whose" if statement.slot("whose") else "who"
        mine, name = statement.slot(slot), self.rng.choice(self.lists.names)
        if not mine:
            return None
        subject = f"{name}'s" if slot == "whose" else name
        turned = statement.replaced(**{slot: subject, "value": self.value_like(statement)})
        if slot == "who" and mine in FIRST:
            options = [re.sub(rf"^({name}) ([\w-]+)", rf"\1 {verb}", turned) for verb in third(turned.split()[1])]
        else:
            options = [turned]
        return next((each for each in options if self.understood(each, statement, subject)), None)

    def understood(self, text: str, like: Statement, subject: str) -> bool:
        """Tell whether ``text`` states about ``subject`` what ``like`` states."""
        found = next(self.templates.statements(text), None)
        return (
            found is not None
            and found.template is like.template
            and subject in (found.slot("who"), found.slot("whose"))
        )

    def of_the_same(self, statement: Statement) -> str:
        """Return another statement about the same subject: not one that would contradict."""
        mine = statement.slot("whose") or statement.slot("who")
        subject = "I" if mine in FIRST or not mine else mine.removesuffix("'s")
        while True:
            text = self.draw(subject)
            made = next(self.templates.statements(text), None)
            if made is None or made.template is not statement.template or made.slot("thing") != statement.slot("thing"):
                return text

    def against(self, statement: Statement) -> str:
        """Return the same statement with another value."""
        return statement.replaced(value=self.value_like(statement))

    def value_like(self, statement: Statement) -> str:
        """Return another value for it: one that begins alike, or one of its kind, or a name where none is listed."""
        if self.rng.random() < self.coined:
            return self.near(statement.value)
        kinds = [kind for kind in self.lists.kinds if self.same_form(kind, statement)]
        near = [kind for kind in kinds if statement.slot("thing") in kind.things] or kinds
        values = self.rng.choice(near).values if near else self.lists.names
        return self.rng.choice([each for each in values if each != statement.value])

    def alike(self, one: str, other: str) -> bool:
        """Tell whether both are statements of one template, or none is one."""
        found = [next(self.templates.statements(text), None) for text in (one, other)]
        return (found[0] and found[0].template) is (found[1] and found[1].template)

    def coin(self, value: str) -> str:
        """Return ``value`` with another beginning: what is copied begins with more tokens than the lists have."""
        if DIGITS.search(value):
            return DIGITS.sub(self.other_digits, value)
        pair = [self.rng.choice(CONSONANTS), self.rng.choice(VOWELS)]
        self.rng.shuffle(pair)
        head = "".join(pair)
        return (head.capitalize() if value[0].isupper() else head) + value[self.rng.randint(1, 3) :]

    def near(self, value: str) -> str:
        """Return a value that begins like ``value``: another number, or a word with another end.

        Such ones are mistaken for it first: what is learned is to be said token by token.
        """
        if DIGITS.search(value):
            return DIGITS.sub(self.other_digits, value)
        word = max(value.split(), key=len)
        kept = word[: self.rng.randint(1, max(1, len(word) * 2 // 3))]
        tail = self.rng.choice([name for name in self.lists.names if name[0].lower() != word[0].lower()])
        return value.replace(word, kept + tail[len(tail) // 3 :].lower())

    def other_digits(self, number: re.Match[str]) -> str:
        """Return a number of as many digits; mostly with the same first one."""
        digits = number[0]
        kept = 1 if len(digits) > 1 and self.rng.random() < 0.7 else 0
        while True:
            made = digits[:kept] + "".join(self.rng.choice("1234567890") for _ in digits[kept:])
            if made != digits and (made[0] != "0" or digits[0] == "0"):
                return made

    def same_form(self, kind: Kind, statement: Statement) -> bool:
        """Tell whether the template of ``statement`` understands what the kind states."""
        form = PERSONS.sub(lambda both: both[2], kind.forms[0])
        text = form.format(name="Anna", thing=kind.things[0], value=kind.values[0])
        found = next(self.templates.statements(text), None)
        return found is not None and found.template is statement.template


def third(verb: str) -> Iterator[str]:
    """Yield what may stand for a verb of the first person in the third."""
    if verb in THIRD:
        yield THIRD[verb]
    elif verb.endswith("y") and verb[-2:-1] not in "aeiou":
        yield f"{verb[:-1]}ies"
    else:
        yield f"{verb}es" if verb.endswith(("s", "sh", "ch", "x")) else f"{verb}s"
    yield verb  # in the past it stays as it is


def invented(text: str, speaker: str | None = None) -> MemCube:
    """Return a memory of somebody who does not exist; it is in no vault."""
    source = Source(speaker=speaker)
    identity = f"{speaker}: {text}" if speaker else text
    descriptive = Descriptive(id=identity, type=MemoryType.PLAINTEXT, created=LONG_AGO, updated=LONG_AGO, source=source)
    return MemCube(header=Header(descriptive=descriptive, governance=NOBODY), payload=PlaintextPayload(text=text))
