"""What a caller holds: everything a scope does with text memory, on a real vault."""

import asyncio
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from memos_core import MemCube, MemOS, Outcome, Scope, Turn
from memos_core.errors import (
    CubeConflict,
    CubeFrozen,
    CubeNotFound,
    EngineMissing,
    InvalidInput,
    InvalidMemory,
    InvalidName,
    ScopeConflict,
    VaultClosed,
)
from memos_core.testing import FakeClock, HashEmbedder


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(datetime(2026, 3, 1, tzinfo=UTC))


@pytest.fixture
def memos(tmp_path: Path, clock: FakeClock) -> Iterator[MemOS]:
    with MemOS.open(tmp_path / "memory", embedder=HashEmbedder(), clock=clock) as memos:
        yield memos


@pytest.fixture
def ada(memos: MemOS) -> Scope:
    return memos.scope(user="ada")


def texts(scope: Scope, query: str, **options: object) -> list[str]:
    return [hit.text for hit in scope.search(query, **options)]  # type: ignore[arg-type]


# Adding


def test_what_is_added_is_found_at_once(ada: Scope) -> None:
    receipt = ada.add("My cat is called Biscuit.")
    assert receipt.outcome == "committed"
    assert receipt.version == 1
    hit = ada.search("What is my cat called?", k=5)[0]
    assert (hit.cube.id, hit.text) == (receipt.cube_id, "My cat is called Biscuit.")
    assert "cat" in hit.why
    assert 0 <= hit.score <= 1


def test_a_turn_keeps_what_came_with_it(ada: Scope) -> None:
    receipt = ada.add(
        "Let's meet on Friday.",
        speaker="Ben",
        session="S4",
        at=datetime(2026, 3, 2, 9, 30),
        ref="D4:17",
        tags=["plans", "plans"],
        ttl_seconds=86400,
    )
    cube = ada.get(receipt.cube_id or "")
    assert (cube.speaker, cube.session, cube.ref, cube.tags) == ("Ben", "S4", "D4:17", ("plans",))
    assert cube.at == datetime(2026, 3, 2, 9, 30, tzinfo=UTC)
    assert cube.header.governance.retention.expires_at == datetime(2026, 3, 2, tzinfo=UTC)


def test_the_same_text_twice_is_a_duplicate(ada: Scope) -> None:
    first = ada.add("My cat is called Biscuit.")
    second = ada.add("  my CAT is called\nBiscuit. ")
    assert second.outcome == "duplicate"
    assert second.cube_id == first.cube_id
    assert ada.count() == 1


@pytest.mark.parametrize("other", [{"ref": "2"}, {"speaker": "Ben"}, {"session": "S2"}])
def test_another_source_is_no_duplicate(ada: Scope, other: dict[str, str]) -> None:
    ada.add("Yes.", ref="1", speaker="Ada", session="S1")
    again = ada.add("Yes.", **{"ref": "1", "speaker": "Ada", "session": "S1", **other})
    assert again.outcome == "committed"


def test_a_near_duplicate_is_linked_and_kept(ada: Scope) -> None:
    first = ada.add("My cat is called Biscuit.")
    second = ada.add("my cat is called Biscuit!", speaker=None, ref="2")
    assert second.outcome == "committed"
    assert second.near == (first.cube_id,)
    links = ada.get(second.cube_id or "").header.descriptive.links
    assert [(link.target, link.relation) for link in links] == [(first.cube_id, "near_duplicate")]


def test_many_are_added_in_their_order(ada: Scope) -> None:
    receipts = ada.add_many(
        [
            Turn(text="one"),
            {"text": "two", "speaker": "Ben"},
            {"role": "user", "content": "three"},
            {"role": "assistant", "content": [{"type": "text", "text": "four"}], "name": "Bot"},
            "five",
        ]
    )
    assert [r.outcome for r in receipts] == ["committed"] * 5
    page = ada.list()
    assert [cube.text for cube in page] == ["one", "two", "three", "four", "five"]
    assert [cube.speaker for cube in page] == [None, "Ben", "user", "Bot", None]


