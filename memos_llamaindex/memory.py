"""MemosMemory: LlamaIndex's ``Memory`` over a MemOS memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from typing import Any, Literal, Self
from uuid import uuid4

from memos_core import Conversation, Erasure, MemCube, MemOS, Remember, Scope, resolve_scope
from memos_core.binding import DEFAULT_NAMESPACE
from memos_core.cube import normalised
from memos_core.errors import InvalidInput, MissingExtra, ScopeConflict
from memos_core.interface.chat import MAX_DEFAULT_BUDGET
from memos_llamaindex import memory_state
from memos_llamaindex.at_work import agent_at_work
from memos_llamaindex.events import tell_forgotten
from memos_llamaindex.history import MARK, text_of
from memos_llamaindex.memory_block import MemosMemoryBlock
from memos_llamaindex.session_lock import lock_of, run_blocking
from memos_llamaindex.short_term import ShortTermMemory

try:
    from llama_index.core.base.llms.types import ChatMessage, MessageRole
    from llama_index.core.bridge.pydantic import ConfigDict, Field
    from llama_index.core.memory import BaseMemoryBlock
    from llama_index.core.storage.chat_store.base_db import AsyncDBChatStore, MessageStatus
except ImportError as error:
    raise MissingExtra("llama-index-core", extra="llamaindex") from error

__all__ = ["MemosMemory"]

DEFAULT_TOKEN_LIMIT = 30_000

WINDOW_SHARE = 0.75
"""Share of a local model's window that memory and history may take; the rest is for instructions and the answer."""


