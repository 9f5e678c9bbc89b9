"""Tools, structured prediction and agents over MemosLLM, with the worst model there is: a tiny random one."""

import asyncio
import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
from adapter_parts import assert_loop_stays_free
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.base.llms.types import CacheControl, CachePoint, TextBlock, ToolCallBlock
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.llms import ChatMessage
from llama_index.core.program import FunctionCallingProgram
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from llama_index.core.types import PydanticProgramMode
from pydantic import BaseModel, Field

from memos_core import MemOS, Scope
from memos_core.engine import HFEngine
from memos_core.errors import InvalidInput, UnsupportedOption
from memos_core.testing import HashEmbedder
from memos_core.testing.models import tiny_model
from memos_llamaindex import MemosLLM

QUESTION = "What is my cat called?"
CHAT = [ChatMessage(role="user", content=QUESTION)]
ASK = PromptTemplate("{question}")
UPSTREAM = pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecationWarning")
"""LlamaIndex itself calls what pydantic has deprecated."""


class Cat(BaseModel):
    """A cat."""

    name: str = Field(max_length=10)
    age: int = Field(ge=0, le=30)


class Pack(BaseModel):
    """Refers to itself."""

    cats: list[Cat] = Field(max_length=2)
    above: "Pack | None" = None


def look_up(name: str) -> str:
    """Look a cat up."""
    return f"{name} sleeps."


def now() -> str:
    """Tell the time."""
    return "noon"


LOOK, NOW = FunctionTool.from_defaults(look_up), FunctionTool.from_defaults(now)


@pytest.fixture(scope="module")
def engine() -> Iterator[HFEngine]:
    engine = HFEngine.from_model(*tiny_model(), name="tiny")
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def ada(tmp_path_factory: pytest.TempPathFactory, engine: HFEngine) -> Iterator[Scope]:
    root = tmp_path_factory.mktemp("memory")
    with MemOS.open(root, engine=engine, embedder=HashEmbedder()) as memos:
        ada = memos.scope(user="ada")
        ada.add_many(["My cat is called Biscuit.", "My cat is called Crumb."])
        yield ada


@pytest.fixture
def llm(ada: Scope) -> MemosLLM:
    return MemosLLM(memory=ada, max_tokens=80)


def told(response: Any) -> dict[str, Any]:
    report: dict[str, Any] = response.additional_kwargs["memos"]
    return report


# Tools


async def every_call(llm: MemosLLM, **options: Any) -> list[Any]:
    """Return the last response of all four ways to chat with tools."""
    responses = [llm.chat_with_tools([LOOK, NOW], QUESTION, **options)]
    responses.append(await llm.achat_with_tools([LOOK, NOW], QUESTION, **options))
    responses.append(list(llm.stream_chat_with_tools([LOOK, NOW], QUESTION, **options))[-1])
    stream = await llm.astream_chat_with_tools([LOOK, NOW], QUESTION, **options)
    responses.append([response async for response in stream][-1])
    return responses


async def test_a_required_tool_is_called_in_every_way_of_asking(llm: MemosLLM) -> None:
    responses = await every_call(llm, tool_required=True)
    calls = [llm.get_tool_calls_from_response(response) for response in responses]
    assert all(len(each) == 1 and each[0].tool_name in ("look_up", "now") for each in calls)
    assert len({json.dumps(each[0].tool_kwargs) for each in calls}) == 1
    assert all(each[0].tool_id for each in calls)
    assert not any(response.message.content for response in responses)


@pytest.mark.parametrize("choice", ["look_up", {"type": "function", "function": {"name": "look_up"}}])
async def test_a_named_tool_is_called(llm: MemosLLM, choice: Any) -> None:
    for response in await every_call(llm, tool_choice=choice):
        (call,) = llm.get_tool_calls_from_response(response)
        assert call.tool_name == "look_up"
        assert isinstance(call.tool_kwargs["name"], str)


def test_a_call_that_is_made_is_run(llm: MemosLLM) -> None:
    assert llm.predict_and_call([NOW], QUESTION, tool_required=True).response == "noon"
    assert llm.predict_and_call([LOOK], QUESTION, tool_choice="look_up").response.endswith(" sleeps.")


