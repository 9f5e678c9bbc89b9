"""MemosMemory and MemosMemoryBlock over a real vault."""

import asyncio
import copy
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.llms import ChatMessage
from llama_index.core.memory import Memory, StaticMemoryBlock
from llamaindex_parts import RamStore, assistant, user
from pydantic import ValidationError

from memos_core import MemOS, Scope
from memos_core.errors import CubeNotFound, InvalidInput, InvalidName, ScopeConflict, UnsupportedOption, VaultBusy
from memos_core.render import NOTES_V1, is_recalled
from memos_core.testing import HashEmbedder
from memos_llamaindex import MemosEvent, MemosEventHandler, MemosMemory, MemosMemoryBlock
from memos_llamaindex.session_lock import SessionLock, run_blocking

CAT = "My cat is called Biscuit."
QUESTION = "What is my cat called?"


@pytest.fixture
def memos(tmp_path: Path) -> Iterator[MemOS]:
    with MemOS.open(tmp_path / "memory", embedder=HashEmbedder()) as memos:
        yield memos


@pytest.fixture
def ada(memos: MemOS) -> Scope:
    return memos.scope(user="ada")


def remembering(scope: Scope | MemOS, session: str | None = "s1", **options: Any) -> MemosMemory:
    return MemosMemory.from_defaults(**options, memory=scope, session_id=session)


def told(messages: list[ChatMessage]) -> list[tuple[str, str]]:
    return [(message.role.value, message.content or "") for message in messages]


def recalled_text(messages: list[ChatMessage]) -> str:
    return "\n".join(message.content or "" for message in messages if is_recalled(message.content or ""))


# Recall


async def test_what_one_session_was_told_another_recalls(ada: Scope) -> None:
    first = remembering(ada, "monday")
    await first.aput_messages([user(CAT), assistant("What a fine name.")])
    second = remembering(ada, "tuesday")
    await second.aput(user(QUESTION))
    memory, question = await second.aget()
    assert memory.role == "system"
    assert CAT in memory.content
    assert memory.content.startswith(NOTES_V1.heading)
    named = [ada.get(cube_id).text for cube_id in memory.additional_kwargs["memos"]["cube_ids"]]
    assert CAT in named
    assert all(text in memory.content for text in named)
    assert told([question]) == [("user", QUESTION)]


async def test_a_message_is_in_memory_as_soon_as_it_is_put(ada: Scope) -> None:
    memory = remembering(ada)
    await memory.aput(user(CAT))
    cube = ada.list()[0]
    assert (cube.text, cube.speaker, cube.header.descriptive.source.session) == (CAT, "ada", "s1")


async def test_what_the_history_holds_is_not_recalled_beside_it(ada: Scope) -> None:
    memory = remembering(ada)
    await memory.aput_messages([user(CAT), assistant("Noted."), user(QUESTION)])
    assert told(await memory.aget()) == [("user", CAT), ("assistant", "Noted."), ("user", QUESTION)]


@pytest.mark.parametrize("as_message", [False, True])
async def test_a_question_that_was_not_put_yet_is_asked_of_memory(ada: Scope, as_message: bool) -> None:
    ada.add(CAT)
    memory = remembering(ada)
    messages = await memory.aget(input=user(QUESTION) if as_message else QUESTION)
    assert CAT in recalled_text(messages)
    assert len(messages) == 1


async def test_where_nothing_is_recalled_the_model_is_told_not_to_search(ada: Scope) -> None:
    memory = remembering(ada)
    await memory.aput(user("Hello."))
    (message,) = await memory.aget()
    assert message.additional_kwargs == {"memos": {"cube_ids": []}}
    assert await memory.aget_all() == [user("Hello.")]


async def test_only_what_user_and_assistant_say_is_remembered(ada: Scope) -> None:
    memory = remembering(ada)
    await memory.aput_messages(
        [
            ChatMessage(role="system", content="Be brief."),
            user(CAT),
            ChatMessage(role="tool", content="42"),
            assistant(""),
        ]
    )
    assert [cube.text for cube in ada.list()] == [CAT]
    assert len(await memory.aget_all()) == 4


