"""MemosVectorStore and MemosEmbedding for LlamaIndex, against a brute-force oracle and under LlamaIndex's own parts."""

import operator
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llama_index.core import Document, StorageContext, VectorStoreIndex
from llama_index.core.ingestion import DocstoreStrategy, IngestionPipeline
from llama_index.core.llms import ChatMessage
from llama_index.core.memory import Memory, VectorMemoryBlock
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import IndexNode, NodeRelationship, RelatedNodeInfo, TextNode
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.vector_stores.types import (
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryMode,
)

from memos_core import MemOS, Scope
from memos_core.errors import EmbedderMismatch, InvalidInput, InvalidMemory, UnsupportedOption
from memos_core.testing import HashEmbedder
from memos_llamaindex import MemosEmbedding, MemosVectorStore

EMBED = MemosEmbedding(HashEmbedder())


@pytest.fixture(scope="module")
def memos(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MemOS]:
    with MemOS.open(tmp_path_factory.mktemp("memory"), embedder=HashEmbedder()) as memos:
        yield memos


@pytest.fixture
def ada(memos: MemOS, request: pytest.FixtureRequest) -> Scope:
    return memos.scope(user=request.node.name[:100])


def node(name: str, text: str, document: str | None = None, **metadata: Any) -> TextNode:
    made = TextNode(id_=name, text=text, metadata=metadata, embedding=EMBED.get_text_embedding(text))
    if document:
        made.relationships[NodeRelationship.SOURCE] = RelatedNodeInfo(node_id=document)
    return made


@pytest.fixture
def store(ada: Scope) -> MemosVectorStore:
    store = MemosVectorStore(ada)
    store.add(
        [
            node("lemon", "tea with lemon", "drinks", year=2020, tags=["hot", "sour"], lang="en"),
            node("milk", "tea with milk", "drinks", year=2021, tags=["hot"], lang="de"),
            node("rain", "rain in March", "weather", year=2022, lang="en"),
            node("chess", "chess by post", None, year=2023, tags=[], title="On Chess"),
        ]
    )
    return store


def ask(store: MemosVectorStore, text: str = "tea", k: int = 9, **options: Any) -> list[str]:
    query = VectorStoreQuery(
        query_embedding=EMBED.get_query_embedding(text), query_str=text, similarity_top_k=k, **options
    )
    return list(store.query(query).ids or [])


def filters(*items: Any, condition: FilterCondition = FilterCondition.AND) -> MetadataFilters:
    made = [MetadataFilter(key=i[0], operator=i[1], value=i[2]) if isinstance(i, tuple) else i for i in items]
    return MetadataFilters(filters=made, condition=condition)


# Nodes come back as they were


def test_a_node_comes_back_as_it_was_added(store: MemosVectorStore) -> None:
    (found,) = store.get_nodes(["lemon"])
    given_ = node("lemon", "tea with lemon", "drinks", year=2020, tags=["hot", "sour"], lang="en")
    given_.embedding = None
    assert found == given_
    assert found.hash == given_.hash
    assert found.ref_doc_id == "drinks"


def test_kinds_of_nodes_are_kept(ada: Scope) -> None:
    store = MemosVectorStore(ada)
    kinds = IndexNode(id_="i", text="see there", index_id="other", embedding=EMBED.get_text_embedding("see there"))
    empty = TextNode(id_="e", text="", embedding=EMBED.get_text_embedding("nothing"))
    store.add([kinds, empty])
    index_node, empty_node = store.get_nodes(["i", "e"])
    assert isinstance(index_node, IndexNode)
    assert index_node.index_id == "other"
    assert empty_node.get_content() == ""


def test_adding_again_replaces(store: MemosVectorStore) -> None:
    store.add([node("lemon", "rain and lemon", year=1)])
    (found,) = store.get_nodes(["lemon"])
    assert (found.get_content(), found.metadata) == ("rain and lemon", {"year": 1})
    assert store.client.count() == 4


