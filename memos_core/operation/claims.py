"""Claims: short statements that give one value to one relation of one subject, such as "My cat is called Rex."

Two claims of the same subject and relation with different values contradict each other. Only what surely has one value
at a time is read as a claim, from texts that are one short sentence: a statement that is taken for a claim by mistake
hides a memory, one that is missed costs nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from memos_core.cube import MemCube, normalised

__all__ = ["Claim", "claim_of"]

MAX_CHARS = 120
ONE_VALUE = (
    "name|address|phone number|number|email|email address|birthday|date of birth|age|height|weight|job|job title|"
    "employer|boss|home town|hometown|password|pin|passcode|rent|salary|blood type|shoe size|star sign|native language"
)
OWNER = r"(?P<owner>my|[\w-]+(?:'s|\u2019s))"
VALUE = r"(?P<value>[^.!?;,]{1,80})[.!]?"

FORMS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"{OWNER} (?P<relation>[\w -]{{2,40}}?) (?:is|was|are) (?:now )?(?:called|named) {VALUE}",
        rf"{OWNER} (?P<relation>(?:new )?(?:{ONE_VALUE}|favou?rite [\w -]{{2,30}}?)) is (?:now )?{VALUE}",
        rf"(?P<owner>I|[A-Z][\w-]+) (?P<relation>lives?|am living|is living|moved) (?:now )?(?:in|to) {VALUE}",
        rf"(?P<owner>I|[A-Z][\w-]+) (?P<relation>works?) (?:now )?(?:at|for) {VALUE}",
        r"(?P<owner>I) (?P<relation>am) (?P<value>\d{1,3} years old)[.!]?",
    )
)
SAME = {"lives": "live", "am living": "live", "is living": "live", "moved": "live", "works": "work", "am": "age"}
FIRST = frozenset({"i", "my"})


@dataclass(frozen=True, slots=True)
class Claim:
    """What a statement gives a value to.

    Attributes:
        subject: Who or what it is about, folded.
        relation: Which of its relations, folded.
        value: The value, folded.
    """

    subject: str
    relation: str
    value: str

    def contradicts(self, other: Claim) -> bool:
        """Tell whether both cannot hold at the same time."""
        return (self.subject, self.relation) == (other.subject, other.relation) and self.value != other.value


def claim_of(cube: MemCube) -> Claim | None:
    """Return the claim that a memory makes, if it is one short statement of that kind and no question."""
    text = " ".join(cube.text.split())
    if len(text) > MAX_CHARS or text.endswith("?"):
        return None
    for form in FORMS:
        found = form.fullmatch(text)
        if found:
            owner = normalised(found["owner"]).removesuffix("'s").removesuffix("\u2019s")
            speaker = normalised(cube.speaker or cube.header.governance.owner)
            relation = normalised(found["relation"]).removeprefix("new ")
            subject = speaker if owner in FIRST else owner
            return Claim(subject, SAME.get(relation, relation), normalised(found["value"]))
    return None