def test_no_call_raises_or_gives_none(llm: MemosLLM) -> None:
    response = llm.chat(CHAT)
    assert llm.get_tool_calls_from_response(response, error_on_no_tool_call=False) == []
    with pytest.raises(InvalidInput, match="calls no tool"):
        llm.get_tool_calls_from_response(response)
    assert llm.chat_with_tools([], QUESTION).message.content == response.message.content


def test_the_result_of_a_call_goes_back_into_the_chat(llm: MemosLLM) -> None:
    called = llm.chat_with_tools([LOOK], QUESTION, tool_required=True)
    (call,) = llm.get_tool_calls_from_response(called)
    result = ChatMessage(role="tool", content="Biscuit sleeps.", additional_kwargs={"tool_call_id": call.tool_id})
    after = llm.chat_with_tools([LOOK], chat_history=[*CHAT, called.message, result])
    # The form in which other models of LlamaIndex keep calls.
    openai = {"id": call.tool_id, "type": "function", "function": {"name": "look_up", "arguments": "{}"}}
    other = ChatMessage(role="assistant", content=None, additional_kwargs={"tool_calls": [openai]})
    again = llm.chat_with_tools([LOOK], chat_history=[*CHAT, other, result])
    assert told(after)["prompt_tokens"] > told(again)["prompt_tokens"] > told(called)["prompt_tokens"]


@UPSTREAM
async def test_an_agent_calls_a_tool_and_goes_on(ada: Scope) -> None:
    llm = MemosLLM(memory=ada, max_tokens=60)
    agent = FunctionAgent(tools=[NOW], llm=llm, initial_tool_choice="now")
    handler = agent.run("What time is it?")
    outputs = [event.tool_output.content async for event in handler.stream_events() if hasattr(event, "tool_output")]
    assert (await handler).response.role == "assistant"
    assert outputs == ["noon"]


# Structured prediction


async def test_every_way_of_predicting_gives_an_object(llm: MemosLLM) -> None:
    expected = llm.structured_predict(Cat, ASK, question=QUESTION)
    assert isinstance(expected, Cat)
    assert await llm.astructured_predict(Cat, ASK, question=QUESTION) == expected
    streamed = list(llm.stream_structured_predict(Cat, ASK, question=QUESTION))
    assert streamed[-1] == expected
    assert len(streamed) > 3
    stream = await llm.astream_structured_predict(Cat, ASK, question=QUESTION)
    assert [value async for value in stream][-1] == expected


@UPSTREAM
async def test_a_structured_llm_answers_in_objects(llm: MemosLLM) -> None:
    structured = llm.as_structured_llm(Cat)
    assert isinstance(structured.chat(CHAT).raw, Cat)
    assert isinstance((await structured.achat(CHAT)).raw, Cat)
    assert isinstance(structured.complete(QUESTION).raw, Cat)
    assert isinstance(list(structured.stream_chat(CHAT))[-1].raw, Cat)
    assert isinstance([response async for response in await structured.astream_chat(CHAT)][-1].raw, Cat)


def test_the_mode_of_programs_is_respected(ada: Scope) -> None:
    by_call = MemosLLM(memory=ada, max_tokens=80, pydantic_program_mode=PydanticProgramMode.FUNCTION)
    assert isinstance(by_call.structured_predict(Cat, ASK, question=QUESTION), Cat)
    asked = MemosLLM(memory=ada, max_tokens=80, pydantic_program_mode=PydanticProgramMode.LLM)
    with pytest.raises(ValueError, match=r"(?i)json"):  # asks in the prompt only, which noise does not follow
        asked.structured_predict(Cat, PromptTemplate("{question}"), question=QUESTION)


def test_a_program_of_llamaindex_works_on_it(llm: MemosLLM) -> None:
    program = FunctionCallingProgram.from_defaults(Cat, prompt_template_str="{question}", llm=llm)
    assert isinstance(program(question=QUESTION), Cat)


def test_a_class_may_refer_to_itself_and_arguments_reach_the_model(llm: MemosLLM, ada: Scope) -> None:
    assert isinstance(llm.structured_predict(Pack, ASK, question=QUESTION), Pack)
    with pytest.raises(InvalidInput, match="at least"):
        llm.structured_predict(Cat, ASK, llm_kwargs={"max_tokens": 3}, question=QUESTION)
    with pytest.raises(UnsupportedOption, match="top_k"):
        llm.structured_predict(Cat, ASK, llm_kwargs={"top_k": 3}, question=QUESTION)


