"""ShortTermMemory: LlamaIndex's ``Memory``, right under concurrency, in its counts and in what it cuts."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from memos_core.errors import MissingExtra
from memos_llamaindex.history import MARK, message_tokens, messages_to_archive
from memos_llamaindex.memory_state import identity_of
from memos_llamaindex.session_lock import SessionLock, lock_of, run_blocking

try:
    from llama_index.core.base.llms.types import (
        AudioBlock,
        ChatMessage,
        ContentBlock,
        DocumentBlock,
        ImageBlock,
        MessageRole,
        VideoBlock,
    )
    from llama_index.core.memory import BaseMemoryBlock, Memory
    from llama_index.core.storage.chat_store.base_db import MessageStatus
except ImportError as error:
    raise MissingExtra("llama-index-core", extra="llamaindex") from error

__all__ = ["ShortTermMemory"]

FIRST = "memos_first"
"""Key of ``additional_kwargs`` that brings a stored instruction back to the beginning."""


class ShortTermMemory(Memory):
    """A history with blocks behind it, as ``Memory``, but:

    - what is put into one session at once is put in one after the other, in every task, thread and event loop;
    - tool calls, thoughts and citations count (#21950);
    - the history begins with a user message after a cut, and instructions stay in it (#20256, #23144);
    - of blocks that are too long together, the least important gives first (#23090);
    - the last user message reaches the blocks, as text or as a message (#19050);
    - blocks get copies of what leaves the history, so that no caller's message changes (#22701), and they get it
      before it leaves, so that a block that fails loses nothing.
    """

    @property
    def _lock(self) -> SessionLock:
        return lock_of(identity_of(self.sql_store), self.session_id)

    # Reading

    async def aget(self, input: str | ChatMessage | None = None, **block_kwargs: Any) -> list[ChatMessage]:
        """Return what a model is to be shown: what the blocks hold, and the history.

        Args:
            input: The user's message, if it has not been put yet.
            block_kwargs: For the blocks.
        """
        async with self._lock:
            stored = await self.sql_store.get_messages(self.session_id, status=MessageStatus.ACTIVE)
        history = in_order(stored)
        spoken = self._estimate_token_count(history)
        contents = await self._get_memory_blocks_content(history, input=input, **block_kwargs)
        recalled = sum(map(self._estimate_token_count, contents.values()))
        contents = await self._truncate_memory_blocks(contents, recalled, spoken)
        templated, messages = await self._format_memory_blocks(contents)
        formatted = self.memory_blocks_template.format_messages(memory_blocks=templated) if templated else []
        return self._insert_memory_content(history, formatted[0].blocks if formatted else [], messages)

    async def aget_all(self, status: MessageStatus | None = None) -> list[ChatMessage]:
        """Return the messages of that status, or all, oldest first."""
        async with self._lock:
            stored = await self.sql_store.get_messages(self.session_id, status=status)
        return in_order(stored)

    async def _get_memory_blocks_content(
        self, chat_history: list[ChatMessage], input: str | ChatMessage | None = None, **block_kwargs: Any
    ) -> dict[str, Any]:
        if isinstance(input, ChatMessage):
            chat_history, input = [*chat_history, input], None
        return await super()._get_memory_blocks_content(chat_history, input=input, **block_kwargs)

    async def _truncate_memory_blocks(
        self, content_per_memory_block: dict[str, Any], memory_blocks_tokens: int, chat_history_tokens: int
    ) -> dict[str, Any]:
        excess = memory_blocks_tokens + chat_history_tokens - self.token_limit
        contents = dict(content_per_memory_block)
        for block in sorted(self.memory_blocks, key=lambda block: -block.priority):
            if excess <= 0 or block.priority == 0 or block.name not in contents:
                continue
            before = self._estimate_token_count(contents[block.name])
            rest = await self._shorten(block, contents.pop(block.name), excess)
            if rest:
                contents[block.name] = rest
            excess -= before - (self._estimate_token_count(rest) if rest else 0)
        return contents

    async def _shorten(self, block: BaseMemoryBlock[Any], content: Any, excess: int) -> Any:
        """Return ``content`` by ``excess`` tokens shorter, in as many steps as it takes; None: nothing is left."""
        aim = self._estimate_token_count(content) - excess
        while content and (tokens := self._estimate_token_count(content)) > aim:
            content = await block.atruncate(content, tokens - aim)
            if content and self._estimate_token_count(content) >= tokens:
                return None
        return content or None

    def _insert_memory_content(
        self,
        chat_history: list[ChatMessage],
        memory_content: list[ContentBlock],
        chat_message_data: list[ChatMessage],
    ) -> list[ChatMessage]:
        # Text of other blocks must not land in a message that stands for memories: a model that knows them drops it.
        return [*chat_message_data, *super()._insert_memory_content(chat_history, memory_content, [])]

    # Counting

    def _estimate_token_count(
        self, message_or_blocks: str | ChatMessage | Sequence[ChatMessage] | Sequence[ContentBlock]
    ) -> int:
        if isinstance(message_or_blocks, ChatMessage):
            return message_tokens(message_or_blocks, self._count, self._media)
        if isinstance(message_or_blocks, str):
            return self._count(message_or_blocks)
        messages = [part if isinstance(part, ChatMessage) else ChatMessage(blocks=[part]) for part in message_or_blocks]
        return sum(map(self._estimate_token_count, messages))

    def _count(self, text: str) -> int:
        return len(self.tokenizer_fn(text))

    @property
    def _media(self) -> Mapping[type[Any], int]:
        return {
            ImageBlock: self.image_token_size_estimate,
            AudioBlock: self.audio_token_size_estimate,
            VideoBlock: self.video_token_size_estimate,
            DocumentBlock: self.document_token_size_estimate,
        }

    # Writing

    async def aput(self, message: ChatMessage) -> None:
        """Add a message to the history."""
        await self.aput_messages([message])

    async def aput_messages(self, messages: list[ChatMessage]) -> None:
        """Add messages to the history, in their order. Recalled memory among them is left out."""
        async with self._lock:
            said = unrecalled(messages)
            await self._before_put(said)
            if len(said) == 1:
                await self.sql_store.add_message(self.session_id, said[0], status=MessageStatus.ACTIVE)
            elif said:
                await self.sql_store.add_messages(self.session_id, said, status=MessageStatus.ACTIVE)
            await self._manage_queue()

    async def aset(self, messages: list[ChatMessage]) -> None:
        """Replace the history. Recalled memory among the messages is left out."""
        async with self._lock:
            said = unrecalled(messages)
            await self._before_put(said)
            await self.sql_store.set_messages(self.session_id, said, status=MessageStatus.ACTIVE)
            await self._manage_queue()

    async def areset(self, status: MessageStatus | None = None) -> None:
        """Delete the history, or its messages of one status."""
        async with self._lock:
            await self.sql_store.delete_messages(self.session_id, status=status)

    async def aflush(self) -> None:
        """Hand the whole history to the blocks and archive it, as at the end of a conversation."""
        async with self._lock:
            await self._archive(await self.sql_store.get_messages(self.session_id, status=MessageStatus.ACTIVE))

    async def _before_put(self, messages: list[ChatMessage]) -> None:
        """Do what is to be done before ``messages`` enter the history. Called with the session locked."""

    async def _manage_queue(self) -> None:
        """Archive the oldest turns of a history that has grown too long. Called with the session locked."""
        history = await self.sql_store.get_messages(self.session_id, status=MessageStatus.ACTIVE)
        leaving = messages_to_archive(
            history,
            [self._estimate_token_count(message) for message in history],
            limit=self.token_limit * self.chat_history_token_ratio,
            at_least=self.token_flush_size,
        )
        await self._archive(history[:leaving])

    async def _archive(self, leaving: list[ChatMessage]) -> None:
        if not leaving:
            return
        said = [message for message in leaving if message.role != MessageRole.SYSTEM]
        await asyncio.gather(*(self._hand_over(block, said) for block in self.memory_blocks if said))
        for message in leaving:
            if message.role == MessageRole.SYSTEM:
                # The store archives by age alone: an instruction stays by being put in again.
                kept = message.model_copy(update={"additional_kwargs": {**message.additional_kwargs, FIRST: True}})
                await self.sql_store.add_message(self.session_id, kept, status=MessageStatus.ACTIVE)
        await self.sql_store.archive_oldest_messages(self.session_id, n=len(leaving))

    async def _hand_over(self, block: BaseMemoryBlock[Any], said: Sequence[ChatMessage]) -> None:
        copies = [message.model_copy(deep=True) for message in said]
        await block.aput(copies, from_short_term_memory=True, session_id=self.session_id)

    # The same for synchronous callers

    def get(self, input: str | ChatMessage | None = None, **block_kwargs: Any) -> list[ChatMessage]:
        return run_blocking(self.aget(input=input, **block_kwargs))

    def get_all(self, status: MessageStatus | None = None) -> list[ChatMessage]:
        return run_blocking(self.aget_all(status=status))

    def put(self, message: ChatMessage) -> None:
        run_blocking(self.aput(message))

    def put_messages(self, messages: list[ChatMessage]) -> None:
        run_blocking(self.aput_messages(messages))

    def set(self, messages: list[ChatMessage]) -> None:
        run_blocking(self.aset(messages))

    def reset(self) -> None:
        run_blocking(self.areset())

    def flush(self) -> None:
        """``aflush`` for synchronous callers."""
        run_blocking(self.aflush())


def in_order(stored: Sequence[ChatMessage]) -> list[ChatMessage]:
    """Return copies of stored messages, with the instructions that were put in again at the beginning."""
    messages = [message.model_copy(deep=True) for message in stored]
    return sorted(messages, key=lambda message: not message.additional_kwargs.pop(FIRST, False))


def unrecalled(messages: Sequence[ChatMessage]) -> list[ChatMessage]:
    """Return copies of those messages that do not stand for memories, without the mark that none were recalled."""
    said = []
    for message in messages:
        mark = message.additional_kwargs.get(MARK)
        if isinstance(mark, Mapping) and mark.get("cube_ids"):
            continue
        copy = message.model_copy(deep=True)
        copy.additional_kwargs.pop(MARK, None)
        said.append(copy)
    return said