async def test_the_same_message_twice_is_remembered_once_and_recalled_once(ada: Scope) -> None:
    memory = remembering(ada)
    await memory.aput(user(CAT))
    await memory.aput(user(CAT))
    assert ada.count() == 1
    for session in ("s2", "s3"):
        await remembering(ada, session).aput(user(CAT))
    assert ada.count() == 3
    assert recalled_text(await remembering(ada, "s4").aget(input=QUESTION)).count(CAT) == 1


async def test_recalled_memory_put_back_is_neither_kept_nor_remembered(ada: Scope) -> None:
    ada.add(CAT)
    memory = remembering(ada)
    await memory.aput(user(QUESTION))
    shown = await memory.aget()
    before = ada.count()
    await memory.aset(shown)
    await memory.aput_messages(shown[:1])
    assert ada.count() == before
    assert told(await memory.aget_all()) == [("user", QUESTION)]


async def test_a_conversation_begins_alike_from_turn_to_turn(ada: Scope) -> None:
    facts = [CAT, "My dog is called Crumb.", "My house stands in Lisbon.", "My sister plays the cello."]
    ada.add_many(facts)
    memory = remembering(ada, k=2)
    rendered = []
    for question in ("cat and dog", "house in Lisbon", "cat and sister", "dog and house", "cat and dog"):
        await memory.aput_messages([user(f"Tell me of my {question}."), assistant("I will.")])
        rendered.append(recalled_text(await memory.aget()))
    assert all(fact in rendered[-1] for fact in facts)
    assert rendered[2] == rendered[3] == rendered[4]
    assert [rendered[-1].index(fact) for fact in facts] == sorted(rendered[-1].index(fact) for fact in facts)


async def test_history_and_memory_stay_within_the_limit(ada: Scope) -> None:
    ada.add_many([f"Fact {number} of my cat is that it weighs {number} kilograms." for number in range(40)])
    memory = remembering(ada, token_limit=150, token_flush_size=10, tokenizer_fn=str.split, k=30)
    for number in range(10):
        await memory.aput_messages([user(f"What of my cat, {number}?" + " pad" * 12), assistant("Well." + " pad" * 12)])
        shown = await memory.aget()
        assert sum(len((message.content or "").split()) for message in shown) <= 150
    assert recalled_text(shown)


async def test_a_long_memory_is_recalled_by_the_passage_that_fits(ada: Scope) -> None:
    quiet, gulls = ("The harbour was quiet. " * 400, "Gulls cried all day. " * 400)
    ada.add(quiet + "The lighthouse keeper is called Aurelio. " + gulls)
    memory = remembering(ada)
    (recalled,) = await memory.aget(input="Who is the lighthouse keeper?")
    assert "Aurelio" in recalled.content
    assert len(recalled.content) < len(quiet + gulls) / 2
    (reference,) = recalled.additional_kwargs["memos"]["cube_ids"]
    assert ada.context_of([reference]).text == recalled.content


async def test_a_session_may_recall_only_its_own(ada: Scope) -> None:
    await remembering(ada, "monday").aput(user(CAT))
    assert not recalled_text(await remembering(ada, "tuesday", per_session=True).aget(input=QUESTION))
    assert CAT in recalled_text(await remembering(ada, "monday2").aget(input=QUESTION))


async def test_other_blocks_stand_beside_recalled_memory_not_in_it(ada: Scope) -> None:
    ada.add(CAT)
    static = StaticMemoryBlock(name="rules", static_content="Speak softly.", priority=0)
    memory = remembering(ada, memory_blocks=[static])
    recalled, rules = await memory.aget(input=QUESTION)
    assert "Speak softly." not in recalled.content
    assert "Speak softly." in rules.content
    await memory.aput(user("Hi."))
    assert (await memory.aget_all())[0].content == "Hi."


async def test_stock_memory_takes_the_block(ada: Scope) -> None:
    block = MemosMemoryBlock(memory=ada)
    memory = Memory.from_defaults(
        session_id="s1",
        token_limit=140,
        token_flush_size=5,
        memory_blocks=[block],
        tokenizer_fn=str.split,
        chat_store=RamStore(),
    )
    await memory.aput(user(CAT))
    await memory.aput(user(QUESTION + " pad" * 100))
    assert ada.count() == 1
    assert CAT in recalled_text(await memory.aget())


