"""Annotated conversations with something taken away or changed that a ranker may lean on.

Each variant says the same, so that the same turns answer the same questions; what differs is what is told beside the
words, how they are written, and how they are brought.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import groupby, islice
from random import Random
from typing import Any

__all__ = ["VARIANTS", "Said", "Variant", "fields_of"]

RUN = 8
"""Turns that are put into one where turns are long."""

FILLER = (
    "Certainly! There is more than one way to look at it, so let me go through the main points one after the other.",
    "First of all, it helps to write down what matters most to you and to come back to that list once a week.",
    "1. **Begin small.** A few minutes each day are better than a whole afternoon that never comes.",
    "2. **Keep track.** A simple table with the date, what was done and how it felt is enough to see a pattern.",
    "3. **Ask for help.** Friends, colleagues and the people around you often know more than any guide can tell.",
    "4. **Take breaks.** Rest is a part of the plan and not what is left over when everything else is done.",
    "It also depends on the time that you have, on your budget, and on how much you enjoy the thing itself.",
    "If something does not work out in the first weeks, change one thing at a time, so that you see what made it.",
    "You may want to compare two or three options before you settle on one, and to read what others say of them.",
    "Remember that there is no single right answer here, and that you can always change your mind later on.",
    "I hope this helps! Let me know if you would like me to go into more detail on any of these points.",
    "Would you like an example, or a short summary that you can keep at hand?",
)
"""What an assistant says at length beside the point."""


@dataclass(frozen=True, slots=True)
class Said:
    """One turn as it is brought to memory.

    Attributes:
        ids: The turns of the source whose text it holds; evidence is counted by these.
        order: Only questions asked after this place in time can find it.
    """

    ids: tuple[str, ...]
    order: int
    text: str
    speaker: str | None = None
    session: str | None = None
    at: datetime | None = None
    ref: str | None = None
    role: str | None = None


Talk = Sequence[Said]


@dataclass(frozen=True, slots=True)
class Variant:
    """A way to bring a conversation to memory.

    Attributes:
        name: In results.
        turns: Changes the turns of one conversation.
        asked: Changes a question.
        at_once: Whether turns are added with ``add_many``, or else one by one.
    """

    name: str
    turns: Callable[[Talk], Talk] = lambda talk: talk
    asked: Callable[[str], str] = lambda text: text
    at_once: bool = True


def fields_of(said: Said) -> dict[str, Any]:
    """Return a turn as ``add_many`` takes it; what only has a role and a text as a chat message."""
    known = {
        "speaker": said.speaker,
        "session": said.session,
        "at": said.at,
        "ref": said.ref,
        "role": said.role,
    }
    text = {"content": said.text} if said.role and not said.speaker else {"text": said.text}
    return {**text, **{name: value for name, value in known.items() if value is not None}}


def without(*fields: str) -> Callable[[Talk], Talk]:
    """Leave out what is told of a turn beside its text."""
    nothing: Mapping[str, Any] = dict.fromkeys(fields)
    return lambda talk: [replace(one, **nothing) for one in talk]


def with_one(**fields: Any) -> Callable[[Talk], Talk]:
    """Tell the same of every turn."""
    return lambda talk: [replace(one, **fields) for one in talk]


def strangers(talk: Talk) -> Talk:
    """Call speakers by names that no question holds."""
    names = numbered(talk)
    return [replace(one, speaker=one.speaker and f"participant_{names[one.speaker]}") for one in talk]


def numbered(talk: Talk) -> dict[str | None, int]:
    return {name: number for number, name in enumerate(dict.fromkeys(one.speaker for one in talk))}


def chat_roles(talk: Talk) -> Talk:
    """Let the first speaker be the user and the others the assistant, who adds much that is beside the point."""
    names, rng = numbered(talk), Random(11)
    found = []
    for one in talk:
        role = "assistant" if names[one.speaker] else "user"
        text = at_length(rng, one.text) if role == "assistant" else one.text
        found.append(replace(one, speaker=None, role=role, text=text))
    return found


def answered(talk: Talk) -> Talk:
    """Let an assistant answer each turn at length, with some of its words."""
    rng, found = Random(12), []
    for one in talk:
        found.append(replace(one, speaker=None, role="user"))
        words = re.findall(r"\w{5,}", one.text)
        echo = " and ".join(rng.sample(words, min(2, len(words))))
        reply = at_length(rng, f"Noted, {echo}." if echo else "Noted.")
        found.append(Said((), one.order, reply, None, one.session, one.at, None, "assistant"))
    return found


def at_length(rng: Random, text: str) -> str:
    """Put a text among sentences that are beside the point."""
    head, *rest = rng.sample(FILLER, rng.randint(3, 5))
    return "\n\n".join([head, text, *rest])


def in_runs(talk: Talk) -> Talk:
    """Put each few turns of a session that follow each other into one long one."""
    found: list[Said] = []
    for _, session in groupby(talk, key=lambda one: one.session):
        for run in batched(session, RUN):
            text = "\n".join(f"{one.speaker}: {one.text}" if one.speaker else one.text for one in run)
            ids = tuple(name for one in run for name in one.ids)
            found.append(replace(run[-1], ids=ids, text=text, speaker=None))
    return found


def batched(turns: Iterable[Said], size: int) -> Iterator[list[Said]]:
    rest = iter(turns)
    while run := list(islice(rest, size)):
        yield run


def shuffled(talk: Talk) -> Talk:
    """Bring the turns of each moment in any order."""
    rng = Random(13)
    place = {id(one): rng.random() for one in talk}
    return sorted(talk, key=lambda one: place[id(one)])


def plain(text: str) -> str:
    """Return a text as it is typed in haste: lower case, nothing but words."""
    return " ".join(re.findall(r"[\w']+", text.casefold()))


def typed_in_haste(talk: Talk) -> Talk:
    return [replace(one, text=plain(one.text) or one.text) for one in talk]


NOTHING = ("speaker", "session", "at", "ref")

VARIANTS: Mapping[str, Variant] = {
    variant.name: variant
    for variant in (
        Variant("as given"),
        Variant("no times", without("at")),
        Variant("one time for all", with_one(at=datetime(2024, 5, 6, 12))),
        Variant("no speakers", without("speaker")),
        Variant("speakers called otherwise", strangers),
        Variant("no sessions", without("session")),
        Variant("no sessions, no times", without("session", "at")),
        Variant("one session", with_one(session="all")),
        Variant("one session, no times", with_one(session="all", at=None)),
        Variant("texts alone", without(*NOTHING)),
        Variant("texts alone, one by one", without(*NOTHING), at_once=False),
        Variant("no references", without("ref")),
        Variant("any order", shuffled),
        Variant("user and assistant", chat_roles),
        Variant("user and assistant, nothing else", lambda talk: without(*NOTHING)(chat_roles(talk))),
        Variant("an assistant answers", answered),
        Variant("an assistant answers, nothing else", lambda talk: without(*NOTHING)(answered(talk))),
        Variant("long turns", in_runs),
        Variant("questions in haste", asked=plain),
        Variant("all in haste", typed_in_haste, plain),
    )
}
"""By name."""
