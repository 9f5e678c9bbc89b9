"""What every command shares: its options, the way to the vault, and the way out, as text or as one JSON document."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Protocol, get_type_hints

import typer
from pydantic import JsonValue
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from memos_core.engine import Engine
from memos_core.errors import InvalidMemory, MemosError, VaultDamaged, VaultError
from memos_core.memos import MemOS
from memos_core.scope import Scope

__all__ = ["DEFAULT_USER", "DEFAULT_VAULT", "OpenMemos", "Terminal", "given_text", "parse_time", "with_terminal"]

DEFAULT_VAULT = Path("memory")
DEFAULT_USER = "me"


class OpenMemos(Protocol):
    """Opens a vault for a command."""

    def __call__(self, path: Path, *, engine: Engine | None = None) -> MemOS:
        """Return the open vault in ``path``."""
        ...


VaultOption = Annotated[
    Path | None,
    typer.Option(
        "--vault", help=f"Folder of the vault. (default: ./{DEFAULT_VAULT} or $MEMOS_VAULT)", metavar="FOLDER"
    ),
]
UserOption = Annotated[str | None, typer.Option("--user", help=f"Whose memory it is. (default: {DEFAULT_USER})")]
AgentOption = Annotated[str | None, typer.Option("--agent", help="Bind the scope to this agent.")]
SessionOption = Annotated[str | None, typer.Option("--session", help="Bind the scope to this session.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document, for machines.")]

OPTIONS = {
    "vault": (VaultOption, None),
    "user": (UserOption, None),
    "agent": (AgentOption, None),
    "session": (SessionOption, None),
    "as_json": (JsonOption, False),
}
"""Options that stand before or after the name of a command, with their defaults."""


@dataclass(frozen=True)
class Terminal:
    """Where a command reads its settings and writes what came out.

    Attributes:
        open_memos: Opens the vault.
        vault: Folder of the vault as given; None: not given.
        default_vault: Folder that is used then.
        user: Whose memory.
        agent: Bound agent.
        session: Bound session.
        as_json: Whether one JSON document is wanted.
        out: Console for what was asked for.
        err: Console for everything else.
    """

    open_memos: OpenMemos
    vault: Path | None = None
    default_vault: Path = DEFAULT_VAULT
    user: str | None = None
    agent: str | None = None
    session: str | None = None
    as_json: bool = False
    out: Console = field(default_factory=lambda: Console(highlight=False))
    err: Console = field(default_factory=lambda: Console(stderr=True, highlight=False))

    def overridden(self, given: dict[str, Any]) -> Terminal:
        """Return this terminal with the settings that were given; the others stay."""
        return replace(self, **{name: value for name, value in given.items() if value not in (None, False)})

    @property
    def folder(self) -> Path:
        return self.vault or self.default_vault

    @contextmanager
    def memos(self, *, create: bool = False, engine: Engine | None = None) -> Iterator[MemOS]:
        """Open the vault for the time of a ``with`` block.

        Raises:
            VaultError: There is none and ``create`` is False: a mistyped folder must not look like an empty memory.
        """
        if not create and not (self.folder.is_dir() and any(self.folder.iterdir())):
            raise VaultError(f"there is no vault in {self.folder}; 'memos-mag add' and 'memos-mag ingest' make one")
        with self.open_memos(self.folder, engine=engine) as memos:
            yield memos

    @contextmanager
    def scope(self, *, create: bool = False, engine: Engine | None = None) -> Iterator[Scope]:
        """Open the vault and yield the scope that the options name."""
        with self.memos(create=create, engine=engine) as memos:
            yield memos.scope(self.user or DEFAULT_USER, agent=self.agent, session=self.session)

    def document(self, value: JsonValue) -> None:
        """Print the one JSON document of this command."""
        typer.echo(json.dumps(value, ensure_ascii=False, indent=2))

    @contextmanager
    def progress(self, what: str) -> Iterator[Callable[[int, int], None]]:
        """Show a bar on standard error for the time of a ``with`` block; yield what is told ``(done, total)``."""
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self.err, transient=True) as bars:
            task = bars.add_task(what, total=None)
            yield lambda done, total: bars.update(task, completed=done, total=total)

    def fail(self, error: MemosError) -> None:
        """Print an error to standard error, without a traceback."""
        if not self.as_json:
            typer.echo(f"error: {error}", err=True)
            return
        detail: dict[str, JsonValue] = {"type": type(error).__name__, "message": str(error)}
        if isinstance(error, VaultDamaged):
            detail["problems"] = list(error.problems)
        typer.echo(json.dumps({"error": detail}, ensure_ascii=False), err=True)


def with_terminal(command: Callable[..., None]) -> Callable[..., None]:
    """Return ``command`` with the shared options added, called with the terminal that they make.

    A ``MemosError`` becomes a message and exit code 1.
    """
    hints = get_type_hints(command, include_extras=True)
    own = list(inspect.signature(command).parameters.values())[1:]

    @functools.wraps(command)
    def wrapper(ctx: typer.Context, **values: Any) -> None:
        terminal: Terminal = ctx.obj.overridden({name: values.pop(name) for name in OPTIONS})
        try:
            command(terminal, **values)
        except MemosError as error:
            terminal.fail(error)
            raise typer.Exit(1) from error

    parameters = [
        inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context),
        *(p.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[p.name]) for p in own),
        *(
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=kind, default=default)
            for name, (kind, default) in OPTIONS.items()
        ),
    ]
    wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return wrapper


def parse_time(text: str) -> datetime:
    """Return a moment of the command line.

    Raises:
        typer.BadParameter: It is no ISO time.
    """
    try:
        return datetime.fromisoformat(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is no ISO 8601 date or time, such as 2026-03-02T09:30") from error


def given_text(text: str) -> str:
    """Return the text of an argument; ``-`` stands for standard input.

    Raises:
        InvalidMemory: Standard input is not UTF-8 text.
    """
    if text != "-":
        return text
    try:
        return typer.get_binary_stream("stdin").read().decode("utf-8").rstrip("\n")
    except UnicodeDecodeError as error:
        raise InvalidMemory("standard input is not UTF-8 text: binary data is not a memory") from error
