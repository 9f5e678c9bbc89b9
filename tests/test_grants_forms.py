"""What is made from a granted memory: the reader's own, usable while the grant lasts, gone with the memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from engine_parts import engine
from sqlalchemy import select

from memos_core import HFEngine, MemOS
from memos_core.errors import CubeNotFound, InvalidInput
from memos_core.infrastructure.vault import schema
from memos_core.scope import Scope
from memos_core.testing import FakeClock, HashEmbedder

CAT, TEA, TOM = "My cat is called Biscuit.", "I drink green tea.", "My dog is called Tom."
QUESTION = "What is the cat called?"


@pytest.fixture(scope="module")
def tiny() -> Iterator[HFEngine]:
    made = engine(max_position_embeddings=1024)
    yield made
    made.close()


@pytest.fixture
def memos(memory_folder: Path, tiny: HFEngine, clock: FakeClock) -> Iterator[MemOS]:
    with MemOS.open(memory_folder, engine=tiny, embedder=HashEmbedder(), clock=clock) as opened:
        yield opened


@pytest.fixture
def ada(memos: MemOS) -> Scope:
    return memos.scope(user="ada")


@pytest.fixture
def bob(memos: MemOS) -> Scope:
    return memos.scope(user="bob")


def added(scope: Scope, text: str) -> str:
    return scope.add(text).cube_id or ""


def forms(memos: MemOS) -> list[str]:
    with memos._layers.vault.ledger.read() as connection:
        return list(connection.scalars(select(schema.cubes.c.id).where(schema.cubes.c.type != "plaintext")))


def test_kv_with_a_granted_memory_serves_the_reader_and_gives_the_answer_of_the_text(ada: Scope, bob: Scope) -> None:
    cat, dog = added(ada, CAT), added(bob, TOM)
    ada.grant("bob", cube_id=cat)
    text = bob.chat(QUESTION, memory_ids=[cat, dog], inject="text", max_tokens=8)
    bob.chat(QUESTION, memory_ids=[cat, dog], inject="kv", max_tokens=8)
    kv = bob.chat(QUESTION, memory_ids=[cat, dog], inject="kv", max_tokens=8, strict=True)
    assert kv.usage.memory_tokens > 0
    assert kv.text == text.text
    (derived,) = bob.list(type="activation")
    assert {source for source, _ in derived.header.descriptive.lineage.sources} == {cat, dog}
    assert derived.owner == "bob"
    assert ada.count(type="activation") == 0
    assert ada.lineage(cat).derived == ()
    assert ada.get(cat).header.behaviour.injected_kv == 0


def test_a_session_of_the_reader_uses_what_it_made(ada: Scope, bob: Scope) -> None:
    cat = added(ada, CAT)
    ada.grant("bob", cube_id=cat)
    narrow = bob.scope(session="S1")
    made = narrow.transform(cat, to="activation")
    assert narrow.chat(QUESTION, memory_ids=[cat], inject="kv", max_tokens=2).plan.prefix_cube_id == made.id
    ada.revoke("bob")
    narrow.forget(made.id)


def test_a_form_falls_with_the_grant_and_is_swept_up(ada: Scope, bob: Scope, memos: MemOS, clock: FakeClock) -> None:
    cat, tea = added(ada, CAT), added(ada, TEA)
    ada.grant("bob", cube_id=cat)
    ada.grant("bob", cube_id=tea, until=clock.now().replace(year=2027))
    kept, made = bob.transform(tea, to="activation"), bob.transform([cat, tea], to="activation")
    ada.revoke("bob", cube_id=cat)
    for call in (bob.get, bob.lineage, lambda each: bob.transform(each, to="plaintext")):
        with pytest.raises(CubeNotFound):
            call(made.id)
    assert [cube.id for cube in bob.list(type="activation")] == [kept.id]
    reply = bob.chat(QUESTION, memory_ids=[tea], inject="kv", max_tokens=2)
    assert reply.plan.prefix_cube_id == kept.id
    with pytest.raises(CubeNotFound):
        bob.chat(QUESTION, memory_ids=[cat], inject="kv", max_tokens=2)
    memos.run_pending()
    assert forms(memos) == [kept.id]
    clock.advance(2 * 366 * 86400)
    memos.run_pending()
    assert forms(memos) == []
    memos.verify()


def test_an_edit_by_the_owner_has_the_form_made_anew(ada: Scope, bob: Scope, memos: MemOS) -> None:
    cat = added(ada, CAT)
    ada.grant("bob", cube_id=cat)
    made = bob.transform(cat, to="activation")
    ada.update(cat, "My cat is called Crumb.")
    assert bob.chat(QUESTION, memory_ids=[cat], inject="kv", max_tokens=2).plan.prefix_cube_id != made.id
    memos.run_pending()
    (derived,) = bob.list(type="activation")
    assert derived.header.descriptive.lineage.sources == ((cat, 2),)


def test_forgetting_takes_what_others_made_and_tells_nobody(ada: Scope, bob: Scope, memos: MemOS) -> None:
    cat = added(ada, CAT)
    ada.grant("bob", cube_id=cat)
    bob.transform(cat, to="activation")
    bob.transform_later(cat, to="parametric")
    bob.chat(QUESTION, memory_ids=[cat], inject="kv", max_tokens=2)
    kept = memos._layers.engine._prefixes()  # type: ignore[union-attr]
    loaded = kept.loaded_bytes
    erasure = ada.forget(cat)
    assert (erasure.cube_ids, erasure.derived_ids, erasure.blobs, erasure.versions) == ((cat,), (), 0, 1)
    assert forms(memos) == []
    assert bob.jobs() == []
    assert not any(memos._layers.vault.blobs.addresses())
    assert kept.loaded_bytes < loaded
    memos.verify()


def test_no_text_is_made_from_what_others_own(ada: Scope, bob: Scope, memos: MemOS) -> None:
    cat = added(ada, CAT)
    ada.grant("bob", cube_id=cat)
    made = bob.transform(cat, to="activation")
    with pytest.raises(InvalidInput, match="shared by ada"):
        bob.transform(made.id, to="plaintext")
    assert bob.count() == 0


def test_text_read_back_is_as_secret_as_what_it_was_made_from(ada: Scope, bob: Scope) -> None:
    pin = ada.add("The pin is 4711.", sensitivity="secret").cube_id or ""
    made = ada.transform(pin, to="activation")
    recited = ada.transform(made.id, to="plaintext")
    ada.grant("bob", whole_scope=True)
    with pytest.raises(CubeNotFound):
        bob.get(recited.id)


def test_work_in_the_background_stops_when_the_grant_ends(ada: Scope, bob: Scope, memos: MemOS) -> None:
    cat = added(ada, CAT)
    with pytest.raises(CubeNotFound):
        bob.transform_later(cat, to="activation")
    ada.grant("bob", cube_id=cat)
    first = bob.transform_later(cat, to="activation")
    memos.run_pending()
    assert bob.job(first.id).state == "done"
    again = bob.transform_later(cat, to="activation")
    ada.revoke("bob")
    memos.run_pending()
    assert bob.job(again.id).state == "dead"
    assert forms(memos) == []
