"""Memory beside a chat that someone else holds: what to recall for it, and what of it to keep."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from memos_core.cube import normalised
from memos_core.errors import InvalidInput, InvalidMemory, InvalidName
from memos_core.interface.context import MemoryContext
from memos_core.interface.exchange import chat_turns
from memos_core.principal import check_name
from memos_core.records import InjectionPlan, Message, Outcome, Receipt, Turn
from memos_core.references import Reference
from memos_core.scope import Scope

__all__ = ["Conversation", "Remember"]

Remember = Literal["both", "user", "none"]
"""Whose turns of a chat become memories: the user's and the assistant's, the user's alone, or nobody's."""

SPOKEN: dict[Remember, frozenset[str]] = {
    "both": frozenset({"user", "assistant"}),
    "user": frozenset({"user"}),
    "none": frozenset(),
}


@dataclass(frozen=True, slots=True)
class Conversation:
    """One chat, held by a framework, and the memory beside it.

        chat = Conversation(memos.scope(user="ada"), thread="t-17")
        context = chat.recall(messages)         # memory that the messages do not hold already
        ...                                     # the model answers
        chat.record(messages, recalled=context.references)

    Recording the same messages again changes nothing, and what only repeats a recalled memory is not stored: memory
    never feeds on itself.

    Attributes:
        scope: The memory.
        thread: Name of the chat, kept as the session of its turns where the scope is bound to no session. One that
            cannot be a session's name stands under a digest.
        remember: Whose turns are kept.
    """

    scope: Scope
    thread: str | None = None
    remember: Remember = "both"

    def __post_init__(self) -> None:
        if self.remember not in get_args(Remember):
            raise InvalidInput(f"remember must be one of {', '.join(get_args(Remember))}, not {self.remember!r}")

    def recall(
        self, messages: Sequence[Message], *, k: int = 8, max_tokens: int | None = None, keep: Sequence[str] = ()
    ) -> MemoryContext:
        """Return what memory holds on the last user message and ``messages`` do not say already.

        Args:
            messages: The chat so far.
            k: Most memories that are new to the chat.
            max_tokens: Size of the text at most; None: a share of the model's window.
            keep: ``MemoryContext.references`` of what was recalled before and is to stay in the room that is left, so
                that the prompt changes less from turn to turn.

        Raises:
            InvalidInput: ``k`` is not positive.
        """
        said = [message.content for message in messages if message.content.strip()]
        asked = [message.content for message in messages if message.role == "user" and message.content.strip()]
        if not asked:
            return MemoryContext(text="", hits=(), plan=InjectionPlan(inject="text"), tokens=0)
        kept = [Reference.parse(reference).cube_id for reference in keep]
        return self.scope.context(asked[-1].strip(), k=k, max_tokens=max_tokens, known=said, keep=kept)

    def newest(self, limit: int) -> list[Message]:
        """Return the last ``limit`` turns that were recorded of this chat, oldest first; none without a thread."""
        if self.session is None or limit < 1:
            return []
        page = self.scope.list(limit=limit, session=self.session, newest=True)
        return [Message(role=cube.header.descriptive.source.role or "user", content=cube.text) for cube in page[::-1]]

    def record(self, messages: Sequence[Message], *, recalled: Sequence[str] = ()) -> list[Receipt]:
        """Keep what was said, in one transaction, and return a receipt for each turn that could be one.

        Args:
            messages: The chat, or its new part. System and tool messages, and empty ones, are passed over.
            recalled: ``MemoryContext.references`` of what was recalled for it.

        Raises:
            VaultError: The vault refused; nothing of it is stored, and it can be recorded again.
        """
        said = [message for message in messages if message.role in SPOKEN[self.remember]]
        turns = chat_turns(said, user=self.scope.user, session=self.session, at=self.scope.now())
        if not turns:
            return []
        held = {normalised(memory.cube.text) for memory in self.scope.context_of(recalled).plan.memories}
        return self.add([turn for turn in turns if normalised(turn.text) not in held])

    @property
    def session(self) -> str | None:
        """The session that the turns of this chat belong to."""
        if self.scope.session is not None or self.thread is None:
            return self.scope.session
        try:
            return check_name(self.thread, "session")
        except InvalidName:  # a thread may be called anything
            return hashlib.sha256(self.thread.encode("utf-8", "surrogatepass")).hexdigest()[:32]

    def add(self, turns: Sequence[Turn]) -> list[Receipt]:
        """Commit ``turns``; one that cannot be a memory is rejected, with the reason, and the others are kept."""
        refused: dict[int, Receipt] = {}
        while True:
            good = [number for number in range(len(turns)) if number not in refused]
            try:
                receipts = dict(zip(good, self.scope.add_many([turns[number] for number in good]), strict=True))
            except InvalidMemory as error:
                bad = good[error.index or 0]
                refused[bad] = Receipt(None, 0, Outcome.REJECTED, str(error))
            else:
                return [{**receipts, **refused}[number] for number in range(len(turns))]

    async def arecall(
        self, messages: Sequence[Message], *, k: int = 8, max_tokens: int | None = None, keep: Sequence[str] = ()
    ) -> MemoryContext:
        return await asyncio.to_thread(self.recall, messages, k=k, max_tokens=max_tokens, keep=keep)

    async def arecord(self, messages: Sequence[Message], *, recalled: Sequence[str] = ()) -> list[Receipt]:
        return await asyncio.to_thread(self.record, messages, recalled=recalled)
