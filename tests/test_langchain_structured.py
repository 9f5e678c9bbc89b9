"""Tools, structured output and agents over ChatMemos, with the worst model there is: a tiny random one."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypedDict

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse
from langchain.agents.structured_output import ProviderStrategy, ToolStrategy
from langchain_core.caches import InMemoryCache
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage
from langchain_core.tools import tool
from pydantic import BaseModel, Field

from memos_core import MemOS, Scope
from memos_core.engine import HFEngine
from memos_core.errors import InvalidInput
from memos_core.testing import HashEmbedder
from memos_core.testing.models import tiny_model
from memos_langchain import ChatMemos

QUESTION = "What is my cat called?"


class Cat(BaseModel):
    """A cat."""

    name: str = Field(max_length=10)
    age: int = Field(ge=0, le=30)


class CatDict(TypedDict):
    """A cat."""

    name: str
    age: int


class Pack(BaseModel):
    """Cats and the pack above them: refers to itself."""

    cats: list[Cat] = Field(max_length=2)
    above: "Pack | None" = None


@tool
def look_up(name: str, deep: bool = False) -> str:
    """Look a cat up."""
    return f"{name} sleeps."


@tool
def now() -> str:
    """Tell the time."""
    return "noon"


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
def llm(ada: Scope) -> ChatMemos:
    return ChatMemos(memory=ada, max_tokens=80)


# Tools


@pytest.mark.parametrize(
    "choice", ["any", "required", "look_up", {"type": "function", "function": {"name": "look_up"}}]
)
def test_a_forced_call_is_made_with_arguments_of_its_schema(llm: ChatMemos, choice: Any) -> None:
    answer = llm.bind_tools([look_up], tool_choice=choice).invoke(QUESTION)
    (call,) = answer.tool_calls
    assert call["name"] == "look_up"
    assert isinstance(call["args"]["name"], str)
    assert call["id"]
    assert answer.content == ""
    assert answer.response_metadata["finish_reason"] in ("tool_calls", "length")


def test_true_forces_the_only_tool_and_none_hides_it(llm: ChatMemos) -> None:
    assert llm.bind_tools([now], tool_choice=True).invoke(QUESTION).tool_calls[0]["name"] == "now"
    hidden = llm.bind_tools([now], tool_choice="none").invoke(QUESTION)
    assert hidden.usage_metadata == llm.invoke(QUESTION).usage_metadata
    with pytest.raises(InvalidInput, match="names 'other'"):
        llm.bind_tools([now], tool_choice="other").invoke(QUESTION)


async def test_a_streamed_call_comes_whole_in_the_last_chunk(llm: ChatMemos) -> None:
    calling = llm.bind_tools([look_up], tool_choice="any")
    expected = calling.invoke(QUESTION)
    for chunks in (list(calling.stream(QUESTION)), [chunk async for chunk in calling.astream(QUESTION)]):
        first, *rest = chunks
        whole = sum(rest, first)
        assert isinstance(whole, AIMessageChunk)
        assert [call["args"] for call in whole.tool_calls] == [call["args"] for call in expected.tool_calls]
        assert whole.content == ""


def test_a_binding_passes_on_what_the_core_understands(llm: ChatMemos, ada: Scope) -> None:
    first = next(iter(ada.list())).id
    bound = llm.bind_tools([now], tool_choice="now", memory_ids=[first], inject="text", parallel_tool_calls=False)
    answer = bound.invoke(QUESTION)
    assert answer.response_metadata["memos"]["cube_ids"] == [first]
    assert answer.tool_calls[0]["name"] == "now"


def test_the_result_of_a_call_goes_back_into_the_chat(llm: ChatMemos) -> None:
    calling = llm.bind_tools([look_up], tool_choice="any")
    asked = HumanMessage(QUESTION)
    called = calling.invoke([asked])
    result = ToolMessage("Biscuit sleeps.", tool_call_id=called.tool_calls[0]["id"])
    failed = ToolMessage("No such cat.", tool_call_id=called.tool_calls[0]["id"], status="error")
    for message in (result, failed):
        assert isinstance(llm.bind_tools([look_up]).invoke([asked, called, message]), AIMessage)


# Structured output


@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
@pytest.mark.parametrize("schema", [Cat, CatDict, Cat.model_json_schema()], ids=["pydantic", "typeddict", "dict"])
def test_every_method_gives_an_object_of_every_kind_of_schema(llm: ChatMemos, method: Any, schema: Any) -> None:
    value = llm.with_structured_output(schema, method=method).invoke(QUESTION)
    if schema is Cat:
        assert isinstance(value, Cat)
    else:
        assert isinstance(value, dict)
        assert value.keys() == {"name", "age"}


async def test_it_streams_and_runs_async(llm: ChatMemos) -> None:
    chain = llm.with_structured_output(Cat)
    expected = chain.invoke(QUESTION)
    assert await chain.ainvoke(QUESTION) == expected
    assert list(chain.stream(QUESTION))[-1] == expected
    assert [value async for value in chain.astream(QUESTION)][-1] == expected
    grown = list(llm.with_structured_output(CatDict).stream(QUESTION))
    assert len(grown) > 2


def test_a_schema_may_refer_to_itself(llm: ChatMemos) -> None:
    assert isinstance(llm.with_structured_output(Pack).invoke(QUESTION), Pack)


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_the_raw_message_comes_along_where_it_is_asked_for(llm: ChatMemos, method: Any) -> None:
    value: Any = llm.with_structured_output(Cat, method=method, include_raw=True).invoke(QUESTION)
    assert value.keys() == {"raw", "parsed", "parsing_error"}
    assert isinstance(value["parsed"], Cat)
    assert value["parsing_error"] is None
    assert value["raw"].response_metadata["memos"]["cube_ids"]


def test_json_without_a_schema_is_any_object(llm: ChatMemos) -> None:
    assert isinstance(llm.with_structured_output(method="json_mode").invoke(QUESTION), dict)
    answer = llm.bind(response_format={"type": "json_object"}).invoke(QUESTION)
    assert isinstance(json.loads(answer.text), dict)


@pytest.mark.parametrize("form", [Cat, Cat.model_json_schema()], ids=["class", "schema"])
def test_a_schema_is_a_response_format(llm: ChatMemos, form: Any) -> None:
    assert Cat.model_validate_json(llm.bind(response_format=form).invoke(QUESTION).text)


def test_what_means_nothing_is_refused(llm: ChatMemos) -> None:
    with pytest.raises(InvalidInput, match="method is"):
        llm.with_structured_output(Cat, method="xml")  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="needs a schema"):
        llm.with_structured_output()
    with pytest.raises(InvalidInput, match="response_format is"):
        llm.invoke(QUESTION, response_format=3)
    with pytest.raises(InvalidInput, match="uniqueItems"):
        llm.with_structured_output({"title": "a", "type": "array", "uniqueItems": True}).invoke(QUESTION)


def test_text_and_kv_give_the_same_object(llm: ChatMemos) -> None:
    chain = [llm.bind(inject=inject, response_format=Cat) for inject in ("text", "kv", "kv")]
    answers = [each.invoke(QUESTION) for each in chain]
    assert len({answer.text for answer in answers}) == 1
    assert answers[2].usage_metadata is not None
    assert answers[2].usage_metadata["input_token_details"]["cache_read"] > 0


def test_the_form_is_part_of_the_key_of_a_cached_answer(ada: Scope) -> None:
    llm = ChatMemos(memory=ada, max_tokens=80, cache=InMemoryCache())
    plain = llm.invoke(QUESTION)
    formed = llm.bind(response_format=Cat).invoke(QUESTION)
    assert plain.text != formed.text
    assert llm.bind(response_format=Cat).invoke(QUESTION).text == formed.text


# Agents


def test_an_agent_answers_in_a_form_by_the_models_own_means(llm: ChatMemos) -> None:
    agent = create_agent(llm, tools=[], response_format=ProviderStrategy(Cat))
    assert isinstance(agent.invoke({"messages": [("human", QUESTION)]})["structured_response"], Cat)
    chosen = create_agent(llm, tools=[], response_format=Cat)  # the profile of the model decides
    assert isinstance(chosen.invoke({"messages": [("human", QUESTION)]})["structured_response"], Cat)


async def test_an_agent_answers_in_a_form_by_a_tool(llm: ChatMemos) -> None:
    agent = create_agent(llm, tools=[], response_format=ToolStrategy(Cat))
    assert isinstance((await agent.ainvoke({"messages": [("human", QUESTION)]}))["structured_response"], Cat)


class Named(AgentMiddleware):
    """Names the memories of a call, as a middleware does through the settings of the model."""

    def __init__(self, memory_ids: list[str]) -> None:
        super().__init__()
        self.memory_ids = memory_ids

    def wrap_model_call(self, request: ModelRequest, handler: Callable[[ModelRequest], ModelResponse]) -> ModelResponse:
        return handler(request.override(model_settings={"memory_ids": self.memory_ids, "inject": "text"}))


def test_a_middleware_reaches_the_core_through_the_settings_of_the_model(llm: ChatMemos, ada: Scope) -> None:
    first = next(iter(ada.list())).id
    for tools in ([], [now]):
        agent = create_agent(llm, tools=tools, middleware=[Named([first])])
        answer = agent.invoke({"messages": [("human", "Hello")]})["messages"][-1]
        assert answer.response_metadata["memos"]["cube_ids"] == [first]


def test_an_agent_runs_a_tool_and_goes_on(llm: ChatMemos) -> None:
    class Once(AgentMiddleware):
        """Makes the first call of the model one of a tool."""

        def wrap_model_call(
            self, request: ModelRequest, handler: Callable[[ModelRequest], ModelResponse]
        ) -> ModelResponse:
            called = any(isinstance(message, ToolMessage) for message in request.messages)
            return handler(request.override(tool_choice="none" if called else "now"))

    agent = create_agent(llm, tools=[now, look_up], middleware=[Once()])
    kinds = [message.type for message in agent.invoke({"messages": [("human", "What time is it?")]})["messages"]]
    assert kinds == ["human", "ai", "tool", "ai"]


# What the model says of itself


def test_the_profile_is_known_without_loading_a_model(tmp_path: Path, llm: ChatMemos) -> None:
    assert llm.profile is not None
    assert llm.profile["max_input_tokens"] == 2048
    assert llm.profile["structured_output"]
    bundled = ChatMemos()
    assert bundled.profile is not None
    assert bundled.profile["max_input_tokens"] == 8192
    (tmp_path / "config.json").write_text('{"text_config": {"n_positions": 77}}', encoding="utf-8")
    folder = ChatMemos(model=str(tmp_path))
    assert folder.profile is not None
    assert folder.profile["max_input_tokens"] == 77
    for broken in ("[]", "{", ""):
        (tmp_path / "config.json").write_text(broken, encoding="utf-8")
        unknown = ChatMemos(model=str(tmp_path))
        assert unknown.profile is not None
        assert "max_input_tokens" not in unknown.profile
