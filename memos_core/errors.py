"""Every error that MemOS raises, in one tree.

Each class also derives from the builtin that a caller would expect, so ``except KeyError`` or ``except ValueError``
keeps working, and carries what a program needs to act on it as attributes.

    MemosError
    ├── InvalidInput (ValueError)              the caller's data is wrong; nothing was written
    │   ├── UnknownField                       a filter names a field that there is not; lists those that there are
    │   ├── InvalidName                        a malformed user, agent, session or collection name
    │   ├── InvalidMemory                      an empty, oversized, binary or otherwise unusable memory
    │   ├── InvalidFile                        a file that cannot be read as what it should be
    │   ├── IllegalTransition                  a memory cannot go from its state to the one asked for
    │   └── ScopeConflict                      an argument reaches outside the scope that it is used on
    ├── CubeNotFound (KeyError)                malformed, absent and foreign ids alike
    ├── CubeFrozen (PermissionError)           a frozen cube was to be changed
    ├── CubeConflict (ValueError)              the change collides with another live cube
    ├── QuotaReached (RuntimeError)            what is to be kept does not fit the namespace any more
    ├── SourcesChanged (RuntimeError)          memories changed while something was made from them; try again
    ├── JobNotFound (KeyError)                 malformed, absent and foreign job ids alike
    ├── JobLost (RuntimeError)                 a job was cancelled, forgotten or taken over while it ran
    ├── GateFailed (RuntimeError)              another form of a memory is not good enough to serve; nothing was stored
    ├── MissingExtra (ImportError)             an optional package is absent; names the pip command
    ├── EmbedderMismatch (ValueError)          a collection was made by another embedder
    ├── VaultError (RuntimeError)
    │   ├── VaultClosed                        the handle was closed, or crossed a fork
    │   ├── VaultBusy (TimeoutError)           another process holds the write lock for too long
    │   ├── VaultWriteFailed (OSError)         the disk refused the write; it was rolled back
    │   ├── VaultDamaged                       verification failed; lists what
    │   └── BlobDamaged                        one blob does not match its address
    └── EngineError (RuntimeError)
        ├── EngineMissing                      the call needs an engine and none was given
        ├── ModelNotFound (FileNotFoundError)  no model at that path, and it cannot be fetched
        ├── ContextOverflow (ValueError)       the prompt does not fit the model's context window
        ├── AdapterMismatch (ValueError)       the adapter was made for another model
        ├── AdapterOutdated (ValueError)       a memory that the adapter was made from has changed or gone
        ├── DeviceMemoryExceeded (MemoryError) the request does not fit the memory of the device
        ├── InjectionUnavailable               ``strict=True`` and a memory could not go in as asked
        ├── UnsupportedOption (ValueError)     the engine cannot do what was asked
        └── GenerationCancelled                the request was cancelled
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "AdapterMismatch",
    "AdapterOutdated",
    "BlobDamaged",
    "ContextOverflow",
    "CubeConflict",
    "CubeFrozen",
    "CubeNotFound",
    "DeviceMemoryExceeded",
    "EmbedderMismatch",
    "EngineError",
    "EngineMissing",
    "GateFailed",
    "GenerationCancelled",
    "IllegalTransition",
    "InjectionUnavailable",
    "InvalidFile",
    "InvalidInput",
    "InvalidMemory",
    "InvalidName",
    "JobLost",
    "JobNotFound",
    "MemosError",
    "MissingExtra",
    "ModelNotFound",
    "QuotaReached",
    "ScopeConflict",
    "SourcesChanged",
    "UnknownField",
    "UnsupportedOption",
    "VaultBusy",
    "VaultClosed",
    "VaultDamaged",
    "VaultError",
    "VaultWriteFailed",
]


class MemosError(Exception):
    """Base of every error raised by MemOS."""

    def __str__(self) -> str:
        # KeyError would print the repr of the message; an error message is prose.
        return str(self.args[0]) if self.args else ""


class InvalidInput(MemosError, ValueError):
    """The caller's data is wrong. Raised before anything is written."""


class UnknownField(InvalidInput):
    """A filter names a field that there is not.

    Attributes:
        field: The name.
        known: The fields that there are.
    """

    def __init__(self, field: str, known: tuple[str, ...]) -> None:
        super().__init__(f"unknown filter {field!r}; known are {', '.join(known)}")
        self.field = field
        self.known = known


