"""Summaries, metrics and classic chains: what stands around MemosMiddleware."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from agent_parts import ADA, on, said, scripted, texts
from langchain.agents import create_agent
from langchain.agents.middleware import SummarizationMiddleware
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langgraph.checkpoint.memory import InMemorySaver

from memos_core import MemOS, Scope
from memos_core.engine import HFEngine
from memos_core.errors import InvalidInput, InvalidName
from memos_core.testing import HashEmbedder
from memos_core.testing.models import tiny_model
from memos_langchain import ChatMemos, MemosCallbackHandler, MemosMiddleware, MemosSummarizer
from memos_langchain.classic import MemosMemory

QUESTION = "What is my cat called?"
HISTORY: list[Any] = [
    HumanMessage("My cat is called Biscuit and she sleeps all day."),
    AIMessage("Biscuit sounds like a calm cat."),
    HumanMessage("I am planning a trip to Bergen."),
]


@pytest.fixture
def memos(memory_folder: Path) -> Iterator[MemOS]:
    with MemOS.open(memory_folder, embedder=HashEmbedder()) as memos:
        yield memos


@pytest.fixture
def ada(memos: MemOS) -> Scope:
    return memos.scope(user="ada")


@pytest.fixture(scope="module")
def engine() -> Iterator[HFEngine]:
    engine = HFEngine.from_model(*tiny_model(), name="tiny")
    yield engine
    engine.close()


# MemosSummarizer


def test_without_a_model_the_summary_quotes_and_is_the_same_each_time(ada: Scope) -> None:
    summarizer = MemosSummarizer(memory=ada, max_tokens=30)
    summary = summarizer.invoke(HISTORY)
    assert summary == summarizer.invoke(HISTORY)
    assert all(line.partition(": ")[2] in "".join(m.content for m in HISTORY) for line in summary.splitlines())
    assert texts(ada.list()) == [message.content for message in HISTORY]


def test_a_model_writes_the_summary_if_there_is_one(ada: Scope) -> None:
    model = scripted("She has a cat.", "Again.")
    assert MemosSummarizer(memory=ada, model=model).invoke(HISTORY) == "She has a cat."
    assert "Biscuit" in str(model.asked[0][1].content)


def test_what_is_evicted_is_stored_even_if_the_model_then_fails(ada: Scope) -> None:
    model = scripted()
    with pytest.raises(StopIteration):
        MemosSummarizer(memory=ada, model=model).invoke(HISTORY)
    assert ada.count() == 3


@dataclass
class Context:
    user_id: str


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_an_agent_forgets_nothing_that_a_summary_cuts_away(memos: MemOS, ada: Scope, mode: str) -> None:
    model = scripted(*["I see."] * 8)
    summaries = SummarizationMiddleware(
        model, trigger=("messages", 4), keep=("messages", 1), summarizer=MemosSummarizer(memory=memos)
    )
    middleware = [summaries, MemosMiddleware(memos)]
    agent = create_agent(model, middleware=middleware, checkpointer=InMemorySaver(), context_schema=Context)

    def ask(text: str) -> Any:
        if mode == "sync":
            return agent.invoke(said(text), {"configurable": {"thread_id": "1"}}, context=Context("ada"))
        config: Any = {"configurable": {"thread_id": "1"}}
        return asyncio.run(agent.ainvoke(said(text), config, context=Context("ada")))

    for text in ("My cat is called Biscuit.", "I live in Bergen.", "I play chess.", QUESTION):
        out = ask(text)
    assert out["messages"][0].additional_kwargs["lc_source"] == "summarization"
    assert "My cat is called Biscuit." in str(model.asked[-1])
    stored = texts(ada.list())
    assert len(stored) == len(set(stored)) == 5
    assert {cube.session for cube in ada.list()} == {"1"}


def test_a_summary_of_a_summary_keeps_what_it_can_and_stores_it_not(ada: Scope) -> None:
    text = "Here is a summary of the conversation to date:\n\nUser: My cat is called Biscuit.\nShe is 3 years old."
    summary = HumanMessage(text, additional_kwargs={"lc_source": "summarization"})
    told = MemosSummarizer(memory=ada).invoke([summary, HumanMessage("I live in Bergen.")])
    assert told == "User: My cat is called Biscuit.\nShe is 3 years old.\nUser: I live in Bergen."
    assert texts(ada.list()) == ["I live in Bergen."]


def test_a_summary_without_a_user_is_refused(memos: MemOS) -> None:
    with pytest.raises(InvalidName, match="user_id"):
        MemosSummarizer(memory=memos).invoke(HISTORY)


# MemosCallbackHandler


def test_it_counts_what_chat_memos_read_from_stored_kv(ada: Scope, engine: HFEngine) -> None:
    ada.add("My cat is called Biscuit.")
    watcher = MemosCallbackHandler()
    llm = ChatMemos(engine=engine, memory=ada, inject="kv", max_tokens=3)
    for _ in range(2):
        llm.invoke(QUESTION, {"callbacks": [watcher]})
    metrics = watcher.metrics
    assert (metrics.calls, metrics.calls_with_memory, metrics.failed) == (2, 2, 0)
    assert metrics.placed == {"kv": 2}
    first, second = watcher.runs
    assert (first.kv_tokens, metrics.kv_tokens) == (0, second.kv_tokens)
    assert second.kv_tokens > 10
    assert metrics.prompt_tokens == 2 * second.prompt_tokens
    assert second.ttft_seconds is not None


def test_it_counts_what_the_middleware_put_into_another_model(memos: MemOS, ada: Scope) -> None:
    cube_id = ada.add("My cat is called Biscuit.").cube_id
    watcher = MemosCallbackHandler()
    agent = create_agent(scripted("Biscuit."), middleware=[MemosMiddleware(memos)])
    agent.invoke(said(QUESTION), {**ADA, "callbacks": [watcher]})
    assert watcher.last is not None
    assert (watcher.last.memories, watcher.last.placed) == ((cube_id,), {cube_id: "text"})
    assert watcher.metrics.memory_tokens == watcher.last.memory_tokens
    assert watcher.metrics.memory_tokens > 5


async def test_it_counts_streams_and_failures_from_many_threads(ada: Scope, engine: HFEngine) -> None:
    watcher = MemosCallbackHandler(keep=3)
    llm = ChatMemos(engine=engine, memory=ada, max_tokens=2)
    async for _ in llm.astream("Hello.", {"callbacks": [watcher]}):
        pass
    with pytest.raises(Exception, match="shadow"):
        llm.invoke("Hello.", {"callbacks": [watcher]}, shadow=1)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: llm.invoke("Hello.", {"callbacks": [watcher]}), range(8)))
    assert (watcher.metrics.calls, watcher.metrics.failed, len(watcher.runs)) == (9, 1, 3)
    assert watcher.metrics.calls_with_memory == 0


# MemosMemory, in the chains of old


def chain(model: Any, memory: MemosMemory) -> Any:
    from langchain_classic.chains import ConversationChain

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of LangChain's, once in a process
        return ConversationChain(llm=model, memory=memory)


def test_a_conversation_chain_keeps_working_and_now_remembers(memos: MemOS, ada: Scope) -> None:
    model = scripted("Nice to meet you.", "Biscuit.", "Biscuit, as I said.")
    first = chain(model, MemosMemory(memory=ada, thread="monday"))
    assert first.predict(input="My cat is called Biscuit.") == "Nice to meet you."
    assert first.predict(input=QUESTION) == "Biscuit."
    prompt = str(model.asked[1][0].content)
    assert "Human: My cat is called Biscuit.\nAI: Nice to meet you.\nHuman: What is my cat called?" in prompt
    second = chain(model, MemosMemory(memory=ada, thread="tuesday"))
    second.predict(input=QUESTION)
    assert "Notes from memory." in str(model.asked[2][0].content)
    assert "My cat is called Biscuit." in str(model.asked[2][0].content)


def test_a_thread_goes_on_with_another_object_and_only_its_newest_turns_are_quoted(ada: Scope) -> None:
    for number in range(4):
        MemosMemory(memory=ada, thread="t").save_context({"input": f"Question {number}."}, {"response": f"{number}."})
    loaded = MemosMemory(memory=ada, thread="t", recent=2).load_memory_variables({"input": "Nothing alike"})
    assert loaded["history"].endswith("Human: Question 3.\nAI: 3.")
    assert "Human: Question 2." not in loaded["history"]


def test_clear_begins_anew_and_erases_nothing(ada: Scope) -> None:
    memory = MemosMemory(memory=ada)
    memory.save_context({"input": "My cat is called Biscuit."}, {"response": "I see."})
    memory.clear()
    assert ada.count() == 2
    assert memory.load_memory_variables({}) == {"history": ""}
    assert "Biscuit" in memory.load_memory_variables({"input": QUESTION})["history"]


async def test_messages_for_a_prompt_can_be_taken_as_kv(ada: Scope, engine: HFEngine) -> None:
    ada.add("My cat is called Biscuit.")
    memory = MemosMemory(memory=ada, return_messages=True)
    await memory.asave_context({"input": "Hello."}, {"response": "Hi."})
    history = (await memory.aload_memory_variables({"input": QUESTION}))["history"]
    assert [type(message) for message in history] == [SystemMessage, HumanMessage, AIMessage]
    prompt = ChatPromptTemplate([MessagesPlaceholder("history"), ("user", "{input}")])
    runnable = prompt | ChatMemos(engine=engine, memory=ada, inject="kv", max_tokens=2)
    answers = [runnable.invoke({"history": history, "input": QUESTION}) for _ in range(2)]
    assert answers[1].usage_metadata["input_token_details"]["cache_read"] > 0


def test_several_keys_must_be_named(ada: Scope) -> None:
    with pytest.raises(InvalidInput, match="output_key"):
        MemosMemory(memory=ada, input_key="a").save_context({"a": "1"}, {"x": "1", "y": "2"})
    MemosMemory(memory=ada, input_key="a", output_key="y").save_context({"a": "1", "b": "2"}, {"x": "3", "y": "4"})
    assert texts(ada.list()) == ["1", "4"]


def test_the_package_itself_never_imports_the_classic_one() -> None:
    code = "import memos_langchain as m, sys; [getattr(m, n) for n in m.__all__]; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert "langchain_classic" not in done.stdout.split()


def test_threads_on_one_configuration_are_kept_apart(memos: MemOS) -> None:
    agent = create_agent(scripted("One.", "Two."), middleware=[MemosMiddleware(memos)])
    agent.invoke(said("Hello."), on("1"))
    agent.invoke(said("Hello."), on("2"))
    assert [cube.session for cube in memos.scope(user="ada").list(session="2")] == ["2", "2"]
