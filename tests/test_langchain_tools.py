"""The memory tools: LangChain's own suites, what a model is told, and what it cannot reach."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from agent_parts import ADA, BEN, LONG, calling, on, said, scripted, texts
from langchain.agents import create_agent
from langchain_core.tools import BaseTool, ToolException
from langchain_tests.integration_tests import ToolsIntegrationTests
from langchain_tests.unit_tests import ToolsUnitTests

from memos_core import MemOS, Scope
from memos_core.errors import CubeFrozen, CubeNotFound, InvalidMemory, InvalidName, VaultClosed
from memos_core.testing import HashEmbedder
from memos_langchain import create_memory_tools
from memos_langchain.tools import ForgetMemoryTool, SaveMemoryTool, SearchMemoryTool, UpdateMemoryTool

ABSENT = "01ARZ3NDEKTSV4RRFFQ69G5FAV"


class Parts:
    """The memory that the suites' parameters refer to."""

    ada: Scope


@pytest.fixture(autouse=True)
def memos(memory_folder: Path) -> Iterator[MemOS]:
    with MemOS.open(memory_folder, embedder=HashEmbedder()) as memos:
        Parts.ada = memos.scope(user="ada")
        yield memos


@pytest.fixture
def ada(memos: MemOS) -> Scope:
    return memos.scope(user="ada")


def stored(text: str = "My cat is called Biscuit.") -> str:
    return str(Parts.ada.add(text).cube_id)


class ToolParts:
    """Parameters of both suites for one tool."""

    tool_constructor: type[BaseTool]

    @property
    def tool_constructor_params(self) -> dict[str, Any]:
        return {"memory": Parts.ada}


class SaveParts(ToolParts):
    tool_constructor = SaveMemoryTool
    tool_invoke_params_example = {"text": "My cat is called Biscuit."}  # noqa: RUF012


class SearchParts(ToolParts):
    tool_constructor = SearchMemoryTool
    tool_invoke_params_example = {"query": "cat"}  # noqa: RUF012


class UpdateParts(ToolParts):
    tool_constructor = UpdateMemoryTool

    @property
    def tool_invoke_params_example(self) -> dict[str, Any]:
        return {"memory_id": stored(), "text": "My cat is called Crumb."}


class ForgetParts(ToolParts):
    tool_constructor = ForgetMemoryTool

    @property
    def tool_invoke_params_example(self) -> dict[str, Any]:
        return {"memory_id": stored()}


class TestSaveUnit(SaveParts, ToolsUnitTests):
    pass


class TestSaveIntegration(SaveParts, ToolsIntegrationTests):
    pass


class TestSearchUnit(SearchParts, ToolsUnitTests):
    pass


class TestSearchIntegration(SearchParts, ToolsIntegrationTests):
    pass


class TestUpdateUnit(UpdateParts, ToolsUnitTests):
    pass


class TestUpdateIntegration(UpdateParts, ToolsIntegrationTests):
    pass


class TestForgetUnit(ForgetParts, ToolsUnitTests):
    pass


class TestForgetIntegration(ForgetParts, ToolsIntegrationTests):
    pass


# What a model sees


def by_name(memory: Scope | MemOS, **options: Any) -> dict[str, BaseTool]:
    return {tool.name: tool for tool in create_memory_tools(memory, **options)}


def test_a_model_sees_what_it_fills_in_and_nothing_of_the_scope(memos: MemOS) -> None:
    schemas = {tool.name: tool.tool_call_schema.model_json_schema() for tool in create_memory_tools(memos)}
    assert {name: set(schema["properties"]) for name, schema in schemas.items()} == {
        "save_memory": {"text"},
        "search_memory": {"query"},
        "update_memory": {"memory_id", "text"},
        "forget_memory": {"memory_id"},
    }
    assert all(field["description"] for schema in schemas.values() for field in schema["properties"].values())


def test_each_result_says_plainly_what_happened(ada: Scope) -> None:
    tools = by_name(ada, speaker="Scout")
    told = tools["save_memory"].invoke({"text": "Ada's cat is called Biscuit."})
    cube = ada.list()[0]
    assert told == f"Saved as memory {cube.id}."
    assert (cube.speaker, cube.header.descriptive.kind) == ("Scout", "note")
    assert tools["save_memory"].invoke("Ada's cat is called Biscuit.") == f"Memory {cube.id} says this already."
    found = tools["search_memory"].invoke({"query": "cat"})
    assert found.splitlines()[1:] == [f"- [{cube.id}] Scout: Ada's cat is called Biscuit."]
    changed = tools["update_memory"].invoke({"memory_id": cube.id, "text": "Ada's cat is called Crumb."})
    assert changed == f"Memory {cube.id} says so now, as version 2."
    assert tools["forget_memory"].invoke({"memory_id": cube.id}) == f"Memory {cube.id} is forgotten."
    assert tools["search_memory"].invoke({"query": "cat"}) == "Memory holds nothing on this."


def test_a_search_carries_what_it_found_as_json(ada: Scope) -> None:
    ada.add("My cat is called Biscuit.", tags=["pets"])
    call = {"name": "search_memory", "args": {"query": "cat"}, "id": "1", "type": "tool_call"}
    (found,) = by_name(ada)["search_memory"].invoke(call).artifact
    assert found["text"] == "My cat is called Biscuit."
    assert found["metadata"]["tags"] == ["pets"]


