"""MemosMemoryBlock: a MemOS memory as one block of LlamaIndex's ``Memory``."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from memos_core import Conversation, MemoryContext, MemOS, Receipt, Remember, Scope, resolve_scope
from memos_core.errors import MissingExtra
from memos_core.interface.tokens import hosted_counter
from memos_core.render import MemoryBlock, render_block
from memos_llamaindex.events import tell_recalled, tell_written
from memos_llamaindex.history import MARK, CountTokens, as_said, last_question, text_of

try:
    from llama_index.core.base.llms.types import (
        CacheControl,
        CachePoint,
        ChatMessage,
        MessageRole,
    )
    from llama_index.core.bridge.pydantic import ConfigDict, Field, PrivateAttr
    from llama_index.core.memory import BaseMemoryBlock
except ImportError as error:
    raise MissingExtra("llama-index-core", extra="llamaindex") from error

__all__ = ["MemosMemoryBlock"]

MOST_CONVERSATIONS = 1024
"""Conversations of which a block remembers what they were given."""


class MemosMemoryBlock(BaseMemoryBlock[list[ChatMessage]]):
    """Recalls what a MemOS memory holds on the last user message, and remembers what it is handed.

        memory = Memory.from_defaults(memory_blocks=[MemosMemoryBlock(memory=memos.scope(user="ada"))])

    What is recalled is one system message. It names its memories in ``additional_kwargs["memos"]``, so that
    ``MemosLLM`` puts them in as stored KV; any other model reads its text. It begins with nothing that varies, its
    memories stand in the order in which they were said, and what a conversation was given stays while there is room:
    so the prompt begins alike from turn to turn. What the messages hold already is not recalled.

    One block may serve many sessions at once. Messages that it is handed are not changed.

    Args:
        memory: A scope, or a MemOS together with ``namespace``.
        namespace: Template of the namespace within a MemOS; ``{session_id}`` is the memory's session.
        namespace_values: What its other variables stand for.
        k: Most memories that are new to the conversation, a turn.
        max_tokens: Most tokens of what is recalled; None: a quarter of the model's window, at most 2048.
        per_session: Recall only what was said in the session at hand, or belongs to none.
        cache_point: End the message with a ``CachePoint``, for models that cache prompts where they are told to.
        remember: Whose turns are remembered: ``both``, the ``user``'s alone, or ``none``.
        priority: As in every block: 0 is never truncated, then a lower number stays longer.
    """

    name: str = Field(default="memos", description="The name of the memory block.")
    priority: int = Field(default=1, description="0 = never truncate, 1 = highest priority, etc.")
    memory: Scope | MemOS = Field(exclude=True, repr=False, description="Whose memory is recalled.")
    namespace: tuple[str, ...] = Field(default=("users", "{user_id}"), description="Namespace within a MemOS.")
    namespace_values: dict[str, Any] = Field(default_factory=dict, description="Values of the namespace's variables.")
    k: int = Field(default=8, gt=0, description="Most memories that are new to the conversation, a turn.")
    max_tokens: int | None = Field(default=None, ge=0, description="Most tokens of what is recalled.")
    per_session: bool = Field(default=False, description="Recall only what was said in the session at hand.")
    cache_point: bool = Field(default=False, description="End the message with a CachePoint.")
    remember: Remember = Field(default="both", description="Whose turns are remembered.")

    model_config = ConfigDict(extra="forbid")

    _given: OrderedDict[tuple[str | None, str | None], tuple[str, ...]] = PrivateAttr(default_factory=OrderedDict)

    @classmethod
    def class_name(cls) -> str:
        return "MemosMemoryBlock"

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> MemosMemoryBlock:
        # A handle: agents copy their state, and a copy must reach the same memory.
        return self

    def scope(self, session_id: str | None = None, agent: str | None = None) -> Scope:
        """Return the scope that a session recalls from, as that agent if the scope is bound to none.

        Raises:
            InvalidName: The namespace lacks a value, or a name is malformed.
        """
        scope = self.home(session_id)
        if self.per_session:
            scope = scope.scope(session=Conversation(scope, thread=session_id).session)
        return scope.scope(agent=agent) if agent is not None and scope.agent is None else scope

    def home(self, session_id: str | None = None) -> Scope:
        """Return the scope that a session's messages are remembered in."""
        return resolve_scope(self.memory, self.namespace, {**self.namespace_values, "session_id": session_id})

    # LlamaIndex's contract

    async def _aget(
        self,
        messages: list[ChatMessage] | None = None,
        session_id: str | None = None,
        agent: str | None = None,
        max_tokens: int | None = None,
        **block_kwargs: Any,
    ) -> list[ChatMessage]:
        query = last_question(messages or [])
        if not query:
            return []
        scope = self.scope(session_id, agent)
        given = self._given.get((session_id, agent), ())
        limits = [limit for limit in (self.max_tokens, max_tokens) if limit is not None]
        context = await scope.acontext(
            query,
            max_tokens=min(limits) if limits else None,
            k=self.k,
            known=[text for text in map(text_of, messages or []) if text],
            keep=given,
        )
        self.give(session_id, agent, context)
        tell_recalled(scope, context, session=session_id, before=given)
        return recalled(context, cache_point=self.cache_point)

    def give(self, session_id: str | None, agent: str | None, context: MemoryContext) -> None:
        """Note what a conversation now has in its prompt: the whole memories, since passages go with the question."""
        whole = tuple(memory.cube_id for memory in context.plan.memories if memory.passage is None)
        self._given[session_id, agent] = whole
        self._given.move_to_end((session_id, agent))
        while len(self._given) > MOST_CONVERSATIONS:
            self._given.popitem(last=False)

    def given(self, session_id: str | None) -> list[tuple[str | None, list[str]]]:
        """Return what a session has in its prompts, for each agent that asked."""
        return [(agent, list(ids)) for (session, agent), ids in self._given.items() if session == session_id]

    def take_up(self, session_id: str | None, given: Sequence[tuple[str | None, Sequence[str]]]) -> None:
        """Go on from what ``given`` returned elsewhere."""
        for agent, ids in given:
            self._given[session_id, agent] = tuple(ids)

    async def aput(
        self, messages: list[ChatMessage], from_short_term_memory: bool = False, session_id: str | None = None
    ) -> None:
        # The base class would write the session into the caller's messages.
        if self.accept_short_term_memory or not from_short_term_memory:
            await self.aremember(messages, session_id=session_id)

    async def _aput(self, messages: list[ChatMessage]) -> None:
        await self.aremember(messages)

    async def aremember(
        self, messages: Sequence[ChatMessage], *, session_id: str | None = None, speaker: str | None = None
    ) -> list[Receipt]:
        """Remember what user and assistant say in ``messages``; the same message twice is remembered once.

        Args:
            messages: New messages of the conversation.
            session_id: The conversation.
            speaker: Who speaks as the assistant.
        """
        chat = Conversation(self.home(session_id), thread=session_id, remember=self.remember)
        given = [cube_id for _, ids in self.given(session_id) for cube_id in ids]
        receipts = await chat.arecord([as_said(message, speaker) for message in messages], recalled=given)
        if receipts:
            tell_written(chat.scope, receipts, session=session_id)
        return receipts

    async def atruncate(self, content: list[ChatMessage], tokens_to_truncate: int) -> list[ChatMessage] | None:
        """Drop what fits the question least, until ``tokens_to_truncate`` are saved; the rest keeps its order."""
        engine = self.memory.engine
        count = engine.count_tokens if engine else hosted_counter()
        kept: list[ChatMessage] = []
        for message in reversed(content):
            rest = message if tokens_to_truncate <= 0 else shortened(message, tokens_to_truncate, count)
            tokens_to_truncate -= count(text_of(message)) - (count(text_of(rest)) if rest else 0)
            if rest is not None:
                kept.insert(0, rest)
        return kept or None


