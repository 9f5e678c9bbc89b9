"""Chat stores of LlamaIndex over the items of a memory: each message an item, each conversation in order."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self, TypeVar

from fsspec import AbstractFileSystem

from memos_core import Item, Items, ItemTransaction, MemOS, Scope
from memos_core.errors import InvalidFile, InvalidInput, MissingExtra
from memos_llamaindex.files import read_json, write_json
from memos_llamaindex.home import SHARED, scope_for

try:
    from llama_index.core.base.llms.types import ChatMessage
    from llama_index.core.bridge.pydantic import ConfigDict, Field, PrivateAttr
    from llama_index.core.storage.chat_store.base import BaseChatStore
    from llama_index.core.storage.chat_store.base_db import AsyncDBChatStore, MessageStatus
except ImportError as error:
    raise MissingExtra("llama-index-core", extra="llamaindex") from error

__all__ = ["MemosAsyncChatStore", "MemosChatStore"]

R = TypeVar("R")


class Conversations:
    """The conversations of a store: under each key a list of messages with a status, kept in order.

    A conversation is there from its first message, or from being set, until it is deleted; it may be empty.
    """

    def __init__(self, items: Items, name: str) -> None:
        self._items = items
        self._keys = ("llama_index", name, "keys")
        self._messages = ("llama_index", name, "messages")

    def keys(self) -> list[str]:
        """Return the keys, in the order in which the conversations began."""
        return [found.item.key for found in self._items.search(self._keys, limit=None)]

    def messages(self, key: str, status: str | None = None) -> list[ChatMessage]:
        """Return the messages of a conversation, oldest first."""
        found = (one.item for one in self._items.search((*self._messages, key), limit=None))
        return [as_message(item) for item in found if status in (None, status_of(item))]

    @contextmanager
    def changing(self, key: str) -> Iterator[Conversation]:
        """Begin a change of one conversation: nobody writes in between, and all of it happens or none."""
        with self._items.transaction() as change:
            yield Conversation(change, self._keys, (*self._messages, key), key)


class Conversation:
    """One conversation within a transaction."""

    def __init__(self, change: ItemTransaction, keys: tuple[str, ...], path: tuple[str, ...], key: str) -> None:
        self._change = change
        self._keys = keys
        self._path = path
        self._key = key

    @property
    def begun(self) -> bool:
        return self._change.get(self._keys, self._key) is not None

    def items(self, status: str | None = None) -> list[Item]:
        """Return its messages, oldest first."""
        return [item for item in self._change.list(self._path) if status in (None, status_of(item))]

    def begin(self) -> None:
        if not self.begun:
            self._change.put(self._keys, self._key, {})

    def append(self, messages: Sequence[ChatMessage], status: str) -> None:
        """Add messages behind all that is there."""
        self.begin()
        self._change.append(self._path, [as_value(message, status) for message in messages])

    def insert(self, position: int, message: ChatMessage, status: str) -> None:
        """Add a message before the one at ``position``; positions are those of ``list.insert``."""
        behind = self.items()[position:]
        self.begin()
        self.remove(behind)
        self._change.append(self._path, [as_value(message, status), *(item.value for item in behind)])

    def remove(self, items: Sequence[Item]) -> list[ChatMessage]:
        """Take messages out and return them."""
        self._change.delete(self._path, *(item.key for item in items))
        return [as_message(item) for item in items]

    def archive(self, items: Sequence[Item]) -> list[ChatMessage]:
        """Give messages the status ``archived``, at their place, and return them."""
        archived = {item.key: with_status(item, MessageStatus.ARCHIVED.value) for item in items}
        self._change.put_all(self._path, archived)
        return [as_message(item) for item in items]

    def end(self) -> None:
        """Take it away."""
        self.remove(self.items())
        self._change.delete(self._keys, self._key)


def as_value(message: ChatMessage, status: str) -> dict[str, Any]:
    """Return a message as it is kept.

    Raises:
        InvalidInput: It is no message.
    """
    if not isinstance(message, ChatMessage):
        raise InvalidInput(f"a message is a ChatMessage, not a {type(message).__name__}")
    return {"status": status, "message": message.model_dump(mode="json")}


def as_message(item: Item) -> ChatMessage:
    value: Any = item.value
    return ChatMessage.model_validate(value["message"])


def status_of(item: Item) -> str:
    value: Any = item.value
    return str(value["status"])


def with_status(item: Item, status: str) -> Any:
    value: Any = item.value
    return {**value, "status": status}


def at(items: Sequence[Item], position: int) -> list[Item]:
    """Return the item at a position, which may count from the end, as a list; empty if there is none."""
    return [items[position]] if -len(items) <= position < len(items) else []


ACTIVE = MessageStatus.ACTIVE.value


class MemosChatStore(BaseChatStore):
    """Keeps conversations under keys, for LlamaIndex's memory buffers.

    Examples:
        `pip install 'memos-mag[llamaindex]'`

        ```python
        from memos_core import MemOS
        from memos_llamaindex import MemosChatStore

        store = MemosChatStore(MemOS.open("memory/").scope(user="ada"))
        buffer = ChatMemoryBuffer.from_defaults(chat_store=store, chat_store_key="talk-1")
        ```

    Each message is durable when the call returns; two threads or processes that add at once lose nothing. A message
    comes back with its blocks and ``additional_kwargs``, as JSON keeps them.

    Attributes:
        memory: A scope: its user's own store. A MemOS: one for all who hold it, or the one that ``namespace`` names.
            None: a temporary one, which is gone when the store is.
        name: Keeps several stores of one memory apart.
        namespace: Template of the namespace within a MemOS.
        namespace_values: What its variables stand for.
    """

    memory: Scope | MemOS | None = Field(default=None, exclude=True, repr=False, description="Where they are kept.")
    name: str = Field(default="chat", description="Keeps several stores of one memory apart.")
    namespace: tuple[str, ...] = Field(default=SHARED, description="Namespace within a MemOS.")
    namespace_values: dict[str, Any] = Field(default_factory=dict, description="Values of the namespace's variables.")

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    _kept: Conversations = PrivateAttr()

    def __init__(self, memory: Scope | MemOS | None = None, **fields: Any) -> None:
        given: dict[str, Any] = {"memory": memory, **fields}
        super().__init__(**given)

    def model_post_init(self, context: Any, /) -> None:
        if self.memory is None:
            self.memory = scope_for(None)
        self._kept = opened(self.memory, self.name, self.namespace, self.namespace_values)

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> MemosChatStore:
        return self  # a handle: what it leads to is there once

    @classmethod
    def class_name(cls) -> str:
        return "MemosChatStore"

    def set_messages(self, key: str, messages: list[ChatMessage]) -> None:
        """Let the conversation be these messages."""
        with self._kept.changing(key) as talk:
            talk.remove(talk.items())
            talk.append(messages, ACTIVE)

    def get_messages(self, key: str) -> list[ChatMessage]:
        """Return the messages of a conversation, oldest first."""
        return self._kept.messages(key)

    def add_message(self, key: str, message: ChatMessage, idx: int | None = None) -> None:
        """Add a message at the end, or before the one at ``idx``."""
        with self._kept.changing(key) as talk:
            if idx is None:
                talk.append([message], ACTIVE)
            else:
                talk.insert(idx, message, ACTIVE)

    def delete_messages(self, key: str) -> list[ChatMessage] | None:
        """Take a conversation away and return its messages; None if there was none."""
        with self._kept.changing(key) as talk:
            if not talk.begun:
                return None
            gone = [as_message(item) for item in talk.items()]
            talk.end()
        return gone

    def delete_message(self, key: str, idx: int) -> ChatMessage | None:
        """Take the message at ``idx`` out and return it; None if there is none."""
        with self._kept.changing(key) as talk:
            gone = talk.remove(at(talk.items(), idx))
        return gone[0] if gone else None

    def delete_last_message(self, key: str) -> ChatMessage | None:
        """Take the last message out and return it; None if there is none."""
        return self.delete_message(key, -1)

    def get_keys(self) -> list[str]:
        """Return the keys of all conversations, in the order in which they began."""
        return self._kept.keys()

    # Files

    def persist(self, persist_path: str = "chat_store.json", fs: AbstractFileSystem | None = None) -> None:
        """Write a copy to a file, which forgetting does not reach. The memory itself needs no such call."""
        talks = {key: self.get_messages(key) for key in self.get_keys()}
        store = {key: [message.model_dump(mode="json") for message in messages] for key, messages in talks.items()}
        write_json({"store": store}, persist_path, fs)

    @classmethod
    def from_persist_path(
        cls,
        persist_path: str = "chat_store.json",
        fs: AbstractFileSystem | None = None,
        memory: Scope | MemOS | None = None,
        **fields: Any,
    ) -> Self:
        """Return a store of ``memory`` into which a file of ``persist``, ours or ``SimpleChatStore``'s, was put.

        A conversation of the file takes the place of one under the same key. No such file: the store as it is.

        Raises:
            InvalidInput: It is no such file.
        """
        store = cls(memory, **fields)
        try:
            saved = read_json(persist_path, fs)
        except FileNotFoundError:
            return store  # as LlamaIndex has it: a first start
        for key, messages in saved_talks(saved, persist_path).items():
            store.set_messages(key, messages)
        return store


class MemosAsyncChatStore(AsyncDBChatStore):
    """Keeps the history of LlamaIndex's ``Memory``, with what it has archived.

    Examples:
        `pip install 'memos-mag[llamaindex]'`

        ```python
        from memos_core import MemOS
        from memos_llamaindex import MemosAsyncChatStore

        store = MemosAsyncChatStore(MemOS.open("memory/").scope(user="ada"))
        memory = Memory.from_defaults(session_id="talk-1", chat_store=store)
        ```

    Every method is one transaction on a worker thread. A message keeps its place when it is archived.

    Attributes:
        memory: A scope: its user's own store. A MemOS: one for all who hold it, or the one that ``namespace`` names.
            None: a temporary one, which is gone when the store is.
        name: Keeps several stores of one memory apart.
        namespace: Template of the namespace within a MemOS.
        namespace_values: What its variables stand for.
    """

    memory: Scope | MemOS | None = Field(default=None, exclude=True, repr=False, description="Where they are kept.")
    name: str = Field(default="memory", description="Keeps several stores of one memory apart.")
    namespace: tuple[str, ...] = Field(default=SHARED, description="Namespace within a MemOS.")
    namespace_values: dict[str, Any] = Field(default_factory=dict, description="Values of the namespace's variables.")

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    _kept: Conversations = PrivateAttr()

    def __init__(self, memory: Scope | MemOS | None = None, **fields: Any) -> None:
        given: dict[str, Any] = {"memory": memory, **fields}
        super().__init__(**given)

    def model_post_init(self, context: Any, /) -> None:
        if self.memory is None:
            self.memory = scope_for(None)
        self._kept = opened(self.memory, self.name, self.namespace, self.namespace_values)

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> MemosAsyncChatStore:
        return self  # a handle: what it leads to is there once

    @classmethod
    def class_name(cls) -> str:
        return "MemosAsyncChatStore"

    async def get_messages(
        self,
        key: str,
        status: MessageStatus | None = MessageStatus.ACTIVE,
        limit: int | None = None,
        offset: int | None = None,
    ) -> list[ChatMessage]:
        """Return messages of that status (None: of any), oldest first."""
        messages = await asyncio.to_thread(self._kept.messages, key, named(status))
        start = offset or 0
        return messages[start:] if limit is None else messages[start : start + limit]

    async def count_messages(self, key: str, status: MessageStatus | None = MessageStatus.ACTIVE) -> int:
        """Return how many messages have that status (None: any)."""
        return len(await self.get_messages(key, status))

    async def add_message(self, key: str, message: ChatMessage, status: MessageStatus = MessageStatus.ACTIVE) -> None:
        """Add a message at the end."""
        await self.add_messages(key, [message], status)

    async def add_messages(
        self, key: str, messages: list[ChatMessage], status: MessageStatus = MessageStatus.ACTIVE
    ) -> None:
        """Add messages at the end, all or none."""
        if messages:
            await self._change(key, lambda talk: talk.append(messages, status.value))

    async def set_messages(
        self, key: str, messages: list[ChatMessage], status: MessageStatus = MessageStatus.ACTIVE
    ) -> None:
        """Let the conversation, with what was archived, be these messages."""

        def change(talk: Conversation) -> None:
            talk.remove(talk.items())
            talk.append(messages, status.value)

        await self._change(key, change)

    async def delete_message(self, key: str, idx: int) -> ChatMessage | None:
        """Take the message at ``idx``, counted over all of any status, out and return it; None if there is none."""
        gone = await self._change(key, lambda talk: talk.remove(at(talk.items(), idx)))
        return gone[0] if gone else None

    async def delete_messages(self, key: str, status: MessageStatus | None = None) -> None:
        """Take messages of that status out; None: the whole conversation."""
        if status is None:
            await self._change(key, lambda talk: talk.end())
        else:
            await self._change(key, lambda talk: talk.remove(talk.items(status.value)))

    async def delete_oldest_messages(self, key: str, n: int) -> list[ChatMessage]:
        """Take the oldest ``n`` active messages out and return them."""
        return await self._change(key, lambda talk: talk.remove(talk.items(ACTIVE)[: max(0, n)]))

    async def archive_oldest_messages(self, key: str, n: int) -> list[ChatMessage]:
        """Archive the oldest ``n`` active messages and return them."""
        return await self._change(key, lambda talk: talk.archive(talk.items(ACTIVE)[: max(0, n)]))

    async def get_keys(self) -> list[str]:
        """Return the keys of all conversations, in the order in which they began."""
        return await asyncio.to_thread(self._kept.keys)

    async def _change(self, key: str, change: Callable[[Conversation], R]) -> R:
        def run() -> R:
            with self._kept.changing(key) as talk:
                return change(talk)

        return await asyncio.to_thread(run)


def saved_talks(saved: Any, path: str) -> dict[str, list[ChatMessage]]:
    """Return the conversations of a file."""
    try:
        talks = json.loads(saved) if isinstance(saved, str) else saved  # older releases wrote JSON within JSON
        return {key: [ChatMessage.model_validate(one) for one in messages] for key, messages in talks["store"].items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InvalidFile(f"it holds no conversations: {error}", path=path) from error


def opened(
    memory: Scope | MemOS | None, name: str, namespace: Sequence[str], namespace_values: Mapping[str, Any]
) -> Conversations:
    return Conversations(scope_for(memory, namespace, namespace_values).items(history=False), name)


def named(status: MessageStatus | None) -> str | None:
    return None if status is None else status.value