def test_duplicates_within_one_batch_are_seen(ada: Scope) -> None:
    assert [r.outcome for r in ada.add_many(["same", "same"])] == ["committed", "duplicate"]


def test_instructions_and_recalled_memory_are_rejected_with_a_reason(ada: Scope) -> None:
    ada.add("My cat is called Biscuit.")
    block = ada.context("cat").text
    system, recalled = ada.add_many([{"role": "system", "content": "Be brief."}, {"text": f"I know: {block}"}])
    assert system.outcome == recalled.outcome == Outcome.REJECTED
    assert system.cube_id is None
    assert "instruction" in (system.reason or "")
    assert "recalled" in (recalled.reason or "")
    assert ada.count() == 1


@pytest.mark.parametrize(
    "bad",
    [
        {"text": ""},
        {"text": " \n\t"},
        {"text": "a\x00b"},
        {"text": "\ud800"},
        {"text": 7},
        {"text": "x", "speaker": "y" * 5000},
        {"text": "x", "ttl_seconds": -1},
        {"text": "x", "unknown": 1},
        {"role": "user", "content": [{"type": "image_url"}]},
        42,
    ],
)
def test_bad_input_names_the_item_and_loses_nothing(ada: Scope, bad: object) -> None:
    with pytest.raises(InvalidMemory) as caught:
        ada.add_many(["fine", bad])  # type: ignore[list-item]
    assert caught.value.index == 1
    assert ada.count() == 0


def test_too_long_a_text_is_refused(tmp_path: Path) -> None:
    with MemOS.open(tmp_path / "m", embedder=HashEmbedder(), max_text_chars=10) as memos:
        with pytest.raises(InvalidMemory, match="max_text_chars"):
            memos.scope(user="ada").add("x" * 11)
        memos.scope(user="ada").add("x" * 10)


def test_a_quota_rejects_what_does_not_fit(tmp_path: Path) -> None:
    with MemOS.open(tmp_path / "m", embedder=HashEmbedder(), max_bytes=10) as memos:
        ada = memos.scope(user="ada")
        receipts = ada.add_many(["12345678", "12345", "12"])
        assert [r.outcome for r in receipts] == ["committed", "rejected", "committed"]
        assert "quota" in (receipts[1].reason or "")


def test_a_long_text_is_found_by_any_of_its_passages(ada: Scope) -> None:
    filler = "Nothing of note happened on that day in the valley. " * 60
    long = f"{filler}The zeppelin landed in Tarsk. {filler}"
    receipt = ada.add(long)
    hit = ada.search("Where did the zeppelin land?")[0]
    assert hit.cube.id == receipt.cube_id
    assert hit.passage is not None
    assert "zeppelin" in long[slice(*hit.passage)]
    assert "zeppelin" in ada.context("Where did the zeppelin land?", max_tokens=600).text


# Finding


def test_search_understands_other_scripts(ada: Scope) -> None:
    ada.add_many(["我的猫叫饼干", "明天去上海开会", "Кошку зовут Печенька"])
    assert texts(ada, "猫叫什么", k=1) == ["我的猫叫饼干"]
    assert texts(ada, "Как зовут кошку?", k=1) == ["Кошку зовут Печенька"]


def test_filters_before_and_as_of(ada: Scope) -> None:
    ada.add_many(
        [
            {"text": "tea in May", "at": datetime(2026, 5, 1), "speaker": "Ben", "tags": ["drink"]},
            {"text": "tea in June", "at": datetime(2026, 6, 1), "speaker": "Ada", "tags": ["drink", "june"]},
            {"text": "tea was banned", "valid_from": datetime(2020, 1, 1), "valid_until": datetime(2021, 1, 1)},
        ]
    )
    assert set(texts(ada, "tea")) == {"tea in May", "tea in June"}
    assert texts(ada, "tea", filters={"speaker": "Ben"}) == ["tea in May"]
    assert set(texts(ada, "tea", filters={"speaker": ["Ben", "Ada"]})) == {"tea in May", "tea in June"}
    assert texts(ada, "tea", filters={"tags": "june"}) == ["tea in June"]
    assert texts(ada, "tea", before=datetime(2026, 5, 15), filters={"tags": "drink"}) == ["tea in May"]
    assert "tea was banned" in texts(ada, "tea", as_of=datetime(2020, 6, 1))


