"""The chat stores of LlamaIndex over a memory."""

from __future__ import annotations

import asyncio
import copy
import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from llama_index.core.base.llms.types import ChatMessage, ImageBlock, MessageRole, TextBlock
from llama_index.core.llms import MockLLM
from llama_index.core.memory import ChatMemoryBuffer, Memory
from llama_index.core.storage.chat_store import SimpleChatStore
from llama_index.core.storage.chat_store.base_db import MessageStatus

from memos_core import MemOS, Scope
from memos_core.testing import FakeClock
from memos_llamaindex import MemosAsyncChatStore, MemosChatStore


@pytest.fixture
def memos(tmp_path: Path) -> Iterator[MemOS]:
    with MemOS.open(tmp_path / "memory", embedder=None, clock=FakeClock()) as memos:
        yield memos


@pytest.fixture
def ada(memos: MemOS) -> Scope:
    return memos.scope(user="ada")


@pytest.fixture
def store(ada: Scope) -> MemosChatStore:
    return MemosChatStore(ada)


@pytest.fixture
def history(ada: Scope) -> MemosAsyncChatStore:
    return MemosAsyncChatStore(ada)


def said(*texts: str) -> list[ChatMessage]:
    return [ChatMessage(role=MessageRole.USER, content=text) for text in texts]


def texts(messages: list[ChatMessage] | None) -> list[str | None]:
    return [message.content for message in messages or []]


# Synchronous


def test_messages_in_their_order(store):
    store.add_message("talk", said("a")[0])
    store.add_message("talk", said("c")[0])
    store.add_message("talk", said("b")[0], idx=1)
    store.add_message("talk", said("first")[0], idx=0)
    store.add_message("other", said("x")[0])
    assert texts(store.get_messages("talk")) == ["first", "a", "b", "c"]
    assert store.get_messages("absent") == []
    assert store.get_keys() == ["talk", "other"]


def test_a_conversation_is_set_as_a_whole(store):
    store.set_messages("talk", said("a", "b", "c"))
    store.set_messages("talk", said("d"))
    assert texts(store.get_messages("talk")) == ["d"]
    store.set_messages("empty", [])
    assert store.get_messages("empty") == []
    assert store.get_keys() == ["talk", "empty"]


def test_messages_are_taken_out(store):
    store.set_messages("talk", said("a", "b", "c", "d"))
    assert store.delete_message("talk", 1).content == "b"
    assert store.delete_message("talk", 9) is None
    assert store.delete_message("absent", 0) is None
    assert store.delete_last_message("talk").content == "d"
    assert texts(store.get_messages("talk")) == ["a", "c"]
    assert texts(store.delete_messages("talk")) == ["a", "c"]
    assert store.delete_messages("talk") is None
    assert store.delete_last_message("talk") is None
    assert store.get_keys() == []


@pytest.mark.parametrize("seed", range(3))
def test_it_answers_like_the_simple_store(store, seed):
    import random

    draw, simple = random.Random(seed), SimpleChatStore()
    for step in range(25):
        key, message, place = draw.choice("ab"), said(str(step))[0], draw.randrange(4)
        calls = [
            lambda one, key=key, message=message: one.add_message(key, message),
            lambda one, key=key, message=message, place=place: one.add_message(key, message, idx=place),
            lambda one, key=key, place=place: one.delete_message(key, place),
            lambda one, key=key, step=step: one.set_messages(key, said(f"{step}x", f"{step}y")),
            lambda one, key=key: one.delete_messages(key),
        ]
        call = draw.choices(calls, [5, 2, 2, 1, 1])[0]
        assert call(store) == call(simple)
        assert {key: store.get_messages(key) for key in store.get_keys()} == simple.store


def test_a_message_comes_back_whole(store):
    message = ChatMessage(
        role=MessageRole.ASSISTANT,
        blocks=[TextBlock(text="héllo 🐈"), ImageBlock(url="http://example.com/a.png")],
        additional_kwargs={"tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}]},
    )
    store.add_message("talk", message)
    (found,) = store.get_messages("talk")
    assert found == message


async def test_the_async_methods(store):
    await store.aset_messages("talk", said("a"))
    await store.async_add_message("talk", said("b")[0])
    assert texts(await store.aget_messages("talk")) == ["a", "b"]
    assert (await store.adelete_message("talk", 0)).content == "a"
    assert (await store.adelete_last_message("talk")).content == "b"
    assert await store.aget_keys() == ["talk"]
    assert await store.adelete_messages("talk") == []


def test_messages_that_are_added_at_once_are_all_there(ada):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: MemosChatStore(ada).add_message("talk", said(str(n))[0]), range(30)))
    assert sorted(texts(MemosChatStore(ada).get_messages("talk"))) == sorted(str(n) for n in range(30))


