"""Methods of a scope whose whole work a layer below does."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

from memos_core.principal import Principal

if TYPE_CHECKING:
    from memos_core.bound import BoundScope
    from memos_core.memos import Layers

__all__ = ["of_layer"]

L = TypeVar("L")
P = ParamSpec("P")
R = TypeVar("R")


def of_layer(
    layer: Callable[[Layers], L], method: Callable[Concatenate[L, Principal, P], R]
) -> Callable[Concatenate[BoundScope, P], R]:
    """Return ``method`` of a layer as one of a scope: it speaks for the scope's own principal, and for no other."""

    @functools.wraps(method)
    def call(self: BoundScope, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return method(layer(self._layers), self._principal, *args, **kwargs)

    signature = inspect.signature(method)
    own = [parameter for name, parameter in signature.parameters.items() if name != "principal"]
    call.__signature__ = signature.replace(parameters=own)  # type: ignore[attr-defined]
    call.__qualname__ = f"Scope.{method.__name__}"
    return call
