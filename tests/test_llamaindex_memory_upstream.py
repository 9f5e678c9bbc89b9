"""What is known to be wrong with LlamaIndex's ``Memory``, shown on it (as expected failures) and right in ours.

Each test names the report. Measured with llama-index-core 0.14.25.
"""

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.base.llms.types import ChatMessage, TextBlock, ThinkingBlock, ToolCallBlock
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.memory import BaseMemoryBlock, Memory, StaticMemoryBlock, VectorMemoryBlock
from llama_index.core.schema import BaseNode
from llama_index.core.storage.chat_store.base_db import MessageStatus
from llama_index.core.vector_stores.simple import SimpleVectorStore
from llama_index.core.vector_stores.types import VectorStoreQuery, VectorStoreQueryResult
from llamaindex_parts import RamStore, assistant, user

from memos_core import MemOS, Scope
from memos_core.testing import HashEmbedder
from memos_llamaindex import MemosMemory, MemosMemoryBlock

WRONG = (AssertionError, pytest.fail.Exception)

BOTH = [
    pytest.param(
        Memory, marks=pytest.mark.xfail(raises=WRONG, reason="wrong in llama-index-core 0.14.25"), id="Memory"
    ),
    pytest.param(MemosMemory, id="MemosMemory"),
]


def made(cls: type[Memory], **options: Any) -> Memory:
    return cls.from_defaults(**{"chat_store": RamStore(), "tokenizer_fn": str.split, **options})


class Probe(BaseMemoryBlock[str]):
    """A block that keeps what it was asked and handed."""

    name: str = "probe"
    asked: list[list[str]] = []  # noqa: RUF012 - a pydantic field, copied for each instance
    handed: list[ChatMessage] = []  # noqa: RUF012

    async def _aget(self, messages: list[ChatMessage] | None = None, **block_kwargs: Any) -> str:
        self.asked.append([message.content or "" for message in messages or []])
        return "known"

    async def _aput(self, messages: list[ChatMessage]) -> None:
        self.handed.extend(messages)


class SlowStore(RamStore):
    """A store over a network: archiving takes its time."""

    async def archive_oldest_messages(self, key: str, n: int) -> list[ChatMessage]:
        await asyncio.sleep(0.05)
        return await super().archive_oldest_messages(key, n)


async def active_after(cls: type[Memory], *, at_once: bool) -> list[str | None]:
    """Return what is in the history after two messages were put into a session that is full."""
    memory = made(
        cls,
        session_id="s",
        token_limit=60,
        token_flush_size=40,
        chat_history_token_ratio=1.0,
        chat_store=SlowStore(),
    )
    await memory.sql_store.add_messages("s", [user(f"old{number} " + "word " * 11) for number in range(6)])
    new = [user(name + " word" * 11) for name in ("newA", "newB")]
    if at_once:
        await asyncio.gather(*map(memory.aput, new))
    else:
        for message in new:
            await memory.aput(message)
    return [message.content for message in await memory.aget_all(status=MessageStatus.ACTIVE)]


@pytest.mark.parametrize("cls", BOTH)
async def test_messages_put_at_once_leave_the_same_history_as_one_after_the_other(cls: type[Memory]) -> None:
    # On Memory both calls see the full history, and each archives from its front: the second takes the new messages.
    one_by_one = await active_after(cls, at_once=False)
    assert await active_after(cls, at_once=True) == one_by_one
    assert any((text or "").startswith("newB") for text in one_by_one)


@pytest.mark.parametrize("cls", BOTH)
async def test_tool_calls_and_thoughts_take_tokens_21950(cls: type[Memory]) -> None:
    memory = made(cls, session_id="s", token_limit=1000)
    call = ToolCallBlock(tool_call_id="1", tool_name="find", tool_kwargs={"q": "word " * 200})
    assert memory._estimate_token_count(ChatMessage(role="assistant", blocks=[call])) > 200
    thought = ThinkingBlock(content="word " * 50)
    assert memory._estimate_token_count(ChatMessage(role="assistant", blocks=[thought])) == 50


@pytest.mark.parametrize("cls", BOTH)
async def test_a_history_of_tool_calls_is_cut_when_it_is_too_long_21950(cls: type[Memory]) -> None:
    memory = made(cls, session_id="s", token_limit=300, token_flush_size=10)
    for number in range(6):
        call = ToolCallBlock(tool_call_id=str(number), tool_name="find", tool_kwargs={"q": "word " * 100})
        await memory.aput_messages([user("look"), ChatMessage(role="assistant", blocks=[call])])
    assert len(await memory.aget()) < 12


@pytest.mark.parametrize("cls", BOTH)
async def test_the_least_important_block_gives_first_23090(cls: type[Memory]) -> None:
    blocks = [
        StaticMemoryBlock(name="facts", static_content=[TextBlock(text="fact " * 30)], priority=1),
        StaticMemoryBlock(name="chunks", static_content=[TextBlock(text="chunk " * 30)], priority=2),
    ]
    memory = made(cls, token_limit=45, memory_blocks=blocks)
    shown = " ".join(message.content or "" for message in await memory.aget())
    assert "fact" in shown
    assert "chunk" not in shown


@pytest.mark.parametrize("cls", BOTH)
async def test_the_last_user_message_reaches_the_blocks_as_a_message_too_19050(cls: type[Memory]) -> None:
    memory = made(cls, memory_blocks=[probe := Probe()])
    await memory.aput(user("Before."))
    await memory.aget(input=user("What is my cat called?"))
    assert probe.asked[-1] == ["Before.", "What is my cat called?"]