class InvalidName(InvalidInput):
    """A user, agent, session or collection name is malformed."""


class InvalidMemory(InvalidInput):
    """A text or turn cannot become a memory.

    Attributes:
        index: Position in the batch that the caller passed, or None for a single memory.
    """

    def __init__(self, message: str, *, index: int | None = None) -> None:
        super().__init__(message if index is None else f"item {index}: {message}")
        self.index = index


class InvalidFile(InvalidInput):
    """A file cannot be read as what it should be.

    Attributes:
        path: The file.
        line: The first bad line, counted from 1, where lines mean something.
    """

    def __init__(self, message: str, *, path: str, line: int | None = None) -> None:
        where = path if line is None else f"{path}:{line}"
        super().__init__(f"{where}: {message}")
        self.path = path
        self.line = line


class ScopeConflict(InvalidInput):
    """An argument names a user, agent or session other than the one that the scope is bound to."""


class IllegalTransition(InvalidInput):
    """A memory cannot go from the state that it is in to the one asked for.

    Attributes:
        cube_id: The memory.
        state: The state that it is in.
    """

    def __init__(self, cube_id: str, state: str, advice: str) -> None:
        super().__init__(f"memory {cube_id} is {state}: {advice}")
        self.cube_id = cube_id
        self.state = state


class CubeNotFound(MemosError, KeyError):
    """No cube of that id is visible here: malformed, absent and foreign ids look the same.

    Attributes:
        cube_id: The id as given.
    """

    def __init__(self, cube_id: str) -> None:
        super().__init__(f"no memory with id {cube_id!r} in this scope")
        self.cube_id = cube_id


class CubeFrozen(MemosError, PermissionError):
    """A frozen cube was to be changed. Attributes: ``cube_id``."""

    def __init__(self, cube_id: str) -> None:
        super().__init__(f"memory {cube_id} is frozen; call freeze(cube_id, frozen=False) first")
        self.cube_id = cube_id


class CubeConflict(MemosError, ValueError):
    """The change would make this cube equal to another live one. Attributes: ``cube_id``, ``other_id``."""

    def __init__(self, cube_id: str, other_id: str) -> None:
        super().__init__(f"memory {cube_id} would become a duplicate of memory {other_id}")
        self.cube_id = cube_id
        self.other_id = other_id


class QuotaReached(MemosError, RuntimeError):
    """What is to be kept does not fit ``Limits.max_bytes`` of the namespace any more; nothing was written."""


class SourcesChanged(MemosError, RuntimeError):
    """Memories were edited or went away while something was made from them; nothing was published."""


class JobNotFound(MemosError, KeyError):
    """No job of that id is visible here: malformed, absent and foreign ids look the same. Attributes: ``job_id``."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"no job with id {job_id!r} here")
        self.job_id = job_id


class JobLost(MemosError, RuntimeError):
    """A job was cancelled, forgotten or taken over while it ran; what it made is not published.

    Attributes:
        job_id: The job.
    """

    def __init__(self, job_id: str) -> None:
        super().__init__(f"job {job_id} was cancelled, forgotten or taken over by another worker")
        self.job_id = job_id


class GateFailed(MemosError, RuntimeError):
    """Another form of a memory was made and is not good enough to serve. Nothing was stored; the text serves on.

    Attributes:
        pathway: How it was made.
        failures: A sentence for each gate that failed, with its figure.
    """

    def __init__(self, pathway: str, failures: Sequence[str]) -> None:
        super().__init__(f"{pathway} did not pass its gates, so the memory stays as it is: {'; '.join(failures)}")
        self.pathway = pathway
        self.failures = tuple(failures)


class MissingExtra(MemosError, ImportError):
    """An optional package is absent.

    Attributes:
        extra: The extra of this distribution that brings it.
    """

    def __init__(self, package: str, *, extra: str) -> None:
        super().__init__(f"{package} is not installed; run: pip install 'memos-mag[{extra}]'")
        self.extra = extra


class EmbedderMismatch(MemosError, ValueError):
    """A collection holds vectors of another embedder.

    Attributes:
        collection: Name of the collection.
        stored: Identity of the embedder that made it.
        offered: Identity of the embedder that was offered.
    """

    def __init__(self, collection: str, *, stored: str, offered: str) -> None:
        super().__init__(
            f"collection {collection!r} holds vectors of {stored}, not of {offered}; "
            f"open it with that embedder, or call memos.reembed({collection!r}) to move it to the new one"
        )
        self.collection = collection
        self.stored = stored
        self.offered = offered


class VaultError(MemosError, RuntimeError):
    """Base of what can go wrong with stored memory."""


class VaultClosed(VaultError):
    """The handle was closed, or it was inherited through a fork and cannot be used in this process."""


class VaultBusy(VaultError, TimeoutError):
    """Another process held the write lock for longer than the timeout."""


class VaultWriteFailed(VaultError, OSError):
    """The disk refused a write (full, size limit, permissions). The change was rolled back."""


class VaultDamaged(VaultError):
    """Verification failed.

    Attributes:
        problems: One sentence for each damaged thing.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        shown = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
        super().__init__(f"the vault is damaged: {shown}")
        self.problems = tuple(problems)