def test_what_policy_keeps_out_is_told_and_not_raised(ada: Scope) -> None:
    found = by_name(ada)["search_memory"]
    ada.add("My cat is called Biscuit.")
    recalled = found.invoke({"query": "cat"})
    assert by_name(ada)["save_memory"].invoke({"text": recalled}).startswith("Not saved: the text is recalled memory")


def test_of_a_long_memory_the_passage_that_matches_is_shown(tmp_path: Path) -> None:
    with MemOS.open(tmp_path / "long", embedder=HashEmbedder()) as memos:
        ada = memos.scope(user="ada")
        ada.add(LONG)
        told = by_name(ada)["search_memory"].invoke({"query": "What is my cat called?"})
        assert "Biscuit" in told
        assert len(told) < 3000


# Errors


@pytest.mark.parametrize("memory_id", ["", "nonsense", ABSENT, "../../etc"])
@pytest.mark.parametrize("name", ["update_memory", "forget_memory"])
def test_an_id_that_is_not_there_is_an_error_with_its_cause(ada: Scope, name: str, memory_id: str) -> None:
    args = {"memory_id": memory_id, "text": "x"} if name == "update_memory" else {"memory_id": memory_id}
    with pytest.raises(ToolException) as caught:
        by_name(ada)[name].invoke(args)
    assert isinstance(caught.value.__cause__, CubeNotFound)


def test_another_users_id_looks_like_one_that_is_not_there(memos: MemOS, ada: Scope) -> None:
    theirs = memos.scope(user="ben").add("My cat is called Crumb.").cube_id
    messages = []
    for memory_id in (theirs, ABSENT):
        with pytest.raises(ToolException) as caught:
            by_name(ada)["forget_memory"].invoke({"memory_id": memory_id})
        messages.append(str(caught.value).replace(str(memory_id), "ID"))
    assert messages[0] == messages[1]
    assert memos.scope(user="ben").count() == 1


def test_typed_causes_tell_what_is_wrong(ada: Scope) -> None:
    cube_id = stored()
    ada.freeze(cube_id)
    with pytest.raises(ToolException) as caught:
        by_name(ada)["update_memory"].invoke({"memory_id": cube_id, "text": "My cat is called Crumb."})
    assert isinstance(caught.value.__cause__, CubeFrozen)
    with pytest.raises(ToolException) as caught:
        by_name(ada)["save_memory"].invoke({"text": "a\x00b"})
    assert isinstance(caught.value.__cause__, InvalidMemory)


def test_what_is_no_fault_of_the_model_is_raised_as_it_is(tmp_path: Path) -> None:
    memos = MemOS.open(tmp_path / "closed", embedder=HashEmbedder())
    tools = by_name(memos)
    with pytest.raises(InvalidName, match="user_id"):
        tools["save_memory"].invoke({"text": "Hello."})
    memos.close()
    with pytest.raises(VaultClosed):
        tools["save_memory"].invoke({"text": "Hello."}, ADA)


# In an agent


def test_in_an_agent_the_model_is_told_its_mistake_and_goes_on(memos: MemOS) -> None:
    model = scripted(calling("forget_memory", memory_id=ABSENT), calling("save_memory", txt="x"), "I gave up.")
    out = create_agent(model, create_memory_tools(memos)).invoke(said("Forget it."), ADA)
    first, second = (message for message in out["messages"] if message.type == "tool")
    assert (first.status, second.status) == ("error", "error")
    assert ABSENT in str(first.content)
    assert "text" in str(second.content)


@dataclass
class Context:
    user_id: str


def test_the_run_names_the_user_and_the_model_cannot(memos: MemOS) -> None:
    forged = calling("save_memory", text="Hello.", runtime={"context": {"user_id": "ben"}})
    smuggled = calling("save_memory", text="Hi.", user_id="ben", namespace=["users", "ben"])
    model = scripted(forged, smuggled, "Done.")
    agent = create_agent(model, create_memory_tools(memos), context_schema=Context)
    agent.invoke(said("Go."), BEN, context=Context("ada"))
    assert texts(memos.scope(user="ada").list()) == ["Hello."]
    assert memos.scope(user="ben").count() == 0


def test_a_model_in_a_loop_of_ones_own_cannot_forge_a_run(memos: MemOS) -> None:
    args = {"text": "Hello.", "runtime": {"context": {"user_id": "ben"}}}
    call = {"name": "save_memory", "args": args, "id": "1", "type": "tool_call"}
    by_name(memos)["save_memory"].invoke(call, ADA)
    assert memos.scope(user="ben").count() == 0
    assert memos.scope(user="ada").count() == 1


async def test_async_agents_find_in_one_thread_what_another_saved(memos: MemOS) -> None:
    tools = create_memory_tools(memos)
    await create_agent(scripted(calling("save_memory", text="My cat is called Biscuit."), "Noted."), tools).ainvoke(
        said("Remember my cat."), on("1")
    )
    out = await create_agent(scripted(calling("search_memory", query="cat"), "Biscuit."), tools).ainvoke(
        said("What is my cat called?"), on("2")
    )
    assert "Biscuit" in str(out["messages"][2].content)
