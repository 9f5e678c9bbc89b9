"""What a model is asked to find out whether its answers survive that KV of single memories is put together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["PROBES_V2", "Block", "Kind", "Probe", "ProbeSet"]

Kind = Literal["self-contained", "cross"]
"""Whether one memory holds the answer, or two do. A memory that was stored alone has not seen the ones before it."""


@dataclass(frozen=True, slots=True)
class Probe:
    """A question about memories.

    Attributes:
        question: As a user would ask it.
        answer: Words that a right answer holds.
        kind: Whether one memory holds it.
    """

    question: str
    answer: str
    kind: Kind = "self-contained"


@dataclass(frozen=True, slots=True)
class Block:
    """Memories that stand in one prompt, and what is asked about them. At least two memories."""

    facts: tuple[str, ...]
    probes: tuple[Probe, ...]


@dataclass(frozen=True, slots=True)
class ProbeSet:
    """What is asked to measure. Named and versioned: figures of different sets do not compare."""

    name: str
    blocks: tuple[Block, ...]


PEOPLE = (
    "Ada", "Ben", "Clara", "Hugo", "Mira", "Nina", "Olga", "Paul", "Ruth", "Tom", "Vera", "Emil",
    "Ida", "Karl", "Lena", "Max", "Rosa", "Sam", "Theo", "Zoe",
)  # fmt: skip
CITIES = (
    "Lisbon", "Vienna", "Oslo", "Prague", "Dublin", "Rome", "Athens", "Madrid", "Berlin", "Warsaw", "Paris", "Zurich",
)  # fmt: skip
JOBS = (
    "baker", "nurse", "pilot", "lawyer", "painter", "teacher", "farmer", "dentist", "plumber", "writer", "chemist",
    "tailor",
)  # fmt: skip
INSTRUMENTS = (
    "cello", "piano", "flute", "harp", "trumpet", "violin", "guitar", "organ", "oboe", "banjo", "clarinet", "drums",
)  # fmt: skip
PETS = (
    "Biscuit", "Pepper", "Shadow", "Ginger", "Cookie", "Daisy", "Rusty", "Misty", "Oscar", "Luna", "Coco", "Simba",
)  # fmt: skip
RELATIONS = ("sister", "boss", "friend", "brother", "neighbour", "cousin")
BLOCKS = 12


def block(number: int) -> Block:
    """Return one of ``BLOCKS`` blocks: the same sentences about others, in an order of its own."""
    lives, works, plays, knows, moves = (PEOPLE[(5 * number + place) % len(PEOPLE)] for place in range(5))
    city, job, instrument, pet = (words[number] for words in (CITIES, JOBS, INSTRUMENTS, PETS))
    relation = RELATIONS[number % len(RELATIONS)]
    facts = (
        f"{lives} lives in {city}.",
        f"{works} works as a {job}.",
        f"{plays} plays the {instrument}.",
        f"{lives}'s cat is called {pet}.",
        f"{knows}'s {relation} is {works}.",
        f"{moves} lives in the same city as {lives}.",
    )
    probes = (
        Probe(f"Where does {lives} live?", city),
        Probe(f"What does {works} do for a living?", job),
        Probe(f"Which instrument does {plays} play?", instrument),
        Probe(f"What is the name of {lives}'s cat?", pet),
        Probe(f"What does {knows}'s {relation} do for a living?", job, "cross"),
        Probe(f"Where does {moves} live?", city, "cross"),
    )
    turn = number % len(facts)
    return Block(facts[turn:] + facts[:turn], probes)


PROBES_V2 = ProbeSet("compose/2", tuple(block(number) for number in range(BLOCKS)))