def test_a_node_without_embedding_is_refused(store: MemosVectorStore) -> None:
    with pytest.raises(ValueError, match="has no embedding"):
        store.add([TextNode(text="a")])
    with pytest.raises((InvalidMemory, EmbedderMismatch, InvalidInput)):
        store.add([TextNode(text="a", embedding=[1.0])])
    assert store.client.count() == 4


# Every operator and condition


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (("year", FilterOperator.EQ, 2020), {"lemon"}),
        (("year", FilterOperator.NE, 2020), {"milk", "rain", "chess"}),
        (("lang", FilterOperator.NE, "en"), {"milk", "chess"}),
        (("year", FilterOperator.GT, 2021), {"rain", "chess"}),
        (("year", FilterOperator.GTE, 2021), {"milk", "rain", "chess"}),
        (("year", FilterOperator.LT, 2021), {"lemon"}),
        (("year", FilterOperator.LTE, 2021), {"lemon", "milk"}),
        (("lang", FilterOperator.IN, ["de", "fr"]), {"milk"}),
        (("lang", FilterOperator.NIN, ["de", "fr"]), {"lemon", "rain", "chess"}),
        (("tags", FilterOperator.ANY, ["sour", "sweet"]), {"lemon"}),
        (("tags", FilterOperator.ALL, ["hot", "sour"]), {"lemon"}),
        (("tags", FilterOperator.CONTAINS, "hot"), {"lemon", "milk"}),
        (("title", FilterOperator.TEXT_MATCH, "Chess"), {"chess"}),
        (("title", FilterOperator.TEXT_MATCH, "chess"), set()),
        (("title", FilterOperator.TEXT_MATCH_INSENSITIVE, "CHESS"), {"chess"}),
        (("tags", FilterOperator.IS_EMPTY, None), {"rain", "chess"}),
        (("year", FilterOperator.GT, "2020"), set()),
        (("ref_doc_id", FilterOperator.EQ, "drinks"), {"lemon", "milk"}),
    ],
    ids=lambda value: f"{value[0]} {value[1].value}" if isinstance(value, tuple) else "",
)
def test_every_operator(store: MemosVectorStore, asked: tuple[str, FilterOperator, Any], expected: set[str]) -> None:
    assert set(ask(store, filters=filters(asked))) == expected
    assert {n.node_id for n in store.get_nodes(filters=filters(asked))} == expected


def test_conditions_nest(store: MemosVectorStore) -> None:
    old, english = ("year", FilterOperator.LT, 2021), ("lang", FilterOperator.EQ, "en")
    either = filters(old, english, condition=FilterCondition.OR)
    neither = filters(old, english, condition=FilterCondition.NOT)
    assert set(ask(store, filters=either)) == {"lemon", "rain"}
    assert set(ask(store, filters=neither)) == {"milk", "chess"}
    nested = filters(either, filters(("year", FilterOperator.EQ, 2020), condition=FilterCondition.NOT))
    assert ask(store, filters=nested) == ["rain"]
    assert len(ask(store, filters=MetadataFilters(filters=[]))) == 4


def test_node_ids_and_doc_ids_narrow(store: MemosVectorStore) -> None:
    assert set(ask(store, node_ids=["lemon", "chess", "nowhere"])) == {"lemon", "chess"}
    assert set(ask(store, doc_ids=["drinks"])) == {"lemon", "milk"}
    assert ask(store, doc_ids=["drinks"], filters=filters(("lang", FilterOperator.EQ, "de"))) == ["milk"]
    assert len(ask(store, node_ids=[])) == 4
    assert ask(store, doc_ids=[]) == []


ORDER = {
    FilterOperator.GT: operator.gt,
    FilterOperator.LT: operator.lt,
    FilterOperator.GTE: operator.ge,
    FilterOperator.LTE: operator.le,
}
ROWS = [
    {"n": i % 7, "s": "abcdef"[i % 6], "l": [j for j in range(4) if i >> j & 1], **({"o": i} if i % 3 else {})}
    for i in range(40)
]


