"""Words are found across forms, scripts and accents."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memos_core.operation.finding.words import query_words, words


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("running dogs", "the dog runs"),
        ("Müller", "muller"),
        ("ﬁnance", "finance"),
        ("кошка", "кошки"),
        ("STRASSE", "straße"),
        ("Mira's", "Mira’s"),
    ],
)
def test_forms_of_one_word_meet(left: str, right: str) -> None:
    assert words(left).keys() & words(right).keys()


def test_text_without_spaces_is_found_by_any_two_characters() -> None:
    assert {"饼干", "猫"} <= words("我的猫叫饼干").keys()
    assert "ビス" in words("猫の名前はビスケットです")
    assert words("แมวของฉัน")


def test_mixed_scripts_keep_their_latin_words() -> None:
    assert {"biscuit", "猫"} <= words("猫はBiscuitです").keys()


def test_a_question_of_stop_words_only_keeps_them() -> None:
    assert query_words("who are you") == ("who", "are", "you")
    assert query_words("who is the cat") == ("cat",)


def test_an_endless_run_is_cut() -> None:
    assert max(map(len, words("x" * 100_000))) <= 64


@given(st.text())
def test_every_text_gives_the_same_words_twice(text: str) -> None:
    assert words(text) == words(text)
    assert set(query_words(text)) <= set(words(text))
