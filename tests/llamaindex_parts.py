"""What the tests of memory for LlamaIndex share."""

from collections import defaultdict

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.storage.chat_store.base_db import AsyncDBChatStore, MessageStatus


def user(text: str) -> ChatMessage:
    return ChatMessage(role="user", content=text)


def assistant(text: str) -> ChatMessage:
    return ChatMessage(role="assistant", content=text)


class RamStore(AsyncDBChatStore):
    """Histories in RAM, as another backend would keep them. LlamaIndex's own never closes its connections."""

    _held: dict[tuple[str, MessageStatus], list[ChatMessage]] = PrivateAttr(default_factory=lambda: defaultdict(list))

    async def get_messages(
        self,
        key: str,
        status: MessageStatus | None = MessageStatus.ACTIVE,
        limit: int | None = None,
        offset: int | None = None,
    ) -> list[ChatMessage]:
        statuses = [MessageStatus.ARCHIVED, MessageStatus.ACTIVE] if status is None else [status]
        messages = [message for each in statuses for message in self._held[key, each]]
        start = offset or 0
        return messages[start : None if limit is None else start + limit]

    async def count_messages(self, key: str, status: MessageStatus | None = MessageStatus.ACTIVE) -> int:
        return len(await self.get_messages(key, status=status))

    async def add_message(self, key: str, message: ChatMessage, status: MessageStatus = MessageStatus.ACTIVE) -> None:
        await self.add_messages(key, [message], status=status)

    async def add_messages(
        self, key: str, messages: list[ChatMessage], status: MessageStatus = MessageStatus.ACTIVE
    ) -> None:
        self._held[key, status].extend(messages)

    async def set_messages(
        self, key: str, messages: list[ChatMessage], status: MessageStatus = MessageStatus.ACTIVE
    ) -> None:
        await self.delete_messages(key)
        self._held[key, status] = list(messages)

    async def delete_message(self, key: str, idx: int) -> ChatMessage | None:
        messages = self._held[key, MessageStatus.ACTIVE]
        return messages.pop(idx) if idx < len(messages) else None

    async def delete_messages(self, key: str, status: MessageStatus | None = None) -> None:
        for each in MessageStatus if status is None else [status]:
            self._held.pop((key, each), None)

    async def delete_oldest_messages(self, key: str, n: int) -> list[ChatMessage]:
        messages = self._held[key, MessageStatus.ACTIVE]
        self._held[key, MessageStatus.ACTIVE] = messages[n:]
        return messages[:n]

    async def archive_oldest_messages(self, key: str, n: int) -> list[ChatMessage]:
        oldest = await self.delete_oldest_messages(key, n)
        self._held[key, MessageStatus.ARCHIVED].extend(oldest)
        return oldest

    async def get_keys(self) -> list[str]:
        return sorted({key for (key, _), messages in self._held.items() if messages})