def brute(item: MetadataFilter | MetadataFilters, row: dict[str, Any]) -> bool:
    """The definition, written as plainly as it can be."""
    if isinstance(item, MetadataFilters):
        results = [brute(inner, row) for inner in item.filters]
        return {
            FilterCondition.AND: all(results),
            FilterCondition.OR: any(results),
            FilterCondition.NOT: not any(results),
        }[item.condition or FilterCondition.AND]
    held, value, asked = row.get(item.key), item.value, item.operator
    if held is None:
        return asked in (FilterOperator.NE, FilterOperator.NIN, FilterOperator.IS_EMPTY)
    listed, text = isinstance(held, list), isinstance(held, str)
    values = value if isinstance(value, list) else []
    inside = [part in held for part in values if listed or (text and isinstance(part, str))]
    return {
        FilterOperator.EQ: lambda: held == value,
        FilterOperator.NE: lambda: held != value,
        FilterOperator.IN: lambda: held in values,
        FilterOperator.NIN: lambda: held not in values,
        FilterOperator.CONTAINS: lambda: (listed or (text and isinstance(value, str))) and value in held,
        FilterOperator.ANY: lambda: any(inside),
        FilterOperator.ALL: lambda: len(inside) == len(values) and all(inside),
        FilterOperator.IS_EMPTY: lambda: held in ("", []),
        **{
            name: lambda compare=compare: type(held) is type(value) and not listed and compare(held, value)
            for name, compare in ORDER.items()
        },
    }[asked]()


