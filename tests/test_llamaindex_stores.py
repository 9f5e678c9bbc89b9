"""The stores of LlamaIndex over a memory: what its own tests ask of stores, and what its own stores get wrong."""

from __future__ import annotations

import asyncio
import copy
import inspect
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from llama_index.core import MockEmbedding, StorageContext, SummaryIndex, VectorStoreIndex, load_index_from_storage
from llama_index.core.data_structs.data_structs import IndexDict, IndexGraph
from llama_index.core.ingestion import DocstoreStrategy, IngestionCache, IngestionPipeline
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import Document, ImageNode, NodeRelationship, RelatedNodeInfo, TextNode
from llama_index.core.storage.docstore.types import BaseDocumentStore
from llama_index.core.storage.index_store.types import BaseIndexStore
from llama_index.core.storage.kvstore.types import BaseKVStore

from memos_core import MemOS, Scope
from memos_core.errors import InvalidInput
from memos_core.testing import FakeClock, HashEmbedder
from memos_llamaindex import MemosDocumentStore, MemosIndexStore, MemosKVStore, MemosVectorStore, memos_storage_context


@pytest.fixture
def memos(tmp_path: Path) -> Iterator[MemOS]:
    with MemOS.open(tmp_path / "memory", embedder=HashEmbedder(), clock=FakeClock()) as memos:
        yield memos


@pytest.fixture
def ada(memos: MemOS) -> Scope:
    return memos.scope(user="ada")


@pytest.fixture
def kv(ada: Scope) -> MemosKVStore:
    return MemosKVStore(ada)


@pytest.fixture
def docstore(ada: Scope) -> MemosDocumentStore:
    return MemosDocumentStore(ada)


def nodes_of(document: str, count: int) -> list[TextNode]:
    source = {NodeRelationship.SOURCE: RelatedNodeInfo(node_id=document, metadata={"title": document})}
    return [TextNode(id_=f"{document}-{n}", text=f"{document} part {n}", relationships=source) for n in range(count)]


# Key-value


def test_values_by_key_and_collection(kv):
    kv.put("k", {"n": 1})
    kv.put("k", {"n": 2}, collection="other")
    assert kv.get("k") == {"n": 1}
    assert kv.get("k", collection="other") == {"n": 2}
    assert kv.get("absent") is None
    assert kv.get_all() == {"k": {"n": 1}}
    assert kv.get_all(collection="empty") == {}
    assert kv.delete("k") is True
    assert kv.delete("k") is False
    assert kv.get("k", collection="other") == {"n": 2}


async def test_the_async_methods_of_a_key_value_store(kv):
    await kv.aput("k", {"n": 1})
    await kv.aput_all([("a", {"n": 2}), ("b", {"n": 3})], batch_size=2)
    assert await kv.aget("k") == {"n": 1}
    assert list(await kv.aget_all()) == ["k", "a", "b"]
    assert await kv.adelete("k") is True
    assert await kv.aget("k") is None


def test_many_values_in_one_transaction(kv):
    kv.put_all([(str(n), {"n": n}) for n in range(50)], batch_size=7)
    assert list(kv.get_all()) == [str(n) for n in range(50)]
    with pytest.raises(InvalidInput):
        kv.put_all([("good", {"n": 1}), ("bad", {"n": object()})])
    assert kv.get("good") is None


def test_what_is_returned_shares_nothing_with_what_was_put(kv):
    value = {"list": [1]}
    kv.put("k", value)
    value["list"].append(2)
    kv.get("k")["list"].append(3)
    kv.get_all()["k"]["list"].append(4)
    assert kv.get("k") == {"list": [1]}


def test_only_the_newest_value_is_kept(kv, ada, memos):
    for n in range(5):
        kv.put("k", {"n": n})
    (cube,) = ada.list(type="any")
    assert len(ada.history(cube.id)) == 1
    memos.verify()


def test_stores_of_other_names_and_users_are_apart(memos, ada, kv):
    kv.put("k", {"n": 1})
    assert MemosKVStore(ada, "other").get("k") is None
    assert MemosKVStore(memos.scope(user="ben")).get("k") is None
    assert MemosKVStore(memos).get("k") is None
    per_user = MemosKVStore(memos, namespace=("users", "{user_id}"), namespace_values={"user_id": "ada"})
    assert per_user.get("k") == {"n": 1}


def test_a_copy_of_a_store_is_the_store(kv):
    assert copy.deepcopy(kv) is kv


def test_a_cache_of_embeddings_takes_texts_as_keys(kv):
    model = MockEmbedding(embed_dim=4, embeddings_cache=kv)
    text = "a long text " * 500
    assert model.get_text_embedding(text) == model.get_text_embedding(text)
    assert list(kv.get_all(collection="embeddings")) == [text]


