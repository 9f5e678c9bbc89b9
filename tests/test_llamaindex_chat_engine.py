"""MemosContextChatEngine: sync, async and streaming, with any model and with a local one."""

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.chat_engine import ContextChatEngine, SimpleChatEngine
from llama_index.core.chat_engine.types import BaseChatEngine
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.llms.mock import MockFunctionCallingLLM, MockLLM
from llama_index.core.schema import QueryBundle
from llamaindex_parts import assistant, user

from memos_core import HFEngine, MemOS, Scope
from memos_core.errors import InvalidInput
from memos_core.testing import HashEmbedder
from memos_llamaindex import MemosContextChatEngine, MemosEventHandler, MemosLLM, MemosMemory, MemosRetriever

CAT = "My cat is called Biscuit."
QUESTION = "What is my cat called?"


@pytest.fixture(scope="module")
def reader() -> HFEngine:
    return HFEngine.from_pretrained("memos-reader")


@pytest.fixture
def memos(tmp_path: Path) -> Iterator[MemOS]:
    with MemOS.open(tmp_path / "memory", embedder=HashEmbedder()) as memos:
        yield memos


@pytest.fixture
def ada(memos: MemOS) -> Scope:
    ada = memos.scope(user="ada")
    ada.add(CAT)
    return ada


def echo(messages: Sequence[ChatMessage], **kwargs: Any) -> ChatMessage:
    """Answer with all that was shown."""
    return assistant("\n".join(f"<{message.role.value}> {message.content}" for message in messages))


def echoing() -> MockFunctionCallingLLM:
    return MockFunctionCallingLLM(response_generator=echo, is_chat_model=True)


def engine_for(scope: Scope | MemOS, llm: Any = None, **options: Any) -> MemosContextChatEngine:
    return MemosContextChatEngine.from_defaults(scope, llm or echoing(), **options)


async def every_way(engine: BaseChatEngine, question: str) -> list[str]:
    """Return the answers of all four ways to ask, each after a reset."""
    answers = [str(engine.chat(question))]
    engine.reset()
    answers.append(str(await engine.achat(question)))
    engine.reset()
    answers.append("".join(engine.stream_chat(question).response_gen))
    engine.reset()
    answers.append("".join([piece async for piece in (await engine.astream_chat(question)).async_response_gen()]))
    return answers


async def test_every_way_to_ask_recalls_the_same(ada: Scope) -> None:
    engine = engine_for(ada, system_prompt="Be kind.")
    answers = await every_way(engine, QUESTION)
    first = answers[0].splitlines()
    assert first[0] == "<system> Be kind."
    assert CAT in answers[0]
    assert first[-1] == f"<user> {QUESTION}"
    # What was asked and answered before is in memory too by now; the fact is recalled every time.
    assert all(CAT in answer for answer in answers)


async def test_a_conversation_goes_on(ada: Scope) -> None:
    engine = engine_for(ada, session_id="monday")
    await engine.achat("I live in Lisbon.")
    answer = await engine.achat("Where is that?")
    assert "<user> I live in Lisbon." in str(answer)
    assert [message.role.value for message in engine.chat_history] == ["user", "assistant"] * 2
    assert {cube.header.descriptive.source.session for cube in ada.list()} == {None, "monday"}
    other = engine_for(ada, session_id="tuesday")
    assert "I live in Lisbon." in str(await other.achat("Where in Lisbon do I live?"))


async def test_a_stream_is_remembered_when_it_has_ended(ada: Scope) -> None:
    engine = engine_for(ada)
    stream = engine.stream_chat(QUESTION)
    assert "".join(stream.response_gen)
    asynchronous = await engine.astream_chat("And now?")
    assert [piece async for piece in asynchronous.async_response_gen()]
    assert [message.content for message in engine.chat_history][::2] == [QUESTION, "And now?"]
    assert [node.node.text for node in stream.source_nodes] == [CAT]  # type: ignore[attr-defined]


async def test_a_call_that_fails_leaves_no_trace(ada: Scope) -> None:
    def fail(messages: Sequence[ChatMessage], **kwargs: Any) -> ChatMessage:
        raise ConnectionError("the model is away")

    engine = engine_for(ada, MockFunctionCallingLLM(response_generator=fail, is_chat_model=True))
    for ask in (engine.chat, engine.stream_chat):
        with pytest.raises(ConnectionError):
            ask(QUESTION)
    for aask in (engine.achat, engine.astream_chat):
        with pytest.raises(ConnectionError):
            await aask(QUESTION)
    assert engine.chat_history == []
    assert ada.count() == 1


async def test_an_answer_names_its_memories(ada: Scope) -> None:
    answer = await engine_for(ada).achat(QUESTION)
    cube_id = ada.list()[0].id
    assert answer.metadata == {"memos": {"cube_ids": [cube_id], "placed": {cube_id: "text"}}}
    assert [(node.node.node_id, node.score) for node in answer.source_nodes] == [(cube_id, None)]


