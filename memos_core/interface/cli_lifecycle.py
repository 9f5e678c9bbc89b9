"""Commands for the life of memories: diff, merge, revert, snapshot, restore, tidy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer
from pydantic import JsonValue
from rich.text import Text

from memos_core.interface.cli_memory import CubeId
from memos_core.interface.cli_terminal import Terminal, given_text
from memos_core.interface.cli_views import columns, iso, minute, printable, receipt_json, version_json
from memos_core.operation.retention import RetentionPolicy

__all__ = ["COMMANDS", "diff", "merge", "restore", "revert", "snapshot", "tidy"]

STYLES = {"same": "", "removed": "red strike", "added": "green"}


def diff(
    terminal: Terminal,
    *,
    cube_id: CubeId,
    before: Annotated[int | None, typer.Option("--from", help="Version; by default the one before.")] = None,
    after: Annotated[int | None, typer.Option("--to", help="Version; by default the current one.")] = None,
) -> None:
    """Show what changed between two versions of a memory, word by word."""
    with terminal.scope() as scope:
        found = scope.diff(cube_id, before, after)
    if terminal.as_json:
        changes: list[JsonValue] = [{"kind": each.kind, "text": each.text} for each in found.changes]
        versions: dict[str, JsonValue] = {"before": version_json(found.before), "after": version_json(found.after)}
        terminal.document({"id": cube_id, "changed": found.changed, "changes": changes, **versions})
        return
    if not terminal.out.is_terminal:
        typer.echo(printable(str(found)))  # marks instead of colours
        return
    terminal.out.print(Text.assemble(*((printable(each.text), STYLES[each.kind]) for each in found.changes)))


def merge(
    terminal: Terminal,
    *,
    cube_ids: Annotated[list[str], typer.Argument(metavar="ID ID...", help="Ids of the memories.")],
    text: Annotated[str, typer.Option(help="What the one memory says; '-' reads standard input.")],
) -> None:
    """Put one memory in the place of several; 'revert' undoes it."""
    with terminal.scope() as scope:
        receipt = scope.merge(cube_ids, given_text(text))
    if terminal.as_json:
        terminal.document(receipt_json(receipt))
    else:
        reason = f": {receipt.reason}" if receipt.cube_id is None else ""
        typer.echo(f"{receipt.outcome} {receipt.cube_id or ''}".rstrip() + reason)


def revert(terminal: Terminal, *, cube_id: CubeId) -> None:
    """Undo the merge or split that made a memory."""
    with terminal.scope() as scope:
        back = scope.revert(cube_id)
    if terminal.as_json:
        terminal.document({"id": cube_id, "active_again": list(back)})
    else:
        typer.echo(f"active again: {', '.join(back)}")


def snapshot(
    terminal: Terminal,
    *,
    name: Annotated[str | None, typer.Argument(help="Its name; without one, the snapshots are listed.")] = None,
    drop: Annotated[bool, typer.Option("--drop", help="Forget the snapshot; the memories stay as they are.")] = False,
) -> None:
    """Note how the memories of the user stand, to come back to it with 'restore'."""
    if drop and name is None:
        raise typer.BadParameter("--drop needs the name of a snapshot")
    with terminal.scope() as scope:
        if name is not None and drop:
            scope.drop_snapshot(name)
        elif name is not None:
            scope.snapshot(name)
        found = scope.snapshots()
    if terminal.as_json:
        listed: list[JsonValue] = [
            {"name": each.name, "memories": each.memories, "author": each.author, "created": iso(each.created)}
            for each in found
        ]
        terminal.document({"snapshots": listed})
        return
    table = columns("name", ">memories", "when", "by")
    for each in found:
        table.add_row(*map(Text, (each.name, str(each.memories), minute(each.created), each.author)))
    terminal.out.print(table)


def restore(terminal: Terminal, *, name: Annotated[str, typer.Argument(help="Name of the snapshot.")]) -> None:
    """Bring the memories of the user back to how they stood; it can be undone in the same way."""
    with terminal.scope() as scope:
        done = scope.restore(name)
    if terminal.as_json:
        terminal.document(
            {
                "name": done.name,
                "undo": done.undo,
                "rewritten": list(done.rewritten),
                "archived": list(done.archived),
                "returned": list(done.returned),
                "skipped": dict(done.skipped),
            }
        )
        return
    counts = f"{len(done.rewritten)} rewritten, {len(done.archived)} archived, {len(done.returned)} back in use"
    typer.echo(f"{counts}; 'memos-mag restore {done.undo}' undoes it")
    for cube_id, reason in done.skipped.items():
        typer.echo(f"left alone {cube_id}: {reason}")


def tidy(
    terminal: Terminal,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done, and why.")] = False,
    unused_days: Annotated[float | None, typer.Option(help="Archive what is unused for so long.", min=0.001)] = None,
    most: Annotated[int | None, typer.Option("--max", help="Archive what is over this number.", min=1)] = None,
    erase_days: Annotated[float | None, typer.Option(help="Erase what expired so long ago, for good.", min=0)] = None,
) -> None:
    """Archive memories that are no longer used or too many; frozen ones and those tagged 'important' stay."""
    policy = RetentionPolicy(
        archive_unused_seconds=None if unused_days is None else 86400 * unused_days,
        max_memories=most,
        erase_expired_seconds=None if erase_days is None else 86400 * erase_days,
    )
    with terminal.scope() as scope:
        found = scope.tidy(policy=policy, dry_run=dry_run)
    if terminal.as_json:
        listed: list[JsonValue] = [
            {"action": each.action, "cube_id": each.cube_id, "reason": each.reason} for each in found
        ]
        terminal.document({"dry_run": dry_run, "tidied": listed})
        return
    table = columns("would" if dry_run else "does", "id", "why")
    for each in found:
        table.add_row(*map(Text, (each.action, each.cube_id, each.reason)))
    if found:
        terminal.out.print(table)
    else:
        typer.echo("nothing to do")


COMMANDS: dict[str, Callable[..., None]] = {
    "diff": diff,
    "merge": merge,
    "revert": revert,
    "snapshot": snapshot,
    "restore": restore,
    "tidy": tidy,
}
"""The commands of this file by name."""
