"""Questions made from memories by templates, and the answers that the memories give."""

from __future__ import annotations

import pytest
from engine_parts import cubes
from hypothesis import given
from hypothesis import strategies as st

from memos_core.transform.study import Question, bundled_templates, parse_templates, study

TEMPLATES = bundled_templates()


@pytest.mark.parametrize(
    ("text", "question", "value"),
    [
        ("My cat is called Biscuit.", "What is my cat called?", "Biscuit"),
        ("Mira's cat is called Biscuit.", "What is Mira's cat called?", "Biscuit"),
        ("I live in Lisbon now.", "Where do I live?", "Lisbon"),
        ("Ada Quist lives in Lisbon!", "Where does Ada Quist live?", "Lisbon"),
        ("Ben's exam is on Friday.", "When is Ben's exam?", "Friday"),
        ("My exam is at half past four.", "At what time is my exam?", "half past four"),
        ("Ben has a job at Brightwell.", "Where does Ben work?", "Brightwell"),
        ("Ben is allergic to soy", "What is Ben allergic to?", "soy"),
        ("We are allergic to soy.", "What are we allergic to?", "soy"),
        ("The code of my garage is 4417.", "What is the code of my garage?", "4417"),
        ("Lighthouse is led by Joyce.", "Who leads Lighthouse?", "Joyce"),
    ],
)
def test_a_statement_becomes_a_question_and_its_answer(text: str, question: str, value: str) -> None:
    ((phrasings, found),) = TEMPLATES.questions(text)
    assert question in phrasings
    assert found == value


def test_what_is_mine_in_a_statement_is_the_speakers_in_a_question() -> None:
    ((phrasings, _),) = TEMPLATES.questions("My cat is called Biscuit.", speaker="Ben")
    assert phrasings[0] == "What is Ben's cat called?"
    ((phrasings, _),) = TEMPLATES.questions("I live in Lisbon.", speaker="Ben")
    assert phrasings[0] == "Where does Ben live?"


def test_every_sentence_of_a_memory_is_looked_at() -> None:
    found = TEMPLATES.questions("Hello there. I moved to Bergen. What a week! My rent is 900 euros.")
    assert [value for _, value in found] == ["Bergen", "900 euros"]


def test_learned_and_held_out_questions_share_no_phrasing() -> None:
    made = study(cubes("My cat is called Biscuit.", "I live in Lisbon."), TEMPLATES)
    assert made.facts == 2
    assert {question.fact for question in made.held_out} == {0, 1}
    assert not {question.text for question in made.learned} & {question.text for question in made.held_out}


def test_a_question_with_one_phrasing_is_learned_and_asked_alike() -> None:
    pattern = {"statements": ["{who} (collect|collects) {value}"], "questions": ["What {do} {who} collect?"]}
    made = study(cubes("Thora collects maps."), parse_templates({"name": "x", "patterns": [pattern], "others": []}))
    assert [question.text for question in made.learned] == [question.text for question in made.held_out]


def test_a_memory_without_a_statement_has_no_questions() -> None:
    assert study(cubes("Hm, well, perhaps.", "", "   ", "?!"), TEMPLATES).facts == 0


def test_the_statements_about_nobody_each_have_a_question() -> None:
    assert study(cubes(*TEMPLATES.others), TEMPLATES).facts == len(TEMPLATES.others)


def test_every_template_has_phrasings_to_learn_and_one_to_hold_out() -> None:
    assert min(len(template.questions) for template in TEMPLATES.templates) >= 4


@given(st.text())
def test_any_text_is_taken(text: str) -> None:
    for phrasings, value in TEMPLATES.questions(text):
        assert phrasings
        assert value


@pytest.mark.parametrize(
    ("answer", "right"), [("Biscuit", True), ("It is called biscuit.", True), ("Biscuits", False), ("", False)]
)
def test_an_answer_is_right_where_it_holds_the_value_as_words(answer: str, right: bool) -> None:
    assert Question("?", 0, 0, "Biscuit").answered_by(answer) is right


def test_a_statement_is_told_again_with_other_words_in_its_slots() -> None:
    (found,) = TEMPLATES.statements("My cat is called Biscuit.")
    assert found.replaced(whose="Mira's", value="Rex") == "Mira's cat is called Rex."
    assert (found.slot("thing"), found.slot("name")) == ("cat", "")