async def test_a_block_that_is_too_long_drops_what_fits_least(ada: Scope) -> None:
    ada.add_many(["My other cat is called Crumb.", CAT, "What is the cat of my sister called?"])
    block = MemosMemoryBlock(memory=ada)
    content = await block.aget([user(QUESTION)])
    shorter = await block.atruncate(content, 5)
    assert shorter is not None
    kept = shorter[0].additional_kwargs["memos"]
    assert CAT in shorter[0].content
    assert len(shorter[0].content) < len(content[0].content)
    assert [shorter[0].content[:end].rpartition("- ")[2] for end in kept["ends"]] == [
        ada.get(cube_id).text for cube_id in kept["cube_ids"]
    ]
    assert await block.atruncate(content, 10_000) is None
    assert await block.atruncate([], 5) is None


async def test_it_is_a_plain_memory_without_a_scope() -> None:
    memory = MemosMemory.from_defaults(chat_store=RamStore(), chat_history=None, session_id="x")
    await memory.aput(user("Hello."))
    assert await memory.aget() == [user("Hello.")]
    with pytest.raises(InvalidInput, match="pass memory="):
        await memory.aforget(query="x")


# When it is remembered


async def test_flush_remembers_what_leaves_the_history(ada: Scope) -> None:
    memory = remembering(ada, write="flush", token_limit=40, token_flush_size=5, tokenizer_fn=str.split)
    await memory.aput(user(CAT + " pad" * 20))
    assert ada.count() == 0
    await memory.aput(user(QUESTION + " pad" * 20))
    assert [cube.text[: len(CAT)] for cube in ada.list()] == [CAT]
    await memory.aflush()
    assert ada.count() == 2
    assert await memory.aget() == []
    assert len(await memory.aget_all()) == 2


async def test_off_remembers_nothing_and_recalls(ada: Scope) -> None:
    ada.add(CAT)
    memory = remembering(ada, write="off")
    await memory.aput(user(QUESTION))
    await memory.aflush()
    assert ada.count() == 1
    assert CAT in recalled_text(await memory.aget(input=QUESTION))


async def test_the_users_turns_alone_may_be_remembered(ada: Scope) -> None:
    memory = remembering(ada, remember="user")
    await memory.aput_messages([user(CAT), assistant("Noted.")])
    assert [cube.text for cube in ada.list()] == [CAT]
    assert MemosMemory.from_dict(memory.to_dict()).remember == "user"
    with pytest.raises(ValidationError):
        remembering(ada, remember="all")


async def test_a_reset_empties_the_history_and_leaves_memory(ada: Scope) -> None:
    memory = remembering(ada)
    await memory.aput(user(CAT))
    await memory.areset()
    assert await memory.aget_all() == []
    assert ada.count() == 1


# Forgetting


async def test_what_is_forgotten_leaves_memory_and_histories(ada: Scope) -> None:
    monday, tuesday = (remembering(ada, name) for name in ("monday", "tuesday"))
    await monday.aput_messages([user(CAT), assistant("Noted.")])
    await tuesday.aput(user("Hello."))
    erasure = await tuesday.aforget(query=QUESTION)
    assert erasure is not None
    assert erasure.complete
    assert told(await monday.aget_all()) == [("assistant", "Noted.")]
    assert CAT not in [cube.text for cube in ada.list()]
    assert not recalled_text(await remembering(ada, "w").aget(input=QUESTION)).count(CAT)


async def test_a_whole_session_can_be_forgotten(ada: Scope) -> None:
    ada.add("I live in Lisbon.")
    memory = remembering(ada)
    await memory.aput_messages([user(CAT), assistant("Noted.")])
    erasure = await memory.aforget(whole_session=True)
    assert erasure is not None
    assert len(erasure.cube_ids) == 2
    assert [cube.text for cube in ada.list()] == ["I live in Lisbon."]
    assert await memory.aget_all() == []
    assert await memory.aforget(whole_session=True) is None


async def test_earlier_words_of_a_memory_leave_the_history_too(ada: Scope) -> None:
    memory = remembering(ada)
    await memory.aput(user(CAT))
    cube_id = ada.list()[0].id
    ada.update(cube_id, "My cat is called Crumb.")
    await memory.aforget(cube_id)
    assert await memory.aget_all() == []


