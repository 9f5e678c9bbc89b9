"""What use says about the shape of memories: proposals to merge and to split, adopted by hand or in the background."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memos_core import LearningSettings, MemOS, Proposal, RestructuringPolicy, Scope
from memos_core.cube import Descriptive, Governance, Header, MemCube, MemoryType, PlaintextPayload
from memos_core.errors import InvalidInput, SourcesChanged
from memos_core.infrastructure.vault.learning import Recall, RecalledCube
from memos_core.operation.learning.experience import Use
from memos_core.operation.learning.proposals import proposed, regions_of
from memos_core.operation.learning.used import sentences, span_used
from memos_core.principal import Principal
from memos_core.testing import FakeClock

Open = Callable[..., MemOS]
NOTED = LearningSettings(enabled=True, least_requests=5)
POLICY = RestructuringPolicy()
CAT, FOOD, BOAT = "The cat is called Biscuit.", "The cat is fed tuna on Fridays.", "The boat is called Anna."
LONG = (
    "The ferry to Vega leaves at nine from the north quay. Tickets are sold on board and cost forty crowns. "
    "The hut on the island belongs to the Larsens, who come there in August with their children and two dogs. "
    "Its key hangs behind the blue barrel, next to the oars. Firewood is stacked below the stairs and must stay dry. "
    "The stove smokes when the wind comes from the west, and then the window over the bench has to be opened a little."
)
KEY = "Its key hangs behind the blue barrel, next to the oars."


@pytest.fixture
def memos(open_memos: Open) -> MemOS:
    return open_memos(learning=NOTED)


@pytest.fixture
def ada(memos: MemOS) -> Scope:
    return memos.scope(user="ada")


def add(scope: Scope, text: str, **fields: Any) -> str:
    cube_id = scope.add(text, **fields).cube_id
    assert cube_id is not None
    return cube_id


def ask(scope: Scope, clock: FakeClock, answer: str, times: int = 4, about: str = "What is the cat") -> None:
    """Ask different questions that are answered alike by a model of one's own."""
    for number in range(times):
        context = scope.context(f"{about}, question {number}?", max_tokens=1000)
        scope.feedback(context, answer=answer)
        clock.advance(3600)


def texts(scope: Scope) -> set[str]:
    return {cube.text for cube in scope.list(limit=100)}


# Which part of a memory was used


def test_sentences_cover_a_text_in_order() -> None:
    spans = sentences(LONG)
    assert [LONG[start:end] for start, end in spans][3] == KEY
    assert len(spans) == 6
    assert sentences("他住在东京。他有一只猫。") == [(0, 6), (6, 12)]


@given(st.text(max_size=300))
def test_sentences_never_overlap(text: str) -> None:
    spans = sentences(text)
    assert all(start < end <= len(text) for start, end in spans)
    assert all(before[1] <= after[0] for before, after in zip(spans, spans[1:], strict=False))


def test_the_part_that_an_answer_used_is_found() -> None:
    start = LONG.index(KEY)
    assert span_used("Behind the blue barrel.", LONG) == (start, start + len(KEY))
    both = span_used("At nine; the key is behind the barrel.", LONG)
    assert both == (0, start + len(KEY))
    assert span_used("I do not know.", LONG) is None
    assert span_used("Biscuit", CAT) is None  # a single short sentence


# The rules


def recall(number: int, shares: dict[str, float], spans: dict[str, tuple[int, int]] | None = None) -> Recall:
    cubes = tuple(RecalledCube(key, (), share, span=(spans or {}).get(key)) for key, share in shares.items())
    at = FakeClock().now() + timedelta(days=1, hours=number)
    return Recall(f"{number:026}", Principal("ada"), at, f"q{number}", "ask", "f", (), cubes)


def uses(recalls: Sequence[Recall]) -> list[Use]:
    return [Use(n, cube.cube_id, bool(cube.share)) for n, one in enumerate(recalls) for cube in one.cubes]


