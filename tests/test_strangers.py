"""Invented memories: each can be asked about, the halves share nothing, and rivals come close to the own."""

from __future__ import annotations

import random

import pytest

from memos_core.transform.strangers import Strangers, bundled_strangers, invented
from memos_core.transform.study import bundled_templates, study

TEMPLATES = bundled_templates()
LISTS = bundled_strangers()


def strangers(seed: int = 0) -> Strangers:
    return Strangers(LISTS, TEMPLATES, random.Random(seed))


@pytest.mark.parametrize("kind", LISTS.kinds, ids=lambda kind: f"{kind.forms[0]} {kind.things[0]}")
def test_every_statement_about_a_stranger_is_understood(kind) -> None:  # type: ignore[no-untyped-def]
    drawn = strangers()
    for _ in range(3 * len(kind.values)):
        for subject in (None, "I", "Mira"):
            text = drawn.draw(subject, kind)
            ((questions, value),) = TEMPLATES.questions(text)
            assert value in kind.values, text
            assert questions


def test_what_is_learned_and_what_is_examined_share_no_name_and_no_value() -> None:
    first, second = LISTS.half(0), LISTS.half(1)
    assert not set(first.names) & set(second.names)
    assert len(first.names) + len(second.names) == len(LISTS.names)
    for one, other in zip(first.kinds, second.kinds, strict=True):
        assert not set(one.values) & set(other.values)
        assert one.values
        assert other.values


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
