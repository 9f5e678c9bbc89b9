"""KV is made while nodes are ingested and serves the first question; nodes are checked against their memory."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from llama_index.core import Document, VectorStoreIndex
from llama_index.core.ingestion import DocstoreStrategy, IngestionCache, IngestionPipeline
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.core.storage.docstore import SimpleDocumentStore

from memos_core import HFEngine, MemOS, Scope
from memos_core.errors import EngineMissing, InvalidInput
from memos_core.testing import FakeClock, HashEmbedder
from memos_llamaindex import (
    MemosEmbedding,
    MemosKVPrecompute,
    MemosLLM,
    MemosNodePostprocessor,
    MemosQueryEngine,
    MemosRetriever,
    MemosVectorStore,
)

EMBED = MemosEmbedding(HashEmbedder())
CAT = "The cat of Ada is called Biscuit."
QUESTION = "What is the cat of Ada called?"


@pytest.fixture(scope="module")
def engine() -> Iterator[HFEngine]:
    engine = HFEngine.from_pretrained("memos-reader")
    yield engine
    engine.close()


@pytest.fixture
def ada(tmp_path: Path, engine: HFEngine, clock: FakeClock) -> Iterator[Scope]:
    with MemOS.open(tmp_path / "memory", engine=engine, embedder=HashEmbedder(), clock=clock) as memos:
        yield memos.scope(user="ada")


@pytest.fixture
def store(ada: Scope) -> MemosVectorStore:
    return MemosVectorStore(ada)


def pipeline(store: MemosVectorStore, **options: Any) -> IngestionPipeline:
    steps = [SentenceSplitter(chunk_size=64, chunk_overlap=0), EMBED, MemosKVPrecompute(store)]
    return IngestionPipeline(transformations=steps, vector_store=store, **options)


def documents(*texts: str) -> list[Document]:
    return [Document(text=text, doc_id=f"d{number}") for number, text in enumerate(texts)]


def test_the_first_question_is_served_from_stored_kv(ada: Scope, store: MemosVectorStore) -> None:
    nodes = pipeline(store).run(documents=documents(CAT, "It rains."))
    assert ada.count(type="activation") == 2
    assert store.client.count() == 2
    assert [ada.history(cube.id)[-1].version for cube in ada.resolve([n.node_id for n in nodes]).memories.values()] == [
        1,
        1,
    ]
    assert all("memos_cube_id" not in node.metadata for node in nodes)
    index = VectorStoreIndex.from_vector_store(store, embed_model=EMBED)
    llm = MemosLLM(memory=ada, max_tokens=8)
    response = MemosQueryEngine.from_args(index.as_retriever(similarity_top_k=1), llm=llm, inject="kv").query(QUESTION)
    assert response.metadata["memos"]["memory_tokens"] > 10
    assert "Biscuit" in str(response)


async def test_async_makes_the_same(ada: Scope, store: MemosVectorStore) -> None:
    await pipeline(store).arun(documents=documents(CAT))
    assert ada.count(type="activation") == 1


def test_a_second_run_computes_nothing(ada: Scope, store: MemosVectorStore) -> None:
    pipe = pipeline(store, docstore=SimpleDocumentStore(), docstore_strategy=DocstoreStrategy.UPSERTS_AND_DELETE)
    pipe.run(documents=documents(CAT, "It rains."))
    pipe.run(documents=documents(CAT, "It rains."))
    assert ada.count(type="activation") == 2
    pipe.run(documents=documents(CAT))
    assert (ada.count(type="activation"), store.client.count()) == (1, 1)


def test_kv_goes_with_its_document(ada: Scope, store: MemosVectorStore) -> None:
    pipeline(store).run(documents=documents(CAT, "It rains."))
    store.delete("d0")
    assert ada.count(type="activation") == 1


def test_a_cache_tells_models_and_collections_apart(ada: Scope, store: MemosVectorStore) -> None:
    step = MemosKVPrecompute(store)
    assert step.to_dict() == {
        "class_name": "MemosKVPrecompute",
        "collection": "ada///llama_index",
        "model_name": "memos-reader",
    }
    cache = IngestionCache()
    first = pipeline(store, cache=cache).run(documents=documents(CAT))
    again = pipeline(store, cache=cache).run(documents=documents(CAT))
    assert [node.node_id for node in first] == [node.node_id for node in again]
    other = MemosVectorStore(ada, collection="other")
    assert MemosKVPrecompute(other).to_dict() != step.to_dict()


def test_what_it_needs_is_said(ada: Scope, store: MemosVectorStore, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="after the embedding"):
        MemosKVPrecompute(store)([TextNode(text="a")])
    with MemOS.open(tmp_path / "bare", embedder=HashEmbedder()) as memos:
        bare = MemosVectorStore(memos.scope(user="ada"))
        with pytest.raises(EngineMissing):
            MemosKVPrecompute(bare)
        MemosKVPrecompute(bare, MemosLLM(engine=ada.engine))


# The postprocessor


def test_what_is_gone_or_expired_is_dropped_and_what_changed_is_renewed(ada: Scope, clock: FakeClock) -> None:
    gone = ada.add("The cat is gone.").cube_id
    brief = ada.add("The cat is brief.", ttl_seconds=5).cube_id
    changed = ada.add("The cat is old.").cube_id
    nodes = MemosRetriever(ada).retrieve("cat")
    nodes.append(NodeWithScore(node=TextNode(id_="stranger", text="elsewhere"), score=0.1))
    before = [item.node.get_content() for item in nodes]
    assert {gone, brief, changed} <= {item.node.node_id for item in nodes}
    ada.forget(gone)
    ada.update(changed, "The cat is new.")
    clock.advance(6)
    kept = MemosNodePostprocessor(ada).postprocess_nodes(nodes, query_str="cat")
    assert [item.node.get_content() for item in kept] == ["The cat is new.", "elsewhere"]
    assert [item.node.get_content() for item in nodes] == before
    only = MemosNodePostprocessor(ada, keep_others=False).postprocess_nodes(nodes)
    assert [item.node.node_id for item in only] == [changed]


async def test_the_budget_keeps_the_best(ada: Scope, store: MemosVectorStore) -> None:
    ada.add_many([f"The cat number {number} likes tea." for number in range(9)])
    nodes = MemosRetriever(ada, similarity_top_k=9).retrieve("cat number 3")
    step = MemosNodePostprocessor(ada, token_budget=60)
    kept = step.postprocess_nodes(nodes)
    assert 0 < len(kept) < 9
    assert kept == nodes[: len(kept)]
    assert await step.apostprocess_nodes(nodes) == kept


def test_another_users_memories_are_dropped(ada: Scope, tmp_path: Path) -> None:
    ada.add(CAT)
    nodes = MemosRetriever(ada).retrieve("cat")
    with MemOS.open(tmp_path / "other", embedder=HashEmbedder()) as memos:
        assert MemosNodePostprocessor(memos, namespace_values={"user_id": "bob"}).postprocess_nodes(nodes) == []
