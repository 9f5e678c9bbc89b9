"""Commands that work on memories: add, search, list, show, history, forget, chat."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import closing
from enum import StrEnum
from typing import Annotated

import typer
from pydantic import JsonValue
from rich.markup import escape
from rich.text import Text

from memos_core.cube import State
from memos_core.engine import Engine
from memos_core.interface.cli_terminal import Terminal, given_text, parse_time
from memos_core.interface.cli_views import (
    columns,
    cube_json,
    cube_table,
    erasure_json,
    hit_json,
    minute,
    printable,
    receipt_json,
    reply_json,
    short,
    version_json,
)
from memos_core.records import Reply, TurnFields
from memos_core.scope import Scope

__all__ = ["COMMANDS", "add", "chat", "forget", "history", "list_", "search", "show"]

CubeId = Annotated[str, typer.Argument(metavar="ID", help="Id of the memory, as 'add' and 'list' print it.")]
Time = Annotated[str | None, typer.Option(metavar="TIME", help="ISO 8601, such as 2026-03-02T09:30; UTC.")]


class TypeChoice(StrEnum):
    """Memory types that can be listed."""

    PLAINTEXT = "plaintext"
    ACTIVATION = "activation"
    PARAMETRIC = "parametric"
    ANY = "any"


class InjectChoice(StrEnum):
    """How memory can enter a chat."""

    AUTO = "auto"
    TEXT = "text"
    KV = "kv"
    LORA = "lora"
    OFF = "off"


def add(
    terminal: Terminal,
    *,
    text: Annotated[str, typer.Argument(help="What to remember; '-' reads standard input.")],
    speaker: Annotated[str | None, typer.Option(help="Who said it.")] = None,
    at: Annotated[str | None, typer.Option(metavar="TIME", help="When it was said, in ISO 8601.")] = None,
    ref: Annotated[str | None, typer.Option(help="Your own reference.")] = None,
    title: Annotated[str | None, typer.Option(help="A short name.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="A label; may be repeated.")] = None,
    ttl_seconds: Annotated[float | None, typer.Option("--ttl", metavar="SECONDS", help="Expires after.")] = None,
) -> None:
    """Remember one text.

    The same text with the same speaker and reference is stored once.
    """
    fields = TurnFields(speaker=speaker, ref=ref, title=title, ttl_seconds=ttl_seconds, tags=tag or [])
    fields["at"] = parse_time(at) if at else None
    with terminal.scope(create=True) as scope:
        receipt = scope.add(given_text(text), **fields)
    if terminal.as_json:
        terminal.document(receipt_json(receipt))
    else:
        reason = f": {receipt.reason}" if receipt.reason else ""
        typer.echo(f"{receipt.outcome} {receipt.cube_id or ''}".rstrip() + reason)


def search(
    terminal: Terminal,
    *,
    query: Annotated[str, typer.Argument(help="What is asked.")],
    k: Annotated[int, typer.Option("--k", "-k", help="How many memories at most.", min=1)] = 10,
    before: Time = None,
    as_of: Time = None,
    filters: Annotated[
        list[str] | None,
        typer.Option("--filter", metavar="FIELD=VALUE", help="Match on a field of the header: speaker, tags ..."),
    ] = None,
) -> None:
    """Find the memories that answer a question, best first."""
    conditions = parse_filters(filters or [])
    until, moment = (parse_time(given) if given else None for given in (before, as_of))
    with terminal.scope() as scope:
        hits = scope.search(query, k=k, filters=conditions, before=until, as_of=moment)
    if terminal.as_json:
        terminal.document({"query": query, "hits": [hit_json(hit) for hit in hits]})
    elif hits:
        terminal.out.print(cube_table([hit.cube for hit in hits], [hit.score for hit in hits]))
    else:
        typer.echo("nothing found")


def parse_filters(given: Sequence[str]) -> dict[str, JsonValue]:
    """Return ``FIELD=VALUE`` options as conditions; a field that is named again means any of its values."""
    conditions: dict[str, list[JsonValue]] = {}
    for item in given:
        name, equals, value = item.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"{item!r} must read FIELD=VALUE", param_hint="--filter")
        conditions.setdefault(name, []).append(value)
    return {name: values[0] if len(values) == 1 else values for name, values in conditions.items()}


def list_(
    terminal: Terminal,
    *,
    limit: Annotated[int, typer.Option(help="How many memories at most.", min=1)] = 50,
    cursor: Annotated[str | None, typer.Option(help="Where the page before ended.")] = None,
    type: Annotated[TypeChoice, typer.Option(help="Memory type.")] = TypeChoice.PLAINTEXT,
    state: Annotated[State, typer.Option(help="State.")] = State.ACTIVE,
) -> None:
    """List memories in the order in which they were stored."""
    with terminal.scope() as scope:
        page = scope.list(limit=limit, cursor=cursor, type=type.value, state=state)
        count = scope.count(type=type.value, state=state)
    if terminal.as_json:
        memories: list[JsonValue] = [cube_json(cube) for cube in page]
        terminal.document({"memories": memories, "count": count, "cursor": page.cursor})
        return
    terminal.out.print(cube_table(page.cubes))
    more = f"; go on with --cursor {page.cursor}" if page.cursor else ""
    typer.echo(f"{len(page)} of {count} memories{more}")


def show(terminal: Terminal, *, cube_id: CubeId) -> None:
    """Show everything about one memory."""
    with terminal.scope() as scope:
        cube = scope.get(cube_id)
    if terminal.as_json:
        terminal.document(json.loads(cube.to_json()))
        return
    typer.echo(f"{cube.id}  version {cube.version}  {cube.type}  {cube.state}\n\n{printable(cube.text)}\n")
    terminal.out.print_json(cube.header.model_dump_json(exclude_none=True))


def history(terminal: Terminal, *, cube_id: CubeId) -> None:
    """Show all versions of one memory, oldest first."""
    with terminal.scope() as scope:
        records = scope.history(cube_id)
    if terminal.as_json:
        versions: list[JsonValue] = [version_json(record) for record in records]
        terminal.document({"id": cube_id, "versions": versions})
        return
    table = columns(">version", "when", "by", "why", "text")
    for record in records:
        cells = (str(record.version), minute(record.committed), record.author, record.reason, short(record.text))
        table.add_row(*map(Text, cells))
    terminal.out.print(table)


def forget(
    terminal: Terminal,
    *,
    cube_ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Ids of the memories.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Erase memories, all their versions and everything made from them.

    There is no way back.
    """
    if terminal.as_json and not yes:
        raise typer.BadParameter("--json cannot ask; add --yes")
    with terminal.scope() as scope:
        cubes = [scope.get(cube_id) for cube_id in cube_ids]
        if not yes:
            for cube in cubes:
                typer.echo(f"{cube.id}  {short(cube.text, 100)}")
            typer.confirm("Erase for good?", abort=True)
        erasure = scope.forget(cube_ids)
    if terminal.as_json:
        terminal.document(erasure_json(erasure))
        return
    made = f", {len(erasure.derived_ids)} of them made from the others" if erasure.derived_ids else ""
    typer.echo(f"erased {len(erasure.cube_ids)} memories{made}; {erasure.versions} versions, {erasure.blobs} files")
    for task in erasure.pending:
        typer.echo(f"still to be done: {task}")


