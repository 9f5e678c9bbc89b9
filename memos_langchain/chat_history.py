"""MemosChatMessageHistory: the messages of a conversation, kept in a vault."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from memos_core import Conversation, Items, MemOS, Remember, Scope, resolve_scope
from memos_core.errors import InvalidInput, MissingExtra
from memos_langchain.runs import spoken

try:
    from langchain_core.chat_history import BaseChatMessageHistory
    from langchain_core.messages import BaseMessage, message_to_dict, messages_from_dict
except ImportError as error:
    raise MissingExtra("langchain-core", extra="langchain") from error

__all__ = ["MemosChatMessageHistory"]


class MemosChatMessageHistory(BaseChatMessageHistory):
    """The messages of one conversation, whole and in order, as LangChain gave them.

    Setup:
        ```bash
        pip install 'memos-mag[langchain]'
        ```

    Use:
        ```python
        from memos_core import MemOS
        from memos_langchain import MemosChatMessageHistory

        ada = MemOS.open("memory/").scope(user="ada")
        history = MemosChatMessageHistory(ada, "talk-1", remember="both")
        history.add_user_message("My cat is called Biscuit.")
        history.messages
        ```

    ``add_messages`` is one transaction, and durable when it returns. LangChain has deprecated the base class; for an
    agent of today take ``MemosMiddleware`` and a checkpointer. This one keeps code that has a history at work.

    Args:
        memory: A scope, or a MemOS together with ``namespace``.
        session_id: Name of the conversation.
        remember: Whose messages also become memories of the scope, that other conversations can recall: ``none``,
            ``user`` or ``both``. Memories stay when the history is cleared.
        namespace: Template of the namespace within a MemOS.
        namespace_values: What its variables stand for.

    Raises:
        InvalidInput: ``session_id`` is no name.
    """

    def __init__(
        self,
        memory: Scope | MemOS,
        session_id: str,
        *,
        remember: Remember = "none",
        namespace: Sequence[str] = ("users", "{user_id}"),
        namespace_values: Mapping[str, Any] | None = None,
    ) -> None:
        if not isinstance(session_id, str) or not session_id:
            raise InvalidInput(f"a conversation is named by a text, not by {session_id!r}")
        scope = resolve_scope(memory, namespace, namespace_values)
        self.session_id = session_id
        self._items: Items = scope.items(history=False)
        self._path = ("langchain", "messages", session_id)
        self._talk = Conversation(scope, thread=session_id, remember=remember)

    @property
    def messages(self) -> list[BaseMessage]:  # type: ignore[override]  # the base declares a field
        """All messages, oldest first."""
        found: list[Any] = [one.item.value for one in self._items.search(self._path, limit=None)]
        return messages_from_dict(found)

    def add_messages(self, messages: Sequence[BaseMessage]) -> None:
        """Add messages at the end, all or none.

        Raises:
            InvalidInput: One holds something that is no JSON.
        """
        if not messages:
            return
        with self._items.transaction() as change:
            change.append(self._path, [message_to_dict(message) for message in messages])
        if self._talk.remember != "none":
            self._talk.record(spoken(self.messages))

    def clear(self) -> None:
        """Let go of all messages."""
        with self._items.transaction() as change:
            change.delete(self._path, *(item.key for item in change.list(self._path)))
