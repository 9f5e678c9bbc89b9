"""How long memories stay in use: decay, room, and the end of what has expired."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from memos_core import MemOS, RetentionPolicy, Scope
from memos_core.errors import CubeNotFound, InvalidInput
from memos_core.infrastructure.vault import UsageDelta
from memos_core.testing import FakeClock, HashEmbedder

DAY = 86400.0


@pytest.fixture
def memos(tmp_path: Path, clock: FakeClock) -> Iterator[MemOS]:
    with MemOS.open(tmp_path / "vault", embedder=None, clock=clock) as memos:
        yield memos


@pytest.fixture
def ada(memos: MemOS) -> Scope:
    return memos.scope(user="ada")


def add(scope: Scope, text: str, **fields: Any) -> str:
    cube_id = scope.add(text, **fields).cube_id
    assert cube_id is not None
    return cube_id


def use(scope: Scope, cube_id: str, times: int = 1) -> None:
    now = scope._layers.governance.clock.now()
    scope._layers.lifecycle.count([cube_id], UsageDelta(reads=times, last_used=now))


def texts(scope: Scope, **options: Any) -> list[str]:
    return [cube.text for cube in scope.list(limit=1000, **options)]


def test_without_a_policy_everything_is_kept(memos: MemOS, ada: Scope, clock: FakeClock) -> None:
    add(ada, "one", ttl_seconds=1)
    add(ada, "two")
    clock.advance(9999 * DAY)
    assert ada.tidy() == memos.tidy() == ()
    assert texts(ada) == ["two"]
    assert texts(ada, state="expired") == ["one"]


def test_what_is_unused_is_archived_and_a_dry_run_only_says_so(ada: Scope, clock: FakeClock) -> None:
    old, used, edited = add(ada, "old"), add(ada, "used"), add(ada, "edited")
    pinned, frozen = add(ada, "pinned", tags=["pinned"]), add(ada, "frozen")
    ada.freeze(frozen)
    clock.advance(100 * DAY)
    use(ada, used)
    ada.update(edited, "edited lately")
    policy = RetentionPolicy(archive_unused_seconds=90 * DAY)
    (planned,) = ada.tidy(policy=policy, dry_run=True)
    assert (planned.action, planned.cube_id) == ("archive", old)
    assert "100.0 days" in planned.reason
    assert ada.get(old).state == "active"
    assert ada.tidy(policy=policy) == (planned,)
    assert ada.get(old).state == "archived"
    assert {ada.get(each).state for each in (used, edited, pinned, frozen)} == {"active"}
    ada.archive(old, archived=False)
    assert ada.get(old).state == "active"


def test_what_was_used_much_is_kept_though_not_lately(ada: Scope, clock: FakeClock) -> None:
    loved, hardly = add(ada, "loved"), add(ada, "hardly")
    use(ada, loved, 100)
    use(ada, hardly)
    ada.get(loved)
    clock.advance(30 * DAY)
    policy = RetentionPolicy(archive_unused_seconds=20 * DAY, archive_below_heat=1)
    assert [each.cube_id for each in ada.tidy(policy=policy)] == [hardly]


@pytest.mark.parametrize(
    ("order", "gone"), [("heat", {"b", "c"}), ("unused", {"a", "b"}), ("age", {"a", "b"})], ids=str
)
def test_over_the_limit_memories_are_archived_in_the_order_of_the_policy(
    ada: Scope, clock: FakeClock, order: Any, gone: set[str]
) -> None:
    ids = {}
    for text in "abcd":
        ids[text] = add(ada, text)
        clock.advance(DAY)
    use(ada, ids["a"], 9)
    clock.advance(DAY)
    for text in "cd":
        use(ada, ids[text], 2 if text == "d" else 1)
    use(ada, ids["c"], 0)
    ada.tidy(policy=RetentionPolicy(max_memories=2, order=order, slack=0))
    assert set("abcd") - set(texts(ada)) == gone


def test_an_add_over_the_limit_archives_and_is_not_refused(tmp_path: Path, clock: FakeClock) -> None:
    policy = RetentionPolicy(max_memories=10, slack=0.2, order="age")
    with MemOS.open(tmp_path / "small", embedder=None, clock=clock, retention=policy) as memos:
        ada = memos.scope(user="ada")
        kept = add(ada, "the key is under the mat", tags=["important"])
        for number in range(40):
            clock.advance(1)
            assert ada.add(f"note {number}").outcome == "committed"
            assert ada.count() <= 10
        assert ada.get(kept).state == "active"
        assert "note 39" in texts(ada)
        assert ada.count() + ada.count(state="archived") == 41
        assert len(ada.add_many([f"more {number}" for number in range(50)])) == 50
        assert ada.count() == 8
        assert memos.scope(user="ben").count() == 0
        memos.verify()


def test_what_expired_long_ago_is_erased_only_if_the_policy_says_so(memos: MemOS, ada: Scope, clock: FakeClock) -> None:
    gone, late, frozen = (add(ada, text, ttl_seconds=ttl) for text, ttl in (("a", 10), ("b", 3000), ("c", 10)))
    ada.freeze(frozen)
    source = add(ada, "d", ttl_seconds=10)
    merged = ada.merge([source, add(ada, "e")], "d and e").cube_id or ""
    ada.renew(merged)
    clock.advance(3600)
    policy = RetentionPolicy(erase_expired_seconds=3000)
    (planned,) = ada.tidy(policy=policy, dry_run=True)
    assert (planned.action, planned.cube_id) == ("erase", gone)
    ada.tidy(policy=policy)
    with pytest.raises(CubeNotFound):
        ada.get(gone)
    assert {ada.get(each).state for each in (late, frozen)} == {"expired"}
    assert ada.get(merged).state == "active", "what it was made from stays with it"
    assert memos.run_pending() == ()
    memos.verify()


def test_a_vault_that_is_opened_with_a_policy_tidies_by_itself(tmp_path: Path, clock: FakeClock) -> None:
    policy = RetentionPolicy(archive_unused_seconds=DAY, every_seconds=DAY)
    with MemOS.open(tmp_path / "own", embedder=None, clock=clock, retention=policy) as memos:
        ada = memos.scope(user="ada")
        add(ada, "one")
        memos.run_pending()
        clock.advance(2 * DAY)
        memos.run_pending()
        assert texts(ada) == []


def test_the_audit_is_kept_as_long_as_the_policy_says(memos: MemOS, ada: Scope, clock: FakeClock) -> None:
    def actions() -> list[str]:
        with memos._layers.vault.read() as session:
            return [entry["action"] for entry in session.audit("ada")]

    cube_id = add(ada, "one")
    clock.advance(2 * DAY)
    ada.update(cube_id, "two")
    policy = RetentionPolicy(keep_audit_seconds=DAY)
    memos.tidy(policy=policy, dry_run=True)
    assert actions() == ["update", "add"]
    memos.tidy(policy=policy)
    assert actions() == ["update"]
    assert [record.author for record in ada.history(cube_id)] == ["ada", "ada"]
    memos.verify()


def test_items_and_documents_are_no_memories_that_a_policy_or_a_snapshot_touches(
    memos: MemOS, ada: Scope, clock: FakeClock
) -> None:
    note = add(ada, "a note")
    ada.snapshot("before")
    items, papers = ada.items(), ada.collection("papers", embedder=HashEmbedder())
    items.put(("settings",), "theme", {"colour": "dark"})
    papers.upsert(["a paper"])
    item = ada.list(type="any")[-1].id
    use(ada, item, 99)
    clock.advance(99 * DAY)
    assert (ada.count(), ada.evolve(dry_run=True)) == (1, ())
    policy = RetentionPolicy(archive_unused_seconds=DAY, max_memories=1)
    assert [each.cube_id for each in ada.tidy(policy=policy, dry_run=True)] == [note]
    assert ada.restore("before").archived == ()
    assert ada.snapshots()[0].memories == 1
    with pytest.raises(InvalidInput):
        ada.merge([note, item], "both")
    assert items.get(("settings",), "theme") is not None
    assert papers.count() == 1


def test_one_scope_is_tidied_at_a_time(memos: MemOS, ada: Scope, clock: FakeClock) -> None:
    ben = memos.scope(user="ben")
    add(ada, "one", session="S1")
    add(ada, "two", session="S2")
    add(ben, "three")
    clock.advance(2 * DAY)
    policy = RetentionPolicy(archive_unused_seconds=DAY)
    assert len(ada.scope(session="S1").tidy(policy=policy)) == 1
    assert (texts(ada), texts(ben)) == (["two"], ["three"])
    assert {each.user for each in memos.tidy(policy=policy, dry_run=True)} == {"ada", "ben"}


def test_a_policy_is_checked() -> None:
    for wrong in ({"max_memories": 0}, {"slack": 1}, {"order": "luck"}, {"keep": 1}):
        with pytest.raises(ValidationError):
            RetentionPolicy(**wrong)  # type: ignore[arg-type]


async def test_the_async_twin_does_the_same(ada: Scope) -> None:
    assert await ada.atidy(dry_run=True) == ()
