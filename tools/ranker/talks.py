"""Long conversations made by program, with questions and the turns that answer them.

Two people talk over some months. What they tell comes from the attributes and phrasings of the bundled reader's
training, and from events with a time; between it stands small talk, and the other one often repeats a word of what
was said, so that words alone do not tell the answer from the echo.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random

from tools.reader import attributes as table
from tools.reader.chatter import small_talk, upper_first, wrap
from tools.reader.context import Fact, Subject, question_text, statement_text
from tools.reader.names import Inventory
from tools.reader.values import draw_value

__all__ = ["Asked", "Said", "Talk", "make_talk"]

EVENTS = (
    ("visited the aquarium in {town}", "visit the aquarium"),
    ("ran a half marathon in {town}", "run the half marathon"),
    ("bought a used piano", "buy the piano"),
    ("adopted a kitten from the shelter", "adopt the kitten"),
    ("gave a talk about bees at the library", "give the talk about bees"),
    ("painted the kitchen dark green", "paint the kitchen"),
    ("went camping by the lake near {town}", "go camping by the lake"),
    ("broke my wrist on the ice rink", "break a wrist"),
    ("met {person} for dinner at the harbour", "have dinner at the harbour"),
    ("finished the first draft of my novel", "finish the first draft of the novel"),
    ("sold the old motorbike", "sell the motorbike"),
    ("started a pottery class", "start the pottery class"),
    ("planted three apple trees", "plant the apple trees"),
    ("saw a play about Antarctica", "see the play about Antarctica"),
    ("moved into the flat in {town}", "move into the flat"),
    ("got the results of the language exam", "get the results of the exam"),
    ("repaired the roof of the shed", "repair the shed's roof"),
    ("hosted a quiz night for the neighbours", "host the quiz night"),
    ("took the night train to {town}", "take the night train"),
    ("donated my hair", "donate hair"),
)
WHEN = ("yesterday", "last week", "last weekend", "two days ago", "this morning", "last Friday", "last month", "today")
PROMPTS = ("What is new with you?", "And you?", "Tell me everything.", "How are things?", "What else is going on?")
ECHOES = ("{v}! I would never have guessed.", "{v}? Really?", "Oh, {v}. I like the sound of that.", "Did you say {v}?")


@dataclass(frozen=True, slots=True)
class Said:
    """One turn."""

    ref: str
    speaker: str
    session: str
    at: datetime
    text: str


@dataclass(frozen=True, slots=True)
class Asked:
    """A question, the references of the turns that answer it, and the answer where it is a value."""

    text: str
    gold: tuple[str, ...]
    answer: str = ""


@dataclass(slots=True)
class Talk:
    """A conversation with its questions."""

    name: str
    turns: list[Said] = field(default_factory=list)
    questions: list[Asked] = field(default_factory=list)


def make_talk(seed: int, *, sessions: int = 14, facts: int = 5, wording: int = 0) -> Talk:
    """Return the conversation of a seed: ``sessions`` meetings with some ``facts`` told in each.

    Args:
        wording: Which phrasing of the questions; what is said is the same in all.
    """
    return Maker(Random(seed), f"talk-{seed}", wording).make(sessions, facts)


class Maker:
    """Draws one conversation."""

    def __init__(self, rng: Random, name: str, wording: int = 0) -> None:
        self.rng = rng
        self.wording = wording
        self.inventory = Inventory(invented_share=0.0)
        self.talk = Talk(name)
        self.people = [Subject(one, one) for one in self.two_names()]
        self.now = datetime(2023, rng.randint(1, 6), rng.randint(1, 28), 9, tzinfo=UTC)
        self.session = ""
        self.told: set[tuple[str, str]] = set()
        self.events: dict[str, list[tuple[str, str, datetime, str]]] = {one.name: [] for one in self.people}
        self.stories = rng.sample(EVENTS, len(EVENTS))

    def two_names(self) -> list[str]:
        first = self.inventory.name(self.rng, "person")
        while (second := self.inventory.name(self.rng, "person")) == first:
            pass
        return [first, second]

    def make(self, sessions: int, facts: int) -> Talk:
        for number in range(sessions):
            self.session = f"S{number + 1}"
            self.now += timedelta(days=self.rng.choice([1, 3, 7, 12, 20]), hours=self.rng.randint(0, 8))
            for _ in range(facts):
                self.chat(self.rng.randint(1, 3))
                teller, listener = self.rng.sample(self.people, 2)
                if self.stories and self.rng.random() < 0.25:
                    self.event(teller, listener)
                else:
                    self.fact(teller, listener)
        self.ask_about_months()
        return self.talk

    def say(self, who: Subject, text: str) -> str:
        ref = f"{self.session}:{len(self.talk.turns) + 1}"
        self.talk.turns.append(Said(ref, who.name, self.session, self.now, text))
        self.now += timedelta(seconds=self.rng.randint(20, 90))
        return ref

    def chat(self, turns: int) -> None:
        for _ in range(turns):
            self.say(self.rng.choice(self.people), small_talk(self.rng))

    def fact(self, teller: Subject, listener: Subject) -> None:
        """Tell one fact of one's own, and ask for it later."""
        item = self.rng.choice(table.PERSON_ATTRIBUTES)
        if (teller.name, item.key) in self.told:
            return
        self.told.add((teller.name, item.key))
        value = draw_value(self.rng, self.inventory, item.kind)
        fact = Fact(item, value, teller)
        if self.rng.random() < 0.5:
            self.say(listener, self.rng.choice(PROMPTS))
        statement = statement_text(self.rng, fact, first=True)
        ref = self.say(teller, wrap(self.rng, statement) if self.rng.random() < 0.6 else upper_first(statement))
        if self.rng.random() < 0.6:
            self.say(listener, self.rng.choice(ECHOES).format(v=value))
        text = question_text(self.rng, fact)
        if self.wording:
            text = question_text(Random(f"{self.wording}:{self.talk.name}:{ref}"), fact)
        self.talk.questions.append(Asked(text, (ref,), value))

    def event(self, teller: Subject, listener: Subject) -> None:
        """Tell of something that happened, and ask when it did."""
        told, asked = self.stories.pop()
        told = told.format(town=self.inventory.name(self.rng, "town"), person=self.inventory.name(self.rng, "person"))
        when = self.rng.choice(WHEN)
        text = self.rng.choice([f"{upper_first(when)} I {told}.", f"I {told} {when}.", f"You know, {when} I {told}!"])
        ref = self.say(teller, text)
        self.say(listener, self.rng.choice(["How was it?", "Good for you!", "I want to hear more about that."]))
        self.talk.questions.append(Asked(f"When did {teller.name} {asked}?", (ref,)))
        self.events[teller.name].append((told, asked, self.now, ref))

    def ask_about_months(self) -> None:
        """Ask what somebody did in a month in which something happened."""
        for name, events in self.events.items():
            for month in {moment.strftime("%B %Y") for _, _, moment, _ in events}:
                gold = tuple(ref for _, _, moment, ref in events if moment.strftime("%B %Y") == month)
                self.talk.questions.append(Asked(f"What did {name} do in {month}?", gold))