async def test_forgetting_says_what_is_wrong(ada: Scope) -> None:
    memory = remembering(ada)
    with pytest.raises(InvalidInput, match="what is to be forgotten"):
        await memory.aforget()
    with pytest.raises(CubeNotFound):
        await memory.aforget("01ARZ3NDEKTSV4RRFFQ69G5FAV")
    assert await memory.aforget(query="anything") is None


def test_synchronous_callers_have_it_all(ada: Scope) -> None:
    memory = remembering(ada)
    memory.put(user(CAT))
    memory.put_messages([assistant("Noted.")])
    assert told(memory.get()) == [("user", CAT), ("assistant", "Noted.")]
    memory.flush()
    assert len(memory.get_all()) == 2
    memory.set([user("New.")])
    assert told(memory.get_all()) == [("user", "New.")]
    assert memory.forget(query=QUESTION) is not None
    memory.reset()
    assert memory.get_all() == []


# Whose memory


async def test_a_memos_needs_to_be_told_whose_memory(memos: MemOS) -> None:
    with pytest.raises(InvalidName, match="user_id"):
        remembering(memos)
    for name in ("ada", "ben"):
        await remembering(memos, namespace_values={"user_id": name}).aput(user(f"I am {name}."))
    assert [cube.text for cube in memos.scope(user="ada").list()] == ["I am ada."]
    by_session = remembering(memos, "s7", namespace=("users", "eve", "sessions", "{session_id}"))
    await by_session.aput(user(CAT))
    assert memos.scope(user="eve", session="s7").count() == 1
    assert memos.scope(user="eve", session="s8").count() == 0


async def test_a_session_may_have_any_name_but_not_conflict(ada: Scope) -> None:
    odd = remembering(ada, "a/b " * 60)
    await odd.aput(user(CAT))
    assert len(await odd.aget_all()) == 1
    assert (await odd.aforget(whole_session=True)) is not None
    assert ada.count() == 0
    with pytest.raises(ScopeConflict):
        remembering(ada.scope(session="monday"), "tuesday")
    assert remembering(ada.scope(session="monday"), None).session_id == "monday"
    with pytest.raises(ValidationError):
        remembering("memory/")  # type: ignore[arg-type]


async def test_private_memory_is_recalled_only_as_that_agent(memos: MemOS, ada: Scope) -> None:
    ada.scope(agent="scout").add("My cat hides in the attic.")
    ada.add_many([CAT, "The weather is fine today."])
    memory = remembering(ada, per_agent=True)
    as_scout = recalled_text(await memory.aget(input="And my cat?", agent="scout"))
    as_clerk = recalled_text(await memory.aget(input="And my cat?", agent="clerk"))
    assert ("attic" in as_scout, "Biscuit" in as_scout) == (True, True)
    assert ("attic" in as_clerk, "Biscuit" in as_clerk) == (False, True)


# Concurrency


async def test_conversations_at_once_keep_apart(memos: MemOS) -> None:
    async def converse(number: int) -> str:
        scope = memos.scope(user=f"user{number}")
        memory = remembering(scope, f"s{number}")
        await memory.aput(user(f"My secret number is {number}-{number}."))
        await memory.aput(assistant("Noted."))
        return recalled_text(await remembering(scope, "later").aget(input="What is my secret number?"))

    answers = await asyncio.gather(*map(converse, range(20)))
    for number, answer in enumerate(answers):
        assert f"{number}-{number}." in answer
        assert answer.count("secret number") == 1


