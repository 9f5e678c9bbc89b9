"""Invented memories: each can be asked about, the halves share nothing, and rivals come close to the own."""

from __future__ import annotations

import random
import re

import pytest

from memos_core.transform.strangers import Strangers, bundled_strangers, invented
from memos_core.transform.study import bundled_templates, study

TEMPLATES = bundled_templates()
LISTS = bundled_strangers()


def strangers(seed: int = 0, coined: float = 0.0) -> Strangers:
    return Strangers(LISTS, TEMPLATES, random.Random(seed), coined=coined)


@pytest.mark.parametrize("kind", LISTS.kinds, ids=lambda kind: f"{kind.forms[0]} {kind.things[0]}")
def test_every_statement_about_a_stranger_is_understood(kind) -> None:  # type: ignore[no-untyped-def]
    drawn = strangers()
    for _ in range(3 * len(kind.values)):
        for subject in (None, "I", "Mira"):
            text = drawn.draw(subject, kind)
            ((questions, value),) = TEMPLATES.questions(text)
            assert value in kind.values, text
            assert questions


def test_what_is_learned_chosen_by_and_examined_shares_no_name_and_no_value() -> None:
    parts = (LISTS.every(2, 0), LISTS.every(4, 1), LISTS.every(4, 3))
    assert sorted(name for part in parts for name in part.names) == sorted(LISTS.names)
    for kind, *split in zip(LISTS.kinds, *(part.kinds for part in parts), strict=True):
        assert sorted(value for each in split for value in each.values) == sorted(kind.values)
        assert all(each.values for each in split)


@pytest.mark.parametrize("kind", LISTS.kinds, ids=lambda kind: f"{kind.forms[0]} {kind.things[0]}")
def test_coined_values_are_understood_as_listed_ones_are(kind) -> None:  # type: ignore[no-untyped-def]
    drawn = strangers(coined=1.0)
    made = [drawn.draw("Mira", kind) for _ in range(30)]
    templates = {next(TEMPLATES.statements(text)).template.questions for text in made}
    plain = next(TEMPLATES.statements(strangers().draw("Mira", kind))).template.questions
    assert templates <= {plain, *(next(TEMPLATES.statements(each)).template.questions for each in listed(kind))}


def listed(kind) -> list[str]:  # type: ignore[no-untyped-def]
    drawn = strangers()
    return [drawn.draw("Mira", kind) for _ in range(3 * len(kind.values))]


@pytest.mark.parametrize(
    ("value", "like"),
    [("Biscuit", r"B\w+"), ("900 euros", r"\d{3} euros"), ("7", r"\d"), ("half past four", r"h\w+ past four")],
)
def test_near_values_begin_like_the_value_and_differ(value: str, like: str) -> None:
    drawn = strangers(3)
    for _ in range(50):
        near = drawn.near(value)
        assert near != value
        assert re.fullmatch(like, near), near


@pytest.mark.parametrize(
    ("text", "another"),
    [
        ("My cat is called Biscuit.", "'s cat is called "),
        ("I live in Lisbon.", " lives in "),
        ("We study physics.", " studies "),
        ("I grew up in Rome.", " grew up in "),
        ("I am allergic to soy.", " is allergic to "),
        ("Mira has a job at Brightwell.", " has a job at "),
    ],
)
def test_rivals_say_the_same_of_another_or_contradict(text: str, another: str) -> None:
    (statement,) = TEMPLATES.statements(text)
    drawn = strangers(1)
    turned = drawn.of_another(statement) or ""
    assert another in turned
    assert turned.split(another)[0] in LISTS.names
    against = drawn.against(statement)
    assert against.startswith(text[: text.index(statement.value)])
    assert statement.value not in against


def test_what_cannot_be_said_of_another_has_no_such_rival() -> None:
    (statement,) = TEMPLATES.statements("Lighthouse is led by Joyce.")
    assert strangers().of_another(statement) is None


def test_another_statement_about_the_same_subject_keeps_it() -> None:
    (mine,) = TEMPLATES.statements("My cat is called Biscuit.")
    (hers,) = TEMPLATES.statements("Mira's cat is called Biscuit.")
    assert strangers(2).of_the_same(mine).split()[0] in {"I", "My"}
    assert strangers(2).of_the_same(hers).startswith("Mira")


def test_what_a_speaker_says_is_theirs_in_the_question() -> None:
    (question, *_) = study([invented("My rent is 900 euros.", "Ben")], TEMPLATES).learned
    assert "Ben" in question.text


def test_the_same_seed_draws_the_same() -> None:
    assert [strangers(3).draw() for _ in range(5)] == [strangers(3).draw() for _ in range(5)]


def test_another_statement_about_the_same_subject_never_contradicts() -> None:
    (mine,) = TEMPLATES.statements("My cat is called Biscuit.")
    drawn = strangers(4)
    assert not any(drawn.of_the_same(mine).startswith("My cat ") for _ in range(3000))
