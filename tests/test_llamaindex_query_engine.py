"""Retrieved nodes enter the model as memory: as KV with the answer of the text, or as text with the reason."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from llama_index.core import Document, PromptTemplate, StorageContext, VectorStoreIndex
from llama_index.core.base.response.schema import PydanticResponse
from llama_index.core.llms import MockLLM
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.retrievers import QueryFusionRetriever
from llama_index.core.schema import NodeWithScore, TextNode
from pydantic import BaseModel

from memos_core import HFEngine, MemOS, Scope
from memos_core.errors import InvalidInput, UnsupportedOption
from memos_core.testing import FakeClock, HashEmbedder
from memos_llamaindex import (
    MemosEmbedding,
    MemosLLM,
    MemosQueryEngine,
    MemosRetriever,
    MemosSynthesizer,
    MemosVectorStore,
)

EMBED = MemosEmbedding(HashEmbedder())
FACTS = (
    "The cat of Ada is called Biscuit.",
    "The harbour of Aldmouth is closed on Fridays.",
    "Ben plays chess by post.",
)
QUESTION = "What is the cat of Ada called?"


@pytest.fixture(scope="module")
def engine() -> Iterator[HFEngine]:
    engine = HFEngine.from_pretrained("memos-reader")
    yield engine
    engine.close()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def memos(tmp_path: Path, engine: HFEngine, clock: FakeClock) -> Iterator[MemOS]:
    with MemOS.open(tmp_path / "memory", engine=engine, embedder=HashEmbedder(), clock=clock) as memos:
        yield memos


@pytest.fixture
def ada(memos: MemOS) -> Scope:
    return memos.scope(user="ada")


@pytest.fixture
def llm(ada: Scope) -> MemosLLM:
    return MemosLLM(memory=ada, max_tokens=8)


@pytest.fixture
def index(ada: Scope) -> VectorStoreIndex:
    context = StorageContext.from_defaults(vector_store=MemosVectorStore(ada))
    documents = [Document(text=text, doc_id=f"d{n}") for n, text in enumerate(FACTS)]
    return VectorStoreIndex.from_documents(documents, storage_context=context, embed_model=EMBED)


def answering(index: VectorStoreIndex, llm: Any, **options: Any) -> MemosQueryEngine:
    return MemosQueryEngine.from_args(index.as_retriever(similarity_top_k=2), llm=llm, **options)


def told(response: Any) -> dict[str, Any]:
    report = response.metadata["memos"]
    assert isinstance(report, dict)
    return report


def test_kv_gives_the_answer_of_the_text_and_serves_the_next_question(index: VectorStoreIndex, llm: MemosLLM) -> None:
    text = answering(index, llm, inject="text").query(QUESTION)
    first = answering(index, llm, inject="kv").query(QUESTION)
    second = answering(index, llm, inject="kv").query(QUESTION)
    assert str(text) == str(first) == str(second)
    assert "Biscuit" in str(text)
    assert told(text)["memory_tokens"] == 0
    assert told(second)["memory_tokens"] > 20
    assert told(text)["prompt_tokens"] == told(second)["prompt_tokens"]
    assert {node["placed"] for node in told(second)["nodes"].values()} == {"kv"}
    assert {node["placed"] for node in told(text)["nodes"].values()} == {"text"}
    assert all(node["cube_id"] and node["reason"] for node in told(second)["nodes"].values())
    assert len(second.source_nodes) == 2


async def test_every_way_of_asking_gives_the_same(index: VectorStoreIndex, llm: MemosLLM) -> None:
    plain = answering(index, llm, inject="kv").query(QUESTION)
    awaited = await answering(index, llm, inject="kv").aquery(QUESTION)
    stream = answering(index, llm, inject="kv", streaming=True)
    streamed = stream.query(QUESTION)
    pieces = list(streamed.response_gen)
    astreamed = await stream.aquery(QUESTION)
    apieces = [piece async for piece in astreamed.response_gen]
    assert str(plain) == str(awaited) == "".join(pieces) == "".join(apieces)
    for response in (awaited, streamed, astreamed):
        assert told(response)["memory_tokens"] > 0
        assert len(told(response)["nodes"]) == 2


def test_memories_and_documents_answer_together(ada: Scope, index: VectorStoreIndex, llm: MemosLLM) -> None:
    ada.add("My dog is called Rufus.")
    fused = QueryFusionRetriever(
        [MemosRetriever(ada, similarity_top_k=1), index.as_retriever(similarity_top_k=1)],
        llm=llm,
        num_queries=1,
        use_async=False,
    )
    response = MemosQueryEngine.from_args(fused, llm=llm, inject="kv").query("What is the dog called?")
    assert {node["placed"] for node in told(response)["nodes"].values()} == {"kv"}
    assert "Rufus" in str(response)


def test_it_plugs_into_as_query_engine(index: VectorStoreIndex, llm: MemosLLM) -> None:
    engine = index.as_query_engine(llm=llm, response_synthesizer=MemosSynthesizer(llm, inject="kv"), similarity_top_k=1)
    assert isinstance(engine, RetrieverQueryEngine)
    assert told(engine.query(QUESTION))["inject"] == "kv"


def test_only_what_was_retrieved_enters(ada: Scope, index: VectorStoreIndex, llm: MemosLLM) -> None:
    ada.add("The cat of Ada is called Mog.")
    response = MemosQueryEngine.from_args(index.as_retriever(similarity_top_k=1), llm=llm, inject="kv").query(QUESTION)
    assert len(told(response)["cube_ids"]) == 1
    stranger = [NodeWithScore(node=TextNode(text="The moon is far away."), score=1.0)]
    assert told(MemosSynthesizer(llm).synthesize(QUESTION, stranger))["cube_ids"] == []


def test_nodes_that_are_no_memories_enter_as_text_with_the_reason(
    ada: Scope, index: VectorStoreIndex, llm: MemosLLM
) -> None:
    nodes = index.as_retriever(similarity_top_k=1).retrieve(QUESTION)
    nodes.append(NodeWithScore(node=TextNode(id_="stranger", text="Ben's dog is called Rufus."), score=0.1))
    response = MemosSynthesizer(llm, inject="kv").synthesize(QUESTION, nodes)
    report = told(response)
    assert report["nodes"]["stranger"]["placed"] == "text"
    assert "no memory or single document" in report["nodes"]["stranger"]["reason"]
    assert report["nodes"][nodes[0].node.node_id]["placed"] == "kv"


def test_a_changed_or_expired_memory_does_not_enter_as_kv(ada: Scope, llm: MemosLLM, clock: FakeClock) -> None:
    held = ada.add("The cat of Ada is called Biscuit.").cube_id
    brief = ada.add("The cat of Ada sleeps.", ttl_seconds=5).cube_id
    nodes = MemosRetriever(ada).retrieve("cat of Ada")
    assert {node.node.node_id for node in nodes} == {held, brief}
    ada.update(held, "The cat of Ada is called Mog.")
    clock.advance(6)
    report = told(MemosSynthesizer(llm, inject="kv").synthesize(QUESTION, nodes))
    assert report["cube_ids"] == []
    assert "something else" in report["nodes"][held]["reason"]


def test_another_users_nodes_are_never_resolved(memos: MemOS, index: VectorStoreIndex) -> None:
    nodes = index.as_retriever(similarity_top_k=1).retrieve(QUESTION)
    bob = MemosLLM(memory=memos.scope(user="bob"), max_tokens=4)
    assert told(MemosSynthesizer(bob, inject="kv").synthesize(QUESTION, nodes))["cube_ids"] == []


def test_memory_of_the_synthesizer_serves_a_model_without(
    ada: Scope, index: VectorStoreIndex, engine: HFEngine
) -> None:
    bare = MemosLLM(engine=engine, max_tokens=8)
    nodes = index.as_retriever(similarity_top_k=1).retrieve(QUESTION)
    assert "no memory attached" in str(told(MemosSynthesizer(bare).synthesize(QUESTION, nodes))["nodes"])
    response = MemosSynthesizer(bare, memory=ada, inject="kv").synthesize(QUESTION, nodes)
    assert {node["placed"] for node in told(response)["nodes"].values()} == {"kv"}


def test_what_does_not_fit_is_left_out_the_worst_first(index: VectorStoreIndex, llm: MemosLLM) -> None:
    nodes = index.as_retriever(similarity_top_k=3).retrieve(QUESTION)
    report = told(MemosSynthesizer(llm, inject="kv", memory_budget=30).synthesize(QUESTION, nodes))
    placed = [report["nodes"][node.node.node_id]["placed"] for node in nodes]
    assert placed[0] == "kv"
    assert placed[-1] == "left out"
    assert "tokens" in report["nodes"][nodes[-1].node.node_id]["reason"]


def test_a_very_long_stranger_is_cut_to_the_window(llm: MemosLLM) -> None:
    nodes = [NodeWithScore(node=TextNode(text="The cat is called Biscuit. " * 5000), score=1.0)]
    response = MemosSynthesizer(llm).synthesize(QUESTION, nodes)
    assert told(response)["prompt_tokens"] <= 8192


def test_a_foreign_model_gets_text_and_the_reason(index: VectorStoreIndex) -> None:
    response = answering(index, MockLLM()).query(QUESTION)
    assert "Biscuit" in str(response)
    assert "MockLLM" in told(response)["fallback"]
    assert {node["placed"] for node in told(response)["nodes"].values()} == {"text"}


def test_no_nodes_no_answer(ada: Scope, llm: MemosLLM) -> None:
    assert str(MemosQueryEngine.from_args(MemosRetriever(ada), llm=llm).query(QUESTION)) == "Empty Response"


class Name(BaseModel):
    name: str


def test_an_answer_can_fill_a_class(index: VectorStoreIndex, llm: MemosLLM) -> None:
    llm.max_tokens = 48
    response = answering(index, llm, inject="kv", output_cls=Name).query(QUESTION)
    assert isinstance(response, PydanticResponse)
    assert isinstance(response.response, Name)
    assert told(response)["cube_ids"]


def test_prompts_can_be_changed(index: VectorStoreIndex, llm: MemosLLM) -> None:
    engine = answering(index, llm)
    assert {"response_synthesizer:memory_qa_template", "response_synthesizer:text_qa_template"} <= set(
        engine.get_prompts()
    )
    before = told(engine.query(QUESTION))["prompt_tokens"]
    engine.update_prompts(
        {"response_synthesizer:memory_qa_template": PromptTemplate("Answer in one word. {query_str}")}
    )
    assert told(engine.query(QUESTION))["prompt_tokens"] > before


def test_options_that_mean_nothing_say_so(llm: MemosLLM) -> None:
    with pytest.raises(UnsupportedOption):
        MemosSynthesizer(llm, multimodal=True)
    with pytest.raises(InvalidInput):
        MemosSynthesizer(llm, inject="off")


def test_with_retriever_stays_what_it_is(ada: Scope, index: VectorStoreIndex, llm: MemosLLM) -> None:
    other = answering(index, llm, inject="kv").with_retriever(MemosRetriever(ada))
    assert type(other) is MemosQueryEngine
