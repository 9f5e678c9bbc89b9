"""MemosRetriever for LangChain, over real memory."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from langchain_core.documents import Document
from langchain_core.runnables import RunnablePassthrough
from pydantic import ValidationError

from memos_core import MemOS, Scope
from memos_core.errors import InvalidName
from memos_core.testing import HashEmbedder
from memos_langchain import MemosRetriever

ADA = {"configurable": {"user_id": "ada"}}
BEN = {"configurable": {"user_id": "ben"}}


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


def test_a_document_tells_where_it_comes_from(ada: Scope) -> None:
    document = MemosRetriever(memory=ada).invoke("What is the cat called?")[0]
    hit = ada.search("What is the cat called?")[0]
    assert document == Document(
        page_content="The cat is called Biscuit.",
        id=hit.id,
        metadata={
            "speaker": "Ben",
            "session": "S1",
            "at": "2026-03-02T09:30:00Z",
            "ref": "D1:3",
            "kind": "turn",
            "tags": ["pets"],
            "memos_cube_id": hit.id,
            "score": hit.score,
        },
    )


async def test_async_and_sync_find_the_same(memos: MemOS, ada: Scope) -> None:
    retriever = MemosRetriever(memory=memos)
    assert await retriever.ainvoke("cat", ADA) == retriever.invoke("cat", ADA)


async def test_users_never_see_each_others_memory(memos: MemOS, ada: Scope) -> None:
    memos.scope(user="ben").add("The cat is called Crumb.")
    retriever = MemosRetriever(memory=memos)
    texts = [[document.page_content for document in found] for found in retriever.batch(["cat"] * 2, [ADA, BEN])]
    assert [len(found) for found in texts] == [2, 1]
    assert texts[1] == ["The cat is called Crumb."]
    assert [len(found) for found in await retriever.abatch(["cat"] * 2, [BEN, ADA])] == [1, 2]
    with pytest.raises(InvalidName, match="user_id"):
        retriever.invoke("cat")


def test_filters_and_a_threshold_narrow_what_is_found(ada: Scope) -> None:
    assert len(MemosRetriever(memory=ada, filters={"tags": "pets"}).invoke("cat")) == 1
    assert len(MemosRetriever(memory=ada).invoke("cat", filters={"speaker": "Ada"})) == 1
    assert MemosRetriever(memory=ada, score_threshold=1.1).invoke("cat") == []
    assert len(MemosRetriever(memory=ada, k=1).invoke("cat")) == 1


def test_it_stands_in_a_chain(memos: MemOS, ada: Scope) -> None:
    chain = RunnablePassthrough.assign(found=lambda given: given["question"]) | (lambda given: given["found"])
    found = (chain | MemosRetriever(memory=memos)).invoke({"question": "cat"}, ADA)
    assert len(found) == 2


def test_a_bad_parameter_is_refused(ada: Scope) -> None:
    with pytest.raises(ValidationError):
        MemosRetriever(memory=ada, k=0)


def test_a_call_may_name_its_filter_as_vector_stores_do(ada: Scope) -> None:
    retriever = MemosRetriever(memory=ada, filters={"speaker": "Ben"})
    assert [found.metadata["speaker"] for found in retriever.invoke("cat", filter={"speaker": "Ada"})] == ["Ada"]
    assert [found.metadata["speaker"] for found in retriever.invoke("cat")] == ["Ben"]


def test_an_argument_that_is_not_known_is_refused(ada: Scope) -> None:
    with pytest.raises(ValidationError, match="search_kwargs"):
        MemosRetriever(memory=ada, search_kwargs={"k": 2})
