"""MemosRetriever for LlamaIndex, over real memory."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.schema import MetadataMode
from llama_index.core.vector_stores import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters

from memos_core import MemOS, Scope
from memos_core.errors import InvalidName, UnsupportedOption
from memos_core.testing import HashEmbedder
from memos_llamaindex import MemosRetriever


@pytest.fixture
def memos(tmp_path: Path) -> Iterator[MemOS]:
    with MemOS.open(tmp_path / "memory", embedder=HashEmbedder()) as memos:
        yield memos


@pytest.fixture
def ada(memos: MemOS) -> Scope:
    ada = memos.scope(user="ada")
    moment = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)
    ada.add("The cat is called Biscuit.", speaker="Ben", session="S1", at=moment, ref="D1:3", tags=["pets"])
    ada.add("The cat likes the harbour.", speaker="Ada")
    return ada


def test_a_node_tells_where_it_comes_from(ada: Scope) -> None:
    found = MemosRetriever(ada).retrieve("What is the cat called?")[0]
    hit = ada.search("What is the cat called?")[0]
    assert (found.node.node_id, found.score, found.text) == (hit.id, hit.score, "The cat is called Biscuit.")
    assert found.node.metadata["at"] == "2026-03-02T09:30:00Z"
    assert found.node.metadata["tags"] == ["pets"]
    assert found.node.metadata["memos_cube_id"] == hit.id
    for mode in (MetadataMode.LLM, MetadataMode.EMBED):
        assert "memos_cube_id" not in found.node.get_content(mode)
    assert "D1:3" in found.node.get_content(MetadataMode.LLM)


async def test_async_and_sync_find_the_same(ada: Scope) -> None:
    retriever = MemosRetriever(ada, similarity_top_k=1)
    found = retriever.retrieve("cat")
    assert len(found) == 1
    assert await retriever.aretrieve("cat") == found


def test_users_never_see_each_others_memory(memos: MemOS, ada: Scope) -> None:
    ben = MemosRetriever(memos, namespace_values={"user_id": "ben"})
    assert ben.retrieve("cat") == []
    assert len(MemosRetriever(memos, ("users", "ada")).retrieve("cat")) == 2
    with pytest.raises(InvalidName, match="user_id"):
        MemosRetriever(memos)


@pytest.mark.parametrize(
    ("filters", "count"),
    [
        ({"speaker": "Ben"}, 1),
        ({"speaker": ["Ben", "Ada"]}, 2),
        (MetadataFilters(filters=[MetadataFilter(key="speaker", value="Ada")]), 1),
        (MetadataFilters(filters=[MetadataFilter(key="speaker", value=["x", "Ada"], operator=FilterOperator.IN)]), 1),
        (MetadataFilters(filters=[MetadataFilter(key="tags", value="pets", operator=FilterOperator.CONTAINS)]), 1),
        (MetadataFilters(filters=[]), 2),
    ],
)
def test_filters_narrow_what_is_found(ada: Scope, filters: Any, count: int) -> None:
    assert len(MemosRetriever(ada, filters=filters).retrieve("cat")) == count


SPEAKER = MetadataFilter(key="speaker", value="Ada")


@pytest.mark.parametrize(
    "filters",
    [
        MetadataFilters(filters=[MetadataFilter(key="speaker", value="Ada", operator=FilterOperator.NE)]),
        MetadataFilters(filters=[SPEAKER, MetadataFilter(key="ref", value="x")], condition=FilterCondition.OR),
        MetadataFilters(filters=[SPEAKER], condition=FilterCondition.NOT),
        MetadataFilters(filters=[SPEAKER, SPEAKER]),
        MetadataFilters(filters=[MetadataFilters(filters=[SPEAKER])]),
    ],
)
def test_filters_that_memory_does_not_know_are_refused(ada: Scope, filters: MetadataFilters) -> None:
    with pytest.raises(UnsupportedOption):
        MemosRetriever(ada, filters=filters)
