"""Chats with an assistant made by program, with questions and the messages that answer them.

One person asks an assistant for help over some months. What the person tells of itself stands beside a request, whose
answer is long and speaks of the same thing; other sessions ask about the same things and tell nothing.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from random import Random

from tools.ranker.talks import EVENTS, WHEN, Asked, Said, Talk
from tools.reader import attributes as table
from tools.reader.chatter import LEADS, upper_first
from tools.reader.context import Fact, Subject, question_text, statement_text
from tools.reader.names import Inventory
from tools.reader.values import draw_value

__all__ = ["make_assistance"]

REQUESTS = (
    "Can you give me some ideas about {n}?",
    "I need some help with {n}. Where should I start?",
    "What should I keep in mind when it comes to {n}?",
    "I am thinking about {n} again. Do you have any tips?",
    "Could you write a short plan for everything around {n}?",
    "What are common mistakes people make with {n}?",
    "How much time should one plan for {n}?",
    "I have been reading about {n} lately. What do you recommend?",
    "Please help me to write a message about {n}.",
    "What questions should I ask somebody who knows about {n}?",
)
FOLLOW_UPS = (
    "Thanks! Can you make it shorter?",
    "That is helpful. Which of these should I do first?",
    "Could you put that into a table?",
    "I like the second one. Tell me more about it.",
    "Great, thank you so much!",
    "Is there anything cheaper?",
    "Okay, and what if I have only half an hour a day?",
)
OPENINGS = (
    "Of course! Here are some thoughts about {n}:",
    "Happy to help. With {n} there are a few things to look at:",
    "Great question! Let us go through {n} step by step.",
    "Here is an overview of {n} that may help you:",
)
ADVICE = (
    "Write down what you want from {n} before you spend any money.",
    "Ask two or three people who have experience with {n} and compare what they say.",
    "Set aside a fixed time each week, so that {n} does not get lost among everything else.",
    "Keep the receipts and notes in one place; you will be glad of them later.",
    "Begin with something small. A first step that works is worth more than a perfect plan.",
    "Look at reviews, but take the loudest ones with a grain of salt.",
    "Think about the season: spring and autumn are often calmer.",
    "Set a budget and add a tenth for what you did not think of.",
    "If you are unsure, sleep on it and decide in the morning.",
    "Take photos before and after, so that you can see what has changed.",
    "Many libraries have good books about {n}, and they cost nothing.",
    "Local clubs and online groups about {n} are often glad to see new faces.",
    "Do not forget to rest. Progress with {n} comes in waves.",
    "Check whether your insurance or your contract says anything about it.",
    "Talk about it with those at home, since {n} concerns them as well.",
)
CLOSINGS = (
    "Would you like more detail on any of these points?",
    "Let me know if you want an example.",
    "I hope that helps. Good luck with {n}!",
    "Shall I turn this into a checklist?",
)
PICKS = (
    "If I had to choose one name, it would be {v}.",
    "One that fits well is {v}.",
    "I would suggest {v} for this.",
)
ASKED_BACK = (
    "Which one did you recommend when we talked about {n}?",
    "Can you remind me what you suggested about {n}?",
    "What was the name that you gave me when I asked about {n}?",
)


def make_assistance(seed: int, *, sessions: int = 30) -> Talk:
    """Return the chats of a seed."""
    return Chats(Random(seed), f"assistance-{seed}").make(sessions)


class Chats:
    """Draws the chats of one person."""

    def __init__(self, rng: Random, name: str) -> None:
        self.rng = rng
        self.inventory = Inventory(invented_share=0.0)
        self.talk = Talk(name)
        self.now = datetime(2024, rng.randint(1, 6), rng.randint(1, 28), 9, tzinfo=UTC)
        self.session = ""
        self.items = rng.sample(table.PERSON_ATTRIBUTES, 24)
        self.told: set[str] = set()
        self.recommended: set[str] = set()
        self.stories = rng.sample(EVENTS, len(EVENTS))

    def make(self, sessions: int) -> Talk:
        for number in range(sessions):
            self.session = f"C{number + 1}"
            self.now += timedelta(days=self.rng.choice([1, 2, 4, 7]), hours=self.rng.randint(0, 8))
            item = self.rng.choice(self.items)
            thing = item.key.split(":")[-1].replace("_", " ")
            self.exchange(item, f"my {thing}")
            for _ in range(self.rng.randint(0, 2)):
                self.say("user", self.rng.choice(FOLLOW_UPS))
                self.say("assistant", self.reply(f"my {thing}"))
        return self.talk

    def exchange(self, item: table.Attribute, thing: str) -> None:
        """Ask about a thing, mostly with something told beside it, and be answered."""
        request = self.rng.choice(REQUESTS).format(n=thing)
        chance = self.rng.random()
        if chance < 0.55 and item.key not in self.told:
            self.fact(item, request)
        elif chance < 0.75 and self.stories:
            self.event(request)
        else:
            self.say("user", request)
        pick = ""
        if self.rng.random() < 0.2 and thing not in self.recommended:
            self.recommended.add(thing)
            pick = self.rng.choice(PICKS).format(v=self.inventory.name(self.rng, self.rng.choice(["person", "town"])))
        ref = self.say("assistant", self.reply(thing, pick))
        if pick:
            self.talk.questions.append(Asked(self.rng.choice(ASKED_BACK).format(n=thing), (ref,)))

    def fact(self, item: table.Attribute, request: str) -> None:
        self.told.add(item.key)
        fact = Fact(item, draw_value(self.rng, self.inventory, item.kind), Subject(""))
        ref = self.say("user", self.beside(statement_text(self.rng, fact, first=True), request))
        self.talk.questions.append(Asked(question_text(self.rng, fact), (ref,), fact.value))

    def event(self, request: str) -> None:
        told, asked = self.stories.pop()
        told = told.format(town=self.inventory.name(self.rng, "town"), person=self.inventory.name(self.rng, "person"))
        ref = self.say("user", self.beside(f"I {told} {self.rng.choice(WHEN)}.", request))
        self.talk.questions.append(Asked(f"When did I {asked}?", (ref,)))

    def beside(self, statement: str, request: str) -> str:
        """Put what is told before a request, after it, or by itself."""
        statement = upper_first(statement)
        spoken = f"{self.rng.choice(LEADS)}, {statement[0].lower() if statement[:2] != 'I ' else 'I'}{statement[1:]}"
        return self.rng.choice([f"{statement} {request}", f"{request} {spoken}", f"{spoken} {request}", statement])

    def reply(self, thing: str, pick: str = "") -> str:
        """Return what an assistant says at length."""
        thing = thing.replace("my ", "your ", 1)
        advice = self.rng.sample(ADVICE, self.rng.randint(4, 9))
        if pick:
            advice.insert(self.rng.randrange(len(advice)), pick)
        points = "\n".join(f"{number}. {point}" for number, point in enumerate(advice, start=1))
        return "\n\n".join([self.rng.choice(OPENINGS), points, self.rng.choice(CLOSINGS)]).format(n=thing)

    def say(self, who: str, text: str) -> str:
        ref = f"{self.session}:{len(self.talk.turns) + 1}"
        self.talk.turns.append(Said(ref, who, self.session, self.now, text))
        self.now += timedelta(seconds=self.rng.randint(20, 90))
        return ref
