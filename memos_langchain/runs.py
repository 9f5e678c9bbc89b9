"""What a run of LangChain brings along: the values of a namespace template, and a time limit."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Generator, Iterator, Mapping
from typing import Any, TypeVar

from memos_core.errors import MissingExtra

try:
    from langchain_core.runnables import RunnableConfig
    from langchain_core.runnables.config import ensure_config
except ImportError as error:
    raise MissingExtra("langchain-core", extra="langchain") from error

__all__ = ["auntil", "run_values", "until"]

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
    known = {**(metadata or {}), **run.get("metadata", {}), **run.get("configurable", {}), **(given or {})}
    return {name: known[name] for name in variables if known.get(name) is not None}


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
