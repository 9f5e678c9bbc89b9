"""The adapters of a scope: which may serve a request, and adapters that come from or go to PEFT's files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from memos_core.cube import MemCube, ParametricPayload
from memos_core.engine.base import AdapterChoice, BuiltAdapter, Engine
from memos_core.errors import AdapterMismatch, AdapterOutdated, BlobDamaged, InvalidFile, InvalidInput, VaultWriteFailed
from memos_core.infrastructure.governance import MemGovernance
from memos_core.infrastructure.vault import MemVault
from memos_core.operation.operator import found
from memos_core.principal import Principal
from memos_core.records import InjectionPlan, Placement
from memos_core.transform.base import Proposal

__all__ = ["MAX_TOGETHER", "MemAdapters"]

MAX_TOGETHER = 4
"""Most adapters that serve one request unasked: more than are examined together are not used together."""
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


class MemAdapters:
    """Finds, brings in and writes out the adapters of one vault. Thread-safe."""

    def __init__(self, vault: MemVault, governance: MemGovernance) -> None:
        self.vault = vault
        self.governance = governance

    def usable(self, principal: Principal, fingerprint: str) -> list[MemCube]:
        """Return the adapters that may serve: live, of that model, and each memory of theirs as it was."""
        visibility = self.governance.reach(principal)
        with self.vault.read() as session:
            return session.adapters(visibility, fingerprint, self.governance.clock.now())

    def choices(
        self, principal: Principal, engine: Engine, plan: InjectionPlan, *, named: str | None, exactly: bool
    ) -> tuple[AdapterChoice, ...]:
        """Return the adapters of a request: the one that is named, then those that carry memories of the plan.

        Args:
            exactly: No memory besides those of the plan may enter, so no adapter that holds others may.

        Raises:
            AdapterMismatch: The named one was made for another model, or the engine takes none.
            AdapterOutdated: A memory that the named one was made from has changed, expired or gone.
            CubeNotFound: There is none of that name.
        """
        wanted = {memory.cube_id for memory in plan.memories if memory.preferred is Placement.LORA}
        if not wanted and named is None:
            return ()
        fingerprint = engine.base_fingerprint
        usable = [] if fingerprint is None else self.usable(principal, fingerprint)
        chosen = [] if named is None else [self.named(principal, engine, usable, named, bool(wanted))]
        carried = {cube_id for each in chosen for cube_id in each.carries}
        planned = set(plan.cube_ids)
        for cube in sorted(usable, key=lambda each: (-len(wanted & sources_of(each)), len(sources_of(each)), each.id)):
            held = sources_of(cube)
            if len(chosen) < MAX_TOGETHER and held & wanted and not held & carried and (held <= planned or not exactly):
                chosen.append(AdapterChoice(cube.id, payload_of(cube), held))
                carried |= held
        return tuple(chosen)

    def named(
        self, principal: Principal, engine: Engine, usable: Sequence[MemCube], cube_id: str, carries: bool
    ) -> AdapterChoice:
        cube = next((each for each in usable if each.id == cube_id), None)
        if cube is None:
            cube = self.get(principal, cube_id)
            if payload_of(cube).fingerprint != engine.base_fingerprint:
                reason = f"it was made for {payload_of(cube).model} with other weights, tokenizer or chat template"
                raise AdapterMismatch(cube_id, reason)
            raise AdapterOutdated(cube_id)
        return AdapterChoice(cube.id, payload_of(cube), sources_of(cube) if carries else frozenset(), named=True)

    def get(self, principal: Principal, cube_id: str) -> MemCube:
        """Return the cube of an adapter. Raises ``CubeNotFound``, and ``InvalidInput`` where it is no adapter."""
        with self.vault.read() as session:
            cube = found(session.cube(self.governance.reach(principal), cube_id), cube_id)
        payload_of(cube)
        return cube

    def read(self, principal: Principal, cube: MemCube) -> bytes | bytearray:
        """Return the blob of an adapter. Raises ``BlobDamaged`` where it is not what was stored."""
        address = payload_of(cube).blob.address
        with self.vault.read() as session:
            namespace = session.namespace(principal.namespace)
        if namespace is None:
            raise BlobDamaged(address, "its namespace is gone")
        return self.vault.blobs.read(address, namespace.salt)

    def imported(self, engine: Engine, folder: Path, scope: Literal["tail", "full"]) -> Proposal:
        """Return the adapter in ``folder``, in PEFT's files, as a proposal for this engine's model.

        Nothing tells what it was trained on: it is checked to fit the model, and examined by nobody.

        Raises:
            AdapterMismatch: It does not fit the model.
            InvalidFile: A file is missing or is no LoRA adapter.
        """
        from memos_core.transform.parametric import from_files

        try:
            data, config = (folder / WEIGHTS).read_bytes(), (folder / CONFIG).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidFile(f"no adapter can be read here: {error}", path=str(folder)) from error
        try:
            built: BuiltAdapter = from_files(engine, data, config, scope)
        except BlobDamaged as error:
            raise InvalidFile(str(error), path=str(folder / WEIGHTS)) from error
        return Proposal("peft->parametric", (), built, {"imported_from": folder.name})

    def export(self, principal: Principal, cube_id: str, folder: Path) -> None:
        """Write an adapter as PEFT's files into ``folder``, which is made.

        Raises:
            VaultWriteFailed: The disk refused.
        """
        cube = self.get(principal, cube_id)
        data = self.read(principal, cube)
        config = json.dumps(dict(payload_of(cube).peft_config), indent=2, sort_keys=True)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / WEIGHTS).write_bytes(data)
            (folder / CONFIG).write_text(config + "\n", encoding="utf-8")
        except OSError as error:
            raise VaultWriteFailed(f"cannot write {folder}: {error}") from error


def payload_of(cube: MemCube) -> ParametricPayload:
    if not isinstance(cube.payload, ParametricPayload):
        raise InvalidInput(f"memory {cube.id} is {cube.type}; an adapter is parametric memory")
    return cube.payload


def sources_of(cube: MemCube) -> frozenset[str]:
    """Return the memories that an adapter was made from."""
    return frozenset(cube_id for cube_id, _ in cube.header.descriptive.lineage.sources)
