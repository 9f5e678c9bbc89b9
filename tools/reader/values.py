"""Values of the facts: open ones drawn from the names, closed ones from word lists."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from .names import Inventory, words

DAYS = words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
MONTHS = words("January February March April May June July August September October November December")
NUMBERS = words("two three four five six seven eight nine ten eleven twelve")
ADJECTIVES = words("green red dark fresh hot cold sweet salted old wild small big long black white blue spicy plain")

WORDS: dict[str, list[str]] = {
    "colour": words("red blue green yellow purple orange black white pink grey brown silver teal violet turquoise"),
    "job": words(
        "nurse plumber baker teacher pilot lawyer chef engineer farmer dentist carpenter painter designer "
        "writer editor gardener driver butcher tailor musician architect vet mechanic electrician librarian "
        "accountant photographer translator barber florist"
    ),
    "food": words(
        "pizza pasta soup curry sushi tacos noodles dumplings rice bread cheese salad olives mushrooms pancakes "
        "stew lentils falafel ramen risotto lasagne paella pie chocolate apples berries mangoes tofu omelettes "
        "honey"
    ),
    "drink": words("coffee tea cocoa water lemonade juice milk cider wine beer espresso cola"),
    "hobby": words(
        "chess tennis football climbing swimming running painting pottery knitting sailing cycling hiking "
        "dancing gardening fishing rowing skiing surfing yoga baking archery fencing karate boxing judo drawing "
        "reading"
    ),
    "instrument": words(
        "piano guitar violin cello flute drums trumpet harp banjo clarinet saxophone accordion oboe bass"
    ),
    "language": words(
        "French Spanish German Italian Greek Polish Czech Dutch Danish Swedish Japanese Korean Arabic Hindi "
        "Turkish Russian Welsh Portuguese Finnish Latin"
    ),
    "item": words(
        "bike lamp camera sofa desk tent kettle coat jacket scarf backpack umbrella watch laptop phone guitar "
        "table chair bookcase fridge boat van scooter telescope ring suitcase hat drum"
    ),
    "spot": words(
        "kitchen drawer garage hall attic cellar shed cupboard office car basket fridge garden bathroom bedroom "
        "box safe locker desk shelf"
    ),
    "subject": words("history physics law medicine biology music economics chemistry maths geology design nursing art"),
    "allergen": words("peanuts cats dogs pollen eggs milk shellfish dust wheat soy bees strawberries nuts wool latex"),
    "creature": words("spiders snakes heights bees mice storms dogs clowns ghosts wasps lifts needles"),
    "collectible": words("stamps coins records shells maps postcards mugs comics stones books badges clocks toys"),
    "season": words("spring summer autumn winter"),
}


def _date(rng: Random) -> str:
    """Draws a calendar date as people write it."""
    month, day = rng.choice(MONTHS), rng.randint(1, 28)
    forms = [f"{day} {month}", f"{month} {day}", f"the {day}th of {month}"]
    return rng.choice(forms if 3 < day < 21 else forms[:1])


def _time(rng: Random) -> str:
    """Draws a time of day."""
    hour = rng.randint(1, 12)
    word = rng.choice(NUMBERS)
    return rng.choice(
        [
            f"{hour} pm",
            f"{hour} am",
            f"{rng.randint(7, 21)}:{rng.choice(['00', '15', '30', '45', '10', '20'])}",
            "noon",
            "midnight",
            f"half past {word}",
            f"quarter to {word}",
            f"{word} o'clock",
        ]
    )


def _lower(rng: Random, inventory: Inventory, kind: str) -> str:
    """Draws a common word, now and then an invented one or one with an adjective."""
    roll = rng.random()
    word = inventory.invented(rng).lower() if roll < 0.1 else rng.choice(WORDS[kind])
    if 0.05 < roll < 0.15 and kind in ("food", "drink", "item", "collectible"):
        return f"{rng.choice(ADJECTIVES)} {word}"
    return word


def _day(rng: Random, inventory: Inventory) -> str:
    """Draws a day: a weekday, a date or a word for it."""
    return rng.choice([rng.choice(DAYS), rng.choice(DAYS), _date(rng), rng.choice(["tomorrow", "Friday morning"])])


def _person(rng: Random, inventory: Inventory) -> str:
    """Draws a person, now and then with the family name."""
    name = inventory.name(rng, "person")
    return f"{name} {inventory.name(rng, 'last')}" if rng.random() < 0.12 else name


def _code(rng: Random, inventory: Inventory) -> str:
    """Draws a number or a word with a number."""
    return rng.choice([str(rng.randint(100, 9999)), f"{inventory.invented(rng).lower()}{rng.randint(1, 99)}"])


def _money(rng: Random, inventory: Inventory) -> str:
    """Draws a sum of money."""
    return f"{rng.randint(2, 99) * rng.choice([5, 10, 50])} {rng.choice(['euros', 'pounds', 'dollars'])}"


DRAWERS: dict[str, Callable[[Random, Inventory], str]] = {
    "person": _person,
    "company": lambda rng, inventory: inventory.company(rng),
    "title": lambda rng, inventory: inventory.title(rng),
    "day": _day,
    "date": lambda rng, inventory: _date(rng),
    "time": lambda rng, inventory: _time(rng),
    "age": lambda rng, inventory: str(rng.randint(2, 95)),
    "code": _code,
    "money": _money,
}


def draw_value(rng: Random, inventory: Inventory, kind: str) -> str:
    """Draws a value of a kind.

    Args:
        rng: Source of randomness.
        inventory: Names to draw from.
        kind: A kind of ``DRAWERS``, a name kind (pet, town, project) or a word list.

    Returns:
        The value as it stands in a statement.
    """
    if kind in ("pet", "town", "project"):
        return inventory.name(rng, kind)
    return DRAWERS[kind](rng, inventory) if kind in DRAWERS else _lower(rng, inventory, kind)
