"""MemosMemory: long-term memory for chains of ``langchain_classic``. Extra ``classic``.

LangChain has deprecated these chains and removes them in 2.0. This class keeps code that has them at work; new code
takes ``MemosMiddleware``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import uuid4

from pydantic import Field

from memos_core import Conversation, MemoryContext, MemOS, Message, Remember, Scope, resolve_scope
from memos_core.errors import InvalidInput, MissingExtra
from memos_langchain.runs import context_values

try:
    from langchain_classic.base_memory import BaseMemory
    from langchain_classic.memory.utils import get_prompt_input_key
    from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
    from langchain_core.runnables import run_in_executor
except ImportError as error:
    raise MissingExtra("langchain-classic", extra="classic") from error

__all__ = ["MemosMemory"]


class MemosMemory(BaseMemory):
    """Gives a chain what memory holds on its input, then the newest turns of the conversation word for word.

        chain = ConversationChain(llm=llm, memory=MemosMemory(memory=memos.scope(user="ada"), thread="t-17"))

    It takes the place of ``ConversationBufferMemory`` (nothing grows without bound: old turns are recalled where they
    matter), ``ConversationSummaryMemory`` and ``VectorStoreRetrieverMemory`` (no store to set up). Turns are durable
    when ``save_context`` returns. With ``return_messages`` the recalled ones are a system message that ``ChatMemos``
    takes as memory, so they may come from stored KV.

    Attributes:
        memory: A scope, or a MemOS together with ``namespace``.
        namespace: Template of the namespace within a MemOS. Its variables are taken from the run's
            ``config["configurable"]``, else from its metadata.
        thread: Name of the conversation. Another object of that name goes on with it, in another process too. By
            default one of its own.
        recent: How many of its newest messages are given word for word.
        k: Most memories recalled for an input.
        max_tokens: Most tokens of what is recalled; None: a quarter of the model's window, at most 2048.
        remember: Whose turns are stored.
        memory_key: Name of the variable that the prompt has for all this.
        input_key: Key of the input, where a chain has several.
        output_key: Key of the answer, where a chain has several.
        human_prefix: What the user is called in a text.
        ai_prefix: What the assistant is called in a text.
        return_messages: Give messages instead of one text.
    """

    memory: Scope | MemOS = Field(exclude=True, repr=False)
    namespace: tuple[str, ...] = ("users", "{user_id}")
    thread: str = Field(default_factory=lambda: uuid4().hex, min_length=1)
    recent: int = Field(default=10, ge=0)
    k: int = Field(default=8, ge=1)
    max_tokens: int | None = Field(default=None, ge=0)
    remember: Remember = "both"
    memory_key: str = "history"
    input_key: str | None = None
    output_key: str | None = None
    human_prefix: str = "Human"
    ai_prefix: str = "AI"
    return_messages: bool = False

    @property
    def memory_variables(self) -> list[str]:
        return [self.memory_key]

    def load_memory_variables(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Return the recalled memories and the newest turns under ``memory_key``."""
        chat = self._conversation()
        turns = chat.newest(self.recent)
        asked = inputs.get(self._input_key(inputs)) if inputs else None
        messages = [*turns, Message(role="user", content=str(asked))] if asked else turns
        recalled = chat.recall(messages, k=self.k, max_tokens=self.max_tokens)
        written = self._as_messages if self.return_messages else self._as_text
        return {self.memory_key: written(recalled, turns)}

    async def aload_memory_variables(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return await run_in_executor(None, self.load_memory_variables, inputs)

    def save_context(self, inputs: dict[str, Any], outputs: dict[str, str]) -> None:
        """Store what was asked and answered."""
        asked = inputs[self._input_key(inputs)]
        answered = outputs[self._output_key(outputs)]
        said = [Message(role="user", content=str(asked)), Message(role="assistant", content=str(answered))]
        self._conversation().record(said)

    async def asave_context(self, inputs: dict[str, Any], outputs: dict[str, str]) -> None:
        await run_in_executor(None, self.save_context, inputs, outputs)

    def clear(self) -> None:
        """Begin a new conversation. Nothing is erased: what was said before is recalled where it matters.

        ``Scope.forget`` erases.
        """
        self.thread = uuid4().hex

    async def aclear(self) -> None:
        self.clear()

    def _as_text(self, recalled: MemoryContext, turns: Sequence[Message]) -> str:
        names = {"user": self.human_prefix, "assistant": self.ai_prefix}
        lines = "\n".join(f"{names.get(turn.role, turn.role)}: {turn.content}" for turn in turns)
        return "\n\n".join(part for part in (recalled.text, lines) if part)

    def _as_messages(self, recalled: MemoryContext, turns: Sequence[Message]) -> list[BaseMessage]:
        mark = {"memos": {"cube_ids": list(recalled.references)}}
        first = [SystemMessage(recalled.text, additional_kwargs=mark)] if recalled.text else []
        said = [AIMessage(t.content) if t.role == "assistant" else HumanMessage(t.content) for t in turns]
        return [*first, *said]

    def _input_key(self, inputs: Mapping[str, Any]) -> str:
        """Return which of ``inputs`` was said by the user.

        Raises:
            ValueError: There are several, and ``input_key`` names none.
        """
        return self.input_key or get_prompt_input_key(dict(inputs), self.memory_variables)

    def _output_key(self, outputs: Mapping[str, Any]) -> str:
        """Return which of ``outputs`` is the answer.

        Raises:
            InvalidInput: There are several, and ``output_key`` names none.
        """
        if self.output_key is not None:
            return self.output_key
        if len(outputs) != 1:
            raise InvalidInput(f"the chain gives {', '.join(outputs) or 'nothing'}: name the answer by output_key")
        return next(iter(outputs))

    def _conversation(self) -> Conversation:
        """Return the memory of this run.

        Raises:
            InvalidName: The namespace needs a value that the run does not bring.
        """
        scope = resolve_scope(self.memory, self.namespace, context_values(self.memory, self.namespace, None))
        return Conversation(scope, thread=self.thread, remember=self.remember)