def test_the_store_says_what_it_is_without_its_memory(store):
    assert json.loads(store.model_dump_json())["name"] == "chat"
    assert store.to_dict()["class_name"] == "MemosChatStore"
    assert copy.deepcopy(store) is store


def test_a_buffer_over_the_store_outlives_the_process(tmp_path):
    code = (
        "from llama_index.core.llms import ChatMessage\nfrom memos_core import MemOS\n"
        "from memos_llamaindex import MemosChatStore\n"
        "with MemOS.open('memory', embedder=None) as memos:\n"
        "    MemosChatStore(memos.scope('ada')).add_message('talk', ChatMessage(role='user', content='hello'))\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, cwd=tmp_path)
    with MemOS.open(tmp_path / "memory", embedder=None) as memos:
        store = MemosChatStore(memos.scope("ada"))
        buffer = ChatMemoryBuffer.from_defaults(chat_store=store, chat_store_key="talk", llm=MockLLM())
        buffer.put(ChatMessage(role="assistant", content="hi"))
        assert texts(buffer.get()) == ["hello", "hi"]
        assert texts(store.get_messages("talk")) == ["hello", "hi"]


def test_users_do_not_share_conversations(memos, store):
    store.add_message("talk", said("mine")[0])
    assert MemosChatStore(memos.scope(user="ben")).get_keys() == []
    assert MemosChatStore(memos).get_keys() == []
    assert MemosChatStore(memos.scope(user="ada"), name="other").get_keys() == []


# The history of Memory


async def test_a_history_with_its_archive(history):
    await history.add_messages("s", said("a", "b", "c", "d"))
    await history.add_message("s", said("old")[0], status=MessageStatus.ARCHIVED)
    assert texts(await history.archive_oldest_messages("s", n=2)) == ["a", "b"]
    assert texts(await history.get_messages("s")) == ["c", "d"]
    assert texts(await history.get_messages("s", status=MessageStatus.ARCHIVED)) == ["a", "b", "old"]
    assert texts(await history.get_messages("s", status=None)) == ["a", "b", "c", "d", "old"]
    assert texts(await history.get_messages("s", status=None, limit=2, offset=1)) == ["b", "c"]
    assert await history.count_messages("s") == 2
    assert await history.count_messages("s", status=None) == 5
    assert texts(await history.delete_oldest_messages("s", n=1)) == ["c"]
    assert (await history.delete_message("s", 1)).content == "b"
    assert await history.delete_message("s", 99) is None
    await history.delete_messages("s", status=MessageStatus.ARCHIVED)
    assert texts(await history.get_messages("s", status=None)) == ["d"]
    assert await history.get_keys() == ["s"]
    await history.delete_messages("s")
    assert await history.get_keys() == []


async def test_setting_a_history_replaces_its_archive_too(history):
    await history.add_messages("s", said("a"), status=MessageStatus.ARCHIVED)
    await history.set_messages("s", said("b", "c"))
    assert texts(await history.get_messages("s", status=None)) == ["b", "c"]
    await history.add_messages("s", [])
    assert await history.archive_oldest_messages("s", n=0) == []
    assert await history.delete_oldest_messages("absent", n=3) == []


async def test_a_history_loses_nothing_when_it_is_written_at_once(history):
    await asyncio.gather(*(history.add_message("s", said(str(n))[0]) for n in range(30)))
    assert sorted(texts(await history.get_messages("s"))) == sorted(str(n) for n in range(30))


async def test_memory_over_the_store(ada):
    def memory() -> Memory:
        return Memory.from_defaults(
            session_id="s",
            chat_store=MemosAsyncChatStore(ada),
            token_limit=40,
            chat_history_token_ratio=0.5,
            token_flush_size=10,
            tokenizer_fn=str.split,
        )

    for n in range(12):
        await memory().aput(ChatMessage(role="user" if n % 2 == 0 else "assistant", content=f"this is message {n}"))
    active = await memory().aget_all(status=MessageStatus.ACTIVE)
    everything = await memory().aget_all(status=None)
    assert len(everything) == 12
    assert texts(everything) == [f"this is message {n}" for n in range(12)]
    assert 0 < len(active) < 12
    assert texts(active) == texts(everything)[-len(active) :]


def test_memory_from_synchronous_code(ada):
    memory = Memory.from_defaults(session_id="s", chat_store=MemosAsyncChatStore(ada), token_limit=1000)
    memory.put(ChatMessage(role="user", content="hello"))
    assert texts(memory.get()) == ["hello"]
    assert copy.deepcopy(memory.sql_store) is memory.sql_store
