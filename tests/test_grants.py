"""Rights between scopes: what is granted is found, read and quoted; what is not leaves no trace."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from memos_core import MemOS
from memos_core.errors import CubeNotFound, InvalidInput, InvalidName
from memos_core.scope import Scope
from memos_core.testing import FakeClock, HashEmbedder


@pytest.fixture
def memos(memory_folder: Path, clock: FakeClock) -> Iterator[MemOS]:
    with MemOS.open(memory_folder, embedder=HashEmbedder(), clock=clock) as opened:
        yield opened


@pytest.fixture
def ada(memos: MemOS) -> Scope:
    return memos.scope(user="ada")


@pytest.fixture
def bob(memos: MemOS) -> Scope:
    return memos.scope(user="bob")


def added(scope: Scope, text: str, **fields: object) -> str:
    cube_id = scope.add(text, **fields).cube_id  # type: ignore[arg-type]
    assert cube_id is not None
    return cube_id


def found(scope: Scope, query: str, **conditions: object) -> set[str]:
    return {hit.id for hit in scope.search(query, k=50, **conditions)}  # type: ignore[arg-type]


def test_a_granted_memory_is_found_and_read_until_it_is_revoked(ada: Scope, bob: Scope) -> None:
    cat, dog = added(ada, "My cat is called Biscuit."), added(ada, "My dog is called Rex.")
    added(bob, "My own cat is called Tom.")
    assert found(bob, "cat called") & {cat, dog} == set()
    record = ada.grant("bob", "read", cube_id=cat)
    assert (record.owner, record.grantee, record.cube_id, record.author) == ("ada", "bob", cat, "ada")
    (hit,) = [hit for hit in bob.search("What is the cat called?") if hit.id == cat]
    assert (hit.shared, hit.owner, hit.text) == (True, "ada", "My cat is called Biscuit.")
    assert bob.get(cat).shared
    assert dog not in found(bob, "dog called Rex")
    with pytest.raises(CubeNotFound):
        bob.get(dog)
    assert ada.revoke("bob", cube_id=cat) == (record,)
    assert cat not in found(bob, "cat called Biscuit")
    with pytest.raises(CubeNotFound):
        bob.get(cat)
    assert ada.revoke("bob", cube_id=cat) == ()


def test_a_granted_memory_is_quoted_with_its_owner(ada: Scope, bob: Scope) -> None:
    cat = added(ada, "My cat is called Biscuit.")
    said = added(ada, "I like green tea.", speaker="Ada L.")
    ada.grant("bob", cube_id=cat)
    ada.grant("bob", cube_id=said)
    text = bob.context("What is the cat called? Who likes green tea?").text
    assert "- shared by ada: My cat is called Biscuit." in text
    assert "- Ada L., shared by ada: I like green tea." in text
    assert "shared by" not in ada.context("What is the cat called?").text


def test_what_is_kept_for_a_reader_follows_each_change_as_if_it_were_read_anew(
    memos: MemOS, ada: Scope, bob: Scope
) -> None:
    ids = [added(ada, f"The cat of number {number} sleeps.", session=f"S{number % 3}") for number in range(12)]
    ada.grant("bob", whole_scope=True)
    vault = memos._layers.vault

    def searched() -> list[tuple[str, float, str]]:
        return [(hit.id, hit.score, hit.text) for hit in bob.search("the cat sleeps in number seven", k=50)]

    def changes() -> Iterator[object]:
        yield ada.update(ids[7], "The cat of number seven is awake in the garden.")
        yield ada.rollback(ids[7], version=1)
        yield ada.freeze(ids[3])
        yield ada.archive(ids[0])
        yield ada.add("A cat of number seven that came later.")
        yield ada.update(ids[1], "No animal at all.")
        yield ada.grant("bob", cube_id=ids[2])
        yield ada.forget(ids[4])
        yield ada.revoke("bob")

    searched()
    for change in changes():
        kept = searched()
        vault.granted.drop()
        assert kept == searched(), change
    assert kept == []


def test_a_whole_scope_is_shared_with_what_comes_later(ada: Scope, bob: Scope) -> None:
    cat = added(ada, "My cat is called Biscuit.")
    pin = added(ada, "The pin of the cat flap is 4711.", sensitivity="secret")
    ada.grant("bob", whole_scope=True)
    later = added(ada, "The cat likes tuna.")
    assert found(bob, "cat") == {cat, later}
    with pytest.raises(CubeNotFound):
        bob.get(pin)
    ada.revoke("bob")
    assert found(bob, "cat") == set()


def test_the_scope_of_a_session_shares_what_is_bound_to_it(ada: Scope, bob: Scope) -> None:
    own = added(ada, "A cat at home.")
    plan = added(ada, "The cat goes to the vet.", session="S1")
    other = added(ada, "The cat is asleep.", session="S2")
    ada.scope(session="S1").grant("bob", whole_scope=True)
    assert found(bob, "cat") == {plan}
    assert found(bob.scope(session="S2"), "cat") == {plan}
    for cube_id in (own, other):
        with pytest.raises(CubeNotFound):
            bob.get(cube_id)


def test_a_grant_ends_by_itself(ada: Scope, bob: Scope, clock: FakeClock) -> None:
    cat = added(ada, "My cat is called Biscuit.")
    ada.grant("bob", cube_id=cat, until=clock.now() + timedelta(hours=1))
    assert found(bob, "cat") == {cat}
    clock.advance(3600)
    assert found(bob, "cat") == set()
    assert ada.grants() == []
    with pytest.raises(CubeNotFound):
        bob.get(cat)


def test_what_the_owner_does_counts_at_once(ada: Scope, bob: Scope) -> None:
    cat = added(ada, "My cat is called Biscuit.")
    ada.grant("bob", cube_id=cat)
    assert found(bob, "cat") == {cat}
    ada.update(cat, "My cat is called Crumb.")
    assert [hit.text for hit in bob.search("cat called")] == ["My cat is called Crumb."]
    assert ada.get(cat).header.governance.grants[0].grantee == "bob"
    ada.archive(cat)
    assert found(bob, "cat") == set()
    with pytest.raises(CubeNotFound):
        bob.get(cat)
    ada.archive(cat, archived=False)
    assert found(bob, "cat") == {cat}
    ada.forget(cat)
    assert found(bob, "cat") == set()


def test_who_reads_cannot_change_or_grant_on(ada: Scope, bob: Scope, memos: MemOS) -> None:
    cat = added(ada, "My cat is called Biscuit.")
    ada.grant("bob", cube_id=cat)
    before = ada.get(cat)
    attempts = [
        lambda: bob.update(cat, "changed"),
        lambda: bob.forget(cat),
        lambda: bob.archive(cat),
        lambda: bob.freeze(cat),
        lambda: bob.history(cat),
        lambda: bob.grant("carol", cube_id=cat),
        lambda: bob.revoke("carol", cube_id=cat),
        lambda: bob.grants(cube_id=cat),
        lambda: bob.renew(cat),
        lambda: bob.link(added(bob, "x"), cat, "about"),
        lambda: bob.merge([cat, added(bob, "y")], "z"),
        lambda: bob.split(cat, ["a", "b"]),
        lambda: bob.diff(cat),
    ]
    for attempt in attempts:
        with pytest.raises(CubeNotFound):
            attempt()
    bob.search("cat")
    assert ada.get(cat) == before
    assert found(memos.scope(user="carol"), "cat") == set()


def test_what_cannot_be_granted(ada: Scope, bob: Scope, clock: FakeClock) -> None:
    cat, theirs = added(ada, "cat"), added(bob, "dog")
    for cube_id in (theirs, "01JZZZZZZZZZZZZZZZZZZZZZZZ", "nonsense"):
        with pytest.raises(CubeNotFound):
            ada.grant("bob", cube_id=cube_id)
        with pytest.raises(CubeNotFound):
            ada.revoke("bob", cube_id=cube_id)
    for name in ("", " bob", "a/b", "bob\u200b"):
        with pytest.raises(InvalidName):
            ada.grant(name, cube_id=cat)
    with pytest.raises(InvalidInput, match="owns"):
        ada.grant("ada", cube_id=cat)
    with pytest.raises(InvalidInput, match="write"):
        ada.grant("bob", "write", cube_id=cat)
    with pytest.raises(InvalidInput, match="whole_scope"):
        ada.grant("bob", cube_id=None)  # as of a receipt that was rejected: must not share everything
    with pytest.raises(InvalidInput, match="whole_scope"):
        ada.grant("bob", cube_id=cat, whole_scope=True)
    with pytest.raises(InvalidInput, match="over"):
        ada.grant("bob", cube_id=cat, until=clock.now())
    assert ada.grants() == []


def test_what_comes_later_is_found_as_if_everything_were_read_anew(ada: Scope, bob: Scope, memos: MemOS) -> None:
    added(bob, "A cat of my own.", session="S1")
    ada.grant("bob", whole_scope=True)
    for number in range(6):
        newest = added(ada, f"The cat sleeps on chair {number}.", session="S1" if number % 2 else None, speaker="Ben")
        if number == 3:
            ada.update(newest, "The dog sleeps on the cat's chair.")
        grown = [(hit.id, hit.score, hit.why) for hit in bob.search("Where does the cat sleep?", k=20)]
        memos._layers.vault.granted.drop()
        assert [(hit.id, hit.score, hit.why) for hit in bob.search("Where does the cat sleep?", k=20)] == grown
        assert len(grown) == number + 2


def test_a_search_can_keep_to_one_owner(ada: Scope, bob: Scope) -> None:
    cat, own = added(ada, "My cat is called Biscuit."), added(bob, "My cat is called Tom.")
    ada.grant("bob", cube_id=cat)
    assert found(bob, "cat", filters={"owner": "bob"}) == {own}
    assert found(bob, "cat", filters={"owner": "ada"}) == {cat}
    assert found(bob, "cat", filters={"owner": ["ada", "bob"]}) == {cat, own}
    assert found(bob, "cat", filters={"owner": "carol"}) == set()
    assert found(ada, "cat", filters={"owner": "bob"}) == set()
