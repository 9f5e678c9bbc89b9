"""What an adapter holds: memory or none, the namespace in it, and the model to ask."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike

from memos_core.engine.base import Engine
from memos_core.engine.location import configured_window
from memos_core.errors import InvalidInput, ModelNotFound
from memos_core.interface.engine_chat import EngineChat
from memos_core.memos import MemOS
from memos_core.principal import variables_of
from memos_core.scope import Scope

__all__ = ["DEFAULT_MODEL", "Binding", "check_memory", "resolve_scope"]

DEFAULT_MODEL = "memos-reader"
DEFAULT_NAMESPACE = ("users", "{user_id}")


def resolve_scope(
    memory: Scope | MemOS,
    namespace: Sequence[str] = DEFAULT_NAMESPACE,
    values: Mapping[str, object] | None = None,
) -> Scope:
    """Return the scope that ``memory`` stands for: itself, or the one that ``namespace`` names in a MemOS.

    Raises:
        InvalidName: The namespace needs a value that is not among ``values``, or is malformed.
        InvalidInput: ``memory`` is something else.
    """
    check_memory(memory)
    return memory if isinstance(memory, Scope) else memory.scope_of(namespace, values)


def check_memory(memory: object) -> None:
    """Raise InvalidInput, which says what is wanted, if ``memory`` is neither a MemOS nor a scope."""
    if isinstance(memory, Scope | MemOS):
        return
    hint = f"; open the folder first: MemOS.open({str(memory)!r})" if isinstance(memory, str | PathLike) else ""
    raise InvalidInput(f"memory is a MemOS or a scope of one, not a {type(memory).__name__}{hint}")


@dataclass(frozen=True)
class Binding:
    """Memory and model of one adapter. Cheap to make: a model is opened when it is first needed. Thread-safe.

    Attributes:
        memory: A scope, a MemOS together with ``namespace``, or None: the model runs without memory.
        namespace: Template of the namespace within a MemOS, such as ``("users", "{user_id}")``.
        given: The engine to ask. If there is none and ``model`` names none, it is the engine of ``memory``.
        model: What to open if there is no engine: ``memos-reader`` (the default), a folder or a hub id.
    """

    memory: Scope | MemOS | None = None
    namespace: tuple[str, ...] = DEFAULT_NAMESPACE
    given: Engine | None = None
    model: str | None = None
    _opened: dict[str, Engine] = field(default_factory=dict, init=False, repr=False, compare=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False, compare=False)

    @property
    def variables(self) -> frozenset[str]:
        """The values that ``scope`` needs."""
        return variables_of(self.namespace) if isinstance(self.memory, MemOS) else frozenset()

    @property
    def present_engine(self) -> Engine | None:
        """The engine that is there without opening one."""
        if self.given is None and self.model is None and self.memory is not None:
            return self.memory.engine
        return self.given

    @property
    def model_name(self) -> str:
        """Name of the model, for people. Loads its configuration at most."""
        engine = self.present_engine
        return self.model or (engine.capabilities.model if engine else DEFAULT_MODEL)

    @property
    def named_model(self) -> str:
        """Name of the model without loading anything for it."""
        engine = self.present_engine
        return self.model or (engine.model_name if engine else DEFAULT_MODEL)

    @property
    def context_window(self) -> int | None:
        """Positions that the model has, as far as that is known without opening one or loading a model library."""
        present = self.present_engine
        if present is not None:
            try:
                return present.capabilities.context_window
            except ModelNotFound:
                return None  # the first call will say what is wrong
        return configured_window(self.model or DEFAULT_MODEL)

    def engine(self, model: str | None = None) -> Engine:
        """Return the engine, or that of another ``model``.

        Raises:
            ModelNotFound: There is no such model.
            MissingExtra: The packages that run models are not installed.
        """
        present = self.present_engine
        if model is None and present is not None:
            return present
        from memos_core.engine import HFEngine

        name = model or self.model or DEFAULT_MODEL
        with self._lock:
            if name not in self._opened:
                self._opened[name] = HFEngine.from_pretrained(name)
            return self._opened[name]

    def scope(self, values: Mapping[str, object] | None = None) -> Scope:
        """Return the scope.

        Raises:
            InvalidName: A value that the namespace needs is missing.
            InvalidInput: There is no memory.
        """
        if self.memory is None:
            raise InvalidInput("this needs memory: pass memory=, a MemOS or a scope of one")
        return resolve_scope(self.memory, self.namespace, values)

    def target(self, values: Mapping[str, object] | None = None, *, model: str | None = None) -> Scope | EngineChat:
        """Return what to chat with: the scope, asking this binding's engine, or the bare engine.

        Raises:
            InvalidName: A value that the namespace needs is missing.
            ModelNotFound: There is no such model.
        """
        if self.memory is None:
            return EngineChat(self.engine(model))
        return self.scope(values).with_engine(self.engine(model))

    async def atarget(
        self, values: Mapping[str, object] | None = None, *, model: str | None = None
    ) -> Scope | EngineChat:
        """``target`` for asyncio: opening a model does not block the event loop."""
        return await asyncio.to_thread(self.target, values, model=model)

    def revision(self, values: Mapping[str, object] | None = None) -> str:
        """Return a key that changes whenever the memory may have changed; no model is opened for it."""
        return "" if self.memory is None else self.scope(values).revision()
