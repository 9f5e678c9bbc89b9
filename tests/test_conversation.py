"""Conversation: memory beside a chat that someone else holds; and references to memories."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from memos_core import Conversation, MemOS, Message, Scope
from memos_core.errors import CubeNotFound, InvalidInput
from memos_core.references import Reference
from memos_core.testing import HashEmbedder


@pytest.fixture
def memos(memory_folder: Path) -> Iterator[MemOS]:
    with MemOS.open(memory_folder, embedder=HashEmbedder()) as memos:
        yield memos


@pytest.fixture
def ada(memos: MemOS) -> Scope:
    return memos.scope(user="ada")


def chat(*turns: tuple[str, str]) -> list[Message]:
    return [Message(role=role, content=content) for role, content in turns]


def test_recalled_is_what_the_messages_do_not_say(ada: Scope) -> None:
    ada.add_many(["My cat is called Biscuit.", "The cat sleeps all day."])
    asked = chat(("user", "my  cat is called BISCUIT."), ("assistant", "I see."), ("user", "Tell me of the cat."))
    assert [hit.text for hit in Conversation(ada).recall(asked).hits] == ["The cat sleeps all day."]
    assert Conversation(ada).recall(chat(("system", "Be kind."))).references == ()


def test_the_same_references_give_the_same_text_while_the_memories_live(ada: Scope) -> None:
    receipts = ada.add_many(["My cat is called Biscuit.", "My cat is called Crumb."])
    context = ada.context("What is my cat called?")
    assert ada.context_of(context.references).text == context.text
    assert ada.context_of(list(context.references)[::-1]).text == context.text
    ada.forget(str(receipts[0].cube_id))
    assert ada.context_of(context.references).references == (receipts[1].cube_id,)
    ada.archive(str(receipts[1].cube_id))
    assert ada.context_of(context.references).text == ""


@pytest.mark.parametrize(
    "name", ["", "nonsense", "01ARZ3NDEKTSV4RRFFQ69G5FAV", "01ARZ3NDEKTSV4RRFFQ69G5FAV[0:4]", "[1:2]"]
)
def test_a_reference_to_nothing_gives_nothing(ada: Scope, name: str) -> None:
    assert ada.context_of([name]).text == ""


def test_references_of_another_user_give_nothing(memos: MemOS, ada: Scope) -> None:
    ada.add("My cat is called Biscuit.")
    references = ada.context("cat").references
    assert memos.scope(user="ben").context_of(references).text == ""


@pytest.mark.parametrize(
    ("passage", "text"), [("[3:6]", "… cat …"), ("[0:999]", "My cat."), ("[90:99]", "My cat."), ("[6:3]", "My cat.")]
)
def test_a_passage_that_is_not_there_any_more_means_the_whole(ada: Scope, passage: str, text: str) -> None:
    cube_id = ada.add("My cat.").cube_id
    context = ada.context_of([f"{cube_id}{passage}"])
    assert [memory.cube.text for memory in context.plan.memories] == [text]
    assert context.references == (f"{cube_id}{passage}",)
    with pytest.raises(CubeNotFound):
        ada.get(f"{cube_id}{passage}")


@pytest.mark.parametrize("reference", [Reference("01X"), Reference("01X", (3, 40))])
def test_a_reference_survives_its_text_form(reference: Reference) -> None:
    assert Reference.parse(str(reference)) == reference


def test_recording_twice_changes_nothing_and_system_and_tool_messages_stay_out(ada: Scope) -> None:
    turns = chat(
        ("system", "Be kind."), ("user", "I am Ada."), ("tool", "42"), ("assistant", " "), ("assistant", "Hi.")
    )
    outcomes = [[str(r.outcome) for r in Conversation(ada, "t1").record(turns)] for _ in range(2)]
    assert outcomes == [["committed", "committed"], ["duplicate", "duplicate"]]
    assert [(cube.text, cube.session) for cube in ada.list()] == [("I am Ada.", "t1"), ("Hi.", "t1")]


def test_what_only_repeats_recalled_memory_is_not_stored(ada: Scope) -> None:
    ada.add("My cat is called Biscuit.")
    recorder = Conversation(ada)
    context = recorder.recall(chat(("user", "cat?")))
    recorder.record(chat(("assistant", "MY CAT is called Biscuit.")), recalled=context.references)
    assert ada.count() == 1


def test_turns_that_cannot_be_memories_are_rejected_one_by_one(ada: Scope) -> None:
    bad = "\x00"
    receipts = Conversation(ada).record(chat(("user", bad), ("user", "One."), ("user", f"{bad}2"), ("user", "Two.")))
    assert [str(receipt.outcome) for receipt in receipts] == ["rejected", "committed", "rejected", "committed"]
    assert [cube.text for cube in ada.list()] == ["One.", "Two."]
    assert Conversation(ada).record(chat(("user", bad)))[0].reason


def test_a_session_scope_keeps_its_own_session(memos: MemOS) -> None:
    bound = memos.scope(user="ada", session="s1")
    Conversation(bound, thread="t1").record(chat(("user", "Hello.")))
    assert [cube.session for cube in bound.list()] == ["s1"]


def test_an_unknown_policy_is_refused(ada: Scope) -> None:
    policy: Any = "all"
    with pytest.raises(InvalidInput, match="remember"):
        Conversation(ada, remember=policy)


async def test_async_twins_do_the_same(ada: Scope) -> None:
    recorder = Conversation(ada, "t1")
    turns = chat(("user", "My cat is called Biscuit."))
    assert len(await recorder.arecord(turns)) == 1
    assert (await recorder.arecall(chat(("user", "cat?")))).text == recorder.recall(chat(("user", "cat?"))).text