def chat(
    terminal: Terminal,
    *,
    message: Annotated[str | None, typer.Argument(help="What to ask; without it you are asked for messages.")] = None,
    model: Annotated[str, typer.Option(help="Hub id, folder, or memos-reader: the bundled one.")] = "memos-reader",
    inject: Annotated[InjectChoice, typer.Option(help="How memory enters the model.")] = InjectChoice.AUTO,
    remember: Annotated[bool, typer.Option("--remember", help="Store messages and replies as memories.")] = False,
    max_tokens: Annotated[int, typer.Option(help="Longest reply, in tokens.", min=1)] = 256,
) -> None:
    """Talk to a model with memory."""
    if message is None and terminal.as_json:
        raise typer.BadParameter("--json needs a message")
    with closing(local_engine(model)) as engine, terminal.scope(create=remember, engine=engine) as scope:
        if message is None:
            converse(terminal, scope, inject, remember, max_tokens)
            return
        asked = given_text(message)
        reply = scope.chat(asked, inject=inject.value, remember=remember, max_tokens=max_tokens)
    if terminal.as_json:
        terminal.document(reply_json(reply))
    else:
        typer.echo(printable(reply.text))
        terminal.err.print(f"[dim]{escape(usage_line(reply))}[/dim]")


def local_engine(model: str) -> Engine:
    """Return the engine of a local model; it loads when it is first asked."""
    from memos_core.engine import HFEngine

    return HFEngine.from_pretrained(model)


def converse(terminal: Terminal, scope: Scope, inject: InjectChoice, remember: bool, max_tokens: int) -> None:
    """Ask for messages and stream replies until the input ends."""
    terminal.err.print("[dim]An empty line or the end of input leaves.[/dim]")
    messages: list[dict[str, str]] = []
    while asked := next_message():
        messages.append({"role": "user", "content": asked})
        text = ""
        for chunk in scope.stream(messages, inject=inject.value, remember=remember, max_tokens=max_tokens):
            typer.echo(printable(chunk.text), nl=False)
            text += chunk.text
            if chunk.reply is not None:
                typer.echo()
                terminal.err.print(f"[dim]{escape(usage_line(chunk.reply))}[/dim]")
        messages.append({"role": "assistant", "content": text})


def next_message() -> str:
    """Return the next line of input, or an empty text at its end."""
    try:
        return input("> ").strip()
    except EOFError:
        return ""


def usage_line(reply: Reply) -> str:
    usage = reply.usage
    return (
        f"{len(reply.plan.memories)} memories, {usage.prompt_tokens} prompt tokens, {usage.memory_tokens} of them "
        f"from memory, first token after {usage.ttft_seconds * 1000:.0f} ms"
    )


COMMANDS: dict[str, Callable[..., None]] = {
    "add": add,
    "search": search,
    "list": list_,
    "show": show,
    "history": history,
    "forget": forget,
    "chat": chat,
}
"""The commands of this file by name."""
