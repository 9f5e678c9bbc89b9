"""The part of the demo in which memories become adapters: the same question with memory off, as text, KV and LoRA."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter

import typer
from pydantic import JsonValue
from rich.text import Text

from memos_core.cube import MemCube
from memos_core.errors import GateFailed
from memos_core.interface.cli_terminal import Terminal
from memos_core.interface.cli_views import columns, short
from memos_core.interface.demo_questions import BundledQuestion, same_answer
from memos_core.records import Inject, Reply
from memos_core.scope import Scope

__all__ = ["Distilled", "alone", "distilled", "distilled_json", "show_distilled", "teachable"]

ALONE = BundledQuestion("What is my cat called?", "Biscuit", (), "direct")
ALONE_MEMORY = "My cat is called Biscuit."
"""A memory whose adapter passes its gates with the bundled reader, up to how the processor rounds (docs/adr/0045)."""
FORMS: tuple[Inject, ...] = ("off", "text", "kv", "lora")


@dataclass(frozen=True, slots=True)
class Distilled:
    """One question whose memory was distilled.

    Attributes:
        question: What is asked.
        memory: The memory that answers it.
        seconds: What distilling and examining took.
        refused: Why the memory stays text; empty if its adapter passed.
        replies: By how the memory goes in. Without an adapter that passed, ``lora`` is text.
    """

    question: BundledQuestion
    memory: MemCube
    seconds: float
    refused: str
    replies: dict[Inject, Reply]

    def right(self, form: Inject) -> bool:
        return same_answer(self.replies[form].text, self.question.answer)


def alone(scope: Scope) -> tuple[BundledQuestion, MemCube]:
    """Return a question and the one memory of ``scope`` that answers it, which is stored if it is not yet."""
    return ALONE, scope.get(scope.add(ALONE_MEMORY).cube_id or "")


def teachable(asked: Sequence[tuple[BundledQuestion, Reply]]) -> Iterator[tuple[BundledQuestion, MemCube]]:
    """Yield questions that one recalled memory answers in a statement that templates find, with that memory."""
    from memos_core.transform.study import bundled_templates

    for question, reply in asked:
        recalled = {memory.cube.ref: memory.cube for memory in reply.plan.memories}
        memory = recalled.get(question.refs[0]) if len(question.refs) == 1 else None
        if memory is not None:
            values = [value for _, value in bundled_templates().questions(memory.text, memory.speaker)]
            if any(same_answer(value, question.answer) for value in values):
                yield question, memory


def distilled(
    scope: Scope, pairs: Sequence[tuple[BundledQuestion, MemCube]], progress: Callable[[int, int], None]
) -> list[Distilled]:
    """Distil each memory into an adapter, and ask its question with the memory in every form."""
    found = []
    for number, (question, memory) in enumerate(pairs):

        def far(done: int, total: int, number: int = number) -> None:
            progress(number * total + done, len(pairs) * total)

        started = perf_counter()
        try:
            scope.transform(memory.id, to="parametric", progress=far)
            refused = ""
        except GateFailed as refusal:
            refused = str(refusal)
        seconds = perf_counter() - started
        found.append(Distilled(question, memory, seconds, refused, asked_in_every_form(scope, question.text, memory)))
    return found


def asked_in_every_form(scope: Scope, question: str, memory: MemCube) -> dict[Inject, Reply]:
    """Ask with that memory alone. The first request of a form builds or loads what the next is served from."""

    def ask(form: Inject) -> Reply:
        return scope.chat(question, inject=form, memory_ids=[memory.id], max_tokens=32)

    for form in FORMS:
        ask(form)
    return {form: ask(form) for form in FORMS}


def distilled_json(rows: Sequence[Distilled]) -> list[JsonValue]:
    """Return the rows as JSON."""
    return [
        {
            "question": row.question.text,
            "answer": row.question.answer,
            "memory": row.memory.text,
            "seconds": row.seconds,
            "refused": row.refused,
            "forms": {
                form: {
                    "text": reply.text,
                    "right": row.right(form),
                    "prompt_tokens": reply.usage.prompt_tokens,
                    "memory_tokens": reply.usage.memory_tokens,
                    "carried_tokens": reply.usage.carried_tokens,
                    "ttft_seconds": reply.usage.ttft_seconds,
                }
                for form, reply in row.replies.items()
            },
        }
        for row in rows
    ]


def show_distilled(terminal: Terminal, rows: Sequence[Distilled]) -> None:
    """Print one table: each question with its one memory in four forms."""
    headings = ("question and its memory", "memory", "reply", "", ">prompt\ntokens", ">from\nKV", ">in the\nadapter")
    table = columns(*headings, ">first\ntoken")
    for row in rows:
        for form in FORMS:
            reply = row.replies[form]
            first = f"{row.question.text}\n{short(row.memory.text, 60)}" if form == FORMS[0] else ""
            right = Text("right", "green") if row.right(form) else Text("wrong", "red")
            usage = reply.usage
            counts = (f"{usage.prompt_tokens}", f"{usage.memory_tokens}", f"{usage.carried_tokens}")
            name = f"{form} (text)" if form == "lora" and row.refused else form
            time = f"{usage.ttft_seconds * 1000:.1f} ms"
            table.add_row(
                Text(first), name, Text(short(reply.text, 40)), right, *counts, time, end_section=form == "lora"
            )
    terminal.out.print(table)
    passed = sum(not row.refused for row in rows)
    seconds = ", ".join(f"{row.seconds:.0f}" for row in rows)
    typer.echo(f"\n{passed} of {len(rows)} memories are adapters now (distilled and examined in {seconds} s)")
    for row in rows:
        if row.refused:
            typer.echo(f"stays text: {row.refused}")