KEYS = st.sampled_from(["n", "s", "l", "o", "absent"])
SCALARS = st.one_of(st.integers(-1, 8), st.sampled_from(list("abcx")))
LEAF = st.one_of(
    st.builds(
        MetadataFilter,
        key=KEYS,
        value=SCALARS,
        operator=st.sampled_from(
            [*ORDER, FilterOperator.EQ, FilterOperator.NE, FilterOperator.CONTAINS, FilterOperator.IS_EMPTY]
        ),
    ),
    st.builds(
        MetadataFilter,
        key=KEYS,
        value=st.one_of(st.lists(st.integers(-1, 8), max_size=3), st.lists(st.sampled_from(list("abcx")), max_size=3)),
        operator=st.sampled_from([FilterOperator.IN, FilterOperator.NIN, FilterOperator.ANY, FilterOperator.ALL]),
    ),
)
TREE = st.recursive(
    st.builds(
        MetadataFilters, filters=st.lists(LEAF, min_size=1, max_size=3), condition=st.sampled_from(FilterCondition)
    ),
    lambda inner: st.builds(
        MetadataFilters,
        filters=st.lists(st.one_of(LEAF, inner), min_size=1, max_size=3),
        condition=st.sampled_from(FilterCondition),
    ),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def many(memos: MemOS) -> tuple[MemosVectorStore, np.ndarray]:
    vectors = np.random.default_rng(3).normal(size=(len(ROWS), 8))
    store = MemosVectorStore(memos.scope(user="oracle"))
    store.add(
        [
            TextNode(id_=str(i), text=f"row {i}", metadata=row, embedding=vectors[i].tolist())
            for i, row in enumerate(ROWS)
        ]
    )
    return store, vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@given(tree=TREE, seed=st.integers(0, 1000), k=st.integers(1, 45))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_filter_agrees_with_brute_force(
    many: tuple[MemosVectorStore, np.ndarray], tree: MetadataFilters, seed: int, k: int
) -> None:
    store, units = many
    query = np.random.default_rng(seed).normal(size=8)
    scores = units @ (query / np.linalg.norm(query))
    allowed = [i for i in range(len(ROWS)) if brute(tree, ROWS[i])]
    expected = sorted(allowed, key=lambda i: -scores[i])[:k]
    result = store.query(VectorStoreQuery(query_embedding=query.tolist(), similarity_top_k=k, filters=tree))
    assert result.ids == [str(i) for i in expected]
    assert np.allclose(result.similarities, [scores[i] for i in expected], atol=1e-5)


# Modes


def test_modes(store: MemosVectorStore) -> None:
    assert ask(store, "lemon tea", k=1) == ["lemon"]
    assert ask(store, "chess", mode=VectorStoreQueryMode.TEXT_SEARCH) == ["chess"]
    assert ask(store, "tea", mode=VectorStoreQueryMode.SPARSE, sparse_top_k=1) == ["lemon"]
    assert ask(store, "chess", k=1, mode=VectorStoreQueryMode.HYBRID, alpha=0.0) == ["chess"]
    assert ask(store, "chess", k=1, mode=VectorStoreQueryMode.HYBRID, hybrid_top_k=2)[0] == "chess"
    assert ask(store, "chess", k=1, mode=VectorStoreQueryMode.SEMANTIC_HYBRID) == ["chess"]
    assert ask(store, "tea", k=2, mode=VectorStoreQueryMode.MMR, mmr_threshold=1.0) == ask(store, "tea", k=2)
    varied = ask(store, "tea", k=2, mode=VectorStoreQueryMode.MMR, mmr_threshold=0.0)
    assert len(set(varied) & {"lemon", "milk"}) == 1
    for mode in (VectorStoreQueryMode.SVM, VectorStoreQueryMode.LINEAR_REGRESSION):
        with pytest.raises(UnsupportedOption, match=mode.value):
            ask(store, mode=mode)


def test_a_mode_says_what_it_lacks(store: MemosVectorStore) -> None:
    with pytest.raises(InvalidInput, match="query_embedding"):
        store.query(VectorStoreQuery(query_str="tea"))
    with pytest.raises(InvalidInput, match="text"):
        store.query(VectorStoreQuery(mode=VectorStoreQueryMode.TEXT_SEARCH))
    with pytest.raises(InvalidInput, match="shape"):
        store.query(VectorStoreQuery(query_embedding=[1.0]))


def test_an_empty_store_answers_with_nothing(ada: Scope) -> None:
    result = MemosVectorStore(ada).query(VectorStoreQuery(query_embedding=[1.0, 0.0]))
    assert (result.nodes, result.similarities, result.ids) == ([], [], [])
    assert MemosVectorStore(ada).get_nodes() == []


async def test_async_twins_do_the_same(store: MemosVectorStore) -> None:
    query = VectorStoreQuery(query_embedding=EMBED.get_query_embedding("tea"), query_str="tea", similarity_top_k=9)
    for mode in (VectorStoreQueryMode.DEFAULT, VectorStoreQueryMode.MMR, VectorStoreQueryMode.HYBRID):
        query.mode = mode
        assert await store.aquery(query) == store.query(query)
    assert await store.aget_nodes(["rain"]) == store.get_nodes(["rain"])
    assert await store.async_add([node("new", "snow")]) == ["new"]
    await store.adelete_nodes(["new"])
    await store.adelete("drinks")
    assert {n.node_id for n in await store.aget_nodes()} == {"rain", "chess"}
    await store.aclear()
    assert store.client.count() == 0


# Deleting


def test_deleting(store: MemosVectorStore) -> None:
    store.delete("drinks")
    assert {n.node_id for n in store.get_nodes()} == {"rain", "chess"}
    store.delete("nowhere")
    store.delete_nodes(["rain"], filters=filters(("year", FilterOperator.EQ, 1)))
    assert len(store.get_nodes()) == 2
    store.delete_nodes(filters=filters(("year", FilterOperator.GTE, 2023)))
    assert [n.node_id for n in store.get_nodes()] == ["rain"]
    with pytest.raises(InvalidInput):
        store.delete_nodes()
    store.clear()
    store.add([TextNode(text="a", embedding=[1.0, 2.0])])


# Under LlamaIndex


def test_it_survives_reopening_under_an_index(tmp_path: Path) -> None:
    with MemOS.open(tmp_path, embedder=HashEmbedder()) as memos:
        context = StorageContext.from_defaults(vector_store=MemosVectorStore(memos.scope(user="ada")))
        documents = [Document(text="tea with lemon", doc_id="d1"), Document(text="rain in March", doc_id="d2")]
        VectorStoreIndex.from_documents(documents, storage_context=context, embed_model=EMBED)
        context.persist(persist_dir=str(tmp_path / "persisted"))
    with MemOS.open(tmp_path, embedder=HashEmbedder()) as memos:
        store = MemosVectorStore(memos.scope(user="ada"))
        index = VectorStoreIndex.from_vector_store(store, embed_model=EMBED)
        assert index.as_retriever(similarity_top_k=1).retrieve("rain")[0].text == "rain in March"
        by_words = index.as_retriever(vector_store_query_mode="text_search").retrieve("lemon")
        assert [found.text for found in by_words] == ["tea with lemon"]
        index.delete_ref_doc("d2", delete_from_docstore=True)
        index.insert(Document(text="chess by post", doc_id="d3"))
        assert {n.ref_doc_id for n in store.get_nodes()} == {"d1", "d3"}


def test_an_ingestion_pipeline_upserts_and_deletes(ada: Scope) -> None:
    store = MemosVectorStore(ada)
    pipeline = IngestionPipeline(
        transformations=[SentenceSplitter(chunk_size=64, chunk_overlap=0), EMBED],
        vector_store=store,
        docstore=SimpleDocumentStore(),
        docstore_strategy=DocstoreStrategy.UPSERTS_AND_DELETE,
    )
    pipeline.run(documents=[Document(text="tea", doc_id="a"), Document(text="rain", doc_id="b")])
    pipeline.run(documents=[Document(text="tea with milk", doc_id="a"), Document(text="chess", doc_id="c")])
    assert {n.get_content() for n in store.get_nodes()} == {"tea with milk", "chess"}


async def test_it_serves_a_memory_block(ada: Scope) -> None:
    block = VectorMemoryBlock(vector_store=MemosVectorStore(ada), embed_model=EMBED, similarity_top_k=1)
    memory = Memory.from_defaults(session_id="s", token_limit=40, token_flush_size=10, memory_blocks=[block])
    for text in (
        "My cat is called Biscuit.",
        "It rains in March here, every day, all the time.",
        "Chess by post is slow.",
    ):
        await memory.aput(ChatMessage(role="user", content=text))
    assert "Biscuit" in str(await memory.aget(input="cat Biscuit"))
    await memory.sql_store._async_engine.dispose()


def test_memory_and_store_keep_apart(ada: Scope, store: MemosVectorStore) -> None:
    assert ada.search("tea") == []
    assert store.class_name() == "MemosVectorStore"


async def test_embedding_is_that_of_the_embedder() -> None:
    embedder = HashEmbedder()
    assert EMBED.get_text_embedding("tea") == embedder.embed(["tea"])[0].tolist()
    assert await EMBED.aget_text_embedding("tea") == EMBED.get_text_embedding("tea")
    assert await EMBED.aget_query_embedding("tea") == EMBED.get_query_embedding("tea")
    assert EMBED.get_text_embedding_batch(["tea", "rain"]) == embedder.embed(["tea", "rain"]).tolist()
    assert await EMBED.aget_text_embedding_batch(["tea", "rain"]) == EMBED.get_text_embedding_batch(["tea", "rain"])
    assert (EMBED.model_name, EMBED.dimension, EMBED.class_name()) == ("hash-64", 64, "MemosEmbedding")
    assert len(MemosEmbedding().get_query_embedding("tea")) == 384