@given(
    st.lists(st.dictionaries(st.sampled_from("abcde"), st.sampled_from([0.0, 0.5, 1.0]), min_size=1), max_size=12),
    st.randoms(),
)
def test_proposals_keep_within_the_policy_whatever_was_used(given_shares: list[dict[str, float]], rng: Any) -> None:
    cubes = {name: cube_of(name, LONG if rng.random() < 0.5 else f"Short {name}.") for name in "abcde"}
    edges = sorted(rng.sample(range(len(LONG)), 2))
    spans = dict.fromkeys("abcde", (edges[0], edges[1]))
    recalls = [recall(number, shares, spans) for number, shares in enumerate(given_shares)]
    found = proposed("ada", recalls, uses(recalls), list(cubes.values()), POLICY)
    assert found == proposed("ada", recalls, uses(recalls), list(reversed(cubes.values())), POLICY)
    merged = [cube_id for each in found if each.action == "merge" for cube_id in each.cube_ids]
    assert len(merged) == len(set(merged))
    known = {cube.id: cube.text for cube in cubes.values()}
    for each in found:
        assert each.questions >= POLICY.least_questions
        if each.action == "merge":
            assert 2 <= len(each.cube_ids) <= POLICY.max_group
            assert len(each.texts[0]) <= POLICY.max_chars
            assert all(known[cube_id] in each.texts[0] for cube_id in each.cube_ids)
        else:
            assert 2 <= len(each.texts) <= POLICY.max_parts
            (cube_id,) = each.cube_ids
            assert "".join("".join(each.texts).split()) == "".join(known[cube_id].split())


def cube_of(name: str, text: str) -> MemCube:
    at = FakeClock().now()
    descriptive = Descriptive(id=name, type=MemoryType.PLAINTEXT, created=at, updated=at)
    header = Header(descriptive=descriptive, governance=Governance(owner="ada", namespace="ada"))
    return MemCube(header=header, payload=PlaintextPayload(text=text))


def test_what_covers_and_what_is_apart() -> None:
    assert regions_of([(0, 5), (3, 9), (20, 30), (25, 27)]) == [(0, 9), (20, 30)]


# Merges


def test_what_is_always_used_together_is_to_be_one(ada: Scope, clock: FakeClock) -> None:
    cat, food, _ = add(ada, CAT), add(ada, FOOD), add(ada, BOAT)
    ask(ada, clock, "Biscuit, tuna.")
    (found,) = ada.proposals()
    assert (found.action, found.cube_ids, found.questions) == ("merge", (cat, food), 4)
    assert found.texts == (f"{CAT}\n{FOOD}",)
    assert texts(ada) == {CAT, FOOD, BOAT}  # nothing happens by itself
    (receipt,) = ada.adopt(found.id)
    assert receipt.cube_id is not None
    assert texts(ada) == {found.texts[0], BOAT}
    assert "4 of 4 questions" in ada.history(receipt.cube_id)[0].reason
    assert ada.history(receipt.cube_id)[0].author == "ada"
    assert ada.proposals() == ()


def test_what_was_reverted_is_not_proposed_again(ada: Scope, clock: FakeClock) -> None:
    add(ada, CAT), add(ada, FOOD)
    ask(ada, clock, "Biscuit, tuna.")
    (receipt,) = ada.adopt(ada.proposals()[0].id)
    assert receipt.cube_id is not None
    ada.revert(receipt.cube_id)
    assert texts(ada) == {CAT, FOOD}
    ask(ada, clock, "Biscuit, tuna.", about="And what is the cat")
    assert ada.proposals() == ()


@pytest.mark.parametrize(("answers", "times"), [(["Biscuit, tuna"], 2), (["Biscuit, tuna", "Biscuit"], 4)])
def test_few_questions_and_use_of_one_alone_speak_for_nothing(
    ada: Scope, clock: FakeClock, answers: list[str], times: int
) -> None:
    add(ada, CAT), add(ada, FOOD), add(ada, BOAT)
    for number, answer in enumerate(answers):
        ask(ada, clock, answer, times, about=f"What is the cat {number}")
    assert ada.proposals() == ()


def test_the_same_question_many_times_is_one(ada: Scope, clock: FakeClock) -> None:
    add(ada, CAT), add(ada, FOOD), add(ada, BOAT)
    for _ in range(9):
        ada.feedback(ada.context("What is the cat?", max_tokens=1000), answer="Biscuit, tuna.")
        clock.advance(3600)
    assert ada.proposals() == ()


