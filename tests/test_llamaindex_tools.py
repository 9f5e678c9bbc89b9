"""MemosToolSpec: what a model may do with memory, and what it cannot reach."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.base.llms.types import ChatMessage, ToolCallBlock
from llama_index.core.llms.mock import MockFunctionCallingLLM
from llama_index.core.tools import FunctionTool

from memos_core import MemOS, Scope
from memos_core.errors import InvalidInput, InvalidName, VaultClosed
from memos_core.render import NOTES_V1
from memos_core.testing import HashEmbedder
from memos_llamaindex import MemosToolSpec

CAT = "Ada's cat is called Biscuit."


@pytest.fixture
def memos(tmp_path: Path) -> Iterator[MemOS]:
    with MemOS.open(tmp_path / "memory", embedder=HashEmbedder()) as memos:
        yield memos


@pytest.fixture
def ada(memos: MemOS) -> Scope:
    return memos.scope(user="ada")


def by_name(spec: MemosToolSpec) -> dict[str, FunctionTool]:
    return {tool.metadata.name or "": tool for tool in spec.to_tool_list()}


def test_the_schemas_hold_what_a_model_says_and_nothing_of_the_scope(ada: Scope) -> None:
    tools = by_name(MemosToolSpec(ada))
    assert {name: sorted(tool.metadata.get_parameters_dict()["properties"]) for name, tool in tools.items()} == {
        "save_memory": ["text"],
        "search_memory": ["query"],
        "update_memory": ["memory_id", "text"],
        "forget_memory": ["memory_id"],
    }
    for tool in tools.values():
        described = str(tool.metadata.to_openai_tool())
        assert "ada" not in described
        assert all(field.get("description") for field in tool.metadata.get_parameters_dict()["properties"].values())
        assert "  " not in tool.metadata.description
        assert len(tool.metadata.description) > 40


async def test_a_memory_lives_through_its_tools(ada: Scope) -> None:
    tools = by_name(MemosToolSpec(ada, speaker="scout"))
    assert str(await tools["save_memory"].acall(text=CAT)).startswith("Saved as memory ")
    cube = ada.list()[0]
    assert (cube.text, cube.speaker, cube.header.descriptive.kind) == (CAT, "scout", "note")
    assert str(tools["save_memory"](text=CAT)) == f"Memory {cube.id} says this already."
    assert f"[{cube.id}]" in str(await tools["search_memory"].acall(query="What is the cat called?"))
    assert str(await tools["update_memory"].acall(memory_id=cube.id, text="Ada's cat is called Crumb.")).endswith("2.")
    assert ada.get(cube.id).text == "Ada's cat is called Crumb."
    assert str(await tools["forget_memory"].acall(memory_id=cube.id)) == f"Memory {cube.id} is forgotten."
    assert str(tools["search_memory"](query="cat")) == "Memory holds nothing on this."


def test_a_model_is_told_its_mistakes_and_another_users_memory_looks_absent(memos: MemOS, ada: Scope) -> None:
    tools = by_name(MemosToolSpec(ada))
    foreign = memos.scope(user="ben").add("Ben's secret.").cube_id
    for name, arguments in {
        "update_memory": {"memory_id": foreign, "text": "Mine."},
        "forget_memory": {"memory_id": "nonsense"},
        "search_memory": {"query": "  "},
        "save_memory": {"text": ""},
    }.items():
        assert str(tools[name](**arguments)).startswith("Error: ")
    assert memos.scope(user="ben").count() == 1
    assert str(tools["save_memory"](text=f"{NOTES_V1.heading}\n- One.")).startswith("Not saved: ")


def test_what_is_no_fault_of_the_model_is_raised(memos: MemOS, ada: Scope) -> None:
    with pytest.raises(InvalidName, match="user_id"):
        MemosToolSpec(memos)
    with pytest.raises(InvalidInput):
        MemosToolSpec(ada, k=0)
    spec = MemosToolSpec(memos, namespace_values={"user_id": "ada"})
    memos.close()
    with pytest.raises(VaultClosed):
        spec.search_memory("cat")


async def test_an_agent_calls_them(ada: Scope) -> None:
    def reply(messages: list[ChatMessage], **kwargs: object) -> ChatMessage:
        if messages[-1].role == "tool":
            return ChatMessage(role="assistant", content=f"Done: {messages[-1].content}")
        call = ToolCallBlock(tool_call_id="1", tool_name="save_memory", tool_kwargs={"text": CAT})
        return ChatMessage(role="assistant", blocks=[call])

    llm = MockFunctionCallingLLM(response_generator=reply)
    agent = FunctionAgent(tools=MemosToolSpec(ada).to_tool_list(), llm=llm, streaming=False)
    answer = await agent.run("My cat is called Biscuit.")
    assert str(answer).startswith("Done: Saved as memory ")
    assert [cube.text for cube in ada.list()] == [CAT]
