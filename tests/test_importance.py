"""What a text is worth as a memory: told when it is written, cheap, kept in the header, and used where some must go."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memos_core import MemOS, RetentionPolicy, Scope
from memos_core.cube import MemCube, Trust
from memos_core.operation.importance import importance_of
from memos_core.testing import FakeClock

TOLD = "I moved to Bergen with my sister Anna in March 2024, and we opened a bakery there."
CHAT = "Thanks, sounds good!"
QUESTION = "And how are you?"
ROLES = (None, "user", "assistant", "tool", "system")


@pytest.fixture
def memos(tmp_path: Path, clock: FakeClock) -> Iterator[MemOS]:
    with MemOS.open(tmp_path / "vault", embedder=None, clock=clock) as memos:
        yield memos


@pytest.fixture
def ada(memos: MemOS) -> Scope:
    return memos.scope(user="ada")


def add(scope: Scope, text: str, **fields: Any) -> MemCube:
    cube_id = scope.add(text, **fields).cube_id
    assert cube_id is not None
    return scope.get(cube_id)


def importance(cube: MemCube) -> float:
    assert cube.header.descriptive.importance is not None
    return cube.header.descriptive.importance


# The number


@given(st.text(max_size=3000), st.sampled_from(ROLES))
def test_every_text_has_one_importance_between_the_bounds(text: str, role: str | None) -> None:
    found = importance_of(text, role)
    assert 0.05 <= found <= 1
    assert importance_of(text, role) == found


def test_what_is_told_stands_above_small_talk_and_that_above_a_question() -> None:
    assert importance_of(TOLD) > 0.9
    assert (
        importance_of(TOLD) > importance_of("My cat is called Biscuit.") > importance_of(CHAT) > importance_of(QUESTION)
    )


@pytest.mark.parametrize("text", ["Remember that I am allergic to nuts.", "Don't forget: the key is under the stone."])
def test_what_somebody_wants_remembered_is_important(text: str) -> None:
    assert importance_of(text) >= 0.9


@pytest.mark.parametrize("text", ["Do you remember that?", "Do you remember my cat?"])
def test_to_be_asked_whether_one_remembers_is_not(text: str) -> None:
    assert importance_of(text) == 0.05


def test_a_correction_is_more_important_than_its_length() -> None:
    assert importance_of("No, it is Rex.") == 0.6 > importance_of("It is Rex.")


@pytest.mark.parametrize("more", ["on Monday", "with Ben", "42 times"])
def test_a_time_a_name_or_a_number_adds_to_a_statement(more: str) -> None:
    assert importance_of(f"I went there {more}.") > importance_of("I went there in the end.")


def test_what_an_assistant_calls_its_own_is_nobodys_life() -> None:
    assert importance_of(TOLD, "assistant") < importance_of(TOLD, "user")


def test_statements_of_other_scripts_count_by_length_and_questions_are_seen() -> None:
    told = "我叫李雷，住在北京，我的猫叫小白，今年三岁了，喜欢睡在厨房的架子上。"
    assert importance_of(told) > importance_of("谢谢！") > importance_of("你今天好吗？")


# In the header


def test_a_memory_carries_its_importance_through_the_vault(ada: Scope) -> None:
    assert importance(add(ada, TOLD)) == importance_of(TOLD)
    assert importance(add(ada, TOLD, role="assistant", ref="2")) == importance_of(TOLD, "assistant")


def test_an_edit_and_a_merge_tell_it_anew(ada: Scope) -> None:
    chat, told = add(ada, CHAT), add(ada, TOLD)
    ada.update(chat.id, "My daughter Eva was born on 3 May 2021, in Oslo.")
    assert importance(ada.get(chat.id)) > importance(chat)
    ada.rollback(chat.id, version=1)
    assert importance(ada.get(chat.id)) == importance(chat)
    merged = ada.merge([chat.id, told.id], "Well.").cube_id
    assert merged is not None
    assert importance(ada.get(merged)) == importance_of("Well.")


def test_what_has_no_importance_reads_as_it_did_before_there_was_one(ada: Scope) -> None:
    cube = add(ada, TOLD)
    descriptive = cube.header.descriptive.model_copy(update={"importance": None})
    assert "importance" not in descriptive.model_dump(mode="json")
    assert "importance" in cube.header.descriptive.model_dump(mode="json")


def test_searches_and_lists_take_importance_as_a_condition(ada: Scope) -> None:
    told, chat = add(ada, TOLD), add(ada, CHAT)
    assert [hit.id for hit in ada.search("thanks Bergen", filters={"importance": {"$gte": 0.5}})] == [told.id]
    assert [cube.id for cube in ada.list(filters={"importance": {"$lt": 0.5}})] == [chat.id]
    assert ada.count(filters={"importance": None}) == 0


def test_what_a_tool_brings_is_not_trusted_unless_the_caller_says_so(ada: Scope) -> None:
    given = [add(ada, f"What the {role} says.", role=role).header.governance.trust for role in ("user", "tool")]
    assert given == [Trust.NORMAL, Trust.UNTRUSTED]
    assert add(ada, "The rate is 4.", role="tool", trust="verified").header.governance.trust is Trust.VERIFIED


# Where some have to go


def test_over_the_limit_the_least_important_goes_and_one_use_outweighs_all(ada: Scope, clock: FakeClock) -> None:
    told, chat, used = add(ada, TOLD), add(ada, CHAT), add(ada, QUESTION)
    clock.advance(60)
    assert ada.search("how are you", k=1)[0].id == used.id
    done = ada.tidy(policy=RetentionPolicy(max_memories=2, slack=0))
    assert [each.cube_id for each in done] == [chat.id]
    assert ada.get(told.id).state == "active"


def test_small_talk_fades_where_what_was_told_is_kept(ada: Scope, clock: FakeClock) -> None:
    told, chat = add(ada, TOLD), add(ada, CHAT)
    clock.advance(100 * 86400)
    policy = RetentionPolicy(archive_unused_seconds=90 * 86400, archive_below_importance=0.5)
    (done,) = ada.tidy(policy=policy)
    assert done.cube_id == chat.id
    assert "importance 0.1" in done.reason
    assert ada.get(told.id).state == "active"