def test_texts_of_two_speakers_or_days_keep_them(ada: Scope, clock: FakeClock) -> None:
    add(ada, CAT, speaker="Ada", at=clock.now()), add(ada, FOOD, speaker="Ben", at=clock.now())
    ask(ada, clock, "Biscuit, tuna.")
    day = FakeClock().now().date().isoformat()
    assert ada.proposals()[0].texts == (f"Ada, {day}: {CAT}\nBen, {day}: {FOOD}",)


@pytest.mark.parametrize(
    "fields",
    [{"ttl_seconds": 10**8}, {"sensitivity": "secret"}, {"trust": "untrusted"}, {"session": "S1"}, {"kind": "note"}],
    ids=lambda fields: next(iter(fields)),
)
def test_what_is_seen_handled_or_kept_otherwise_is_never_put_together(
    ada: Scope, clock: FakeClock, fields: dict[str, Any]
) -> None:
    add(ada, CAT), add(ada, FOOD, **fields), add(ada, BOAT)
    ask(ada, clock, "Biscuit, tuna.")
    assert ada.proposals() == ()


def test_frozen_edited_and_archived_memories_are_left_alone(ada: Scope, clock: FakeClock) -> None:
    cat, food = add(ada, CAT), add(ada, FOOD)
    ask(ada, clock, "Biscuit, tuna.")
    assert len(ada.proposals()) == 1
    ada.freeze(cat)
    assert ada.proposals() == ()
    ada.freeze(cat, frozen=False)
    ada.archive(food)
    assert ada.proposals() == ()
    ada.archive(food, archived=False)
    ada.update(food, "The cat is fed herring on Sundays.")
    assert ada.proposals() == ()


# Splits


def test_a_long_memory_used_in_one_part_is_to_be_cut_there(ada: Scope, clock: FakeClock) -> None:
    long, _ = add(ada, LONG), add(ada, BOAT)
    ask(ada, clock, "Behind the blue barrel, next to the oars.")
    (found,) = ada.proposals()
    assert (found.action, found.cube_ids) == ("split", (long,))
    assert KEY in found.texts
    assert " ".join(found.texts) == LONG
    made = [receipt.cube_id for receipt in ada.adopt(found.id)]
    assert texts(ada) == {*found.texts, BOAT}
    assert ada.proposals() == ()  # parts are not put together again
    assert made[0] is not None
    ada.revert(made[0])
    assert texts(ada) == {LONG, BOAT}
    assert ada.proposals() == ()


def test_a_long_memory_that_is_used_all_over_stays(ada: Scope, clock: FakeClock) -> None:
    add(ada, LONG), add(ada, BOAT)
    ask(ada, clock, "At nine from the north quay; when wind is west the window over the bench has to be opened.")
    assert ada.proposals() == ()


# Whose


def test_one_users_use_proposes_and_moves_nothing_of_anothers(memos: MemOS, ada: Scope, clock: FakeClock) -> None:
    bob = memos.scope(user="bob")
    for scope in (ada, bob):
        add(scope, CAT), add(scope, FOOD), add(scope, LONG)
    before = [(hit.text, hit.score) for hit in bob.search("What does the cat eat?", k=5)]
    ask(ada, clock, "Biscuit, tuna.")
    ask(ada, clock, "Behind the blue barrel, next to the oars.", about="Where is it")
    found = ada.proposals()
    assert {each.action for each in found} == {"merge", "split"}
    assert bob.proposals() == ()
    for each in found:
        with pytest.raises(InvalidInput):
            bob.adopt(each.id)
        ada.adopt(each.id)
    assert texts(bob) == {CAT, FOOD, LONG}
    assert [(hit.text, hit.score) for hit in bob.search("What does the cat eat?", k=5)] == before


def test_what_another_user_granted_is_not_reshaped(memos: MemOS, ada: Scope, clock: FakeClock) -> None:
    bob = memos.scope(user="bob")
    add(ada, CAT)
    shared = add(bob, FOOD)
    bob.grant("ada", "read", cube_id=shared)
    ask(ada, clock, "Biscuit, tuna.")
    assert ada.proposals() == ()