def test_a_response_format_can_be_given_directly(llm: MemosLLM) -> None:
    response = llm.complete(QUESTION, response_format={"type": "json_object"})
    assert isinstance(json.loads(response.text), dict)


# Options in force


async def test_options_hold_within_a_block_and_nowhere_else(llm: MemosLLM, ada: Scope) -> None:
    first, second = (cube.id for cube in ada.list())
    with llm.using(memory=[first], inject="text"):
        assert told(llm.complete(QUESTION))["cube_ids"] == [first]
        assert told(await llm.acomplete(QUESTION))["cube_ids"] == [first]
        assert told(llm.complete(QUESTION, memory=[second]))["cube_ids"] == [second]
        assert told(copy.deepcopy(llm).complete(QUESTION))["cube_ids"] == [first]
        with llm.using(inject="off"):
            assert told(llm.complete(QUESTION))["cube_ids"] == []
        assert llm.predict(ASK, question=QUESTION) == llm.complete(QUESTION, memory_ids=[first]).text
        other = MemosLLM(memory=ada, max_tokens=2)
        assert len(told(other.complete(QUESTION))["cube_ids"]) == 2
    assert len(told(llm.complete(QUESTION))["cube_ids"]) == 2
    with pytest.raises(UnsupportedOption, match="top_k"):
        llm.using(top_k=3)


async def test_tasks_at_once_keep_their_own_options(llm: MemosLLM, ada: Scope) -> None:
    ids = [cube.id for cube in ada.list()]

    async def ask(cube_id: str) -> list[str]:
        with llm.using(memory=[cube_id]):
            await asyncio.sleep(0.01)
            return list(told(await llm.acomplete(QUESTION, max_tokens=4))["cube_ids"])

    assert await asyncio.gather(*(ask(cube_id) for cube_id in ids * 2)) == [[cube_id] for cube_id in ids * 2]


def test_a_stream_keeps_the_options_under_which_it_began(llm: MemosLLM, ada: Scope) -> None:
    first = next(iter(ada.list())).id
    with llm.using(memory=[first]):
        stream = llm.stream_chat(CHAT)
    assert told(list(stream)[-1])["cube_ids"] == [first]


# Around it


async def test_the_event_loop_stays_free_while_an_answer_is_held_to_a_form(llm: MemosLLM) -> None:
    form = {"type": "regex", "regex": "[a-z ]{700}"}
    await assert_loop_stays_free(lambda: llm.achat(CHAT, max_tokens=800, response_format=form))


class Recorder(BaseEventHandler):
    """Keeps what LlamaIndex's instrumentation tells."""

    events: list[Any] = []  # noqa: RUF012 - a pydantic field, copied for each instance

    def handle(self, event: Any, **kwargs: Any) -> None:
        self.events.append(event)


def test_events_of_calls_and_predictions_are_json(llm: MemosLLM) -> None:
    recorder, root = Recorder(), get_dispatcher()
    root.add_event_handler(recorder)
    try:
        llm.chat_with_tools([LOOK], QUESTION, tool_required=True, memory_ids=[])
        llm.structured_predict(Cat, ASK, question=QUESTION)
    finally:
        root.event_handlers.remove(recorder)
    names = [name for event in recorder.events if (name := event.class_name()).startswith("LLM")]
    assert names.count("LLMChatStartEvent") == names.count("LLMChatEndEvent") == 2
    assert names[2] == "LLMStructuredPredictStartEvent"
    assert names[-1] == "LLMStructuredPredictEndEvent"
    assert all(json.loads(event.model_dump_json()) for event in recorder.events if "Chat" in event.class_name())


def test_a_point_for_a_cache_changes_nothing(llm: MemosLLM) -> None:
    point = CachePoint(cache_control=CacheControl(type="ephemeral"))
    pointed = ChatMessage(role="user", blocks=[TextBlock(text=QUESTION), point])
    assert told(llm.chat([pointed]))["prompt_tokens"] == told(llm.chat(CHAT))["prompt_tokens"]


def test_a_called_message_survives_json(llm: MemosLLM) -> None:
    called = llm.chat_with_tools([LOOK], QUESTION, tool_required=True).message
    assert ChatMessage.model_validate_json(called.model_dump_json()) == called
    assert isinstance(called.blocks[0], ToolCallBlock)
