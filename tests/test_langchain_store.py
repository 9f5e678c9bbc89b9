"""MemosStore beside what every store does: scopes, graphs, embedders, the documentation of LangGraph."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from adapter_parts import longest_gap
from langchain.agents import create_agent
from langchain.tools import ToolRuntime, tool
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.config import get_store
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.store.base import PutOp, SearchOp

from memos_core import MemOS
from memos_core.errors import EmbedderMismatch, InvalidInput, InvalidName
from memos_core.testing import FakeClock, HashEmbedder
from memos_langchain import MemosStore
from memos_langchain.testing import WordEmbeddings


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def memos(tmp_path: Path, clock: FakeClock) -> Iterator[MemOS]:
    with MemOS.open(tmp_path / "memory", embedder=HashEmbedder(), clock=clock) as memos:
        yield memos


def test_a_scopes_store_is_its_own(memos):
    ada, ben = (MemosStore(memos.scope(user=user)) for user in ("ada", "ben"))
    ada.put(("prefs",), "k", {"n": 1})
    assert ben.get(("prefs",), "k") is None
    assert ben.list_namespaces() == []
    assert MemosStore(memos).search(()) == []
    assert [item.value for item in ada.search(())] == [{"n": 1}]


def test_without_a_memory_a_store_is_its_own():
    store = MemosStore(index={"embed": WordEmbeddings(16), "dims": 16, "fields": ["text"]})
    store.put(("prefs",), "k", {"text": "likes tea"})
    assert [item.key for item in store.search(("prefs",), query="tea")] == ["k"]
    assert MemosStore().search(()) == []


def test_forgetting_an_item_of_the_store_as_a_memory(memos):
    ada = memos.scope(user="ada")
    store = MemosStore(ada)
    store.put(("prefs",), "k", {"n": 1})
    (cube,) = ada.list(type="any")
    assert ada.forget(cube.id).complete
    assert store.get(("prefs",), "k") is None


def test_a_namespace_of_the_vault_is_filled_from_the_run(memos):
    store = MemosStore(memos, namespace=("users", "{user_id}"))
    graph = StateGraph(MessagesState)

    def note(state: MessagesState) -> dict[str, Any]:
        get_store().put(("notes",), "last", {"text": state["messages"][-1].content})
        return {}

    graph.add_node("note", note)
    graph.add_edge(START, "note")
    compiled = graph.compile(store=store)
    for user in ("ada", "ben"):
        compiled.invoke({"messages": [HumanMessage(f"I am {user}")]}, {"configurable": {"user_id": user}})
    found = MemosStore(memos.scope(user="ada")).search(("notes",))
    assert [item.value for item in found] == [{"text": "I am ada"}]
    with pytest.raises(InvalidName):
        store.get(("notes",), "last")


def test_an_agents_tools_read_and_write_the_store(memos):
    store = MemosStore(memos)

    @tool
    def save(text: str, runtime: ToolRuntime) -> str:
        """Save a text."""
        runtime.store.put(("users",), "ada", {"text": text})
        return "saved"

    @tool
    async def load(runtime: ToolRuntime) -> str:
        """Load it."""
        item = await runtime.store.aget(("users",), "ada")
        return str(item.value if item else None)

    def calls(name: str, **args: Any) -> AIMessage:
        return AIMessage("", tool_calls=[{"name": name, "args": args, "id": name}])

    class Model(GenericFakeChatModel):
        def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
            return self

    model = Model(messages=iter([calls("save", text="likes tea"), calls("load"), AIMessage("done")]))
    agent = create_agent(model, [save, load], store=store, checkpointer=InMemorySaver())
    state = asyncio.run(agent.ainvoke({"messages": [("user", "hi")]}, {"configurable": {"thread_id": "1"}}))
    assert "likes tea" in state["messages"][-2].content


def test_a_store_outlives_the_process(tmp_path):
    code = (
        "from memos_core import MemOS\nfrom memos_langchain import MemosStore\n"
        "with MemOS.open('memory', embedder=None) as memos:\n"
        "    MemosStore(memos).put(('users', 'ada'), 'm1', {'text': 'likes tea'})\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    with MemOS.open(tmp_path / "memory", embedder=None) as memos:
        assert MemosStore(memos).get(("users", "ada"), "m1").value == {"text": "likes tea"}


def test_the_vaults_own_embedder_serves_an_index_that_names_none(memos):
    store = MemosStore(memos, index={"fields": ["text"]})
    store.put(("a",), "k1", {"text": "the cat"})
    store.put(("a",), "k2", {"text": "the dog"})
    assert [item.key for item in store.search(("a",), query="cat")] == ["k1", "k2"]


def test_an_index_without_any_embedder_is_refused(tmp_path):
    with MemOS.open(tmp_path / "bare", embedder=None) as memos, pytest.raises(InvalidInput):
        MemosStore(memos, index={"fields": ["text"]})


async def test_functions_that_embed_sync_and_async(memos):
    words = WordEmbeddings(16)

    def embed(texts: list[str]) -> list[list[float]]:
        return words.embed_documents(texts)

    async def aembed(texts: list[str]) -> list[list[float]]:
        await asyncio.sleep(0)
        return words.embed_documents(texts)

    for function in (embed, aembed):
        store = MemosStore(memos, index={"embed": function, "dims": 16, "fields": ["text"]})
        await store.aput(("a",), "k", {"text": "the cat"})
        (found,) = await store.asearch(("a",), query="cat")
        assert found.score is not None


def test_vectors_of_another_length_than_said_are_refused(memos):
    store = MemosStore(memos, index={"embed": WordEmbeddings(16), "dims": 8})
    with pytest.raises(InvalidInput, match="dims"):
        store.put(("a",), "k", {"text": "x"})
    assert store.get(("a",), "k") is None


def test_another_embedder_under_the_same_name_is_refused(memos):
    MemosStore(memos, index={"embed": WordEmbeddings(16), "name": "mine"}).put(("a",), "k", {"text": "x"})
    with pytest.raises(EmbedderMismatch):
        MemosStore(memos, index={"embed": WordEmbeddings(32), "name": "mine"}).put(("a",), "k", {"text": "x"})


def test_an_unknown_part_of_an_index_is_refused(memos):
    with pytest.raises(InvalidInput, match="embedd"):
        MemosStore(memos, index={"embedd": WordEmbeddings()})


@pytest.mark.parametrize("value", [{"x": object()}, {1: 2}, {"x": float("nan")}])
def test_a_value_that_is_no_json_is_refused_and_nothing_of_its_batch_is_kept(memos, value):
    store = MemosStore(memos)
    with pytest.raises(InvalidInput):
        store.batch([PutOp(("a",), "good", {}), PutOp(("a",), "bad", value)])
    assert store.search(()) == []


def test_expired_items_are_swept(memos, clock):
    store = MemosStore(memos, ttl={"default_ttl": 1})
    store.put(("a",), "k", {})
    clock.advance(61)
    assert store.sweep_ttl() == 1
    assert memos.verify().cubes == 0


def test_versions_of_an_item_are_kept(memos):
    ada = memos.scope(user="ada")
    store = MemosStore(ada)
    for n in range(3):
        store.put(("a",), "k", {"n": n})
    (cube,) = ada.list(type="any")
    assert [record.text for record in ada.history(cube.id)] == ['{"n":0}', '{"n":1}', '{"n":2}']


async def test_the_event_loop_stays_free(memos):
    store = MemosStore(memos, index={"fields": ["text"]})
    ops = [PutOp(("a",), str(n), {"text": f"cat {n}"}) for n in range(300)]
    gap, took = min([await longest_gap(lambda: store.abatch(ops)) for _ in range(3)])
    assert gap < took / 2


async def test_many_users_at_once_do_not_meet(memos):
    store = MemosStore(memos, namespace=("users", "{user_id}"), index={"fields": ["text"]})

    async def node(state: MessagesState, config: RunnableConfig) -> dict[str, Any]:
        user = config["configurable"]["user_id"]
        await store.aput(("notes",), "k", {"text": f"the cat of {user}"})
        found = await store.asearch(("notes",), query="cat")
        return {"messages": [AIMessage(found[0].value["text"])] if len(found) == 1 else []}

    graph = StateGraph(MessagesState)
    graph.add_node("node", node)
    graph.add_edge(START, "node")
    compiled = graph.compile()
    users = [f"user{n}" for n in range(30)]
    states = await asyncio.gather(
        *(compiled.ainvoke({"messages": []}, {"configurable": {"user_id": user}}) for user in users)
    )
    assert [state["messages"][-1].content for state in states] == [f"the cat of {user}" for user in users]


def test_the_documentations_example_of_a_store(memos):
    def embed(texts: list[str]) -> list[list[float]]:
        return [[1.0, 2.0] * len(texts)]  # as it stands there: right for one text

    store = MemosStore(memos, index={"embed": embed, "dims": 2})
    namespace = ("my-user", "chitchat")
    rules = ["User likes short, direct language", "User only speaks English & python"]
    store.put(namespace, "a-memory", {"rules": rules, "my-key": "my-value"})
    assert store.get(namespace, "a-memory").value["rules"] == rules
    (found,) = store.search(namespace, filter={"my-key": "my-value"}, query="language preferences")
    assert found.score == pytest.approx(1.0)
    assert found.dict()["namespace"] == ["my-user", "chitchat"]
    assert store.batch([SearchOp(("my-user",), filter={"my-key": "other"})]) == [[]]
