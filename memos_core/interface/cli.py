"""The command ``memos-mag``."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated

import typer

import memos_core
from memos_core.engine import Engine
from memos_core.interface import (
    cli_background,
    cli_evolution,
    cli_learning,
    cli_lifecycle,
    cli_memory,
    cli_sharing,
    cli_vault,
    demo,
)
from memos_core.interface.cli_terminal import (
    DEFAULT_VAULT,
    AgentOption,
    JsonOption,
    OpenMemos,
    SessionOption,
    Terminal,
    UserOption,
    VaultOption,
    with_terminal,
)
from memos_core.memos import MemOS

__all__ = ["build_app", "main"]

COMMANDS: dict[str, Callable[..., None]] = {
    "demo": demo.demo,
    **cli_memory.COMMANDS,
    **cli_lifecycle.COMMANDS,
    **cli_background.COMMANDS,
    **cli_evolution.COMMANDS,
    **cli_sharing.COMMANDS,
    **cli_learning.COMMANDS,
    **cli_vault.COMMANDS,
}


def open_embedded(path: Path, *, engine: Engine | None = None) -> MemOS:
    """Open a vault with the bundled embedder."""
    return MemOS.open(path, engine=engine)


def print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"memos-mag {memos_core.__version__}")
        raise typer.Exit


def build_app(open_memos: OpenMemos = open_embedded) -> typer.Typer:
    """Return the command line; ``open_memos`` opens the vault that a command works on."""
    app = typer.Typer(
        name="memos-mag",
        help="Memory for language models: keep it, find it, and put it into a model as text or as KV.",
        no_args_is_help=True,
        pretty_exceptions_show_locals=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback()
    def settings(
        ctx: typer.Context,
        *,
        vault: VaultOption = None,
        user: UserOption = None,
        agent: AgentOption = None,
        session: SessionOption = None,
        as_json: JsonOption = False,
        version: Annotated[
            bool, typer.Option("--version", help="Print the version.", callback=print_version, is_eager=True)
        ] = False,
    ) -> None:
        default_vault = Path(os.environ.get("MEMOS_VAULT") or DEFAULT_VAULT)
        terminal = Terminal(open_memos, default_vault=default_vault)
        given = {"vault": vault, "user": user, "agent": agent, "session": session, "as_json": as_json}
        ctx.obj = terminal.overridden(given)

    for name, command in COMMANDS.items():
        app.command(name)(with_terminal(command))
    return app


def main() -> None:
    """Run the command line. Exit codes: 0 done, 1 a MemosError, 2 wrong usage."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            # A terminal that knows fewer characters than a memory holds must not make a command fail.
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    build_app()()


if __name__ == "__main__":
    main()