@pytest.mark.parametrize("filters", [{"speaker = '' or 1=1 --": "x"}, {"nonsense": 1}])
def test_an_unknown_filter_is_refused(ada: Scope, filters: dict[str, object]) -> None:
    ada.add("tea")
    with pytest.raises(InvalidInput, match="speaker"):
        ada.search("tea", filters=filters)  # type: ignore[arg-type]


def test_an_empty_query_and_a_foolish_k_are_refused(ada: Scope) -> None:
    for query, k in (("", 5), ("  ", 5), ("tea", 0)):
        with pytest.raises(InvalidInput):
            ada.search(query, k=k)


def test_a_turn_is_found_beside_the_one_that_sounds_like_the_question(tmp_path: Path) -> None:
    with MemOS.open(tmp_path / "m", embedder=None) as memos:
        ada = memos.scope(user="ada")
        ada.add_many(
            [
                {"text": "Nice weather.", "session": "S2"},
                {"text": "Do you have any pets, Ben?", "session": "S1"},
                {"text": "Yes, Biscuit and Gravy.", "session": "S1"},
            ]
        )
        hits = ada.search("Which pets?")
    assert [hit.text for hit in hits] == ["Do you have any pets, Ben?", "Yes, Biscuit and Gravy."]
    assert hits[1].shares["words"] > 0  # of the window around it


def test_reading_is_counted(ada: Scope) -> None:
    receipt = ada.add("My cat is called Biscuit.")
    ada.search("cat")
    ada.search("cat")
    behaviour = ada.get(receipt.cube_id or "").header.behaviour
    assert behaviour.reads == 2
    assert behaviour.last_used is not None


# Context


def test_context_fits_its_budget_and_says_why(ada: Scope) -> None:
    ada.add_many([f"Tea note number {number} about green tea leaves." for number in range(30)])
    context = ada.context("green tea", max_tokens=60, k=30)
    assert 0 < context.tokens <= 60
    assert context.plan.left_out
    assert context.messages == [{"role": "system", "content": context.text}]
    assert "score" in context.why
    assert ada.context("green tea", max_tokens=0).text == ""


def test_context_keeps_its_order_from_question_to_question(ada: Scope) -> None:
    ada.add_many(["alpha tea", "beta tea", "gamma tea"])
    first, second = ada.context("gamma tea alpha beta"), ada.context("beta tea gamma alpha")
    assert first.text == second.text


# Isolation


def test_two_users_with_the_same_texts_never_meet(memos: MemOS, ada: Scope) -> None:
    bob = memos.scope(user="bob")
    mine = ada.add("My cat is called Biscuit.")
    alone = ada.search("cat")[0].score
    theirs = bob.add("My cat is called Biscuit.")
    bob.add_many([f"cat number {number}" for number in range(50)])
    assert theirs.outcome == "committed"
    assert [hit.cube.id for hit in ada.search("cat")] == [mine.cube_id]
    assert ada.search("cat")[0].score == alone
    assert ada.count() == 1
    calls: list[Callable[[str], object]] = [
        bob.get,
        bob.history,
        bob.forget,
        bob.archive,
        bob.freeze,
        lambda cube_id: bob.update(cube_id, "stolen"),
        lambda cube_id: bob.rollback(cube_id, 1),
        lambda cube_id: bob.link(theirs.cube_id or "", cube_id, "knows"),
    ]
    for call in calls:
        messages = set()
        for cube_id in (mine.cube_id or "", "01JZZZZZZZZZZZZZZZZZZZZZZZ", "' or 1=1 --", "", "x" * 10_000):
            with pytest.raises(CubeNotFound) as caught:
                call(cube_id)
            messages.add(str(caught.value).replace(repr(cube_id), "ID"))
        assert len(messages) == 1
    assert ada.get(mine.cube_id or "").text == "My cat is called Biscuit."