# Documents


def test_documents_come_back_whole(docstore):
    nodes = [
        TextNode(text="hello", id_="d1", metadata={"foo": "bar", "n": [1, 2]}, excluded_llm_metadata_keys=["foo"]),
        ImageNode(text="picture", id_="d2", image="aGVsbG8="),
        Document(text="whole", id_="d3", metadata={"ü": "日本語"}),
    ]
    docstore.add_documents(nodes)
    assert docstore.docs == {node.node_id: node for node in nodes}
    assert docstore.get_node("d1") == nodes[0]
    assert docstore.get_nodes(["d2", "d3"]) == nodes[1:]
    assert docstore.document_exists("d1")
    assert not docstore.document_exists("absent")


def test_a_document_that_is_not_there(docstore):
    assert docstore.get_document("absent", raise_error=False) is None
    docstore.delete_document("absent", raise_error=False)
    docstore.delete_ref_doc("absent", raise_error=False)
    for call in (docstore.get_document, docstore.delete_document, docstore.delete_ref_doc):
        with pytest.raises(ValueError, match="not found"):
            call("absent")


def test_an_update_must_be_allowed_and_else_changes_nothing(docstore):
    docstore.add_documents([TextNode(text="old", id_="d1")])
    with pytest.raises(ValueError, match="already exists"):
        docstore.add_documents([TextNode(text="other", id_="d2"), TextNode(text="new", id_="d1")], allow_update=False)
    assert docstore.get_document("d1").text == "old"
    assert not docstore.document_exists("d2")
    docstore.add_documents([TextNode(text="new", id_="d1")])
    assert docstore.get_document("d1").text == "new"


def test_hashes_of_documents(docstore):
    node = TextNode(text="hello", id_="d1")
    docstore.add_documents([node])
    assert docstore.get_document_hash("d1") == node.hash
    docstore.set_document_hash("d1", "mine")
    docstore.set_document_hashes({"d2": "two", "d3": "three"})
    assert docstore.get_all_document_hashes() == {"mine": "d1", "two": "d2", "three": "d3"}
    assert docstore.get_document_hash("absent") is None


def test_a_document_knows_its_nodes_until_the_last_one_goes(docstore):
    docstore.add_documents(nodes_of("doc", 2))
    docstore.add_documents(nodes_of("doc", 4)[2:])
    assert docstore.get_ref_doc_info("doc").node_ids == [f"doc-{n}" for n in range(4)]
    assert list(docstore.get_all_ref_doc_info()) == ["doc"]
    docstore.delete_document("doc-0")
    assert docstore.get_ref_doc_info("doc").node_ids == ["doc-1", "doc-2", "doc-3"]
    for n in (1, 2, 3):
        docstore.delete_document(f"doc-{n}")
    assert not docstore.ref_doc_exists("doc")
    assert docstore.docs == {}


def test_a_document_goes_with_its_nodes(docstore):
    docstore.add_documents([*nodes_of("doc", 3), *nodes_of("other", 2)])
    docstore.delete_ref_doc("doc")
    assert list(docstore.docs) == ["other-0", "other-1"]
    assert list(docstore.get_all_ref_doc_info()) == ["other"]
    assert len(docstore.get_all_document_hashes()) == 2


async def test_the_async_methods_of_a_document_store(docstore):
    """Upstream's ``adelete_document`` looks the document up under the node's id, and so forgets no node."""
    await docstore.async_add_documents(nodes_of("doc", 3))
    assert (await docstore.aget_document("doc-0")).text == "doc part 0"
    assert await docstore.adocument_exists("doc-0")
    await docstore.adelete_document("doc-0")
    assert (await docstore.aget_ref_doc_info("doc")).node_ids == ["doc-1", "doc-2"]
    await docstore.aset_document_hash("x", "hash")
    assert await docstore.aget_document_hash("x") == "hash"
    await docstore.adelete_ref_doc("doc")
    assert docstore.docs == {}
    with pytest.raises(ValueError, match="not found"):
        await docstore.adelete_document("absent")


def test_nodes_that_are_added_at_once_are_all_known(ada):
    nodes = nodes_of("doc", 24)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda node: MemosDocumentStore(ada).add_documents([node]), nodes))
    known = MemosDocumentStore(ada).get_ref_doc_info("doc").node_ids
    assert sorted(known) == sorted(node.node_id for node in nodes)


# Indexes


def test_index_structs(ada):
    store = MemosIndexStore(ada)
    structs = [IndexGraph(index_id="g", summary="s"), IndexDict(index_id="d", nodes_dict={"a": "b"})]
    for struct in structs:
        store.add_index_struct(struct)
    assert store.index_structs() == structs
    assert store.get_index_struct("g") == structs[0]
    assert store.get_index_struct("absent") is None
    store.delete_index_struct("g")
    assert store.get_index_struct() == structs[1]


