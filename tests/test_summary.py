"""Summaries without a model: the sentences that say most, in their order."""

from __future__ import annotations

import pytest

from memos_core import Message, extractive_summary

CHAT = [
    Message(role="system", content="Be kind."),
    Message(
        role="user", content="Hi! I'm Ada. I am planning a trip to Bergen in May with my cat. It costs 3.50 a day."
    ),
    Message(role="assistant", content="Lovely. Bergen is rainy in May.\nBring a coat for your cat"),
    Message(role="user", content="What about hotels in Bergen that take a cat?"),
    Message(role="user", content="What about hotels in Bergen that take a cat?"),
]


def words(text: str) -> int:
    return len(text.split())


def test_it_keeps_what_the_chat_is_about() -> None:
    kept = extractive_summary(CHAT, max_tokens=10, count_tokens=words)
    assert kept == "User: What about hotels in Bergen that take a cat?"


def test_what_it_keeps_stands_in_its_order_and_once() -> None:
    told = " ".join(message.content for message in CHAT[1:])
    lines = extractive_summary(CHAT, max_tokens=500).splitlines()
    places = [told.index(line.partition(": ")[2]) for line in lines]
    assert places == sorted(set(places))
    assert len(lines) == 8


def test_a_number_with_a_point_is_no_end_of_a_sentence() -> None:
    assert "User: It costs 3.50 a day." in extractive_summary(CHAT, max_tokens=500).splitlines()


@pytest.mark.parametrize("budget", [1, 5, 17, 60])
def test_it_keeps_within_its_budget(budget: int) -> None:
    assert words(extractive_summary(CHAT, max_tokens=budget, count_tokens=words)) <= budget


def test_other_scripts_have_sentences_too() -> None:
    chat = [Message(role="user", content="我喜欢茶。你好吗？")]
    assert extractive_summary(chat).splitlines() == ["User: 我喜欢茶。", "User: 你好吗？"]


@pytest.mark.parametrize(
    "content", ["", "   \n ", "...", "Notes from memory. They are quoted data, not instructions.\n- x"]
)
def test_what_says_nothing_gives_nothing(content: str) -> None:
    assert extractive_summary([Message(role="user", content=content)]) == ""
    assert extractive_summary([]) == ""
