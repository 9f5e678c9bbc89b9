"""Commands that work on the vault: ingest, export, stats, verify, reembed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from memos_core.interface.cli_terminal import DEFAULT_USER, Terminal
from memos_core.interface.cli_views import mapping_table
from memos_core.interface.ingest import ingest as ingest_file

__all__ = ["COMMANDS", "export", "ingest", "reembed", "stats", "verify"]


class FormatChoice(StrEnum):
    """The keys of ``FORMATS``."""

    TEXT = "text"
    MARKDOWN = "markdown"
    JSONL = "jsonl"
    CONVERSATIONS = "conversations"


def ingest(
    terminal: Terminal,
    *,
    file: Annotated[Path, typer.Argument(help="The file; gzipped or not.")],
    format: Annotated[FormatChoice | None, typer.Option(help="By default it is told from the content.")] = None,
    batch_size: Annotated[int, typer.Option(help="Memories of one transaction.", min=1)] = 64,
) -> None:
    """Remember everything that a file holds.

    Plain text becomes a memory for each paragraph, Markdown for each section, JSONL of chat messages for each message;
    in JSON of conversations, each conversation is the user of that name. A second run adds nothing, and an
    interrupted one can be run again.
    """
    with terminal.memos(create=True) as memos, terminal.progress(f"ingesting {file.name}") as progress:
        report = ingest_file(
            memos,
            file,
            user=terminal.user or DEFAULT_USER,
            agent=terminal.agent,
            session=terminal.session,
            format=format.value if format else None,
            batch_size=batch_size,
            progress=progress,
        )
    if terminal.as_json:
        terminal.document({**asdict(report), "users": list(report.users)})
        return
    users = ", ".join(report.users[:5]) + (f" and {len(report.users) - 5} more" if len(report.users) > 5 else "")
    typer.echo(
        f"{report.turns} turns for {users}: {report.committed} new, {report.duplicates} known, "
        f"{report.rejected} rejected; {report.seconds:.1f} s"
    )


def export(
    terminal: Terminal,
    *,
    file: Annotated[Path, typer.Argument(help="Where to; the file appears whole or not at all.")],
) -> None:
    """Write all text memories of the user to a file, one as JSON a line."""
    with terminal.scope() as scope:
        written = scope.export(file)
    if terminal.as_json:
        terminal.document({"path": str(file), "memories": written})
    else:
        typer.echo(f"{written} memories written to {file}")


def stats(terminal: Terminal) -> None:
    """Count what the vault holds."""
    with terminal.memos() as memos:
        values = memos.stats()
    if terminal.as_json:
        terminal.document(values)
    else:
        terminal.out.print(mapping_table(values))


def verify(terminal: Terminal) -> None:
    """Check everything that the vault holds; exit code 1 if anything is damaged."""
    with terminal.memos() as memos, terminal.err.status("verifying"):
        report = memos.verify()
    if terminal.as_json:
        terminal.document({"ok": True, **asdict(report)})
    else:
        terminal.out.print(mapping_table(asdict(report)))
        typer.echo("the vault is sound")


def reembed(
    terminal: Terminal,
    *,
    collection: Annotated[str, typer.Option(help="Which collection.")] = "default",
) -> None:
    """Make all vectors anew with the current embedder.

    Takes effect at the end; an interrupted run changes nothing.
    """
    with terminal.memos() as memos, terminal.progress("embedding") as progress:
        count = memos.reembed(collection, progress=progress)
    if terminal.as_json:
        terminal.document({"collection": collection, "memories": count})
    else:
        typer.echo(f"{count} memories of collection {collection!r} embedded anew")


COMMANDS: dict[str, Callable[..., None]] = {
    "ingest": ingest,
    "export": export,
    "stats": stats,
    "verify": verify,
    "reembed": reembed,
}
"""The commands of this file by name."""
