"""Memory as text for a conversation: what is known is left out, what was given stays; and what of a chat is kept."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from memos_core import MemOS, Message, Scope
from memos_core.errors import InvalidInput
from memos_core.interface.chat import ChatCall, unmarked
from memos_core.interface.exchange import chat_turns
from memos_core.render import NOTES_V1
from memos_core.testing import FakeClock, HashEmbedder

CAT = "My cat is called Biscuit."
DOG = "My dog is called Crumb."
TOWN = "I live in the old town of Lisbon."


@pytest.fixture
def ada(tmp_path: Path, clock: FakeClock) -> Iterator[Scope]:
    with MemOS.open(tmp_path / "memory", embedder=HashEmbedder(), clock=clock) as memos:
        ada = memos.scope(user="ada")
        ada.add_many([CAT, DOG, TOWN])
        yield ada


def ids(scope: Scope) -> dict[str, str]:
    return {cube.text: cube.id for cube in scope.list()}


def test_what_the_prompt_holds_already_is_left_out_of_the_context(ada: Scope) -> None:
    context = ada.context("What is my cat called?", k=2, known=["my CAT is  called biscuit.", "What is my cat called?"])
    assert CAT not in context.text
    assert DOG in context.text


def test_of_memories_that_say_the_same_one_enters(ada: Scope) -> None:
    for session in ("s1", "s2"):
        ada.add(CAT, session=session)
    assert ada.context("What is my cat called?").text.count(CAT) == 1


def test_what_was_recalled_before_stays_in_its_place(ada: Scope) -> None:
    first = ada.context("the old town of Lisbon", k=1)
    assert first.plan.cube_ids == (ids(ada)[TOWN],)
    second = ada.context("What is my cat called?", k=1, keep=first.plan.cube_ids)
    assert second.plan.cube_ids == (ids(ada)[CAT], ids(ada)[TOWN])
    assert "recalled earlier" in second.why
    third = ada.context("the old town of Lisbon", k=1, keep=second.plan.cube_ids)
    assert third.text == second.text


def test_what_was_recalled_before_leaves_when_there_is_no_room_or_it_is_gone(ada: Scope) -> None:
    keep = list(ids(ada).values())
    whole = ada.context("What is my cat called?", k=1, keep=keep)
    assert len(whole.plan.memories) == 3
    tight = ada.context("What is my cat called?", k=1, keep=keep, max_tokens=whole.tokens - 1)
    assert CAT in tight.text
    assert tight.tokens < whole.tokens
    ada.forget(ids(ada)[TOWN])
    assert TOWN not in ada.context("What is my cat called?", k=1, keep=keep).text


def test_ids_to_keep_that_are_malformed_or_anothers_are_passed_over(ada: Scope, tmp_path: Path) -> None:
    context = ada.context("What is my cat called?", k=1, keep=["nonsense", "01ARZ3NDEKTSV4RRFFQ69G5FAV"])
    assert len(context.plan.memories) == 1


def test_the_arguments_of_a_context_are_checked(ada: Scope) -> None:
    for arguments in ({"query": ""}, {"query": "x", "k": 0}, {"query": "x", "max_tokens": -1}):
        with pytest.raises(InvalidInput):
            ada.context(**arguments)  # type: ignore[arg-type]


def test_user_and_assistant_are_worth_remembering_and_the_rest_of_a_chat_is_not() -> None:
    turns = chat_turns(
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "I moved to Porto."},
            {"role": "assistant", "content": "Noted."},
            {"role": "assistant", "content": ""},
            {"role": "tool", "content": "42"},
            {"role": "user", "content": "It rains.", "name": "Ben"},
        ],
        user="ada",
        assistant="scout",
        session="s9",
    )
    assert [turn.speaker for turn in turns] == ["ada", "scout", "Ben"]
    assert {turn.session for turn in turns} == {"s9"}
    assert [turn.kind for turn in turns] == ["turn", "reply", "turn"]
    assert chat_turns([], user="ada") == []


def test_recalled_memory_is_not_remembered_again(ada: Scope) -> None:
    context = ada.context("What is my cat called?")
    assert chat_turns(context.messages, user="ada") == []
    assert chat_turns([{"role": "user", "content": context.text + "\n\nAnd now?"}], user="ada") == []
    assert NOTES_V1.heading in context.text
    marked = {"role": "user", "content": "anything", "memos": {"cube_ids": [ids(ada)[CAT]]}}
    assert chat_turns([marked], user="ada") == []


def test_a_mark_that_names_no_memory_stays_and_stops_the_search() -> None:
    asked = Message(role="user", content="Hi", memos={"cube_ids": []})  # type: ignore[call-arg]
    messages, call = unmarked([asked], ChatCall())
    assert (messages, call.memory_ids) == ([asked], [])
    recalled = Message(role="system", content=NOTES_V1.heading, memos={"cube_ids": ["one"]})  # type: ignore[call-arg]
    messages, call = unmarked([recalled, asked], ChatCall())
    assert (messages, call.memory_ids) == ([asked], ["one"])
    assert unmarked([Message(role="user", content="Hi")], ChatCall())[1].memory_ids is None
