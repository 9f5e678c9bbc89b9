"""The survey of a search: it sees what a search in SQL would see, and is up to date after every kind of change."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import numpy as np
import pytest

from memos_core.cube import Link, State
from memos_core.infrastructure.vault import MemVault, SearchFilter, Survey, Visibility, Wording
from memos_core.infrastructure.vault.conditions import SUPERSEDED_BY
from memos_core.testing import FakeClock, HashEmbedder

ADA = Visibility("ada")


@pytest.fixture
def look(vault: MemVault, clock: FakeClock, embedder: HashEmbedder) -> Callable[..., Survey]:
    def survey(text: str = "cat dog", visibility: Visibility = ADA, **conditions: Any) -> Survey:
        wording = Wording(text.split(), embedder.embed_query(text), {"pets": ("cat", "dog")})
        return vault.survey(SearchFilter(visibility, clock.now(), **conditions), wording)

    return survey


def seen(survey: Survey) -> set[str]:
    return {survey.cube_ids[number] for number in survey.rows["cube"].tolist()}


def test_counts_similarities_and_cues_belong_to_their_passages(vault: MemVault, make: Any, look: Any) -> None:
    cat, dog, none = make("a cat and a cat"), make("one dog"), make("no pets here")
    make.store(vault, cat, dog, none)
    survey = look()
    row = {survey.cube_ids[number]: place for place, number in enumerate(survey.rows["cube"].tolist())}
    assert survey.counts[:, row[cat.id]].tolist() == [2, 0]
    assert survey.counts[:, row[dog.id]].tolist() == [0, 1]
    assert survey.cues["pets"].sum() == 2
    exact = make.embedder.embed(["one dog"])[0] @ make.embedder.embed_query("cat dog")
    assert survey.similarity[row[dog.id]] == pytest.approx(exact, abs=1e-5)


def test_neighbours_stand_side_by_side_by_session_and_time(
    vault: MemVault, make: Any, clock: FakeClock, look: Any
) -> None:
    texts = [("late", "S1", 9), ("other", "S2", 1), ("early", "S1", 2), ("alone", None, 5)]
    start = clock.now()
    cubes = [make(text, session=session, at=start + timedelta(hours=hour)) for text, session, hour in texts]
    make.store(vault, *cubes)
    survey = look()
    order = [survey.cube_ids[number] for number in survey.rows["cube"].tolist()]
    assert order.index(cubes[2].id) + 1 == order.index(cubes[0].id)
    assert len(set(survey.rows["group"].tolist())) == 3


@pytest.mark.parametrize(
    ("visibility", "conditions"),
    [
        (Visibility("ada", agent="cook"), {}),
        (Visibility("ada", session="S1"), {}),
        (ADA, {"filters": {"speaker": "Ben"}}),
        (ADA, {"filters": {"tags": ["pets"]}}),
        (Visibility("bob"), {}),
    ],
)
def test_it_sees_what_sql_sees(
    vault: MemVault, make: Any, clock: FakeClock, look: Any, visibility: Visibility, conditions: dict[str, Any]
) -> None:
    plain = make("cat of all")
    make.store(
        vault,
        plain,
        make("cat of the cook", agent="cook"),
        make("cat of the clerk", agent="clerk"),
        make("cat of the morning", session="S1"),
        make("cat of the evening", session="S2", speaker="Ben"),
        make("cat with a tag", tags=("pets",)),
        make("cat of bob", user="bob"),
    )
    make.store(vault, make("cat made from the clerk's", agent="cook", sources=((plain.id, 1),)))
    with vault.read() as session:
        matches = session.word_matches(SearchFilter(visibility, clock.now(), **conditions), ["cat"])
    assert seen(look(visibility=visibility, **conditions)) == {match.cube_id for match in matches}


def test_expiry_and_validity_follow_the_clock(vault: MemVault, make: Any, clock: FakeClock, look: Any) -> None:
    now = clock.now()
    brief = make("cat for an hour", expires_at=now + timedelta(hours=1))
    later = make("cat from tomorrow on", valid_from=now + timedelta(days=1))
    past = make("cat until yesterday", valid_until=now - timedelta(days=1))
    make.store(vault, brief, later, past)
    assert seen(look()) == {brief.id}
    assert seen(look(as_of=now - timedelta(days=2))) == {brief.id, past.id}
    clock.advance(timedelta(days=2).total_seconds())
    assert seen(look()) == {later.id}


def test_what_was_superseded_is_seen_only_when_asked_for(
    vault: MemVault, make: Any, clock: FakeClock, look: Any
) -> None:
    link = Link(target="0" * 26, relation=SUPERSEDED_BY)
    old = make("cat called Tom", valid_until=clock.now(), links=(link,))
    lapsed = make("cat offer", valid_until=clock.now())
    make.store(vault, old, lapsed)
    assert seen(look()) == set()
    assert seen(look(include_superseded=True)) == {old.id}


def test_every_kind_of_change_is_seen_by_the_next_look(vault: MemVault, make: Any, look: Any) -> None:
    first, second = make("first cat", session="S1"), make("second cat")
    make.store(vault, first)
    assert seen(look()) == {first.id}
    make.store(vault, second)
    assert seen(look()) == {first.id, second.id}
    with vault.write() as session:
        session.set_state(first.id, State.ARCHIVED, author="test", reason="test")
    assert seen(look()) == {second.id}
    with vault.write() as session:
        session.set_state(first.id, State.ACTIVE, author="test", reason="test")
    changed = second.model_copy(update={"version": 2})
    with vault.write() as session:
        session.replace(changed, passages=make.passages(make("a dog now")), dedup_key=None, author="a", reason="r")
    survey = look()
    assert seen(survey) == {first.id, second.id}
    assert survey.counts.sum(axis=1).tolist() == [1, 1]
    with vault.write() as session:
        session.erase(ADA, [first.id])
    assert seen(look()) == {second.id}


def test_what_is_archived_takes_no_place_and_comes_back_whole(vault: MemVault, make: Any, look: Any) -> None:
    cubes = [make(f"cat number {number}", session="S1") for number in range(10)]
    make.store(vault, *cubes)
    before = look()

    def move(state: State, which: list[Any]) -> Survey:
        with vault.write() as session:
            for cube in which:
                session.set_state(cube.id, state, author="test", reason="test")
        return look()

    assert seen(move(State.ARCHIVED, cubes[:3])) == {cube.id for cube in cubes[3:]}
    few = move(State.ARCHIVED, cubes[3:8])
    assert seen(few) == {cube.id for cube in cubes[8:]}
    assert len(few.cube_ids) == 2  # most are out of use, so they are left out altogether
    late = make("cat number ten", session="S1")
    make.store(vault, late)
    assert seen(look()) == {*(cube.id for cube in cubes[8:]), late.id}
    with vault.write() as session:
        session.set_state(late.id, State.ARCHIVED, author="test", reason="test")
    after = move(State.ACTIVE, cubes[:8])
    assert [after.cube_ids[number] for number in after.rows["cube"].tolist()] == [
        before.cube_ids[number] for number in before.rows["cube"].tolist()
    ]
    np.testing.assert_array_equal(after.counts, before.counts)
    np.testing.assert_allclose(after.similarity, before.similarity, atol=1e-6)


def test_another_handle_on_the_same_vault_sees_what_was_committed(
    vault: MemVault, open_vault: Callable[..., MemVault], make: Any, clock: FakeClock, embedder: HashEmbedder
) -> None:
    other = open_vault()
    wanted, wording = SearchFilter(ADA, clock.now()), Wording(["cat"], embedder.embed_query("cat"))
    make.store(vault, make("one cat"))
    assert len(other.survey(wanted, wording)) == 1
    make.store(vault, make("two cat"))
    assert len(other.survey(wanted, wording)) == 2


def test_searches_and_writes_at_the_same_time_never_see_half_a_memory(vault: MemVault, make: Any, look: Any) -> None:
    def write(number: int) -> None:
        make.store(vault, make(f"cat number {number}", session="S1"))

    def read(_: int) -> int:
        survey = look()
        assert survey.counts.shape[1] == len(survey.similarity) == len(survey)
        assert not len(survey) or survey.counts[0].min() == 1
        assert not np.isnan(survey.similarity).any()
        return len(survey)

    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(write if number % 2 else read, number) for number in range(60)]
        for job in jobs:
            job.result()
    assert len(look()) == 30


def test_an_approximate_index_gives_the_same_similarities_for_what_it_proposes(
    open_vault: Callable[..., MemVault], make: Any, clock: FakeClock, embedder: HashEmbedder
) -> None:
    pytest.importorskip("chromadb")
    vault = open_vault(index="chroma")
    make.store(vault, *(make(f"cat number {number}") for number in range(20)), make("something else"))
    wording = Wording(["cat"], embedder.embed_query("cat number 3"))
    survey = vault.survey(SearchFilter(ADA, clock.now()), wording, depth=5)
    known = ~np.isnan(survey.similarity)
    assert known.sum() >= 20  # five proposals, and everything that holds the word
    assert survey.rows["length"][known].max() == 3
    assert float(np.nanmax(survey.similarity)) == pytest.approx(1.0, abs=1e-5)