class MemosMemory(ShortTermMemory):
    """Short-term history and long-term memory of a conversation, for agents and chat engines.

        memory = MemosMemory.from_defaults(memory=memos.scope(user="ada"), session_id="monday")
        await agent.run("What is my cat called?", memory=memory)

    What is said goes into the MemOS memory at once, and into a history of the last turns. ``aget`` returns that
    history, and before it what the memory holds on the last user message. It goes wherever ``Memory`` goes, with its
    blocks and arguments; without ``memory=`` it is such a ``Memory``.

    It may be used from any number of tasks, threads and event loops. Several processes that write one session at once
    lose nothing, but may cut its history short. Saved within a ``Context``, it finds its memory again, in another
    process too.

    Args:
        memory: A scope, or a MemOS together with ``namespace``; None: history alone.
        namespace: Template of the namespace within a MemOS; ``{session_id}`` is the session.
        namespace_values: What its other variables stand for.
        k: Most memories that are new to the conversation, a turn.
        max_memory_tokens: Most tokens of what is recalled; None: what the history leaves of the limit, at most 2048.
        write: ``through`` remembers each message at once; ``flush`` when it leaves the history; ``off`` never.
        remember: Whose turns are remembered: ``both``, the ``user``'s alone, or ``none``.
        per_session: Recall only what was said in this session, or belongs to none.
        per_agent: In an ``AgentWorkflow``, recall as the agent whose turn it is: what is shared, and what that agent
            holds alone. What is said is shared.
    """

    model_config = ConfigDict(extra="forbid")

    memory: Scope | MemOS | None = Field(default=None, exclude=True, repr=False, description="The long-term memory.")
    namespace: tuple[str, ...] = Field(default=("users", "{user_id}"), description="Namespace within a MemOS.")
    namespace_values: dict[str, Any] = Field(default_factory=dict, description="Values of the namespace's variables.")
    k: int = Field(default=8, gt=0, description="Most memories that are new to the conversation, a turn.")
    max_memory_tokens: int | None = Field(default=None, ge=0, description="Most tokens of what is recalled.")
    write: Literal["through", "flush", "off"] = Field(default="through", description="When messages are remembered.")
    remember: Remember = Field(default="both", description="Whose turns are remembered.")
    per_session: bool = Field(default=False, description="Recall only what was said in this session.")
    per_agent: bool = Field(default=False, description="Recall as the agent whose turn it is.")

    def __init__(self, **fields: Any) -> None:
        super().__init__(**fields)
        if self.memory is not None and self.own_block is None:
            block = MemosMemoryBlock(
                memory=self.memory,
                namespace=self.namespace,
                namespace_values=self.namespace_values,
                k=self.k,
                max_tokens=self.room_for_memory,
                per_session=self.per_session,
                remember=self.remember,
                accept_short_term_memory=self.write == "flush",
            )
            bound = block.home(self.session_id).session  # a name that cannot be is told now
            if isinstance(self.memory, Scope) and bound not in (None, self.session_id):
                raise ScopeConflict(f"this scope is bound to session {bound!r}, not to {self.session_id!r}")
            self.memory_blocks = [*self.memory_blocks, block]

    @classmethod
    def class_name(cls) -> str:
        return "MemosMemory"

    @property
    def room_for_memory(self) -> int:
        """Most tokens of what is recalled: what was asked for, else what the history leaves of the limit."""
        if self.max_memory_tokens is not None:
            return self.max_memory_tokens
        left = int(self.token_limit * (1 - self.chat_history_token_ratio))
        return min(left or self.token_limit, MAX_DEFAULT_BUDGET)

    @classmethod
    def from_defaults(  # type: ignore[override]
        cls,
        session_id: str | None = None,
        chat_history: list[ChatMessage] | None = None,
        token_limit: int | None = None,
        memory_blocks: list[BaseMemoryBlock[Any]] | None = None,
        tokenizer_fn: Callable[[str], list[Any]] | None = None,
        *,
        memory: Scope | MemOS | None = None,
        chat_store: AsyncDBChatStore | None = None,
        **options: Any,
    ) -> MemosMemory:
        """Make a memory from the arguments of ``Memory.from_defaults`` and of this class.

        Args:
            session_id: The conversation; by default the scope's own, or a new one.
            chat_history: What was said before.
            token_limit: Most tokens of history and memory together: by default 30,000, or three quarters of the
                window where the memory has a model.
            memory_blocks: Further blocks.
            tokenizer_fn: Counts tokens; by default with the tokenizer of the memory's model, else with LlamaIndex's.
            memory: The long-term memory.
            chat_store: Where the history lies: by default in the memory's vault, or in RAM where there is no memory.
            options: ``k``, ``write``, ``per_agent``, ``token_flush_size``, ``async_database_uri`` ...

        Raises:
            InvalidName: The namespace lacks a value.
            ScopeConflict: The scope is bound to another session.
        """
        engine = memory.engine if isinstance(memory, Scope | MemOS) else None
        if token_limit is None:
            window = engine.capabilities.context_window if engine is not None else None
            token_limit = int(window * WINDOW_SHARE) if window else DEFAULT_TOKEN_LIMIT
        if tokenizer_fn is None and engine is not None:
            tokenizer_fn = engine.encode
        if session_id is None and isinstance(memory, Scope):
            session_id = memory.session
        session_id = session_id or str(uuid4())
        fields: dict[str, Any] = {
            "memory": memory,
            "session_id": session_id,
            "token_limit": token_limit,
            "tokenizer_fn": tokenizer_fn,
            "memory_blocks": memory_blocks or [],
            **memory_state.with_store(options, chat_store, home_of(memory, options, session_id)),
        }
        made = cls(**fields)
        if chat_history is not None:
            made.set(chat_history)
        return made

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> MemosMemory:
        # A handle: agents copy their state, and a copy must reach the same memory.
        return self

    @property
    def own_block(self) -> MemosMemoryBlock | None:
        """The block that recalls from the MemOS memory, if there is one."""
        return next((block for block in self.memory_blocks if isinstance(block, MemosMemoryBlock)), None)

    @property
    def scope(self) -> Scope:
        """The scope that this conversation is remembered in.

        Raises:
            InvalidInput: There is no memory.
        """
        block = self.own_block
        if block is None:
            raise InvalidInput("this needs memory: pass memory=, a MemOS or a scope of one")
        return block.home(self.session_id)

    @property
    def session_name(self) -> str | None:
        """The session under which the scope keeps what is said here."""
        return Conversation(self.scope, thread=self.session_id).session

    # Reading and writing

    async def aget(self, input: str | ChatMessage | None = None, **block_kwargs: Any) -> list[ChatMessage]:
        if self.own_block is None:
            return await super().aget(input=input, **block_kwargs)
        agent = await agent_at_work()
        if self.per_agent:
            block_kwargs = {"agent": agent.name, **block_kwargs}
        shown = asked(await super().aget(input=input, **block_kwargs))
        if agent.takes_system and shown and MARK in shown[0].additional_kwargs:
            shown[0].role = MessageRole.USER
        return shown

    async def _before_put(self, messages: list[ChatMessage]) -> None:
        # First the memory, then the history: whatever fails in between is made good by putting the message again.
        block = self.own_block
        if block is not None and self.write == "through":
            await block.aremember(messages, session_id=self.session_id, speaker=(await agent_at_work()).name)

    # Forgetting

    async def aforget(
        self,
        cube_ids: str | Sequence[str] | None = None,
        *,
        query: str | None = None,
        k: int = 1,
        whole_session: bool = False,
    ) -> Erasure | None:
        """Erase memories for good, and what was said of them in the histories. There is no way back.

        Args:
            cube_ids: These.
            query: The ``k`` that fit this best.
            k: How many.
            whole_session: All that was said in this session, and its history.

        Returns:
            What went; None if nothing was found.

        Raises:
            CubeNotFound: An id is not visible here.
            InvalidInput: Nothing says what is to be forgotten, or there is no memory.
        """
        scope = self.scope
        wanted = [cube_ids] if isinstance(cube_ids, str) else list(cube_ids or ())
        if not wanted and query is None and not whole_session:
            raise InvalidInput("say what is to be forgotten: cube_ids, query or whole_session")
        cubes = [await scope.aget(cube_id) for cube_id in wanted]
        if query is not None:
            cubes += [hit.cube for hit in await scope.asearch(query, k=k)]
        if whole_session:
            cubes += [cube async for cube in self._of_this_session(scope)]
            await self.areset()
        if not cubes:
            return None
        said = {normalised(record.text) for cube in cubes for record in await scope.ahistory(cube.id)}
        erasure = await scope.aforget([cube.id for cube in cubes])
        said_in = {cube.header.descriptive.source.session for cube in cubes} - {self.session_name, None}
        for session in (self.session_id, *sorted(filter(None, said_in))):
            await self._unsay(session, said)
        tell_forgotten(scope, erasure, session=self.session_id)
        return erasure

    def forget(self, cube_ids: str | Sequence[str] | None = None, **options: Any) -> Erasure | None:
        """``aforget`` for synchronous callers."""
        return run_blocking(self.aforget(cube_ids, **options))

    async def _of_this_session(self, scope: Scope) -> AsyncIterator[MemCube]:
        name, cursor = self.session_name, None
        while True:
            page = await scope.scope(session=name).alist(limit=500, cursor=cursor)
            for cube in page.cubes:
                if cube.header.descriptive.source.session == name:
                    yield cube
            cursor = page.cursor
            if cursor is None:
                return

    async def _unsay(self, session: str, texts: Collection[str]) -> None:
        """Take what says one of ``texts`` out of a session's history, archive and all."""
        async with lock_of(memory_state.identity_of(self.sql_store), session):
            parts = {
                status: await self.sql_store.get_messages(session, status=status)
                for status in (MessageStatus.ARCHIVED, MessageStatus.ACTIVE)
            }
            for status, messages in parts.items():
                kept = [message for message in messages if normalised(text_of(message)) not in texts]
                if len(kept) < len(messages):
                    await self.sql_store.delete_messages(session, status=status)
                    if kept:
                        await self.sql_store.add_messages(session, kept, status=status)

    # Saved state

    def to_dict(self, **kwargs: Any) -> dict[str, Any]:
        """Return what is needed to go on elsewhere, as JSON values: where the memory lies, and the settings.

        Raises:
            UnsupportedOption: A block, or the place of the history, cannot be written down.
        """
        return memory_state.dumped(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any], **kwargs: Any) -> Self:
        """Return the memory that ``to_dict`` described; ``kwargs`` take the place of what it says.

        Raises:
            InvalidInput: ``data`` is not that, or of a later release.
            VaultError: The vault is not there any more.
        """
        return cls(**memory_state.loaded(data, kwargs))


def home_of(memory: Scope | MemOS | None, options: Mapping[str, Any], session_id: str) -> Scope | None:
    """Return the scope that a conversation is remembered in; None without a memory."""
    if not isinstance(memory, Scope | MemOS):
        return None
    values = {**options.get("namespace_values", {}), "session_id": session_id}
    return resolve_scope(memory, options.get("namespace", DEFAULT_NAMESPACE), values)


def asked(messages: list[ChatMessage]) -> list[ChatMessage]:
    """Return ``messages``, of which the last says, where nothing was recalled, that memory was asked already."""
    if messages and not any(MARK in message.additional_kwargs for message in messages):
        messages[-1].additional_kwargs[MARK] = {"cube_ids": []}
    return messages
