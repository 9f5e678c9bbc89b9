"""What the tests of agents share: a chat model that answers from a script and keeps what it was asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, BaseMessage, ToolCall
from langchain_core.outputs import ChatResult
from pydantic import PrivateAttr

ADA = {"configurable": {"user_id": "ada"}}
BEN = {"configurable": {"user_id": "ben"}}


class ScriptedModel(GenericFakeChatModel):
    """LangChain's own fake model; it also takes tools, and remembers each prompt."""

    _asked: list[list[BaseMessage]] = PrivateAttr(default_factory=list)

    @property
    def asked(self) -> list[list[BaseMessage]]:
        return self._asked

    @property
    def systems(self) -> list[Any]:
        """The content of the system message of each prompt; None where there was none."""
        return [asked[0].content if asked[0].type == "system" else None for asked in self._asked]

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        self._asked.append(list(messages))
        return super()._generate(messages, *args, **kwargs)


def scripted(*answers: str | AIMessage) -> ScriptedModel:
    return ScriptedModel(messages=iter(answers))


def calling(tool: str, **args: Any) -> AIMessage:
    return AIMessage(content="", tool_calls=[ToolCall(name=tool, args=args, id=f"call-{tool}")])


def said(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]}


def texts(memories: Sequence[Any]) -> list[str]:
    return [memory.text for memory in memories]


def on(thread: str, user: str = "ada") -> dict[str, Any]:
    return {"configurable": {"user_id": user, "thread_id": thread}}


LONG = "The sea was grey that day. " * 150 + "My cat is called Biscuit. " + "The sea was blue again. " * 150
"""A memory of which one passage in twenty answers a question."""
