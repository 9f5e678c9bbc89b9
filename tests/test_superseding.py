"""A new value takes the place of the old one where a relation has one value, and can be undone."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from memos_core import MemOS, Scope
from memos_core.cube import Trust
from memos_core.errors import CubeConflict, InvalidInput
from memos_core.operation.finding.search import SearchSettings
from memos_core.testing import FakeClock, HashEmbedder


@pytest.fixture
def ada(tmp_path: Path) -> Iterator[Scope]:
    settings = SearchSettings(supersede=True)
    with MemOS.open(tmp_path / "m", embedder=HashEmbedder(), clock=FakeClock(), search=settings) as memos:
        yield memos.scope(user="ada")
        memos.verify()


def texts(scope: Scope, query: str, **options: object) -> set[str]:
    return {hit.text for hit in scope.search(query, **options)}  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("My cat is called Biscuit.", "My cat is called Rex."),
        ("My favourite tea is Assam", "My favourite tea is now Darjeeling."),
        ("I live in Bergen.", "I moved to Oslo!"),
        ("Ben works at Langley Press", "Ben works for Cascade Bakery"),
        ("I am 30 years old.", "I am 31 years old."),
        ("Ada's phone number is 123", "My phone number is 456"),
    ],
)
def test_a_new_value_takes_the_place_of_the_old_one(ada: Scope, old: str, new: str) -> None:
    first = ada.add(old)
    second = ada.add(new)
    assert second.outcome == "superseded"
    assert first.cube_id is not None
    assert first.cube_id in (second.reason or "")
    assert texts(ada, old) == {new}
    assert texts(ada, old, include_superseded=True) == {old, new}
    assert ada.get(first.cube_id).text == old


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("My cat is called Biscuit.", "My dog is called Rex."),
        ("My cat is called Biscuit.", "Ben's cat is called Rex."),
        ("My cat is called Biscuit.", "My cat is called Biscuit!"),
        ("My cat is called Biscuit.", "Is my cat called Rex?"),
        ("My friend is Ann.", "My friend is Ben."),
        ("My sister is a doctor.", "My sister is tall."),
        ("I like tea.", "I like coffee."),
        ("I live in Bergen.", "I live in Oslo, at least I did when I was small, which was long ago."),
    ],
)
def test_what_may_both_be_true_stays(ada: Scope, old: str, new: str) -> None:
    ada.add(old)
    assert ada.add(new).outcome == "committed"
    assert old in texts(ada, old)


def test_as_of_an_earlier_moment_the_old_value_holds(ada: Scope) -> None:
    ada.add("I live in Bergen.", at=datetime(2024, 1, 1, tzinfo=UTC))
    ada.add("I live in Oslo.", at=datetime(2025, 1, 1, tzinfo=UTC))
    assert "I live in Bergen." in texts(ada, "live", as_of=datetime(2024, 6, 1, tzinfo=UTC))
    assert texts(ada, "live") == {"I live in Oslo."}


def test_what_was_said_earlier_or_is_trusted_less_takes_no_place(ada: Scope) -> None:
    ada.add("I live in Oslo.", at=datetime(2025, 1, 1, tzinfo=UTC), trust=Trust.VERIFIED)
    assert ada.add("I live in Bergen.", at=datetime(2024, 1, 1, tzinfo=UTC)).outcome == "committed"
    assert ada.add("I live in Lyon.", trust=Trust.UNTRUSTED).outcome == "committed"
    assert ada.add("I live in Rome.", role="assistant", speaker="ada").outcome == "committed"


def test_a_superseded_memory_can_be_reinstated(ada: Scope) -> None:
    old = ada.add("My cat is called Biscuit.").cube_id
    ada.add("My cat is called Rex.")
    assert old is not None
    ada.reinstate(old)
    assert texts(ada, "cat called") == {"My cat is called Biscuit.", "My cat is called Rex."}
    assert ada.add("My cat is called Biscuit.").outcome == "duplicate"
    with pytest.raises(InvalidInput, match="was not superseded"):
        ada.reinstate(old)


def test_an_old_value_that_is_said_again_is_new(ada: Scope) -> None:
    first = ada.add("My cat is called Biscuit.").cube_id
    ada.add("My cat is called Rex.")
    assert ada.add("My cat is called Biscuit.").outcome == "superseded"
    assert texts(ada, "cat called") == {"My cat is called Biscuit."}
    assert first is not None
    with pytest.raises(CubeConflict):
        ada.reinstate(first)


def test_a_frozen_memory_keeps_its_place(ada: Scope) -> None:
    cube_id = ada.add("My cat is called Biscuit.").cube_id
    assert cube_id is not None
    ada.freeze(cube_id)
    assert ada.add("My cat is called Rex.").outcome == "committed"


def test_it_happens_only_where_it_is_asked_for(tmp_path: Path) -> None:
    with MemOS.open(tmp_path / "plain", embedder=HashEmbedder()) as memos:
        bob = memos.scope(user="bob")
        bob.add("I live in Bergen.")
        assert bob.add("I live in Oslo.").outcome == "committed"


def test_of_two_that_add_the_same_text_at_once_one_memory_is_left(ada: Scope) -> None:
    with ThreadPoolExecutor(8) as pool:
        outcomes = [receipt.outcome for receipt in pool.map(ada.add, ["My cat is called Biscuit."] * 16)]
    assert sorted(outcomes) == ["committed"] + ["duplicate"] * 15
    assert ada.count() == 1
