"""How the methods of a scope come about where a layer below does the whole work: once, typed, sync and async."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from memos_core.principal import Principal

if TYPE_CHECKING:
    from memos_core.memos import Layers
    from memos_core.scope import Scope

__all__ = ["in_thread", "of_layer"]

L = TypeVar("L")
P = ParamSpec("P")
R = TypeVar("R")


def in_thread(method: Callable[Concatenate[Scope, P], R]) -> Callable[Concatenate[Scope, P], Coroutine[Any, Any, R]]:
    """Return the async twin of ``method``: the same call on a worker thread."""

    @functools.wraps(method)
    async def twin(self: Scope, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return await asyncio.to_thread(method, self, *args, **kwargs)

    twin.__name__ = f"a{method.__name__}"
    twin.__qualname__ = f"Scope.a{method.__name__}"
    return twin


def of_layer(
    layer: Callable[[Layers], L], method: Callable[Concatenate[L, Principal, P], R]
) -> Callable[Concatenate[Scope, P], R]:
    """Return ``method`` of a layer as one of a scope: it speaks for the scope's own principal, and for no other."""

    @functools.wraps(method)
    def call(self: Scope, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return method(layer(self._layers), self._principal, *args, **kwargs)

    signature = inspect.signature(method)
    own = [parameter for name, parameter in signature.parameters.items() if name != "principal"]
    call.__signature__ = signature.replace(parameters=own)  # type: ignore[attr-defined]
    call.__qualname__ = f"Scope.{method.__name__}"
    return call
