"""MemosRetriever for LlamaIndex, over real memory."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.schema import MetadataMode
from llama_index.core.vector_stores import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters

from memos_core import MemOS, Scope
from memos_core.errors import InvalidInput, InvalidName
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


def one(key: str, value: Any, operator: FilterOperator = FilterOperator.EQ) -> MetadataFilter:
    return MetadataFilter(key=key, value=value, operator=operator)


def group(
    *parts: MetadataFilter | MetadataFilters, condition: FilterCondition = FilterCondition.AND
) -> MetadataFilters:
    return MetadataFilters(filters=list(parts), condition=condition)


ADA, BEN = one("speaker", "Ada"), one("speaker", "Ben")
BOTH = {"Ada", "Ben"}


@pytest.mark.parametrize(
    ("filters", "speakers"),
    [
        (group(one("speaker", "Ada", FilterOperator.NE)), {"Ben"}),
        (group(one("speaker", ["Ada"], FilterOperator.NIN)), {"Ben"}),
        (group(one("speaker", "en", FilterOperator.TEXT_MATCH)), {"Ben"}),
        (group(one("ref", None, FilterOperator.IS_EMPTY)), {"Ada"}),
        (group(one("at", "2026-01-01T00:00:00Z", FilterOperator.GT)), {"Ben"}),
        (group(one("tags", ["pets", "boats"], FilterOperator.ANY)), {"Ben"}),
        (group(one("tags", ["pets", "boats"], FilterOperator.ALL)), set()),
        (group(ADA, BEN, condition=FilterCondition.OR), BOTH),
        (group(ADA, condition=FilterCondition.NOT), {"Ben"}),
        (group(ADA, BEN), set()),
        (
            group(group(group(BEN, one("tags", "pets", FilterOperator.CONTAINS)), ADA, condition=FilterCondition.OR)),
            BOTH,
        ),
        (group(group()), BOTH),
    ],
)
async def test_every_operator_and_nesting_narrows(ada: Scope, filters: MetadataFilters, speakers: set[str]) -> None:
    retriever = MemosRetriever(ada, filters=filters)
    assert {found.metadata["speaker"] for found in retriever.retrieve("cat")} == speakers
    assert await retriever.aretrieve("cat") == retriever.retrieve("cat")


def test_a_field_that_memory_does_not_know_is_refused(ada: Scope) -> None:
    with pytest.raises(InvalidInput, match="colour"):
        MemosRetriever(ada, filters=group(one("colour", "red"))).retrieve("cat")
