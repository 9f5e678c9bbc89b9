"""The adapters of one scope as files that PEFT and vLLM read and write."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from memos_core.cube import MemCube
from memos_core.engine.base import Engine
from memos_core.operation.forms.adapters import MemAdapters
from memos_core.operation.forms.transforms import MemTransform
from memos_core.principal import Principal

__all__ = ["ScopeAdapters"]


class ScopeAdapters:
    """What ``Scope.adapters`` gives. Thread-safe.

    Args:
        adapters: Those of the vault.
        transforms: Commits what is brought in.
        principal: Whose they are.
        engine: Returns the engine whose model they are for.
        get: Returns a cube by id.
    """

    def __init__(
        self,
        adapters: MemAdapters,
        transforms: MemTransform,
        principal: Principal,
        *,
        engine: Callable[[], Engine],
        get: Callable[[str], MemCube],
    ) -> None:
        self._adapters = adapters
        self._transforms = transforms
        self._principal = principal
        self._engine = engine
        self._get = get

    def load(self, folder: str | os.PathLike[str], *, scope: Literal["tail", "full"] = "full") -> MemCube:
        """Keep a LoRA adapter that PEFT wrote as a parametric memory of this engine's model. Nobody examined it.

        Args:
            folder: Holds ``adapter_model.safetensors`` and ``adapter_config.json``.
            scope: The tokens that it acts on: ``full``, all of them, as PEFT trains; ``tail``, those behind the memory.

        Raises:
            AdapterMismatch: It does not fit the model.
            InvalidFile: There is no LoRA adapter in the folder.
        """
        proposal = self._adapters.imported(self._engine(), Path(folder), scope)
        return self._get(self._transforms.commit(self._principal, proposal))

    def save(self, cube_id: str, folder: str | os.PathLike[str]) -> None:
        """Write a parametric memory into ``folder``, which is made, in the files that PEFT and vLLM load.

        Raises:
            CubeNotFound: There is none of that id.
            InvalidInput: It is no adapter.
            VaultWriteFailed: The disk refused.
        """
        self._adapters.export(self._principal, cube_id, Path(folder))

    def usable(self) -> list[MemCube]:
        """Return the adapters that may serve the engine's model now: of each, every memory is as it was."""
        fingerprint = self._engine().base_fingerprint
        return [] if fingerprint is None else self._adapters.usable(self._principal, fingerprint)

    async def aload(self, folder: str | os.PathLike[str], *, scope: Literal["tail", "full"] = "full") -> MemCube:
        return await asyncio.to_thread(self.load, folder, scope=scope)

    async def asave(self, cube_id: str, folder: str | os.PathLike[str]) -> None:
        await asyncio.to_thread(self.save, cube_id, folder)

    async def ausable(self) -> list[MemCube]:
        return await asyncio.to_thread(self.usable)
