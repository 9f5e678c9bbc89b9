"""Stores made without a memory, and the files that they share with LlamaIndex's simple stores."""

from __future__ import annotations

import copy
import gc
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from llama_index.core import MockEmbedding, StorageContext, VectorStoreIndex, load_index_from_storage
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.data_structs.data_structs import IndexDict
from llama_index.core.schema import Document, NodeRelationship, RelatedNodeInfo, TextNode
from llama_index.core.storage.chat_store import SimpleChatStore
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.storage.kvstore import SimpleKVStore
from llama_index.core.vector_stores import SimpleVectorStore
from llama_index.core.vector_stores.types import VectorStoreQuery, VectorStoreQueryMode
from pydantic import ValidationError

from memos_core import MemOS, Scope
from memos_core.errors import InvalidInput
from memos_core.testing import HashEmbedder
from memos_llamaindex import (
    MemosAsyncChatStore,
    MemosChatStore,
    MemosDocumentStore,
    MemosIndexStore,
    MemosKVStore,
    MemosLLM,
    MemosMemory,
    MemosMemoryBlock,
    MemosRetriever,
    MemosToolSpec,
    MemosVectorStore,
    memos_storage_context,
)

EMBED = MockEmbedding(embed_dim=3)


@pytest.fixture
def ada(tmp_path: Path) -> Iterator[Scope]:
    with MemOS.open(tmp_path / "memory", embedder=HashEmbedder()) as memos:
        yield memos.scope(user="ada")


def pages() -> list[TextNode]:
    source = {NodeRelationship.SOURCE: RelatedNodeInfo(node_id="manual")}
    return [
        TextNode(
            id_=f"page-{n}", text=f"page {n} über", embedding=[1.0, float(n)], relationships=source, metadata={"n": n}
        )
        for n in range(3)
    ]


# Without a memory


def test_a_store_made_without_a_memory_is_its_own() -> None:
    first, second = MemosKVStore(), MemosKVStore()
    first.put("k", {"x": 1})
    assert first.get_all() == {"k": {"x": 1}}
    assert second.get_all() == {}


def test_what_it_kept_is_gone_with_it() -> None:
    store = MemosChatStore()
    assert isinstance(store.memory, Scope)
    store.add_message("talk", ChatMessage(role="user", content="hello"))
    folder = Path(store.memory._layers.vault.root)
    assert folder.is_dir()
    del store
    gc.collect()
    assert not folder.exists()


async def test_every_store_can_be_made_without_a_memory() -> None:
    docstore = MemosDocumentStore()
    docstore.add_documents(pages())
    assert docstore.get_ref_doc_info("manual").node_ids == ["page-0", "page-1", "page-2"]
    structs = MemosIndexStore()
    structs.add_index_struct(IndexDict(index_id="i"))
    assert structs.get_index_struct("i") == IndexDict(index_id="i")
    vectors = MemosVectorStore()
    vectors.add(pages())
    assert vectors.query(VectorStoreQuery(query_embedding=[1.0, 0.0], similarity_top_k=1)).ids == ["page-0"]
    history = MemosAsyncChatStore()
    await history.add_message("talk", ChatMessage(role="user", content="hello"))
    assert await history.count_messages("talk") == 1


def test_a_storage_context_without_a_memory_is_one_memory() -> None:
    context = memos_storage_context()
    index = VectorStoreIndex.from_documents([Document(text="tea")], storage_context=context, embed_model=EMBED)
    assert load_index_from_storage(context, embed_model=EMBED).index_id == index.index_id
    assert context.vector_store.scope.user == context.docstore._kvstore._items.user


def test_stores_over_one_key_value_store(ada: Scope) -> None:
    kv = MemosKVStore(ada)
    MemosDocumentStore(kv).add_documents(pages())
    MemosIndexStore(kv).add_index_struct(IndexDict(index_id="i"))
    assert MemosDocumentStore(kv).document_exists("page-1")
    assert sorted(kv.to_dict()) == ["docstore/data", "docstore/metadata", "docstore/ref_doc_info", "index_store/data"]


def test_stores_of_one_name_keep_apart(ada: Scope) -> None:
    docstore, structs = MemosDocumentStore(ada, "moved"), MemosIndexStore(ada, "moved")
    docstore.add_documents(pages())
    structs.add_index_struct(IndexDict(index_id="i"))
    assert (len(docstore.docs), len(structs.index_structs())) == (3, 1)


# Files


def test_values_go_to_a_dict_and_back(ada: Scope) -> None:
    store = MemosKVStore(ada)
    store.put("k", {"x": 1})
    store.put("ü", {"y": None}, collection="other")
    saved = store.to_dict()
    assert saved == {"data": {"k": {"x": 1}}, "other": {"ü": {"y": None}}}
    assert MemosKVStore.from_dict(saved).to_dict() == saved == SimpleKVStore.from_dict(saved).to_dict()
    assert MemosKVStore.from_dict(saved, ada, name="copy").get("k") == {"x": 1}