def test_a_session_is_told_of_its_own_requests_alone(ada: Scope, clock: FakeClock) -> None:
    add(ada, CAT), add(ada, FOOD)
    inside = ada.scope(session="S1")
    ask(ada.scope(session="S2"), clock, "Biscuit, tuna.")
    assert inside.proposals() == ()
    assert len(ada.proposals()) == 1


# By itself


def test_nothing_is_reshaped_in_the_background_unless_the_settings_say_so(
    ada: Scope, memos: MemOS, clock: FakeClock
) -> None:
    add(ada, CAT), add(ada, FOOD)
    ask(ada, clock, "Biscuit, tuna.", 6)
    memos.run_pending()
    assert texts(ada) == {CAT, FOOD}


def test_background_work_reshapes_within_its_bound_and_leaves_the_rest(open_memos: Open, clock: FakeClock) -> None:
    policy = RestructuringPolicy(max_changes=1)
    memos = open_memos(learning=NOTED.model_copy(update={"restructuring": policy}))
    ada = memos.scope(user="ada")
    add(ada, CAT), add(ada, FOOD), add(ada, LONG)
    ask(ada, clock, "Biscuit, tuna.", 5)
    ask(ada, clock, "Behind the blue barrel, next to the oars.", about="Where is it")
    memos.run_pending()
    assert texts(ada) == {f"{CAT}\n{FOOD}", LONG}
    assert [each.action for each in ada.proposals()] == ["split"]
    memos.run_pending()  # it is not time yet
    assert LONG in texts(ada)
    clock.advance(policy.every_seconds)
    memos.run_pending()
    assert LONG not in texts(ada)
    (merged,) = [cube for cube in ada.list(limit=10) if cube.text.startswith(CAT)]
    assert ada.history(merged.id)[0].author == "memos"
    assert set(ada.revert(merged.id)) == {cube.id for cube in ada.list(limit=10) if cube.text in (CAT, FOOD)}
    memos.verify()


def test_what_cannot_be_done_does_not_stop_background_work(open_memos: Open, clock: FakeClock) -> None:
    noted = NOTED.model_copy(update={"restructuring": POLICY})
    ada = open_memos(learning=NOTED).scope(user="ada")
    add(ada, CAT), add(ada, FOOD), add(ada, LONG)
    ask(ada, clock, "Biscuit, tuna.", 5)
    ask(ada, clock, "Behind the blue barrel, next to the oars.", about="Where is it")
    ada._layers.feedback.flush()
    memos = open_memos(learning=noted, max_text_chars=len(CAT) + 1)  # no room for any text that would come
    memos.run_pending()
    assert texts(ada) == {CAT, FOOD, LONG}
    assert len(memos.scope(user="ada").proposals()) == 2


def test_a_proposal_for_an_earlier_version_changes_nothing(ada: Scope, clock: FakeClock) -> None:
    add(ada, CAT), add(ada, FOOD)
    ask(ada, clock, "Biscuit, tuna.")
    (found,) = ada.proposals()
    older = Proposal(found.user, found.action, ((found.sources[0][0], 7), found.sources[1]), found.texts, "", 4)
    with pytest.raises(SourcesChanged):
        ada._layers.restructuring._carry_out(Principal("ada"), older, "ada")
    with pytest.raises(InvalidInput):
        ada.adopt("nonsense")
    assert texts(ada) == {CAT, FOOD}


def test_forgetting_a_source_takes_the_merged_memory_and_the_proposals(ada: Scope, clock: FakeClock) -> None:
    cat = add(ada, CAT)
    add(ada, FOOD)
    ask(ada, clock, "Biscuit, tuna.")
    ada.adopt(ada.proposals()[0].id)
    ada.forget(cat)
    assert texts(ada) == set()
    assert ada.proposals() == ()


# What memories contribute to answers


def test_what_memories_contribute_to_answers_is_counted(ada: Scope, memos: MemOS, clock: FakeClock) -> None:
    cat, boat = add(ada, CAT), add(ada, BOAT)
    ask(ada, clock, "Biscuit.", 6, about="What is called what")
    memos.run_pending()
    assert ada.get(cat).header.behaviour.contribution == 1
    assert ada.get(boat).header.behaviour.contribution == 0
    assert [cube.id for cube in ada.list(filters={"contribution": {"$lt": 0.1}})] == [boat]
