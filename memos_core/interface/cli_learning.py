"""Commands for feedback and what is learned from it: feedback, learning, proposals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer
from pydantic import JsonValue
from rich.text import Text

from memos_core.infrastructure.vault.learning import LearnedWeights
from memos_core.interface.cli_terminal import Terminal
from memos_core.interface.cli_views import columns, iso, minute, short
from memos_core.operation.learning.proposals import Proposal

__all__ = ["COMMANDS", "feedback", "learning", "proposals"]


def feedback(
    terminal: Terminal,
    *,
    cube_ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Ids of the memories.")],
    good: Annotated[bool, typer.Option("--good/--bad", help="Whether they helped.")],
) -> None:
    """Say that memories helped, or that they did not."""
    with terminal.scope() as scope:
        judgement = scope.feedback(cube_ids, good=good)
    if terminal.as_json:
        listed: list[JsonValue] = list(judgement.cube_ids)
        terminal.document({"cube_ids": listed, "good": good, "recalled": judgement.recalled})
    else:
        typer.echo(f"noted as {'good' if good else 'bad'}: {', '.join(judgement.cube_ids)}")


def learning(
    terminal: Terminal,
    *,
    back_to: Annotated[int | None, typer.Option("--rollback", metavar="N", help="Go back to this step.", min=1)] = None,
    reset: Annotated[bool, typer.Option("--reset", help="Go back to what ships; --rollback undoes it.")] = False,
) -> None:
    """Show what feedback has taught about the ranking of the user's memories, step by step; the last one is in use."""
    if reset and back_to is not None:
        raise typer.BadParameter("--reset and --rollback exclude each other")
    with terminal.scope() as scope:
        if reset:
            scope.reset_learning()
        elif back_to is not None:
            scope.rollback_learning(back_to)
        steps = scope.learning()
    if terminal.as_json:
        shown: list[JsonValue] = [step_json(each) for each in steps]
        terminal.document({"steps": shown})
    elif steps:
        table = columns(">step", "when", "by", ">requests", "why", "added to")
        for each in steps:
            added = ", ".join(f"{name} {value:+.2f}" for name, value in each.after.items() if abs(value) >= 0.005)
            cells = (str(each.version), minute(each.at), each.author, str(each.recalls), each.reason, added)
            table.add_row(*map(Text, cells))
        terminal.out.print(table)
    else:
        typer.echo("nothing was learned; the ranking is the one that ships")


def proposals(
    terminal: Terminal,
    *,
    adopt: Annotated[list[str] | None, typer.Option("--adopt", metavar="ID", help="Carry out this one.")] = None,
) -> None:
    """Show which memories use would merge or split, and why; 'revert' undoes what was adopted."""
    with terminal.scope() as scope:
        found = {each.id: each for each in scope.proposals()}
        made = {each: [str(receipt.cube_id) for receipt in scope.adopt(each)] for each in adopt or []}
    if terminal.as_json:
        shown: list[JsonValue] = [{**proposal_json(each), "made": [*made.get(each.id, [])]} for each in found.values()]
        terminal.document({"proposals": shown})
        return
    if not found:
        typer.echo("use speaks for no change")
        return
    table = columns("id", "does" if made else "would", "memories", "why", "texts")
    for each in found.values():
        if not made or each.id in made:
            texts = "\n".join(short(text) for text in each.texts)
            cells = (each.id, each.action, "\n".join(each.cube_ids), each.reason, texts)
            table.add_row(*map(Text, cells))
    terminal.out.print(table)


def proposal_json(proposal: Proposal) -> dict[str, JsonValue]:
    return {
        "id": proposal.id,
        "action": proposal.action,
        "cube_ids": list(proposal.cube_ids),
        "texts": list(proposal.texts),
        "reason": proposal.reason,
        "questions": proposal.questions,
    }


def step_json(step: LearnedWeights) -> dict[str, JsonValue]:
    return {
        "version": step.version,
        "parent": step.parent,
        "at": iso(step.at),
        "author": step.author,
        "reason": step.reason,
        "before": dict(step.before),
        "after": dict(step.after),
        "requests": step.recalls,
    }


COMMANDS: dict[str, Callable[..., None]] = {"feedback": feedback, "learning": learning, "proposals": proposals}
"""The commands of this file by name."""
