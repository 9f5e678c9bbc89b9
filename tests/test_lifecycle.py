"""The life of a memory: legal transitions, differences, merges and splits, snapshots and the way back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from memos_core import MemOS, Scope, State
from memos_core.cube import Sensitivity, Trust
from memos_core.errors import (
    CubeConflict,
    CubeFrozen,
    CubeNotFound,
    IllegalTransition,
    InvalidInput,
    InvalidMemory,
    InvalidName,
)
from memos_core.operation.states import LEGAL, stage_of
from memos_core.testing import FakeClock, HashEmbedder


@pytest.fixture
def memos(tmp_path: Path, clock: FakeClock) -> Iterator[MemOS]:
    with MemOS.open(tmp_path / "vault", embedder=HashEmbedder(), clock=clock) as memos:
        yield memos


@pytest.fixture
def ada(memos: MemOS) -> Scope:
    return memos.scope(user="ada")


def add(scope: Scope, text: str, **fields: object) -> str:
    cube_id = scope.add(text, **fields).cube_id  # type: ignore[arg-type]
    assert cube_id is not None
    return cube_id


def found(scope: Scope, query: str) -> set[str]:
    return {hit.text for hit in scope.search(query)}


# States


def test_every_state_has_its_followers() -> None:
    assert set(LEGAL) == set(State)
    assert all(state not in followers for state, followers in LEGAL.items())


def test_the_stages_of_the_paper(ada: Scope, clock: FakeClock) -> None:
    cube_id = add(ada, "tea at four", ttl_seconds=100)
    assert stage_of(ada.get(cube_id)) == "generated"
    ada.search("tea")
    assert stage_of(ada.get(cube_id)) == "activated"
    ada.freeze(cube_id)
    assert stage_of(ada.get(cube_id)) == "frozen"
    ada.freeze(cube_id, frozen=False)
    ada.archive(cube_id)
    assert stage_of(ada.get(cube_id)) == "archived"
    ada.archive(cube_id, archived=False)
    clock.advance(101)
    assert stage_of(ada.get(cube_id)) == "expired"


def test_an_expired_memory_is_never_recalled_and_only_a_new_time_brings_it_back(ada: Scope, clock: FakeClock) -> None:
    cube_id = add(ada, "tea at four", ttl_seconds=60)
    clock.advance(60)
    assert found(ada, "tea") == set()
    for act in (
        lambda: ada.archive(cube_id),
        lambda: ada.archive(cube_id, archived=False),
        lambda: ada.update(cube_id, "tea at five"),
        lambda: ada.rollback(cube_id, 1),
        lambda: ada.merge([cube_id, add(ada, "other")], "both"),
    ):
        with pytest.raises(IllegalTransition, match="renew"):
            act()
    assert ada.renew(cube_id, ttl_seconds=30).state == "active"
    assert "tea at four" in found(ada, "tea")
    clock.advance(31)
    assert "tea at four" not in found(ada, "tea")
    ada.renew(cube_id)
    clock.advance(1e9)
    assert "tea at four" in found(ada, "tea")
    assert ada.get(cube_id).header.governance.retention.expires_at is None


def test_an_expired_memory_does_not_come_back_beside_its_successor(ada: Scope, clock: FakeClock) -> None:
    old = add(ada, "tea at four", ttl_seconds=60)
    clock.advance(61)
    new = add(ada, "tea at four")
    with pytest.raises(CubeConflict) as caught:
        ada.renew(old)
    assert caught.value.other_id == new
    with pytest.raises(InvalidInput, match="ttl_seconds"):
        ada.renew(new, ttl_seconds=0)
    ada.freeze(new)
    with pytest.raises(CubeFrozen):
        ada.renew(new, ttl_seconds=5)


def test_an_archived_memory_is_found_only_when_asked_for(ada: Scope) -> None:
    cube_id = add(ada, "tea at four")
    ada.archive(cube_id)
    assert found(ada, "tea") == set()
    assert ada.list().cubes == ()
    assert [cube.id for cube in ada.list(state="archived")] == [cube_id]
    ada.archive(cube_id)
    assert ada.archive(cube_id, archived=False).state == "active"
    assert found(ada, "tea") == {"tea at four"}


# Differences


def test_a_difference_names_the_words_that_changed(ada: Scope) -> None:
    cube_id = add(ada, "Let's meet on Friday at the library.")
    ada.update(cube_id, "Let's meet on Saturday at the old library.")
    ada.update(cube_id, "Cancelled.")
    difference = ada.diff(cube_id, 1, 2)
    assert str(difference) == "Let's meet on [-Friday -]{+Saturday +}at the {+old +}library."
    assert difference.changed
    assert "".join(each.text for each in difference.changes if each.kind != "added") == difference.before.text
    assert "".join(each.text for each in difference.changes if each.kind != "removed") == difference.after.text
    assert (ada.diff(cube_id).before.version, ada.diff(cube_id).after.version) == (2, 3)
    assert not ada.diff(cube_id, 2, 2).changed


def test_a_difference_needs_versions_that_exist(ada: Scope, memos: MemOS) -> None:
    cube_id = add(ada, "one")
    assert not ada.diff(cube_id).changed
    for versions in ((0, 1), (1, 2), (-1, None)):
        with pytest.raises(InvalidInput, match="there are 1 to 1"):
            ada.diff(cube_id, *versions)
    with pytest.raises(CubeNotFound):
        memos.scope(user="bob").diff(cube_id)


# Merge and split


def test_a_merge_puts_one_memory_in_the_place_of_several(ada: Scope) -> None:
    first = add(ada, "Biscuit is a cat.", speaker="Ada", tags=["pets"], trust=Trust.VERIFIED)
    second = add(ada, "Biscuit is ginger.", speaker="Ada", tags=["colour"], sensitivity=Sensitivity.SECRET)
    receipt = ada.merge([first, second], "Biscuit is a ginger cat.")
    assert receipt.outcome == "committed"
    assert found(ada, "Biscuit") == {"Biscuit is a ginger cat."}
    merged = ada.get(receipt.cube_id or "")
    what, rules = merged.header.descriptive, merged.header.governance
    assert (merged.speaker, merged.tags, what.lineage.pathway) == ("Ada", ("pets", "colour"), "merge")
    assert what.lineage.sources == ((first, 1), (second, 1))
    assert (rules.sensitivity, rules.trust) == (Sensitivity.SECRET, Trust.NORMAL)
    assert {ada.get(each).state for each in (first, second)} == {State.MERGED}
    assert [cube.id for cube in ada.list(state="merged")] == [first, second]


def test_a_merge_can_be_reverted(ada: Scope) -> None:
    first, second = add(ada, "one"), add(ada, "two")
    merged = ada.merge([first, second], "one").cube_id or ""  # says what a source said
    with pytest.raises(IllegalTransition, match="revert the merge"):
        ada.archive(first, archived=False)
    with pytest.raises(IllegalTransition):
        ada.update(first, "three")
    assert ada.revert(merged) == (first, second)
    assert [cube.text for cube in ada.list()] == ["one", "two"]
    assert ada.get(merged).state == "archived"
    with pytest.raises(IllegalTransition, match="reverted already"):
        ada.revert(merged)
    with pytest.raises(CubeConflict):
        ada.archive(merged, archived=False)


def test_merges_are_reverted_from_the_last_one_back(ada: Scope) -> None:
    a, b, c = add(ada, "a"), add(ada, "b"), add(ada, "c")
    inner = ada.merge([a, b], "ab").cube_id or ""
    outer = ada.merge([inner, c], "abc").cube_id or ""
    with pytest.raises(IllegalTransition):
        ada.revert(inner)
    ada.revert(outer)
    ada.revert(inner)
    assert {cube.text for cube in ada.list()} == {"a", "b", "c"}


def test_a_split_can_be_reverted_from_any_part(ada: Scope) -> None:
    whole = add(ada, "Ben likes tea. Ben lives in Oslo.", session="S1")
    parts = [receipt.cube_id or "" for receipt in ada.split(whole, ["Ben likes tea.", "Ben lives in Oslo."])]
    assert found(ada, "Ben") == {"Ben likes tea.", "Ben lives in Oslo."}
    assert {ada.get(part).session for part in parts} == {"S1"}
    ada.update(parts[0], "Ben likes coffee.")
    assert ada.revert(parts[1]) == (whole,)
    assert [cube.id for cube in ada.list()] == [whole]


def test_what_is_merged_is_forgotten_with_any_source_and_lives_no_longer_than_it(ada: Scope, clock: FakeClock) -> None:
    first, second = add(ada, "one", ttl_seconds=50), add(ada, "two")
    merged = ada.merge([first, second], "both").cube_id or ""
    retention = ada.get(merged).header.governance.retention
    assert retention.expires_at == clock.now() + timedelta(seconds=50)
    assert set(ada.forget(second).cube_ids) == {second, merged}


def test_a_merge_is_refused_whole(ada: Scope, memos: MemOS) -> None:
    first, second, third = add(ada, "one"), add(ada, "two"), add(ada, "three")
    foreign = add(memos.scope(user="bob"), "his")
    ada.freeze(third)
    for ids, text, expected in (
        ([first], "x", InvalidInput),
        ([first, first], "x", InvalidInput),
        ([first, foreign], "x", CubeNotFound),
        ([first, third], "x", CubeFrozen),
        ([first, second], " ", InvalidMemory),
        ([first, second], "three", CubeConflict),
    ):
        with pytest.raises(expected):
            ada.merge(ids, text)
    for texts, expected in ((["x"], InvalidInput), ("xy", InvalidInput), (["x", "x"], CubeConflict)):
        with pytest.raises(expected):
            ada.split(first, texts)
    assert {cube.text for cube in ada.list()} == {"one", "two", "three"}
    with pytest.raises(InvalidInput, match="no merge"):
        ada.revert(first)
    memos.verify()


def test_a_merge_over_the_quota_is_rejected_and_changes_nothing(tmp_path: Path) -> None:
    with MemOS.open(tmp_path / "small", embedder=None, max_bytes=10) as memos:
        ada = memos.scope(user="ada")
        first, second = add(ada, "1234"), add(ada, "5678")
        assert ada.merge([first, second], "12345678").outcome == "rejected"
        assert ada.count() == 2


def test_a_merge_of_two_sessions_is_not_seen_from_either(memos: MemOS, ada: Scope) -> None:
    first, second = add(ada, "one", session="S1"), add(ada, "two", session="S2")
    merged = ada.merge([first, second], "one and two").cube_id
    for name in ("S1", "S2"):
        assert merged not in {cube.id for cube in ada.scope(session=name).list()}
    assert merged in {cube.id for cube in ada.list()}


# Snapshots


def test_a_scope_goes_back_to_a_snapshot_and_forward_again(ada: Scope, memos: MemOS, clock: FakeClock) -> None:
    edited, archived, merged, other = add(ada, "old"), add(ada, "kept away"), add(ada, "m1"), add(ada, "m2")
    snapshot = ada.snapshot("monday")
    assert (snapshot.name, snapshot.memories, snapshot.author) == ("monday", 4, "ada")
    clock.advance(60)
    ada.update(edited, "new")
    ada.archive(archived)
    both = ada.merge([merged, other], "m1 and m2").cube_id or ""
    late = add(ada, "added later")
    after = {cube.text for cube in ada.list()}
    restored = ada.restore("monday")
    assert {cube.text for cube in ada.list()} == {"old", "kept away", "m1", "m2"}
    assert (restored.rewritten, set(restored.archived)) == ((edited,), {both, late})
    assert set(restored.returned) == {archived, merged, other}
    assert found(ada, "old") >= {"old"}
    assert [record.reason for record in ada.history(edited)][-1] == "restored to snapshot monday"
    ada.restore(restored.undo)
    assert {cube.text for cube in ada.list()} == after == {"new", "m1 and m2", "added later"}
    assert ada.get(archived).state == "archived"
    memos.verify()


def test_memories_that_swapped_their_texts_swap_back(ada: Scope) -> None:
    first, second = add(ada, "left"), add(ada, "right")
    ada.snapshot("before")
    ada.update(first, "aside")
    ada.update(second, "left")
    ada.update(first, "right")
    ada.restore("before")
    assert (ada.get(first).text, ada.get(second).text) == ("left", "right")


def test_what_is_forgotten_expired_or_frozen_is_not_brought_back(ada: Scope, clock: FakeClock) -> None:
    gone, lapsed, frozen = add(ada, "gone"), add(ada, "lapsed", ttl_seconds=10), add(ada, "frozen")
    ada.snapshot("before")
    ada.forget(gone)
    assert ada.snapshots()[0].memories == 2
    ada.update(frozen, "changed")
    ada.freeze(frozen)
    clock.advance(11)
    restored = ada.restore("before")
    assert restored.skipped == {lapsed: "its time is over", frozen: "it is frozen"}
    assert {cube.text for cube in ada.list()} == {"changed"}


def test_a_memory_whose_words_another_one_has_now_stays_archived(ada: Scope) -> None:
    first = add(ada, "tea", session="S1")
    narrow = ada.scope(session="S2")
    user_level = add(narrow.scope(), "coffee")  # bound to S2
    narrow.snapshot("before")
    ada.archive(user_level)
    twin = add(narrow, "coffee")
    ada.freeze(twin)
    restored = narrow.restore("before")
    assert restored.skipped == {
        twin: "it is frozen",
        user_level: f"memory {twin} says the same; this one stays archived",
    }
    assert ada.get(first).state == "active"


def test_snapshots_belong_to_the_scope_that_took_them(ada: Scope, memos: MemOS) -> None:
    add(ada, "one", session="S1")
    add(ada, "two", session="S2")
    ada.snapshot("all")
    assert ada.scope(session="S1").snapshot("all").memories == 1
    bob = memos.scope(user="bob")
    assert bob.snapshots() == []
    for act in (bob.restore, bob.drop_snapshot):
        with pytest.raises(InvalidInput, match="no snapshot"):
            act("all")
    ada.drop_snapshot("all")
    assert ada.snapshots() == []
    assert len(ada.scope(session="S1").snapshots()) == 1


def test_names_of_snapshots_are_checked(ada: Scope) -> None:
    ada.snapshot("a")
    with pytest.raises(InvalidInput, match="already"):
        ada.snapshot("a")
    with pytest.raises(InvalidInput, match="kept for"):
        ada.snapshot("before-lunch")
    with pytest.raises(InvalidName):
        ada.snapshot("a/b")


def test_only_the_last_undos_are_kept(ada: Scope) -> None:
    add(ada, "one")
    ada.snapshot("a")
    for _ in range(13):
        ada.restore("a")
    assert len(ada.snapshots()) == 11


def test_many_threads_change_one_scope_and_it_stays_whole(memos: MemOS, ada: Scope) -> None:
    ids = [add(ada, f"note {number}") for number in range(12)]
    ada.snapshot("start")
    failures: list[BaseException] = []

    def work(number: int) -> None:
        one, other = ids[number], ids[(number + 1) % len(ids)]
        acts: list[Callable[[], object]] = [
            lambda: ada.update(one, f"changed by {number}"),
            lambda: ada.merge([one, other], f"merged by {number}"),
            lambda: ada.restore("start"),
            lambda: ada.archive(other),
            lambda: ada.archive(other, archived=False),
            lambda: ada.split(one, [f"half {number}", f"other half {number}"]),
            lambda: ada.revert(ada.list(limit=1)[0].id),
        ]
        for act in acts:
            try:
                act()
            except (IllegalTransition, CubeConflict, InvalidInput):
                continue  # another thread was faster
            except BaseException as error:
                failures.append(error)
                raise

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    ada.restore("start")
    assert {cube.text for cube in ada.list()} == {f"note {number}" for number in range(12)}
    memos.verify()


async def test_the_async_twins_do_the_same(ada: Scope) -> None:
    first, second = add(ada, "one"), add(ada, "two")
    await ada.asnapshot("a")
    receipt = await ada.amerge([first, second], "both")
    assert await ada.arevert(receipt.cube_id or "") == (first, second)
    await ada.aupdate(first, "uno")
    assert (await ada.adiff(first)).changed
    assert (await ada.arestore("a")).rewritten == (first,)
    assert {each.name for each in await ada.asnapshots()} >= {"a"}