@pytest.mark.parametrize("cls", BOTH)
async def test_instructions_survive_a_cut_23144(cls: type[Memory]) -> None:
    memory = made(cls, session_id="s", token_limit=100, token_flush_size=20)
    await memory.aput(ChatMessage(role="system", content="You are terse."))
    for number in range(12):
        await memory.aput_messages([user(f"question {number} " + "pad " * 10), assistant("answer " + "pad " * 10)])
    history = await memory.aget()
    assert [message.role for message in history[:2]] == ["system", "user"]
    assert [message.content for message in history].count("You are terse.") == 1
    assert not history[0].additional_kwargs


@pytest.mark.parametrize("cls", BOTH)
async def test_what_a_block_fails_to_take_is_not_lost(cls: type[Memory]) -> None:
    class Failing(Probe):
        async def _aput(self, messages: list[ChatMessage]) -> None:
            raise ConnectionError("the block's store is away")

    memory = made(cls, session_id="s", token_limit=50, token_flush_size=10, memory_blocks=[Failing()])
    await memory.aput(user("first " + "pad " * 30))
    with pytest.raises(ConnectionError):
        await memory.aput(user("second " + "pad " * 30))
    active = await memory.aget_all(status=MessageStatus.ACTIVE)
    assert [(message.content or "").split()[0] for message in active] == ["first", "second"]


async def test_a_history_begins_with_a_user_message_after_a_cut_20256() -> None:
    # Mended in Memory too by 0.14.25 (#20310); here as a property over many conversations.
    for size in range(1, 60, 7):
        memory = made(MemosMemory, session_id="s", token_limit=80, token_flush_size=size, chat_history_token_ratio=0.5)
        for turn in range(3):
            await memory.aput(user("ask " * (size + turn)))
            tool = ChatMessage(role="tool", content="result " * (60 - size))
            await memory.aput_messages([assistant("call"), tool, assistant("answer " * size)])
            history = await memory.aget()
            assert history[0].role == "user"
            assert [message.role.value for message in history[-4:]] == ["user", "assistant", "tool", "assistant"]


async def test_a_conversation_that_nobody_opened_keeps_its_last_message() -> None:
    memory = made(MemosMemory, session_id="s", token_limit=40, token_flush_size=5)
    for number in range(4):
        await memory.aput(assistant(f"greeting{number} " + "pad " * 15))
    assert (await memory.aget())[-1].content.startswith("greeting3")


# One block, several sessions (#22701)


@pytest.fixture
def ada(tmp_path: Path) -> Iterator[Scope]:
    with MemOS.open(tmp_path / "memory", embedder=HashEmbedder()) as memos:
        yield memos.scope(user="ada")


async def shared_by_two_sessions(block: BaseMemoryBlock[Any], cls: type[Memory]) -> list[str]:
    """Return what sessions ``s1`` and ``s2`` recall after each was told something, by one block."""
    memories = [made(cls, session_id=name, memory_blocks=[block]) for name in ("s1", "s2")]
    for memory, text in zip(memories, ("My cat is called Biscuit.", "My cat is called Crumb."), strict=True):
        await block.aput([user(text)], session_id=memory.session_id)
    shown = [await memory.aget(input="What is my cat called?") for memory in memories]
    return [" ".join(message.content or "" for message in messages) for messages in shown]


@pytest.mark.xfail(
    raises=AssertionError, reason="VectorMemoryBlock keeps the first session's filter for all later ones"
)
async def test_upstreams_block_serves_each_session_its_own_22701() -> None:
    block = VectorMemoryBlock(vector_store=TextStore(), embed_model=MockEmbedding(embed_dim=4))
    first, second = await shared_by_two_sessions(block, Memory)
    if "Biscuit" not in first:
        pytest.fail("the block recalls nothing at all", pytrace=False)
    assert "Crumb" in second


@pytest.mark.parametrize("cls", [Memory, MemosMemory])
async def test_our_block_serves_each_session_its_own_22701(cls: type[Memory], ada: Scope) -> None:
    first, second = await shared_by_two_sessions(MemosMemoryBlock(memory=ada, per_session=True), cls)
    assert ("Biscuit" in first, "Crumb" in first) == (True, False)
    assert ("Biscuit" in second, "Crumb" in second) == (False, True)


async def test_messages_that_a_block_is_handed_are_not_changed_22701(ada: Scope) -> None:
    said = user("My cat is called Biscuit.")
    await MemosMemoryBlock(memory=ada).aput([said], session_id="s1")
    assert said.additional_kwargs == {}
    memory = made(MemosMemory, session_id="s", token_limit=20, token_flush_size=5, memory_blocks=[probe := Probe()])
    messages = [user("one " * 12), user("two " * 12)]
    await memory.aput_messages(messages)
    assert [message.additional_kwargs for message in probe.handed] == [{"session_id": "s"}]
    assert all(not message.additional_kwargs for message in messages)


class TextStore(SimpleVectorStore):
    """LlamaIndex's store in RAM, with the texts that ``VectorMemoryBlock`` needs."""

    stores_text: bool = True
    _nodes: dict[str, BaseNode] = PrivateAttr(default_factory=dict)

    def add(self, nodes: Sequence[BaseNode], **add_kwargs: Any) -> list[str]:
        self._nodes.update({node.node_id: node for node in nodes})
        return super().add(nodes, **add_kwargs)

    def query(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        result = super().query(query, **kwargs)
        result.nodes = [self._nodes[node_id] for node_id in result.ids or []]
        return result
