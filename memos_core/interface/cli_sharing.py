"""Commands for the rights of others: grant, revoke, grants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer
from pydantic import JsonValue
from rich.text import Text

from memos_core.grants import GrantRecord
from memos_core.interface.cli_terminal import Terminal, parse_time
from memos_core.interface.cli_views import columns, iso, minute, printable

__all__ = ["COMMANDS", "grant", "grants", "revoke"]

Grantee = Annotated[str, typer.Argument(metavar="USER", help="Who may read.")]
OneCube = Annotated[str | None, typer.Option("--cube", metavar="ID", help="Only this memory.")]


def grant(
    terminal: Terminal,
    *,
    grantee: Grantee,
    cube_id: OneCube = None,
    whole_scope: Annotated[
        bool, typer.Option("--all", help="All memories of the user (agent, session), now and later; no secret ones.")
    ] = False,
    until: Annotated[str | None, typer.Option(help="When it ends by itself, as ISO 8601.")] = None,
) -> None:
    """Let another user read a memory, or all; 'revoke' takes it back."""
    end = None if until is None else parse_time(until)
    with terminal.scope() as scope:
        record = scope.grant(grantee, cube_id=cube_id, whole_scope=whole_scope, until=end)
    if terminal.as_json:
        terminal.document(as_json(record))
    else:
        typer.echo(printable(str(record)))


def revoke(terminal: Terminal, *, grantee: Grantee, cube_id: OneCube = None) -> None:
    """Take the right to read back: of one memory, or of all that the user was granted here."""
    with terminal.scope() as scope:
        ended = scope.revoke(grantee, cube_id=cube_id)
    if terminal.as_json:
        terminal.document({"revoked": [as_json(each) for each in ended]})
    else:
        typer.echo(f"revoked: {len(ended)}")


def grants(
    terminal: Terminal,
    *,
    cube_id: OneCube = None,
    received: Annotated[bool, typer.Option("--received", help="What others let the user read instead.")] = False,
) -> None:
    """List who may read what."""
    with terminal.scope() as scope:
        found = scope.grants(cube_id=cube_id, received=received)
    if terminal.as_json:
        terminal.document({"grants": [as_json(each) for each in found]})
        return
    table = columns("user", "may", "what", "of", "until", "by", "since")
    for each in found:
        until = "revoked" if each.until is None else minute(each.until)
        words = (each.grantee, each.right, each.what, each.owner, until, each.author, minute(each.at))
        table.add_row(*(Text(printable(word)) for word in words))
    terminal.out.print(table)


def as_json(record: GrantRecord) -> dict[str, JsonValue]:
    """Return a grant as JSON values."""
    return {
        "owner": record.owner,
        "grantee": record.grantee,
        "right": record.right,
        "cube_id": record.cube_id,
        "agent": record.agent,
        "session": record.session,
        "until": None if record.until is None else iso(record.until),
        "author": record.author,
        "at": iso(record.at),
    }


COMMANDS: dict[str, Callable[..., None]] = {"grant": grant, "revoke": revoke, "grants": grants}
"""The commands of this file by name."""
