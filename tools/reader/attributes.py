"""What the notes can say: attributes with several phrasings of the statement and of the question.

A phrasing holds ``{S}`` (the subject), ``{v}`` (the value), ``{av}`` (the value with its article) and pairs
``[third person|first person]``.
"""

from __future__ import annotations

from dataclasses import dataclass

from . import phrasings as text


@dataclass(frozen=True)
class Attribute:
    """One relation between a subject and a value.

    Attributes:
        key: Unique name.
        kind: Kind of the value (see ``values.draw_value``).
        statements: Phrasings of the note.
        questions: Phrasings of the question.
        noun: Noun by which a two-hop question refers to the value ("Mira's sister"), if any.
    """

    key: str
    kind: str
    statements: tuple[str, ...]
    questions: tuple[str, ...]
    noun: str = ""


def _rows(block: str, noun: str = "") -> tuple[str, ...]:
    """Splits a block of phrasings into lines and fills in the noun."""
    return tuple(line.strip().replace("{n}", noun) for line in block.strip().splitlines())


def _family(prefix: str, nouns: str, kind: str, said: str, asked: str, *, bridge: bool = False) -> list[Attribute]:
    """Makes one attribute for each noun of a family."""
    return [
        Attribute(f"{prefix}:{noun}", kind, _rows(said, noun), _rows(asked, noun), noun if bridge else "")
        for noun in (word.replace("_", " ") for word in nouns.split())
    ]


RELATIONS = (
    "sister brother mother father wife husband son daughter boss cousin neighbour dentist doctor teacher aunt uncle "
    "roommate landlord friend mentor coach grandmother"
)
PETS = "dog cat rabbit parrot horse hamster pony tortoise goldfish ferret"
NAMED = "project band boat team shop company blog book cafe farm car plant robot"

FAMILIES: list[Attribute] = [
    *_family("pet", PETS, "pet", text.NAMED_STATEMENTS + text.PET_EXTRA.strip(), text.NAMED_QUESTIONS, bridge=True),
    *_family("pet", PETS, "pet", text.NAMED_STATEMENTS + text.PET_EXTRA.strip(), text.NAMED_QUESTIONS, bridge=True),
    *_family("named", NAMED, "project", text.NAMED_STATEMENTS, text.NAMED_QUESTIONS, bridge=True),
    *_family("relation", RELATIONS, "person", text.RELATION_STATEMENTS, text.RELATION_QUESTIONS, bridge=True),
    *_family(
        "day",
        "dentist_appointment interview exam flight wedding party concert meeting lesson haircut birthday_party "
        "piano_lesson check-up game show presentation train",
        "day",
        text.EVENT_DAY,
        text.EVENT_DAY_Q,
    ),
    *_family(
        "time",
        "dentist_appointment interview exam flight wedding party concert meeting lesson haircut game show train",
        "time",
        text.EVENT_TIME,
        text.EVENT_TIME_Q,
    ),
    *[
        Attribute(f"favourite:{noun}", kind, _rows(text.FAVOURITE, noun), _rows(text.FAVOURITE_Q, noun))
        for noun, kind in (
            ("colour", "colour"), ("food", "food"), ("drink", "drink"), ("book", "title"), ("film", "title"),
            ("band", "title"), ("sport", "hobby"), ("season", "season"), ("city", "town"), ("dish", "food"),
            ("cake", "food"), ("song", "title"), ("writer", "person"), ("cafe", "company"), ("subject", "subject"),
            ("dessert", "food"), ("flower", "project"),
        )
    ],
    *_family("place", "keys passport bike spare_key umbrella wallet phone charger tent guitar glasses suitcase tools",
             "spot", text.PLACE, text.PLACE_Q),
    *_family("colour", "bike car sofa coat umbrella scarf front_door backpack house tent kitchen jacket van", "colour",
             text.OWNED, text.OWNED_Q),
]  # fmt: skip


def _parse(block: str) -> list[Attribute]:
    """Reads the attributes of a text block: a header line, statements, then questions marked with ``?``."""
    parsed = []
    for part in block.strip().split("\n#\n"):
        header, *lines = part.strip().splitlines()
        key, kind, *noun = header.split(";")
        said = tuple(line for line in lines if not line.startswith("?"))
        asked = tuple(line[1:] for line in lines if line.startswith("?"))
        parsed.append(Attribute(key, kind, said, asked, noun[0] if noun else ""))
    return parsed


SINGLES = _parse(text.SINGLES)
PERSON_ATTRIBUTES: list[Attribute] = FAMILIES + SINGLES * 3
DISTINCT = len({item.key for item in PERSON_ATTRIBUTES})
THING_ATTRIBUTES = {item.key: item for item in _parse(text.THINGS)}
PROJECT_KEYS = ("launch_place", "launch_day", "lead", "client", "due", "budget")
COMPANY_KEYS = ("based", "founder")