def test_sessions_and_agents_narrow_what_is_seen(memos: MemOS, ada: Scope) -> None:
    ada.add("user level")
    morning, evening = ada.scope(session="morning"), ada.scope(session="evening")
    morning.add("in the morning")
    evening.add("in the evening")
    memos.scope(user="ada", agent="scout").add("scouted")
    seen = {name: {cube.text for cube in scope.list()} for name, scope in (("ada", ada), ("morning", morning))}
    assert seen["ada"] == {"user level", "in the morning", "in the evening", "scouted"}
    assert seen["morning"] == {"user level", "in the morning", "scouted"}
    assert memos.scope(user="ada", agent="cook").count() == 3
    with pytest.raises(ScopeConflict):
        morning.add("x", session="evening")
    with pytest.raises(ScopeConflict):
        morning.scope(session="evening")


def test_what_another_session_holds_moves_no_score(ada: Scope) -> None:
    morning = ada.scope(session="morning")
    morning.add("tea with Ben")
    before = morning.search("tea")[0].score, morning.search("tea")[0].why
    ada.scope(session="evening").add_many([f"tea {number}" for number in range(20)])
    assert (morning.search("tea")[0].score, morning.search("tea")[0].why) == before


@pytest.mark.parametrize("name", ["", " ada", "a/b", "..", "a\nb", "x" * 129, "a\u202eb", None, 7])
def test_malformed_names_raise(memos: MemOS, name: object) -> None:
    with pytest.raises(InvalidName):
        memos.scope(user=name)  # type: ignore[arg-type]


def test_an_unknown_user_is_an_empty_scope(memos: MemOS) -> None:
    nobody = memos.scope(user="nobody")
    assert nobody.count() == 0
    assert nobody.search("anything") == []
    assert list(nobody.list()) == []
    assert memos.users() == []


def test_a_namespace_template_names_a_scope(memos: MemOS) -> None:
    scope = memos.scope_of(("users", "{user_id}", "sessions", "{thread_id}"), {"user_id": "ada", "thread_id": 7})
    assert (scope.user, scope.agent, scope.session) == ("ada", None, "7")
    assert memos.scope_of(("kb", "manuals")).user == "kb:manuals"
    for namespace in (("users", "{user_id}"), ("users",), ("agents", "x"), ("users", "{a.b}", "x"), ()):
        with pytest.raises(InvalidName):
            memos.scope_of(namespace)


# Versions and states


def test_update_history_and_rollback(ada: Scope) -> None:
    cube_id = ada.add("I live in Lyon.").cube_id or ""
    assert ada.update(cube_id, "I live in Oslo.").version == 2
    assert texts(ada, "Where do I live?") == ["I live in Oslo."]
    assert ada.rollback(cube_id, 1).version == 3
    history = ada.history(cube_id)
    assert [(record.version, record.text) for record in history] == [
        (1, "I live in Lyon."),
        (2, "I live in Oslo."),
        (3, "I live in Lyon."),
    ]
    assert {record.author for record in history} == {"ada"}
    assert "rolled back" in history[2].reason
    with pytest.raises(InvalidInput, match="no version 9"):
        ada.rollback(cube_id, 9)
    with pytest.raises(InvalidMemory):
        ada.update(cube_id, "")


def test_an_update_may_not_make_a_duplicate(ada: Scope) -> None:
    first = ada.add("one").cube_id or ""
    second = ada.add("two").cube_id or ""
    with pytest.raises(CubeConflict):
        ada.update(second, "ONE")
    assert ada.update(first, "One").version == 2


