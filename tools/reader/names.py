"""Name inventories: invented names without end, ordinary ones, and the split between seen and held out.

A name belongs to the held-out inventory when a checksum of its letters says so. Training draws only from the rest,
so that no name of the measured questions has ever been a training target.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from random import Random

HELD_OUT_SHARE = 8


def words(text: str) -> list[str]:
    """Splits a list of words written as a text."""
    return text.split()


ONSETS = [*words("b d f g h j k l m n p r s t v w z br cl dr gr st tr sh th"), ""]
VOWELS = words("a a e e i i o o u ai ea")
CODAS = ["", "", "", *words("n r l s t k m nd x th ck")]

FIRST_NAMES = words(
    "Mira Ben Anna Tom Lucy Omar Nina Paul Sara Leo Emma Jack Olivia Noah Ava Liam Sophia Ethan Mia Lucas Ella "
    "Henry Grace Oscar Ruby Hugo Ivy Felix Clara Max Alice Simon Julia Peter Laura Martin Helen David Maria "
    "Daniel Eva James Rosa Michael Irene Robert Lena Thomas Nora George Amy Edward Kate Frank Jane Walter Ruth "
    "Arthur Rose Albert Mary Kevin Susan Brian Karen Steven Linda Eric Diane Carl Joyce Ralph Alan Gloria Roy "
    "Judy Keith Wendy Neil Tina Ian Fiona Colin Moira Sean Aoife Priya Arjun Yuki Kenji Mei Wei Chen Fatima "
    "Hassan Layla Amir Zara Ali Ines Diego Carmen Pablo Lucia Marco Giulia Luca Elena Stefan Katja Jonas Anika "
    "Lars Ingrid Sven Freya Bjorn Astrid Pierre Camille Louis Chloe Antoine Manon Ivan Olga Dmitri Tanya Boris "
    "Vera Jan Eliza Piotr Agata Adam Hana Tariq Samira Kofi Ama Kwame Abena Chidi Ngozi Tunde Zola Rafael "
    "Beatriz Joao Teresa Nadia Farid Leila Rania Samuel Hannah Aaron Rachel Isaac Leah Caleb Naomi Gavin Molly "
    "Declan Erin Rory Maeve Quentin Della Vikram Anjali Rohan Sunita Marcus Tessa"
)

LAST_NAMES = words(
    "Tolen Harper Reed Foster Brooks Hayes Marsh Lane Webb Stone Carter Ellis Grant Holt Ward Fox Page Cole "
    "Shaw Dunn Keller Novak Rossi Weber Larsen Moreau Silva Costa Tanaka Kim Patel Singh Okafor Mensah Haddad "
    "Farah Ivanov Petrov Berg Lind Murphy Byrne Walsh Kowalski Meyer Fischer Bauer Wolf Lopez Garcia Reyes "
    "Santos Park Nguyen Tran Abbott"
)

PET_NAMES = words(
    "Pluto Biscuit Rex Bella Luna Milo Daisy Coco Buddy Rocky Ginger Pepper Smoky Tiger Oreo Muffin Cookie "
    "Waffle Peanut Shadow Patches Whiskers Mittens Snowy Dusty Sunny Lucky Rusty Bandit Ziggy Hazel Olive Poppy "
    "Maple Clover Nugget Pickle Toffee Truffle Mocha Honey Marble Socks Simba Nala Loki Thor Apollo Zeus Juno "
    "Duke Gizmo Pixie Bramble"
)

TOWNS = words(
    "Paris London Berlin Rome Madrid Lisbon Vienna Oslo Dublin Prague Athens Boston Chicago Denver Seattle "
    "Austin Dallas Miami Portland Toronto Montreal Tokyo Osaka Seoul Beijing Mumbai Delhi Sydney Perth Auckland "
    "Cairo Lagos Nairobi Leeds York Bristol Bath Oxford Cambridge Glasgow Cardiff Belfast Exeter Norwich Lyon "
    "Nice Lille Milan Turin Naples Venice Hamburg Munich Cologne Dresden Leipzig Geneva Zurich Basel Porto "
    "Seville Valencia Bilbao Krakow Warsaw Budapest Riga Tallinn Helsinki Bergen Stockholm Utrecht Ghent Bruges "
    "Antwerp Rotterdam Split Zagreb Sofia Havana"
)

PROJECT_WORDS = words(
    "Falcon Comet Aurora Harbor Beacon Cedar Delta Ember Glacier Horizon Indigo Jasper Kestrel Lantern Meadow "
    "Nimbus Orchid Pioneer Quartz Raven Sparrow Tundra Umbra Vector Willow Zephyr Atlas Bison Condor Dynamo "
    "Echo Fjord Granite Heron Island Jaguar Kite Lotus Mirage Nova Orbit Phoenix Quill Ridge Summit Thunder "
    "Velvet Walnut Anchor Bridge"
)

COMPANY_SUFFIXES = words(
    "Mills Works Labs Foods Press Bank Motors Studio Systems Books Partners Energy Farms Media Group Design "
    "Airlines Hospital Museum Library School College University Bakery Clinic Hotel Garage Gallery Theatre "
    "Records"
)


def is_held_out(name: str) -> bool:
    """Says whether a single name belongs to the held-out inventory."""
    return zlib.crc32(name.lower().encode()) % HELD_OUT_SHARE == 0


def _syllables(seed: str, count: int, codas: list[str]) -> list[str]:
    """Draws a fixed list of syllables; names are made of these, so that the tokenizer can learn each as one token."""
    rng, found = Random(seed), dict[str, None]()
    while len(found) < count:
        found.setdefault(rng.choice(ONSETS[:-1]) + rng.choice(VOWELS) + rng.choice(codas))
    return list(found)


FIRST_SYLLABLES = _syllables("first", 120, ["", "", *CODAS])
LAST_SYLLABLES = _syllables("last", 120, CODAS)


def invent(rng: Random) -> str:
    """Invents a name of two or three syllables, whichever inventory it falls in."""
    middle = rng.choice(LAST_SYLLABLES) if rng.random() < 0.15 else ""
    return (rng.choice(FIRST_SYLLABLES) + middle + rng.choice(LAST_SYLLABLES)).capitalize()


def spell(rng: Random, pieces: Sequence[str]) -> str:
    """Spells a name of one to three pieces, so that it may begin with any token and go on with any."""
    return "".join(rng.choices(pieces, k=rng.choice([1, 2, 2, 3]))).capitalize()


class Inventory:
    """Names of one split.

    Args:
        held_out: Whether to draw from the held-out names instead of the training names.
        invented_share: Share of invented names among the names drawn.
        pieces: Tokens that half of the invented names are spelled with; none, if empty. Only training spells: a token
            that never begins an answer there is not begun with later either, however well the reader knows where to
            look.
    """

    def __init__(self, held_out: bool = False, invented_share: float = 0.5, pieces: Sequence[str] = ()) -> None:
        self.held_out = held_out
        self.invented_share = invented_share
        self.pieces = pieces
        self._lists: dict[str, list[str]] = {}
        for kind, words in (
            ("person", FIRST_NAMES),
            ("last", LAST_NAMES),
            ("pet", PET_NAMES),
            ("town", TOWNS),
            ("project", PROJECT_WORDS),
        ):
            self._lists[kind] = [word for word in words if is_held_out(word) == held_out]

    def invented(self, rng: Random) -> str:
        """Draws an invented name of this split."""
        while True:
            name = spell(rng, self.pieces) if self.pieces and rng.random() < 0.5 else invent(rng)
            if is_held_out(name) == self.held_out:
                return name

    def name(self, rng: Random, kind: str) -> str:
        """Draws a single-word name of a kind: person, last, pet, town or project."""
        if rng.random() < self.invented_share:
            return self.invented(rng)
        return rng.choice(self._lists[kind])

    def company(self, rng: Random) -> str:
        """Draws a company: a name, mostly with a suffix."""
        name = self.name(rng, rng.choice(["last", "project", "town"]))
        return name if rng.random() < 0.25 else f"{name} {rng.choice(COMPANY_SUFFIXES)}"

    def title(self, rng: Random) -> str:
        """Draws a title of a book, a film or a band."""
        name = self.name(rng, rng.choice(["town", "project", "pet"]))
        second = self.name(rng, rng.choice(["town", "project"]))
        return rng.choice([name, f"The {name}", f"{name} {second}", f"{name} and {second}", f"The {name} {second}"])