def recalled(context: MemoryContext, *, cache_point: bool = False) -> list[ChatMessage]:
    """Return a context as the one message that stands for its memories; no message if it holds none."""
    if not context.text:
        return []
    cubes = [memory.cube for memory in context.plan.memories]
    names = dict(zip(context.plan.cube_ids, context.references, strict=True))
    block = replace(render_block(cubes), cube_ids=context.references)
    by_worth = dict.fromkeys([*(hit.id for hit in context.hits), *names])
    message = standing_for(block, [names[cube_id] for cube_id in by_worth if cube_id in names])
    if cache_point:
        message.blocks.append(CachePoint(cache_control=CacheControl(type="ephemeral")))
    return [message]


def standing_for(block: MemoryBlock, ranked: Sequence[str]) -> ChatMessage:
    """Return the message that holds ``block``, with what is needed to shorten it."""
    mark = {"cube_ids": list(block.cube_ids), "ends": list(block.ends), "ranked": list(ranked)}
    return ChatMessage(role=MessageRole.SYSTEM, content=block.text, additional_kwargs={MARK: mark})


def shortened(message: ChatMessage, tokens: int, count: CountTokens) -> ChatMessage | None:
    """Return ``message`` without its least fitting memories, at least ``tokens`` shorter; None: nothing is left."""
    mark = message.additional_kwargs.get(MARK)
    if mark is None:
        return None
    block = MemoryBlock(text=text_of(message), ends=tuple(mark["ends"]), cube_ids=tuple(mark["cube_ids"]))
    ranked = list(mark["ranked"])
    while ranked:
        ranked.pop()
        rest = block.only(ranked)
        if count(block.text) - count(rest.text) >= tokens:
            break
    return standing_for(rest, ranked) if ranked else None