class BlobDamaged(VaultError):
    """A blob is missing, truncated or does not match its digest. Attributes: ``address``."""

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(f"blob {address}: {reason}")
        self.address = address


class EngineError(MemosError, RuntimeError):
    """Base of what can go wrong while a model runs."""


class EngineMissing(EngineError):
    """The call needs an engine and none was given to ``MemOS.open(engine=...)``."""


class ModelNotFound(EngineError, FileNotFoundError):
    """There is no model at that path, and the hub has none of that name or cannot be reached."""


class ContextOverflow(EngineError, ValueError):
    """The prompt and the reply do not fit the model's context window.

    Attributes:
        needed: Positions that the request needs.
        window: Positions that the model has.
    """

    def __init__(self, *, needed: int, window: int) -> None:
        super().__init__(
            f"the request needs {needed} positions and the model has {window}; "
            "lower memory_budget or max_tokens, or shorten the messages"
        )
        self.needed = needed
        self.window = window


class AdapterMismatch(EngineError, ValueError):
    """An adapter does not fit the engine's model, or was made for other weights.

    Attributes:
        adapter: Its cube id or name.
    """

    def __init__(self, adapter: str, reason: str) -> None:
        super().__init__(f"adapter {adapter} cannot be used with this model: {reason}")
        self.adapter = adapter


class AdapterOutdated(EngineError, ValueError):
    """A memory that an adapter was made from has changed, expired or gone, so the adapter may serve no more.

    Attributes:
        adapter: Its cube id.
    """

    def __init__(self, adapter: str) -> None:
        super().__init__(f"adapter {adapter} is out of use: a memory that it was made from has changed or is gone")
        self.adapter = adapter


class DeviceMemoryExceeded(EngineError, MemoryError):
    """The device has not the memory that a request takes; nothing of the request was computed.

    Attributes:
        needed_bytes: What the request takes, about.
        free_bytes: What there is.
    """

    def __init__(self, *, needed_bytes: int, free_bytes: int, device: str) -> None:
        super().__init__(
            f"the request takes about {needed_bytes / 2**20:,.0f} MiB on {device}, and {free_bytes / 2**20:,.0f} MiB "
            "are free; lower memory_budget or max_tokens, shorten the messages, or lower the engine's kv_memory_bytes"
        )
        self.needed_bytes = needed_bytes
        self.free_bytes = free_bytes


class InjectionUnavailable(EngineError):
    """``strict=True`` and a memory could not be injected as asked.

    Attributes:
        reasons: Cube id to the reason.
    """

    def __init__(self, inject: str, reasons: dict[str, str]) -> None:
        detail = "; ".join(f"{cube_id}: {reason}" for cube_id, reason in reasons.items()) or "nothing to inject"
        super().__init__(f"inject={inject!r} with strict=True is not possible: {detail}")
        self.inject = inject
        self.reasons = reasons


class UnsupportedOption(EngineError, ValueError):
    """The engine or its model cannot do what was asked."""


class GenerationCancelled(EngineError):
    """The request was cancelled before it ended."""
