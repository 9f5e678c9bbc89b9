"""Grants in other processes, under many threads, on the disk, on the command line and in the adapters."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from agent_parts import said, scripted
from langchain.agents import create_agent
from llama_index.core.llms import ChatMessage
from sqlalchemy import insert
from test_cli import Invoke, added, document, error, invoke  # noqa: F401  (a fixture)

from memos_core import MemOS, Scope
from memos_core.errors import VaultDamaged
from memos_core.infrastructure.vault import schema
from memos_core.testing import HashEmbedder
from memos_langchain import MemosMiddleware
from memos_langchain import MemosRetriever as LangChainRetriever
from memos_llamaindex import MemosMemory
from memos_llamaindex import MemosRetriever as LlamaIndexRetriever

CAT = "My cat is called Biscuit."
QUESTION = "What is the cat called?"
READER = """
import json, sys
from memos_core import MemOS
from memos_core.errors import CubeNotFound
from memos_core.testing import HashEmbedder
with MemOS.open(sys.argv[1], embedder=HashEmbedder()) as memos:
    bob = memos.scope(user="bob")
    print("ready", flush=True)
    for line in sys.stdin:
        hits = bob.search("What is the cat called?")
        try:
            bob.get(line.strip())
        except CubeNotFound:
            print(json.dumps({"found": [hit.text for hit in hits], "got": False}), flush=True)
        else:
            print(json.dumps({"found": [hit.text for hit in hits], "got": True}), flush=True)
