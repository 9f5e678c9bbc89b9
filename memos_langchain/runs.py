"""What a run of LangChain brings along: the values of a namespace template, what was said, and a time limit."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Generator, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from memos_core import Binding, MemOS, Message, Scope
from memos_core.errors import MissingExtra

try:
    from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
    from langchain_core.runnables import RunnableConfig
    from langchain_core.runnables.config import ensure_config
except ImportError as error:
    raise MissingExtra("langchain-core", extra="langchain") from error

__all__ = ["auntil", "context_values", "current_context", "is_summary", "run_values", "spoken", "until"]

T = TypeVar("T")


def run_values(
    variables: Collection[str],
    given: Mapping[str, Any] | None = None,
    config: RunnableConfig | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return what is known of ``variables``: as given, else from the run's ``configurable``, else its ``metadata``.

    The configuration of an enclosing run (a graph, a chain) counts where ``config`` names none.
    """
    if not variables:
        return {}
    run = ensure_config(config)
    given = {name: value for name, value in (given or {}).items() if value is not None}
    known = {**(metadata or {}), **run.get("metadata", {}), **run.get("configurable", {}), **given}
    return {name: known[name] for name in variables if known.get(name) is not None}


def context_values(memory: Scope | MemOS, namespace: Sequence[str], context: object) -> dict[str, Any]:
    """Return the values that ``namespace`` needs: from the ``context`` of a graph's run, else as ``run_values`` does.

    Args:
        context: A mapping, an object with attributes, or None.
    """
    variables = Binding(memory, tuple(namespace)).variables
    if isinstance(context, Mapping):
        return run_values(variables, context)
    return run_values(variables, {name: getattr(context, name, None) for name in variables})


def current_context() -> object:
    """Return the context of the graph's run that this is called in; None outside of one."""
    try:
        from langgraph.runtime import get_runtime

        return getattr(get_runtime(), "context", None)
    except (ImportError, LookupError, RuntimeError):
        return None


def is_summary(message: BaseMessage) -> bool:
    """Tell whether a message is LangChain's summary of others."""
    return message.additional_kwargs.get("lc_source") == "summarization"


def spoken(messages: Sequence[BaseMessage]) -> list[Message]:
    """Return what people and the model said in ``messages``, in the core's words.

    Left out are summaries, messages that stand for memories, and those of the model that call tools.
    """
    said = []
    for message in messages:
        derived = is_summary(message) or "memos" in message.additional_kwargs
        named: dict[str, Any] = {"name": message.name} if message.name else {}
        if isinstance(message, HumanMessage) and not derived:
            said.append(Message(role="user", content=message.text, **named))
        elif isinstance(message, AIMessage) and not derived and not message.tool_calls:
            said.append(Message(role="assistant", content=message.text, **named))
    return said


def until(chunks: Iterator[T], seconds: float | None) -> Iterator[T]:
    """Yield ``chunks``, and close them in any case: closing is what cancels a request.

    Raises:
        TimeoutError: A chunk came later than ``seconds`` after the start.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    try:
        for chunk in chunks:
            if deadline is not None and time.monotonic() > deadline:
                raise TimeoutError(f"the model did not finish within {seconds} seconds")
            yield chunk
    finally:
        if isinstance(chunks, Generator):
            chunks.close()


async def auntil(chunks: AsyncIterator[T], seconds: float | None) -> AsyncIterator[T]:
    """``until`` for asyncio; a chunk that does not come is not waited for."""
    deadline = None if seconds is None else time.monotonic() + seconds
    try:
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            try:
                yield await (anext(chunks) if left is None else asyncio.wait_for(anext(chunks), left))
            except StopAsyncIteration:
                return
            except TimeoutError as error:
                raise TimeoutError(f"the model did not finish within {seconds} seconds") from error
    finally:
        if isinstance(chunks, AsyncGenerator):
            await chunks.aclose()
