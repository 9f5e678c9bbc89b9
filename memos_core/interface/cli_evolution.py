"""Commands that show and drive the life of memories: lineage, policy, demote, remake."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import JsonValue, ValidationError
from rich.text import Text
from rich.tree import Tree

from memos_core.cube import MemCube
from memos_core.errors import InvalidFile
from memos_core.interface.cli_background import Model, show_jobs
from memos_core.interface.cli_memory import CubeId, local_engine
from memos_core.interface.cli_terminal import Terminal
from memos_core.interface.cli_views import columns, cube_json, iso, minute, printable, short
from memos_core.operation.evolve import Decision, EvolutionPolicy
from memos_core.operation.forms.forms import Demotion
from memos_core.operation.lineage import LineageTree, SourceNode

__all__ = ["COMMANDS", "demote", "lineage", "policy", "remake"]


def lineage(terminal: Terminal, *, cube_id: CubeId) -> None:
    """Show what a memory was made from and what was made from it, as a tree."""
    with terminal.scope() as scope:
        tree = scope.lineage(cube_id)
    if terminal.as_json:
        terminal.document(tree_json(tree))
        return
    shown = Tree(label(tree.cube))
    add_details(shown, tree)
    if tree.sources:
        add_sources(shown.add("made from"), tree.sources)
    if tree.derived:
        add_derived(shown.add("made into"), tree.derived)
    terminal.out.print(shown)


def label(cube: MemCube) -> Text:
    # Text, so that brackets in a memory are not taken for markup.
    return Text(f"{cube.id}  {cube.type}, {cube.state}, version {cube.version}: {short(cube.text, 80)}")


def add_sources(branch: Tree, sources: Iterable[SourceNode]) -> None:
    for source in sources:
        text = label(source.cube)
        if not source.stands:
            text.append(f"  (version {source.version} was used; it has changed or gone out of use)", style="yellow")
        add_sources(branch.add(text), source.sources)


def add_derived(branch: Tree, derived: Iterable[LineageTree]) -> None:
    for each in derived:
        below = branch.add(label(each.cube))
        add_details(below, each)
        add_derived(below, each.derived)


def add_details(branch: Tree, tree: LineageTree) -> None:
    if tree.pathway is None:
        return
    branch.add(Text(f"{tree.pathway}, {tree.size_bytes:,} bytes", style="dim"))
    for name, value in tree.parameters.items():
        if value not in ({}, [], None):
            branch.add(Text(f"{name}: {short(str(value), 100)}", style="dim"))


def tree_json(tree: LineageTree) -> dict[str, JsonValue]:
    sources: list[JsonValue] = [source_json(source) for source in tree.sources]
    derived: list[JsonValue] = [tree_json(each) for each in tree.derived]
    return {
        **cube_json(tree.cube),
        "pathway": tree.pathway,
        "parameters": dict(tree.parameters),
        "size_bytes": tree.size_bytes,
        "sources": sources,
        "derived": derived,
    }


def source_json(source: SourceNode) -> dict[str, JsonValue]:
    above: list[JsonValue] = [source_json(each) for each in source.sources]
    return {**cube_json(source.cube), "used_version": source.version, "stands": source.stands, "sources": above}


def policy(
    terminal: Terminal,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done, and why.")] = False,
    everyone: Annotated[bool, typer.Option("--all", help="For every user of the vault.")] = False,
    file: Annotated[Path | None, typer.Option(help="JSON with the fields of EvolutionPolicy.", metavar="FILE")] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="One field of the policy, such as hot=5.")
    ] = None,
) -> None:
    """Let memories change their form by what they were used for: KV for what is hot, text again for what is cold.

    What is to be made is left to a worker.
    """
    chosen = chosen_policy(file, setting or [])
    if everyone:
        with terminal.memos() as memos:
            decisions = memos.evolve(policy=chosen, dry_run=dry_run)
    else:
        with terminal.scope() as scope:
            decisions = scope.evolve(policy=chosen, dry_run=dry_run)
    if terminal.as_json:
        listed: list[JsonValue] = [decision_json(each) for each in decisions]
        terminal.document({"dry_run": dry_run, "policy": chosen.model_dump(mode="json"), "decisions": listed})
        return
    if not decisions:
        typer.echo("nothing changes")
        return
    table = columns("user", "would" if dry_run else "does", "memories", "why")
    for each in decisions:
        table.add_row(*map(Text, (each.user, each.action, "\n".join(each.cube_ids), each.reason)))
    terminal.out.print(table)


def chosen_policy(file: Path | None, settings: list[str]) -> EvolutionPolicy:
    """Return the policy of a file, with single fields of the command line over it.

    Raises:
        InvalidFile: The file is no policy.
        typer.BadParameter: A setting is unknown or out of range.
    """
    given: dict[str, Any] = {}
    if file is not None:
        try:
            text = file.read_text(encoding="utf-8")
            given = EvolutionPolicy.model_validate_json(text).model_dump(exclude_unset=True)
        except (OSError, UnicodeDecodeError, ValidationError) as error:
            raise InvalidFile(f"is no policy: {first_problem(error)}", path=str(file)) from error
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise typer.BadParameter(f"{setting!r} must read NAME=VALUE", param_hint="--set")
        given[name] = None if value == "none" else value
    try:
        return EvolutionPolicy.model_validate(given)
    except ValidationError as error:
        raise typer.BadParameter(first_problem(error), param_hint="--set") from error


def first_problem(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    problem = error.errors()[0]
    return f"{'.'.join(map(str, problem['loc'])) or 'policy'}: {problem['msg']}"


def decision_json(decision: Decision) -> dict[str, JsonValue]:
    return {
        "user": decision.user,
        "action": decision.action,
        "cube_ids": list(decision.cube_ids),
        "reason": decision.reason,
        "job_id": decision.job_id,
    }


def demote(
    terminal: Terminal,
    *,
    cube_id: Annotated[str | None, typer.Argument(metavar="[ID]", help="A KV cache or an adapter.")] = None,
    listed: Annotated[bool, typer.Option("--list", help="Show what was dropped, the newest first.")] = False,
) -> None:
    """Drop a KV cache or an adapter. The memories that it was made from stay, and 'remake' brings it back."""
    if listed == (cube_id is not None):
        raise typer.BadParameter("name one ID, or use --list")
    with terminal.scope() as scope:
        dropped = scope.demotions() if cube_id is None else (scope.demote(cube_id),)
    if terminal.as_json:
        told: list[JsonValue] = [demotion_json(each) for each in dropped]
        terminal.document({"demotions": told})
        return
    if not dropped:
        typer.echo("nothing was dropped")
        return
    table = columns("id", "type", "model", ">bytes", "made by", "dropped", "why")
    for each in dropped:
        size, made_by = f"{each.size_bytes:,}", each.lineage.pathway or ""
        table.add_row(
            *map(Text, (each.cube_id, each.type, each.model, size, made_by, minute(each.at), short(each.reason)))
        )
    terminal.out.print(table)


def demotion_json(demotion: Demotion) -> dict[str, JsonValue]:
    return {
        "id": demotion.cube_id,
        "type": str(demotion.type),
        "model": demotion.model,
        "lineage": demotion.lineage.model_dump(mode="json"),
        "size_bytes": demotion.size_bytes,
        "reason": demotion.reason,
        "author": demotion.author,
        "at": iso(demotion.at),
    }


def remake(
    terminal: Terminal,
    *,
    cube_id: CubeId,
    later: Annotated[bool, typer.Option("--later", help="Leave it to a worker.")] = False,
    model: Model = "memos-reader",
) -> None:
    """Make a KV cache or an adapter again, for this model and from its memories as they are now.

    It may have been dropped, be out of date, or have been made for another model.
    """
    if later:
        with terminal.scope() as scope:
            queued = scope.remake_later(cube_id)
        show_jobs(terminal, [queued])
        return
    with (
        closing(local_engine(model)) as engine,
        terminal.scope(engine=engine) as scope,
        terminal.progress("making it again") as progress,
    ):
        made = scope.remake(cube_id, progress=progress)
    if terminal.as_json:
        terminal.document({"derived": [cube_json(made)]})
        return
    typer.echo(f"{made.id}  {printable(made.text)}")


COMMANDS: dict[str, Callable[..., None]] = {"lineage": lineage, "policy": policy, "demote": demote, "remake": remake}
"""The commands of this file by name."""
