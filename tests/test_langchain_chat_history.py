"""The message history of LangChain over a memory, and the way there from what LangChain has given up."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.runnables.history import RunnableWithMessageHistory

from memos_core import MemOS, Scope
from memos_core.errors import InvalidInput, InvalidName
from memos_core.testing import HashEmbedder
from memos_langchain import MemosChatMessageHistory


@pytest.fixture
def memos(tmp_path: Path) -> Iterator[MemOS]:
    with MemOS.open(tmp_path / "memory", embedder=HashEmbedder()) as memos:
        yield memos


@pytest.fixture
def ada(memos: MemOS) -> Scope:
    return memos.scope(user="ada")


def test_messages_come_back_whole_and_in_order(ada):
    messages = [
        SystemMessage("Be kind."),
        HumanMessage("What is on the picture?", id="h1", name="Ada"),
        HumanMessage([{"type": "text", "text": "this"}, {"type": "image", "url": "http://example.com/a.png"}]),
        AIMessage("", tool_calls=[{"name": "look", "args": {"at": "it"}, "id": "t1"}], response_metadata={"x": [1]}),
        ToolMessage("a cat 🐈", tool_call_id="t1"),
        AIMessage("A cat.", usage_metadata={"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}),
    ]
    history = MemosChatMessageHistory(ada, "talk")
    history.add_messages(messages[:2])
    history.add_messages(messages[2:])
    assert MemosChatMessageHistory(ada, "talk").messages == messages


def test_conversations_and_users_are_apart(memos, ada):
    MemosChatMessageHistory(ada, "talk").add_user_message("hello")
    assert MemosChatMessageHistory(ada, "other").messages == []
    assert MemosChatMessageHistory(memos.scope(user="ben"), "talk").messages == []
    same = MemosChatMessageHistory(memos, "talk", namespace_values={"user_id": "ada"})
    assert [message.text for message in same.messages] == ["hello"]
    with pytest.raises(InvalidName):
        MemosChatMessageHistory(memos, "talk")


def test_a_cleared_history_is_empty_and_goes_on(ada, memos):
    history = MemosChatMessageHistory(ada, "talk")
    history.add_messages([])
    history.add_user_message("old")
    history.clear()
    history.clear()
    assert history.messages == []
    history.add_ai_message("new")
    assert [message.text for message in history.messages] == ["new"]
    memos.verify()


def test_a_message_that_is_no_json_is_refused_with_all_that_came_with_it(ada):
    history = MemosChatMessageHistory(ada, "talk")
    with pytest.raises(InvalidInput):
        history.add_messages([HumanMessage("good"), HumanMessage("bad", additional_kwargs={"x": object()})])
    assert history.messages == []
    with pytest.raises(InvalidInput):
        MemosChatMessageHistory(ada, "")


def test_threads_lose_no_message(ada):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: MemosChatMessageHistory(ada, "talk").add_user_message(str(n)), range(24)))
    texts = [message.text for message in MemosChatMessageHistory(ada, "talk").messages]
    assert sorted(texts) == sorted(str(n) for n in range(24))


def test_what_was_said_can_become_memory(ada):
    history = MemosChatMessageHistory(ada, "talk", remember="user")
    history.add_messages([HumanMessage("My cat is called Biscuit."), AIMessage("What a nice name.")])
    history.add_messages([HumanMessage("She sleeps all day.")])
    assert [cube.text for cube in ada.list()] == ["My cat is called Biscuit.", "She sleeps all day."]
    history.clear()
    assert ada.search("What is my cat called?")[0].text == "My cat is called Biscuit."
    MemosChatMessageHistory(ada, "quiet").add_user_message("nobody remembers this")
    assert ada.count() == 2


async def test_the_async_methods(ada):
    history = MemosChatMessageHistory(ada, "talk")
    await history.aadd_messages([HumanMessage("hello")])
    assert await history.aget_messages() == [HumanMessage("hello")]
    await history.aclear()
    assert await history.aget_messages() == []


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_runnable_with_message_history(ada, mode):
    prompt = ChatPromptTemplate.from_messages([MessagesPlaceholder("history"), ("human", "{input}")])
    model = FakeListChatModel(responses=["one", "two"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        chain = RunnableWithMessageHistory(
            prompt | model,
            lambda session_id: MemosChatMessageHistory(ada, session_id),
            input_messages_key="input",
            history_messages_key="history",
        )
        config = {"configurable": {"session_id": "talk"}}
        for text in ("first", "second"):
            if mode == "sync":
                chain.invoke({"input": text}, config)
            else:
                asyncio.run(chain.ainvoke({"input": text}, config))
    texts = [message.text for message in MemosChatMessageHistory(ada, "talk").messages]
    assert texts == ["first", "one", "second", "two"]
