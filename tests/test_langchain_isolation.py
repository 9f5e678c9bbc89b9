"""Many users, agents, threads and processes on one vault and one engine: no one meets another's memory."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from agent_parts import on, said, scripted
from langchain.agents import create_agent
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver

from memos_core import MemOS
from memos_core.engine import HFEngine
from memos_core.testing import HashEmbedder
from memos_core.testing.models import tiny_model
from memos_langchain import ChatMemos, MemosMiddleware, create_memory_tools

USERS = 10
QUESTION = "What is my cat called?"


class Echo(GenericFakeChatModel):
    """Answers with its whole prompt, so that whatever leaked into it is seen."""

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        text = " / ".join(str(message.content) for message in messages).replace("Notes from memory", "Notes")
        return ChatResult(generations=[ChatGeneration(message=AIMessage(text))])

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self


@pytest.fixture(scope="module")
def engine() -> Iterator[HFEngine]:
    engine = HFEngine.from_model(*tiny_model(), name="tiny")
    yield engine
    engine.close()


@pytest.fixture
def memos(memory_folder: Path, engine: HFEngine) -> Iterator[MemOS]:
    with MemOS.open(memory_folder, engine=engine, embedder=HashEmbedder()) as memos:
        for number in range(USERS):
            memos.scope(user=f"user{number}").add(f"My cat is called Secret{number}x.")
        yield memos


def secrets_in(text: str) -> set[str]:
    return {f"Secret{number}x" for number in range(USERS) if f"Secret{number}x" in text}


def test_fifty_threads_of_two_agents_meet_only_their_own_memory(memos: MemOS, engine: HFEngine) -> None:
    saver = InMemorySaver()
    words = create_agent(
        Echo(messages=iter(())), create_memory_tools(memos), middleware=[MemosMiddleware(memos)], checkpointer=saver
    )
    llm = ChatMemos(engine=engine, max_tokens=2)
    tensors = create_agent(llm, middleware=[MemosMiddleware(memos, inject="kv")], checkpointer=saver)

    def ask(number: int) -> tuple[int, str, list[str]]:
        user = number % USERS
        spoken = words.invoke(said(QUESTION), on(f"words-{number}", f"user{user}"))["messages"][-1]
        told = tensors.invoke(said(QUESTION), on(f"kv-{number}", f"user{user}"))["messages"][-1]
        return user, spoken.text, told.response_metadata["memos"]["cube_ids"]

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(ask, range(50)))
    own = {user: {cube.id for cube in memos.scope(user=f"user{user}").list(limit=500)} for user in range(USERS)}
    for user, text, cube_ids in answers:
        assert secrets_in(text) == {f"Secret{user}x"}
        assert set(cube_ids) <= own[user]
        assert cube_ids
    for user in range(USERS):
        stored = " ".join(cube.text for cube in memos.scope(user=f"user{user}").list(limit=500))
        assert secrets_in(stored) == {f"Secret{user}x"}


async def test_fifty_tasks_on_one_event_loop_meet_only_their_own_memory(memos: MemOS) -> None:
    agent = create_agent(Echo(messages=iter(())), middleware=[MemosMiddleware(memos, remember="none")])

    async def ask(number: int) -> tuple[int, str]:
        user = number % USERS
        out = await agent.ainvoke(said(QUESTION), on(f"t{number}", f"user{user}"))
        return user, out["messages"][-1].text

    for user, text in await asyncio.gather(*(ask(number) for number in range(50))):
        assert secrets_in(text) == {f"Secret{user}x"}


def test_fifty_threads_of_one_user_store_each_turn_once(memos: MemOS) -> None:
    agent = create_agent(Echo(messages=iter(())), middleware=[MemosMiddleware(memos, remember="user")])
    with ThreadPoolExecutor(50) as pool:
        list(pool.map(lambda n: agent.invoke(said(f"Fact {n % 25}."), on("same", "eve")), range(50)))
    assert sorted(cube.text for cube in memos.scope(user="eve").list(limit=500)) == sorted(
        f"Fact {number}." for number in range(25)
    )


OTHER_PROCESS = """
import sys
from langchain.agents import create_agent
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langgraph.checkpoint.sqlite import SqliteSaver
from memos_core import MemOS
from memos_core.testing import HashEmbedder
from memos_langchain import MemosMiddleware

folder, text, answer, thread = sys.argv[1:]
model = GenericFakeChatModel(messages=iter([answer]))
with MemOS.open(folder + "/memory", embedder=HashEmbedder()) as memos, SqliteSaver.from_conn_string(folder + "/t") as t:
    agent = create_agent(model, middleware=[MemosMiddleware(memos)], checkpointer=t)
    config = {"configurable": {"user_id": "ada", "thread_id": thread}}
    agent.invoke({"messages": [("user", text)]}, config)
"""


def test_what_another_process_was_told_is_known_here(memory_folder: Path, tmp_path: Path) -> None:
    def elsewhere(text: str, answer: str, thread: str) -> None:
        command = [sys.executable, "-c", OTHER_PROCESS, str(tmp_path), text, answer, thread]
        subprocess.run(command, check=True, capture_output=True, text=True)

    with MemOS.open(memory_folder, embedder=HashEmbedder()) as memos:
        elsewhere("My cat is called Biscuit.", "Noted.", "monday")
        with SqliteSaver.from_conn_string(str(tmp_path / "t")) as saver:
            model = scripted("Biscuit.", "Still Biscuit.")
            agent = create_agent(model, middleware=[MemosMiddleware(memos)], checkpointer=saver)
            agent.invoke(said(QUESTION), on("tuesday"))
            agent.invoke(said(QUESTION), on("monday"))
    assert "My cat is called Biscuit." in model.systems[0]
    assert [message.type for message in model.asked[1]] == ["system", "human", "ai", "human"]