def test_a_frozen_memory_stays_as_it_is(ada: Scope) -> None:
    cube_id = ada.add("My blood type is A.").cube_id or ""
    assert ada.freeze(cube_id).header.governance.frozen
    for change in (lambda: ada.update(cube_id, "B"), lambda: ada.archive(cube_id), lambda: ada.rollback(cube_id, 1)):
        with pytest.raises(CubeFrozen):
            change()
    assert texts(ada, "blood") == ["My blood type is A."]
    ada.freeze(cube_id, frozen=False)
    assert ada.update(cube_id, "My blood type is B.").version == 2


def test_an_archived_memory_is_kept_but_not_found(ada: Scope) -> None:
    cube_id = ada.add("old plan").cube_id or ""
    ada.archive(cube_id)
    assert ada.search("plan") == []
    assert ada.count() == 0
    assert [cube.id for cube in ada.list(state="archived")] == [cube_id]
    assert ada.get(cube_id).text == "old plan"
    again = ada.add("old plan")
    assert again.outcome == "committed"
    with pytest.raises(CubeConflict):
        ada.archive(cube_id, archived=False)
    ada.forget(again.cube_id or "")
    ada.archive(cube_id, archived=False)
    assert texts(ada, "plan") == ["old plan"]


def test_a_memory_expires(ada: Scope, clock: FakeClock) -> None:
    cube_id = ada.add("The code is 4711.", ttl_seconds=60).cube_id or ""
    clock.advance(59)
    assert ada.count() == 1
    clock.advance(2)
    assert ada.search("code") == []
    assert ada.count() == 0
    assert ada.context("code").text == ""
    again = ada.add("The code is 4711.", ttl_seconds=60)
    assert again.outcome == "committed"
    assert again.cube_id != cube_id


def test_listing_goes_page_by_page(ada: Scope) -> None:
    ada.add_many([f"note {number}" for number in range(7)])
    seen, cursor = [], None
    while True:
        page = ada.list(limit=3, cursor=cursor)
        seen += [cube.text for cube in page]
        cursor = page.cursor
        if cursor is None:
            break
    assert seen == [f"note {number}" for number in range(7)]
    with pytest.raises(InvalidInput):
        ada.list(limit=0)
    with pytest.raises(InvalidInput, match="cursor"):
        ada.list(cursor="page two")
    with pytest.raises(InvalidInput):
        ada.count(type="nonsense")  # type: ignore[arg-type]


def test_links_are_kept(ada: Scope) -> None:
    a, b = (ada.add(text).cube_id or "" for text in ("It rained.", "The road was wet."))
    ada.link(b, a, "caused_by")
    ada.link(b, a, "caused_by")
    assert [(link.target, link.relation) for link in ada.get(b).header.descriptive.links] == [(a, "caused_by")]
    with pytest.raises(InvalidInput):
        ada.link(a, b, " ")


# The end


def test_forget_leaves_nothing(ada: Scope, memos: MemOS, tmp_path: Path) -> None:
    secret = "The vault combination is xylophone-42-quokka."
    cube_id = ada.add(secret).cube_id or ""
    ada.update(cube_id, secret + " Keep it.")
    ada.freeze(cube_id)
    ada.add("something else")
    ada.search("vault combination")
    erasure = ada.forget(cube_id)
    assert erasure.cube_ids == (cube_id,)
    assert erasure.versions == 2
    assert erasure.complete
    with pytest.raises(CubeNotFound):
        ada.get(cube_id)
    assert all("quokka" not in text for text in texts(ada, "vault combination xylophone"))
    for file in (tmp_path / "memory").rglob("*"):
        if file.is_file():
            content = file.read_bytes().lower()
            assert b"quokka" not in content, file
    memos.verify()
    with pytest.raises(CubeNotFound):
        ada.forget(cube_id)


def test_forgetting_several_is_all_or_nothing(ada: Scope) -> None:
    a = ada.add("one").cube_id or ""
    with pytest.raises(CubeNotFound):
        ada.forget([a, "01JZZZZZZZZZZZZZZZZZZZZZZZ"])
    assert ada.count() == 1