async def test_the_async_methods_of_an_index_store(ada):
    store = MemosIndexStore(ada)
    struct = IndexDict(index_id="d")
    await store.async_add_index_struct(struct)
    assert await store.aget_index_struct("d") == struct
    assert await store.async_index_structs() == [struct]
    await store.adelete_index_struct("d")
    assert await store.async_index_structs() == []


def test_an_index_lies_in_the_memory_without_persist(ada, tmp_path):
    context = memos_storage_context(ada)
    index = VectorStoreIndex(nodes_of("doc", 3), storage_context=context, embed_model=MockEmbedding(embed_dim=4))
    context.persist(tmp_path / "persisted")
    again = load_index_from_storage(memos_storage_context(ada), embed_model=MockEmbedding(embed_dim=4))
    assert again.index_id == index.index_id
    found = again.as_retriever(similarity_top_k=5).retrieve("part")
    assert {node.node_id for node in found} == {"doc-0", "doc-1", "doc-2"}
    again.delete_ref_doc("doc", delete_from_docstore=True)
    assert again.as_retriever().retrieve("part") == []


def test_two_indexes_of_one_memory(ada):
    first = SummaryIndex(nodes_of("a", 2), storage_context=memos_storage_context(ada))
    second = SummaryIndex(nodes_of("b", 2), storage_context=memos_storage_context(ada, name="second"))
    again = load_index_from_storage(memos_storage_context(ada, name="second"))
    assert again.index_id == second.index_id != first.index_id
    assert {node.node_id for node in again.as_retriever().retrieve("x")} == {"b-0", "b-1"}


def test_a_storage_context_of_parts(ada):
    context = StorageContext.from_defaults(docstore=MemosDocumentStore(ada), index_store=MemosIndexStore(ada))
    index = SummaryIndex(nodes_of("doc", 2), storage_context=context)
    assert {node.node_id for node in index.as_retriever().retrieve("x")} == {"doc-0", "doc-1"}


def test_an_index_is_found_by_another_process(tmp_path):
    code = (
        "from llama_index.core import SummaryIndex\nfrom llama_index.core.schema import TextNode\n"
        "from memos_core import MemOS\nfrom memos_llamaindex import memos_storage_context\n"
        "with MemOS.open('memory', embedder=None) as memos:\n"
        "    SummaryIndex([TextNode(text='tea', id_='n')], storage_context=memos_storage_context(memos.scope('ada')))\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, cwd=tmp_path)
    with MemOS.open(tmp_path / "memory", embedder=None) as memos:
        index = load_index_from_storage(memos_storage_context(memos.scope("ada")))
        assert [node.text for node in index.as_retriever().retrieve("x")] == ["tea"]


def test_an_ingestion_pipeline_remembers_what_it_has_done(ada):
    calls: list[str] = []

    class Splitter(SentenceSplitter):
        def __call__(self, nodes: Any, **kwargs: Any) -> Any:
            calls.extend(node.text for node in nodes)
            return super().__call__(nodes, **kwargs)

    def run(text: str) -> list[str]:
        pipeline = IngestionPipeline(
            transformations=[Splitter(), MockEmbedding(embed_dim=4)],
            vector_store=MemosVectorStore(ada),
            docstore=MemosDocumentStore(ada),
            docstore_strategy=DocstoreStrategy.UPSERTS_AND_DELETE,
            cache=IngestionCache(cache=MemosKVStore(ada, "ingest")),
        )
        return [node.text for node in pipeline.run(documents=[Document(text=text, id_="d1")])]

    assert run("one. two.") == ["one. two."]
    assert run("one. two.") == []
    assert run("three.") == ["three."]
    assert [node.text for node in MemosVectorStore(ada).get_nodes()] == ["three."]
    MemosDocumentStore(ada).delete_document("d1")
    assert run("one. two.") == ["one. two."]
    assert calls == ["one. two.", "three."]


@pytest.mark.parametrize(
    ("store", "base"),
    [(MemosKVStore, BaseKVStore), (MemosDocumentStore, BaseDocumentStore), (MemosIndexStore, BaseIndexStore)],
)
def test_nothing_of_the_contract_is_missing(store, base):
    assert not inspect.isabstract(store)
    assert issubclass(store, base)


async def test_stores_work_from_many_tasks(ada):
    kv = MemosKVStore(ada)
    await asyncio.gather(*(kv.aput(str(n), {"n": n}) for n in range(30)))
    assert len(await kv.aget_all()) == 30
