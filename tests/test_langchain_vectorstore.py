"""MemosVectorStore and MemosEmbeddings for LangChain: its own suites, and what they do not ask."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings
from langchain_core.indexing import InMemoryRecordManager, index
from langchain_core.vectorstores import VectorStore
from langchain_tests.integration_tests import EmbeddingsIntegrationTests, VectorStoreIntegrationTests
from langchain_tests.unit_tests import EmbeddingsUnitTests

from memos_core import MemOS, Scope
from memos_core.errors import EmbedderMismatch, InvalidInput, InvalidMemory, InvalidName
from memos_core.testing import HashEmbedder
from memos_langchain import MemosEmbeddings, MemosVectorStore


@pytest.fixture
def memos(tmp_path: Path) -> Iterator[MemOS]:
    with MemOS.open(tmp_path / "memory", embedder=HashEmbedder()) as memos:
        yield memos


@pytest.fixture
def ada(memos: MemOS) -> Scope:
    return memos.scope(user="ada")


@pytest.fixture
def store(ada: Scope) -> MemosVectorStore:
    store = MemosVectorStore(ada)
    store.add_texts(
        ["tea with lemon", "tea with milk", "rain in March", "chess by post"],
        [{"n": 1, "kind": "drink"}, {"n": 2, "kind": "drink"}, {"n": 3}, {"n": 4, "tags": ["game"]}],
        ids=["lemon", "milk", "rain", "chess"],
    )
    return store


class TestStandardWithForeignEmbeddings(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, ada: Scope) -> VectorStore:  # type: ignore[override]
        return MemosVectorStore(ada, self.get_embeddings())


class TestStandardWithTheMemorysOwnEmbedder(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, ada: Scope) -> VectorStore:  # type: ignore[override]
        return MemosVectorStore(ada)


class TestMemosEmbeddingsUnit(EmbeddingsUnitTests):
    @property
    def embeddings_class(self) -> type[Embeddings]:
        return MemosEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {"embedder": HashEmbedder()}


class TestMemosEmbeddingsIntegration(EmbeddingsIntegrationTests):
    @property
    def embeddings_class(self) -> type[Embeddings]:
        return MemosEmbeddings


def test_embeddings_are_those_of_the_embedder() -> None:
    embedder = HashEmbedder()
    embeddings = MemosEmbeddings(embedder=embedder)
    assert embeddings.embed_documents(["tea"]) == embedder.embed(["tea"]).tolist()
    assert embeddings.embed_documents([]) == []
    assert len(MemosEmbeddings().embed_query("tea")) == 384


def test_filters_narrow_every_kind_of_search(store: MemosVectorStore) -> None:
    where = {"n": {"$gte": 2}, "$not": {"tags": {"$contains": "game"}}}
    for documents in (
        store.similarity_search("tea", k=9, filter=where),
        store.similarity_search("tea rain", k=9, filter=where, mode="hybrid"),
        store.max_marginal_relevance_search("tea", k=9, filter=where),
        store.similarity_search_by_vector([1.0] * 64, k=9, filter=where),
        store.max_marginal_relevance_search_by_vector([1.0] * 64, k=9, filter=where),
    ):
        assert {document.id for document in documents} == {"milk", "rain"}
    assert [d.id for d in store.similarity_search("milk", mode="words")] == ["milk"]


async def test_async_finds_what_sync_finds(ada: Scope, store: MemosVectorStore) -> None:
    foreign = await MemosVectorStore.afrom_texts(
        ["a", "b"], DeterministicFakeEmbedding(size=8), memory=ada, collection="foreign"
    )
    for twin, query in ((store, [1.0] * 64), (foreign, [1.0] * 8)):
        assert await twin.asimilarity_search_with_score("tea") == twin.similarity_search_with_score("tea")
        assert await twin.asimilarity_search_by_vector(query) == twin.similarity_search_by_vector(query)
        assert await twin.amax_marginal_relevance_search("tea", k=2) == twin.max_marginal_relevance_search("tea", k=2)
        by_vector = await twin.amax_marginal_relevance_search_by_vector(query, k=2)
        assert by_vector == twin.max_marginal_relevance_search_by_vector(query, k=2)


def test_relevance_lies_between_0_and_1(store: MemosVectorStore) -> None:
    scored = store.similarity_search_with_relevance_scores("tea with lemon", k=4)
    assert scored[0][1] == pytest.approx(1.0)
    assert all(0 <= score <= 1 for _, score in scored)
    retriever = store.as_retriever(search_type="similarity_score_threshold", search_kwargs={"score_threshold": 0.9})
    assert [document.id for document in retriever.invoke("tea with lemon")] == ["lemon"]


async def test_it_serves_as_a_retriever(store: MemosVectorStore) -> None:
    retriever = store.as_retriever(search_type="mmr", search_kwargs={"k": 2, "fetch_k": 4, "filter": {"kind": "drink"}})
    assert {document.id for document in retriever.invoke("tea")} == {"lemon", "milk"}
    assert await retriever.ainvoke("tea") == retriever.invoke("tea")


def test_documents_come_back_as_they_were_given(store: MemosVectorStore) -> None:
    document = Document(page_content="Ü 🐈", id="ü", metadata={"a": {"b": [1, 2.5, None, True]}, "id": 7})
    store.add_documents([document])
    assert store.get_by_ids(["ü"]) == [document]
    assert store.similarity_search("Ü", k=5, mode="words") == [document]


def test_what_json_cannot_hold_is_refused(store: MemosVectorStore) -> None:
    with pytest.raises(InvalidMemory, match=r"metadata\.when"):
        store.add_documents([Document(page_content="a", metadata={"when": object()})])
    with pytest.raises(InvalidInput):
        store.add_texts(["a", "b"], [{}])
    with pytest.raises(InvalidInput):
        store.add_texts(["a", "b"], ids=["1"])
    assert store.collection.count() == 4


def test_langchains_index_keeps_it_in_step(store: MemosVectorStore) -> None:
    store.delete()
    records = InMemoryRecordManager(namespace="tests")
    records.create_schema()
    first = [Document(page_content=f"text {n}", metadata={"source": f"s{n}"}) for n in range(5)]
    options: dict[str, Any] = {"cleanup": "full", "source_id_key": "source", "key_encoder": "sha256"}
    assert index(first, records, store, **options)["num_added"] == 5
    assert index(first, records, store, **options)["num_skipped"] == 5
    changed = [*first[:3], Document(page_content="text 3, changed", metadata={"source": "s3"})]
    outcome = index(changed, records, store, **options)
    assert (outcome["num_added"], outcome["num_deleted"], store.collection.count()) == (1, 2, 4)


def test_deleting(store: MemosVectorStore) -> None:
    assert store.delete(filter={"kind": "drink"})
    assert store.delete(["nowhere", "rain"])
    assert [document.id for document in store.collection.list()] == ["chess"]
    assert store.delete([])
    assert store.collection.count() == 1
    store.delete()
    assert store.collection.count() == 0


def test_another_embedding_is_refused(ada: Scope) -> None:
    MemosVectorStore.from_texts(["a"], DeterministicFakeEmbedding(size=8), memory=ada, embedding_name="first")
    other = MemosVectorStore(ada, DeterministicFakeEmbedding(size=8), embedding_name="second")
    with pytest.raises(EmbedderMismatch):
        other.add_texts(["b"])
    with pytest.raises(EmbedderMismatch):
        other.similarity_search("b")


def test_users_and_collections_keep_apart(memos: MemOS, store: MemosVectorStore) -> None:
    users = ("users", "{user_id}")
    bob = MemosVectorStore(memos, namespace=users, namespace_values={"user_id": "bob"})
    assert bob.similarity_search("tea", k=9) == []
    assert MemosVectorStore(memos).get_by_ids(["lemon"]) == []
    assert MemosVectorStore(memos, namespace=users, namespace_values={"user_id": "ada"}).get_by_ids(["lemon"])
    with pytest.raises(InvalidName):
        MemosVectorStore(memos, namespace=users)


async def test_a_filter_under_another_name_is_not_passed_over(store: MemosVectorStore) -> None:
    for search in (store.similarity_search, store.max_marginal_relevance_search):
        with pytest.raises(InvalidInput, match="where"):
            search("tea", where={"n": 1})
    with pytest.raises(InvalidInput, match="where"):
        await store.asimilarity_search_with_score("tea", where={"n": 1})


def test_without_a_memory_it_lies_in_one_of_its_own() -> None:
    store = MemosVectorStore.from_texts(["tea", "rain"], DeterministicFakeEmbedding(size=8), ids=["t", "r"])
    assert store.similarity_search("tea", k=1)[0].page_content == "tea"
    assert MemosVectorStore(embedding=DeterministicFakeEmbedding(size=8)).get_by_ids(["t"]) == []


def test_it_survives_reopening(tmp_path: Path) -> None:
    for _ in range(2):
        with MemOS.open(tmp_path, embedder=HashEmbedder()) as memos:
            store = MemosVectorStore(memos.scope(user="ada"))
            store.add_texts(["tea"], ids=["x"])
            assert [document.id for document in store.similarity_search("tea")] == ["x"]


def test_ordinary_memory_does_not_see_documents(ada: Scope, store: MemosVectorStore) -> None:
    assert ada.search("tea") == []