def test_export_writes_cubes_that_read_back(ada: Scope, tmp_path: Path) -> None:
    ada.add_many(["one", "two\nlines"])
    target = tmp_path / "ada.jsonl"
    assert ada.export(target) == 2
    cubes = [MemCube.from_json(line) for line in target.read_text("utf-8").splitlines()]
    assert [cube.text for cube in cubes] == ["one", "two\nlines"]
    assert json.loads(target.read_text("utf-8").splitlines()[0])["format"] == 1


def test_what_needs_an_engine_says_so(ada: Scope) -> None:
    cube_id = ada.add("x").cube_id or ""
    with pytest.raises(EngineMissing):
        ada.transform(cube_id, to="parametric")
    with pytest.raises(EngineMissing, match="engine="):
        ada.chat("hello")
    with pytest.raises(EngineMissing):
        ada.transform(cube_id, to="activation")


def test_a_closed_vault_says_so(tmp_path: Path) -> None:
    memos = MemOS.open(tmp_path / "m", embedder=HashEmbedder())
    ada = memos.scope(user="ada")
    memos.close()
    memos.close()
    with pytest.raises(VaultClosed):
        ada.search("x")


# Async and threads


async def test_async_twins_do_the_same(ada: Scope) -> None:
    receipt = await ada.aadd("My cat is called Biscuit.")
    await ada.aadd_many(["one", "two"])
    assert [hit.text for hit in await ada.asearch("cat", k=1)] == ["My cat is called Biscuit."]
    assert await ada.acount() == 3
    assert (await ada.aget(receipt.cube_id or "")).text == "My cat is called Biscuit."
    assert "Biscuit" in (await ada.acontext("cat")).text
    assert (await ada.aforget(receipt.cube_id or "")).complete
    assert Scope.asearch.__name__ == "asearch"


async def test_concurrent_writers_lose_nothing_and_add_nothing_twice(ada: Scope) -> None:
    receipts = await asyncio.gather(*(ada.aadd(f"note {number % 10}") for number in range(40)))
    assert sum(receipt.outcome == "committed" for receipt in receipts) == 10
    assert ada.count() == 10


def test_what_is_committed_is_there_after_reopening(tmp_path: Path) -> None:
    with MemOS.open(tmp_path / "m", embedder=HashEmbedder()) as memos:
        memos.scope(user="ada").add("My cat is called Biscuit.")
    with MemOS.open(tmp_path / "m", embedder=HashEmbedder()) as memos:
        assert texts(memos.scope(user="ada"), "cat") == ["My cat is called Biscuit."]
        memos.verify()


def test_words_alone_suffice_without_an_embedder(tmp_path: Path) -> None:
    with MemOS.open(tmp_path / "m", embedder=None) as memos:
        ada = memos.scope(user="ada")
        ada.add_many(["My cat is called Biscuit.", "Tea is nice."])
        assert texts(ada, "cats") == ["My cat is called Biscuit."]


def test_events_tell_what_happened_without_its_text(tmp_path: Path) -> None:
    events = []
    with MemOS.open(tmp_path / "m", embedder=HashEmbedder(), on_event=events.append) as memos:
        ada = memos.scope(user="ada")
        cube_id = ada.add("My cat is called Biscuit.").cube_id or ""
        ada.search("cat")
        ada.forget(cube_id)
    names = [event.name for event in events]
    assert [name for name in names if name.startswith("memory.")] == [
        "memory.added",
        "memory.searched",
        "memory.forgotten",
    ]
    assert "Biscuit" not in repr(events)


def test_time_to_live_and_validity_are_independent(ada: Scope, clock: FakeClock) -> None:
    ada.add("holds tomorrow", valid_from=clock.now() + timedelta(days=1))
    assert ada.search("tomorrow") == []
    clock.advance(2 * 86400)
    assert texts(ada, "tomorrow") == ["holds tomorrow"]