@pytest.mark.parametrize("saved", [[], {"data": 3}, {"data": {"k": "text"}}, None])
def test_what_is_no_saved_store_is_refused_and_nothing_written(ada: Scope, saved: Any) -> None:
    with pytest.raises(InvalidInput):
        MemosKVStore.from_dict(saved, ada)
    with pytest.raises(InvalidInput):
        MemosVectorStore.from_dict(saved, ada)
    assert MemosKVStore(ada).to_dict() == {}


def test_key_value_files_are_those_of_the_simple_store(ada: Scope, tmp_path: Path) -> None:
    path = str(tmp_path / "new" / "kv.json")
    store = MemosKVStore(ada)
    store.put("k", {"x": "ü"})
    store.persist(path)
    assert SimpleKVStore.from_persist_path(path).get("k") == {"x": "ü"}
    assert MemosKVStore.from_persist_path(path).get_all() == {"k": {"x": "ü"}}


@pytest.mark.parametrize("name", ["docstore", "library"])
def test_document_files_are_those_of_the_simple_store(ada: Scope, tmp_path: Path, name: str) -> None:
    store = MemosDocumentStore(ada, name)
    store.add_documents(pages())
    store.persist(str(tmp_path / "docstore.json"))
    simple = SimpleDocumentStore.from_persist_dir(str(tmp_path))
    assert simple.docs == store.docs
    assert simple.get_ref_doc_info("manual") == store.get_ref_doc_info("manual")
    again = MemosDocumentStore.from_persist_dir(str(tmp_path), memory=ada, name="again")
    assert again.docs == store.docs
    again.delete_ref_doc("manual")
    assert again.docs == {}
    assert len(store.docs) == 3


def test_an_index_store_goes_to_a_dict_and_back() -> None:
    store = MemosIndexStore()
    store.add_index_struct(IndexDict(index_id="i"))
    assert MemosIndexStore.from_dict(store.to_dict()).get_index_struct("i") == IndexDict(index_id="i")


@pytest.mark.parametrize("protocol", ["file", "memory"])
def test_a_vector_store_goes_to_a_file_and_back(ada: Scope, tmp_path: Path, protocol: str) -> None:
    fs = fsspec.filesystem(protocol)
    store = MemosVectorStore(ada)
    store.add(pages())
    store.persist(f"{tmp_path}/stores/default__vector_store.json", fs=fs)
    again = MemosVectorStore.from_persist_dir(f"{tmp_path}/stores", fs=fs)
    assert again.get_nodes() == store.get_nodes()
    for node_id, vector in store.to_dict()["embedding_dict"].items():
        assert again.to_dict()["embedding_dict"][node_id] == pytest.approx(vector)
    again.delete("manual")
    assert again.get_nodes() == []
    assert set(MemosVectorStore.from_namespaced_persist_dir(f"{tmp_path}/stores", fs=fs)) == {"default"}


def test_the_simple_vector_store_reads_our_files_and_we_read_its(ada: Scope, tmp_path: Path) -> None:
    path = str(tmp_path / "vectors.json")
    ours = MemosVectorStore(ada)
    ours.add(pages())
    ours.persist(path)
    question = VectorStoreQuery(query_embedding=[0.2, 1.0], similarity_top_k=3)
    theirs = SimpleVectorStore.from_persist_path(path)
    assert theirs.query(question).ids == ours.query(question).ids
    simple = SimpleVectorStore()
    simple.add(pages())
    simple.persist(path)
    read = MemosVectorStore.from_persist_path(path)
    assert read.query(question).ids == ours.query(question).ids
    assert [(node.metadata, node.ref_doc_id) for node in read.get_nodes()] == [({"n": n}, "manual") for n in range(3)]


def test_a_persisted_context_of_llamaindex_is_taken_over(ada: Scope, tmp_path: Path) -> None:
    VectorStoreIndex(pages(), embed_model=EMBED).storage_context.persist(str(tmp_path))
    context = StorageContext.from_defaults(
        docstore=MemosDocumentStore.from_persist_dir(str(tmp_path), memory=ada),
        index_store=MemosIndexStore.from_persist_dir(str(tmp_path), memory=ada),
        vector_store=MemosVectorStore.from_persist_dir(str(tmp_path), memory=ada),
    )
    index = load_index_from_storage(context, embed_model=MockEmbedding(embed_dim=2))
    found = index.as_retriever(similarity_top_k=5).retrieve("page")
    assert {each.node_id for each in found} == {"page-0", "page-1", "page-2"}


def test_conversations_go_to_a_file_and_back(ada: Scope, tmp_path: Path) -> None:
    path = str(tmp_path / "new" / "chats.json")
    said = [ChatMessage(role="user", content="ハロー"), ChatMessage(role="assistant", content="hi")]
    store = MemosChatStore(ada)
    store.set_messages("talk", said)
    store.persist(path)
    assert "ハロー" in Path(path).read_text(encoding="utf-8")
    assert SimpleChatStore.from_persist_path(path).get_messages("talk") == said
    assert MemosChatStore.from_persist_path(path).get_messages("talk") == said
    assert MemosChatStore.from_persist_path(path, memory=ada, name="copy").get_keys() == ["talk"]