async def test_a_retriever_adds_context_behind_what_stays(memos: MemOS, ada: Scope) -> None:
    manuals = memos.scope(user="manuals")
    manuals.add("Cats eat twice a day.")
    engine = engine_for(
        ada, retriever=MemosRetriever(manuals), system_prompt="Be kind.", context_template="D: {context_str}"
    )
    answer = await engine.achat("How often does my cat eat?")
    assert [line.split(" ")[0] for line in str(answer).splitlines() if line.startswith("<")] == [
        "<system>",
        "<system>",
        "<system>",
        "<user>",
    ]
    assert "D: " in str(answer)
    assert str(answer).index(CAT) < str(answer).index("Cats eat twice a day.")
    assert answer.sources[0].tool_name == "retriever"
    assert str(engine.chat("How often does my cat eat?")).count("Cats eat twice a day.") == 2  # in the history as well


def test_a_history_may_be_given(ada: Scope) -> None:
    engine = engine_for(ada, chat_history=[user("Hi."), assistant("Hello.")])
    assert "<assistant> Hello." in str(engine.chat("And?"))
    assert "<assistant> Hello." not in str(engine.chat("And?", chat_history=[user("New.")]))
    engine.reset()
    assert engine.chat_history == []


def test_arguments_that_contradict_are_refused(ada: Scope) -> None:
    with pytest.raises(InvalidInput, match="either"):
        engine_for(ada, system_prompt="a", prefix_messages=[user("b")])
    memory = MemosMemory.from_defaults(memory=ada)
    with pytest.raises(InvalidInput, match="made already"):
        MemosContextChatEngine.from_defaults(memory, echoing(), session_id="x")


async def test_a_local_model_is_given_memory_as_kv(ada: Scope, reader: HFEngine) -> None:
    llm = MemosLLM(engine=reader, inject="kv", max_tokens=8)
    engine = engine_for(ada, llm, session_id="monday")
    watch = MemosEventHandler()
    get_dispatcher().add_event_handler(watch)
    reports = []
    try:
        for _ in range(2):
            answer = await engine.achat(QUESTION, chat_history=[])
            reports.append(answer.metadata["memos"])
            assert "Biscuit" in answer.response
    finally:
        get_dispatcher().event_handlers.remove(watch)
    assert watch.totals["injections"] == 2
    assert watch.totals["memory_tokens"] == sum(report["memory_tokens"] for report in reports)
    cube_id = next(cube.id for cube in ada.list() if cube.text == CAT)
    assert cube_id in reports[1]["placed"]
    assert reports[1]["placed"][cube_id] == "kv"
    assert 0 < reports[1]["memory_tokens"] < reports[1]["prompt_tokens"]
    assert llm.memory is None


async def test_fifty_conversations_at_once_with_one_model_never_meet(memos: MemOS, reader: HFEngine) -> None:
    llm = MemosLLM(engine=reader, inject="kv", max_tokens=2)

    async def converse(number: int) -> None:
        scope = memos.scope(user=f"user{number}")
        own = {scope.add(f"My secret number is {number}-{number}.").cube_id}
        engine = engine_for(scope, llm, session_id="s")
        answer = await engine.achat("What is my secret number?")
        assert set(answer.metadata["memos"]["cube_ids"]) == own
        assert engine.chat_history[0].content == "What is my secret number?"
        assert scope.count() <= 3

    await asyncio.gather(*map(converse, range(50)))


# LlamaIndex's own engines with our memory


@pytest.mark.parametrize("kind", ["simple", "context"])
async def test_engines_of_llamaindex_take_the_memory(ada: Scope, kind: str) -> None:
    memory = MemosMemory.from_defaults(memory=ada, session_id="monday")
    engine: BaseChatEngine
    if kind == "simple":
        engine = SimpleChatEngine.from_defaults(llm=echoing(), memory=memory)
    else:
        engine = ContextChatEngine.from_defaults(retriever=MemosRetriever(ada), llm=echoing(), memory=memory)
    assert CAT in str(await engine.achat(QUESTION))
    assert [message.role.value for message in memory.get_all()] == ["user", "assistant"]
    assert QUESTION in [cube.text for cube in ada.list()]


# Made and asked as LlamaIndex's own engine is


def test_a_retriever_may_stand_in_the_first_place_and_a_query_bundle_may_be_asked(ada: Scope) -> None:
    retriever = MemosRetriever(ada)
    engine = MemosContextChatEngine.from_defaults(retriever, llm=echoing(), system_prompt="Be kind.")
    answer = str(engine.chat(QueryBundle(QUESTION)))
    assert answer.startswith("<system> Be kind.")
    assert CAT in answer
    assert [message.content for message in engine.chat_history] == [QUESTION, answer]
    assert ada.count() == 1
    with pytest.raises(InvalidInput, match="two retrievers"):
        MemosContextChatEngine.from_defaults(retriever, echoing(), retriever=retriever)


def test_a_model_that_prints_what_it_is_given_sees_no_marks_of_memory(ada: Scope) -> None:
    assert "cube_ids" not in str(engine_for(ada, MockLLM()).chat(QUESTION))