def test_threads_and_loops_share_one_session_in_order(ada: Scope) -> None:
    memory = remembering(ada, token_limit=60, token_flush_size=10, chat_history_token_ratio=1.0, tokenizer_fn=str.split)

    def put(worker: int) -> None:
        for number in range(5):
            memory.put(user(f"worker {worker} says {number} " + "pad " * 8))

    threads = [threading.Thread(target=put, args=(worker,)) for worker in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert len(memory.get_all()) == ada.count() == 30
    assert memory.get()[-1].content in [message.content for message in memory.get_all()]


async def test_a_synchronous_call_that_would_wait_for_its_own_loop_says_so(ada: Scope) -> None:
    memory = remembering(ada)
    writing = asyncio.create_task(memory.aput(user(CAT)))
    await asyncio.sleep(0)
    with pytest.raises(VaultBusy, match="await the async method"):
        memory.put(user("Meanwhile."))
    await writing
    memory.put(user("Afterwards."))
    assert [message.content for message in await memory.aget_all()] == [CAT, "Afterwards."]


async def test_a_lock_is_passed_on_when_who_waits_for_it_gives_up() -> None:
    lock = SessionLock()
    order: list[str] = []

    async def hold(name: str) -> None:
        async with lock:
            order.append(name)
            await asyncio.sleep(0.01)

    tasks = [asyncio.create_task(hold(name)) for name in "abcd"]
    await asyncio.sleep(0)
    tasks[1].cancel()
    await asyncio.sleep(0.011)
    tasks[2].cancel()  # it may have just been let in
    await asyncio.gather(*tasks, return_exceptions=True)
    assert order[0] == "a"
    assert order[-1] == "d"
    await asyncio.wait_for(hold("e"), timeout=1)


def test_a_lock_serves_several_event_loops() -> None:
    lock = SessionLock()
    inside: list[int] = []

    async def enter() -> None:
        async with lock:
            inside.append(1)
            assert len(inside) == 1
            await asyncio.sleep(0.002)
            inside.pop()

    async def many() -> None:
        await asyncio.gather(*(enter() for _ in range(5)))

    threads = [threading.Thread(target=run_blocking, args=(many(),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert not any(thread.is_alive() for thread in threads)


# Handles and saved state


def test_a_copy_reaches_the_same_memory_and_it_is_never_falsy(ada: Scope) -> None:
    memory = remembering(ada)
    assert copy.deepcopy(memory) is memory
    assert copy.deepcopy({"memory": memory})["memory"] is memory
    assert memory


async def test_what_cannot_be_saved_says_so(ada: Scope) -> None:
    with pytest.raises(UnsupportedOption, match="RamStore"):
        remembering(ada, chat_store=RamStore()).to_dict()
    with pytest.raises(InvalidInput, match="no saved memory"):
        MemosMemory.from_dict({"class_name": "MemosMemory"})


async def test_a_history_lies_in_the_vault_and_goes_on_where_it_stopped(ada: Scope) -> None:
    first = remembering(ada)
    await first.aput_messages([user(CAT), assistant("Noted.")])
    again = remembering(ada)
    assert told(await again.aget()) == [("user", CAT), ("assistant", "Noted.")]
    saved = json.loads(json.dumps(again.to_dict()))
    assert "Biscuit" not in json.dumps(saved)
    loaded = MemosMemory.from_dict(saved)
    assert told(await loaded.aget()) == [("user", CAT), ("assistant", "Noted.")]
    await asyncio.gather(*(memory.aput(user("One of many.")) for memory in (first, again, loaded) for _ in range(5)))
    assert len(await loaded.aget_all()) == 17
    assert ada.count() == 3


# Events


async def test_what_memory_does_is_told_without_its_text(ada: Scope) -> None:
    seen: list[MemosEvent] = []
    handler = MemosEventHandler(on_event=seen.append)
    root = get_dispatcher()
    root.add_event_handler(handler)
    try:
        memory = remembering(ada)
        await memory.aput(user(CAT))
        await memory.aput(user(CAT))
        later = remembering(ada, "s2")
        await later.aget(input=QUESTION)
        await later.aget(input=QUESTION)
        await later.aforget(query=QUESTION)
    finally:
        root.event_handlers.remove(handler)
    names = [event.class_name() for event in seen]
    assert names == ["MemosWriteEvent"] * 2 + ["MemosRecallEvent"] * 2 + ["MemosForgetEvent"]
    written = json.loads(seen[0].model_dump_json())
    assert (written["outcomes"], written["user"], written["session"]) == ({"committed": 1}, "ada", "s1")
    assert seen[3].kept == 1  # type: ignore[attr-defined]
    assert all("Biscuit" not in event.model_dump_json() for event in seen)
    totals = handler.totals
    assert (totals["writes"], totals["committed"], totals["duplicate"]) == (2, 1, 1)
    assert (totals["recalls"], totals["recalled"], totals["forgotten"]) == (2, 2, 1)