"""


@pytest.fixture
def memos(memory_folder: Path) -> Iterator[MemOS]:
    with MemOS.open(memory_folder, embedder=HashEmbedder()) as opened:
        yield opened


@pytest.fixture
def ada(memos: MemOS) -> Scope:
    return memos.scope(user="ada")


@pytest.fixture
def bob(memos: MemOS) -> Scope:
    return memos.scope(user="bob")


@pytest.fixture
def cat(ada: Scope) -> str:
    return ada.add(CAT).cube_id or ""


def test_each_step_counts_at_once_in_another_process(memos: MemOS, ada: Scope, cat: str) -> None:
    command = [sys.executable, "-c", READER, str(memos.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdin is not None
        assert reader.stdout is not None
        assert reader.stdout.readline() == "ready\n"

        def seen() -> list[str]:
            reader.stdin.write(f"{cat}\n")
            reader.stdin.flush()
            told = json.loads(reader.stdout.readline())
            assert told["got"] == bool(told["found"])
            return list(told["found"])

        assert seen() == []
        ada.grant("bob", cube_id=cat)
        assert seen() == [CAT]
        ada.update(cat, "My cat is called Crumb.")
        assert seen() == ["My cat is called Crumb."]
        ada.archive(cat)
        assert seen() == []
        ada.archive(cat, archived=False)
        assert seen() == ["My cat is called Crumb."]
        ada.revoke("bob", cube_id=cat)
        assert seen() == []
        ada.grant("bob", whole_scope=True)
        assert seen() == ["My cat is called Crumb."]
        ada.forget(cat)
        assert seen() == []
        reader.stdin.close()


def test_fifty_threads_see_what_is_granted_or_nothing(ada: Scope, bob: Scope, cat: str) -> None:
    hidden = ada.add("My cat has a secret name.").cube_id

    def reads(_: int) -> set[str]:
        return {hit.id for _ in range(4) for hit in bob.search(QUESTION)}

    def toggles(_: int) -> set[str]:
        for _ in range(6):
            ada.grant("bob", cube_id=cat)
            ada.revoke("bob", cube_id=cat)
            assert bob.search(QUESTION) == []
        return set()

    with ThreadPoolExecutor(50) as pool:
        toggled = pool.submit(toggles, 0)
        seen = set().union(*pool.map(reads, range(49)))
        assert toggled.result() == set()
    assert seen <= {cat}
    assert hidden not in seen
    ada.grant("bob", cube_id=cat)
    with ThreadPoolExecutor(50) as pool:
        assert all(found == {cat} for found in pool.map(reads, range(50)))


def test_a_revocation_survives_an_edit_that_began_before_it(memos: MemOS, ada: Scope, bob: Scope, cat: str) -> None:
    ada.grant("bob", cube_id=cat)
    stale = ada.get(cat)
    ada.revoke("bob", cube_id=cat)
    with memos._layers.vault.write() as session:
        session.set_header(stale, author="ada", reason="a header that was read before")
    assert stale.header.governance.grants != ()
    assert ada.get(cat).header.governance.grants == ()
    assert bob.search(QUESTION) == []
    memos.verify()
    with memos._layers.vault.ledger.write() as connection:
        row = {"namespace_id": 1, "cube_id": cat, "grantee": "eve", "right": "read", "author": "eve", "created": 0}
        connection.execute(insert(schema.grants), row)
    with pytest.raises(VaultDamaged, match="grants is not what its header says"):
        memos.verify()


def test_forgetting_leaves_no_trace_of_the_owner_with_the_reader(memos: MemOS, ada: Scope, bob: Scope) -> None:
    word = "Zyxwvutq"
    cube_id = ada.add(f"The word is {word}.", speaker="Quentin").cube_id or ""
    ada.grant("bob", cube_id=cube_id)
    bob.add("My own word is tree.")
    bob.search("What is the word?")
    bob.pin(cube_id)
    assert word in bob.context("What is the word?").text
    assert ada.forget(cube_id).complete
    assert word not in bob.context("What is the word?").text
    files = [path for path in memos.path.rglob("*") if path.is_file()]
    for path in files:
        data = path.read_bytes()
        assert word.encode() not in data
        assert b"Quentin" not in data
    with memos._layers.vault.read() as session:
        assert [entry["detail"] for entry in session.audit("ada") if entry["action"] == "grant"] == [{}]


def test_a_grant_and_its_end_stand_in_the_audit(memos: MemOS, ada: Scope, cat: str) -> None:
    ada.scope(agent="scout").grant("bob", cube_id=cat)
    ada.revoke("bob")
    with memos._layers.vault.read() as session:
        told = [entry for entry in session.audit("ada")[::-1] if entry["action"] in ("grant", "revoke")]
        assert [(entry["action"], entry["principal"], entry["cube_ids"]) for entry in told] == [
            ("grant", "ada/scout", [cat]),
            ("revoke", "ada", [cat]),
        ]
        assert [entry["detail"] for entry in told] == [{"grantee": "bob", "right": "read"}] * 2
        assert session.audit("bob") == []


def test_what_a_revocation_cannot_end_it_names(ada: Scope, bob: Scope) -> None:
    trip = ada.scope(session="trip")
    plan = trip.add(CAT).cube_id or ""
    ada.grant("bob", whole_scope=True)
    trip.grant("bob", whole_scope=True)
    for attempt in (lambda: trip.revoke("bob"), lambda: ada.revoke("bob", cube_id=plan)):
        with pytest.raises(ValueError, match="bob may read"):
            attempt()
    assert [hit.id for hit in bob.search(QUESTION)] == [plan]
    assert {str(each) for each in trip.grants()} == {
        "bob may read everything of ada",
        "bob may read all of session trip of ada",
    }
    assert len(ada.revoke("bob")) == 2
    assert bob.search(QUESTION) == []
    assert bob.grants(received=True) == []


def test_retrievers_of_both_frameworks_find_what_is_granted(ada: Scope, bob: Scope, cat: str) -> None:
    ada.grant("bob", cube_id=cat)
    (found,) = LangChainRetriever(memory=bob).invoke(QUESTION)
    assert (found.page_content, found.metadata["shared_by"]) == (CAT, "ada")
    (node,) = LlamaIndexRetriever(bob).retrieve(QUESTION)
    assert (node.text, node.node.metadata["shared_by"]) == (CAT, "ada")
    ada.revoke("bob")
    assert LangChainRetriever(memory=bob).invoke(QUESTION) == []
    assert LlamaIndexRetriever(bob).retrieve(QUESTION) == []


def test_an_agent_is_told_whose_memory_it_is(memos: MemOS, ada: Scope, bob: Scope, cat: str) -> None:
    ada.grant("bob", cube_id=cat)
    model = scripted("Biscuit.", "I do not know.")
    agent = create_agent(model, middleware=[MemosMiddleware(bob, remember="none")])
    agent.invoke(said(QUESTION))
    assert model.systems[0].endswith(f"- shared by ada: {CAT}")
    ada.revoke("bob")
    agent.invoke(said(QUESTION))
    assert model.systems[1:] == [None]


async def test_private_and_shared_memory_of_a_conversation(memos: MemOS, bob: Scope, cat: str, ada: Scope) -> None:
    ada.grant("bob", cube_id=cat)
    bob.add("My own cat is called Tom.")
    memory = MemosMemory.from_defaults(memory=bob, session_id="s1")
    await memory.aput(ChatMessage(role="user", content=QUESTION))
    recalled = (await memory.aget())[0].content or ""
    assert f"- shared by ada: {CAT}" in recalled
    assert "- My own cat is called Tom." in recalled
    ada.revoke("bob")
    assert "Biscuit" not in ((await memory.aget())[0].content or "")


async def test_grants_have_async_twins(ada: Scope, bob: Scope, cat: str) -> None:
    record = await ada.agrant("bob", cube_id=cat)
    assert await ada.agrants() == [record]
    assert [hit.id for hit in await bob.asearch(QUESTION)] == [cat]
    assert await ada.arevoke("bob") == (record,)


def test_grants_on_the_command_line(invoke: Invoke) -> None:  # noqa: F811
    cube_id = added(invoke, CAT)
    told = document(invoke("grant", "bob", "--cube", cube_id, "--until", "2030-01-01", "--json"))
    assert (told["owner"], told["grantee"], told["cube_id"], told["until"]) == (
        "me",
        "bob",
        cube_id,
        "2030-01-01T00:00:00+00:00",
    )
    assert "bob" in invoke("grants").stdout
    assert len(document(invoke("grants", "--received", "--user", "bob", "--json"))["grants"]) == 1
    hits = document(invoke("search", "cat", "--user", "bob", "--json"))["hits"]
    assert [(hit["text"], hit["shared_by"]) for hit in hits] == [(CAT, "me")]
    assert error(invoke("grant", "bob", "--json"))["type"] == "InvalidInput"
    assert error(invoke("grant", "bob", "--cube", "nonsense", "--json"))["type"] == "CubeNotFound"
    assert invoke("revoke", "bob").stdout == "revoked: 1\n"
    assert document(invoke("search", "cat", "--user", "bob", "--json"))["hits"] == []