def test_a_file_of_conversations_that_is_not_there_yet_is_a_first_start(tmp_path: Path) -> None:
    assert MemosChatStore.from_persist_path(str(tmp_path / "absent.json")).get_keys() == []


def test_files_that_are_not_there_or_cut_off_are_told(tmp_path: Path) -> None:
    path = str(tmp_path / "vectors.json")
    for store in (MemosKVStore, MemosDocumentStore, MemosIndexStore, MemosVectorStore):
        with pytest.raises(FileNotFoundError):
            store.from_persist_path(str(tmp_path / "absent.json"))
    Path(path).write_text(json.dumps({"store": {}})[:-3])
    for store in (MemosKVStore, MemosDocumentStore, MemosIndexStore, MemosVectorStore, MemosChatStore):
        with pytest.raises(InvalidInput, match=r"vectors\.json"):
            store.from_persist_path(path)
    Path(path).write_text(json.dumps({"store": {"talk": [{"role": "nobody"}]}}))
    with pytest.raises(InvalidInput, match="no conversations"):
        MemosChatStore.from_persist_path(path)


# What a hurried caller gets wrong


@pytest.mark.parametrize(
    "make", [MemosKVStore, MemosDocumentStore, MemosIndexStore, MemosVectorStore, MemosRetriever, MemosToolSpec]
)
def test_a_folder_in_the_place_of_a_memory_is_refused_with_the_way_out(make: Any) -> None:
    with pytest.raises(InvalidInput, match=r"MemOS\.open\('memory/'\)"):
        make("memory/")


def test_what_is_no_node_no_query_and_no_message_is_refused(ada: Scope) -> None:
    store: Any = MemosVectorStore(ada)
    for wrong, told in (({"text": "x"}, "BaseNode"), (TextNode(id_="n", text="x"), "'n' has no embedding")):
        with pytest.raises(InvalidInput, match=told):
            store.add([wrong])
    with pytest.raises(InvalidInput, match="VectorStoreQuery"):
        store.query("reset")
    talk: Any = MemosChatStore(ada)
    with pytest.raises(InvalidInput, match="ChatMessage"):
        talk.add_message("talk", "hello")
    assert talk.get_keys() == []


def test_what_leads_to_a_memory_is_not_pickled_and_stays_whole(ada: Scope) -> None:
    store, llm = MemosVectorStore(ada), MemosLLM(memory=ada)
    for handle in (store, llm):
        with pytest.raises(TypeError, match="cannot be pickled"):
            pickle.dumps(handle)
    assert llm.memory is ada
    assert store.get_nodes() == []
    assert copy.deepcopy(llm).memory is ada
    assert copy.deepcopy(store) is store


def test_an_argument_that_is_not_known_is_refused(ada: Scope) -> None:
    with pytest.raises(ValidationError, match="top_k"):
        MemosMemory.from_defaults(memory=ada, top_k=3)
    with pytest.raises(ValidationError, match="top_k"):
        MemosMemoryBlock(memory=ada, top_k=3)
    with pytest.raises(ValidationError, match="modell"):
        MemosLLM(modell="memos-reader")


# Documents that share a hash, and questions of no document


async def test_all_documents_are_listed_though_they_share_a_hash() -> None:
    store = MemosDocumentStore()
    store.add_documents([Document(text="same", id_="d1"), Document(text="same", id_="d2")])
    assert len(store.get_all_document_hashes()) == 1
    assert store.get_all_document_ids() == await store.aget_all_document_ids() == {"d1", "d2"}


def test_a_question_of_no_document_finds_nothing(ada: Scope) -> None:
    store = MemosVectorStore(ada)
    store.add(pages())
    for mode in (VectorStoreQueryMode.DEFAULT, VectorStoreQueryMode.MMR):
        for doc_ids, count in ((None, 3), ([], 0), (["missing"], 0), (["manual"], 3)):
            question = VectorStoreQuery(query_embedding=[1.0, 0.0], similarity_top_k=9, doc_ids=doc_ids, mode=mode)
            assert len(store.query(question).ids or []) == count


def test_a_threshold_of_the_call_goes_before_that_of_the_query(ada: Scope) -> None:
    store = MemosVectorStore(ada)
    places = {"a": [1.0, 0.0], "b": [1.0, 0.0], "c": [0.0, 1.0]}
    store.add([TextNode(id_=name, text=name, embedding=place) for name, place in places.items()])
    cases: list[tuple[float | None, dict[str, Any], list[str]]] = [
        (0.0, {}, ["a", "c"]),
        (1.0, {}, ["a", "b"]),
        (None, {}, ["a", "b"]),
        (1.0, {"mmr_threshold": 0.0}, ["a", "c"]),
        (0.0, {"mmr_threshold": None}, ["a", "b"]),
    ]
    for of_query, options, found in cases:
        question = VectorStoreQuery(
            query_embedding=[1.0, 0.0], similarity_top_k=2, mode=VectorStoreQueryMode.MMR, mmr_threshold=of_query
        )
        assert store.query(question, **options).ids == found
