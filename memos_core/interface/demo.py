"""``memos-mag demo``: the main job, end to end, on real parts.

On the bundled conversation it asks a model every question with memory off, as text and as stored KV. On a
file of annotated conversations it shows what is recalled for real questions and how much of the evidence is in it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer
from pydantic import JsonValue
from rich.text import Text

from memos_core.cube import MemCube
from memos_core.interface.cli_terminal import Terminal
from memos_core.interface.cli_views import columns, short
from memos_core.interface.demo_adapters import (
    Distilled,
    alone,
    distilled,
    distilled_json,
    show_distilled,
    teachable,
)
from memos_core.interface.demo_questions import DATA, BundledQuestion, bundled_questions, same_answer
from memos_core.interface.evidence import (
    CUTOFFS,
    Evidence,
    Recalled,
    read_evidence,
    recall_table,
    spread,
)
from memos_core.interface.ingest import IngestReport, ingest
from memos_core.records import Inject, Reply
from memos_core.scope import Scope

__all__ = ["DATA", "BundledQuestion", "Trial", "bundled_questions", "demo", "same_answer"]

USER = "demo"
OTHER_USER = "demo-adapter"
MODES: tuple[Inject, ...] = ("off", "text", "kv")
SHOWN_QUESTIONS = 12
MAX_ANSWER_TOKENS = 32


def demo(
    terminal: Terminal,
    *,
    input: Annotated[
        Path | None, typer.Option("--input", help="Annotated conversations as JSON, instead of the bundled one.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Ask this many questions, spread over their kinds.", min=1)] = None,
    model: Annotated[
        str, typer.Option(help="Model that answers: memos-reader, the bundled one, or a folder or hub id.")
    ] = "memos-reader",
    lora: Annotated[
        bool | None,
        typer.Option(
            "--lora/--no-lora",
            help="Also distil one memory into an adapter, 2 to 3 CPU minutes; by default with the bundled reader.",
        ),
    ] = None,
    distil: Annotated[
        int,
        typer.Option(
            help="Distil this many memories of the conversation as well, two to three CPU minutes each.", min=0
        ),
    ] = 0,
) -> None:
    """Show the main job: ingest a conversation, ask questions, answer from memory.

    Works in a temporary vault unless --vault names one.
    """
    with demo_vault(terminal) as inner:
        if input is None:
            bundled = model == "memos-reader"
            answer_bundled(inner, limit, model, lora=bundled if lora is None else lora, distil=distil)
        else:
            recall_evidence(inner, input, limit)


@contextmanager
def demo_vault(terminal: Terminal) -> Iterator[Terminal]:
    """Yield a terminal whose vault is the one that was named, or a temporary one."""
    if terminal.vault is not None:
        yield terminal
        return
    # Windows refuses to delete a file that some library still maps; a leftover in the temporary folder is no harm.
    with tempfile.TemporaryDirectory(prefix="memos-demo-", ignore_cleanup_errors=True) as folder:
        yield replace(terminal, vault=Path(folder))


# The bundled conversation, answered by a model


@dataclass(frozen=True, slots=True)
class Trial:
    """One question and the reply of each mode."""

    question: BundledQuestion
    replies: dict[Inject, Reply]

    def right(self, mode: Inject) -> bool:
        return same_answer(self.replies[mode].text, self.question.answer)

    @property
    def evidence_recalled(self) -> bool:
        """Whether all evidence was among the memories that went into the prompt."""
        recalled = {memory.cube.ref for memory in self.replies["text"].plan.memories}
        return recalled.issuperset(self.question.refs)


def answer_bundled(terminal: Terminal, limit: int | None, model: str, *, lora: bool, distil: int) -> None:
    """Ingest the bundled conversation and let a model answer the questions in every mode; then some by adapters."""
    from memos_core.engine import HFEngine

    questions = bundled_questions(limit)
    engine = HFEngine.from_pretrained(model)
    with closing(engine), terminal.memos(create=True, engine=engine) as memos:
        with terminal.progress("ingesting the bundled conversation") as progress:
            report = ingest(memos, DATA / "conversation.jsonl", user=USER, progress=progress)
        scope = memos.scope(USER)
        for mode in ("off", "text"):  # loads the model and warms it up, so that no measured request does
            ask(scope, questions[0].text, mode)
        trials = []
        with terminal.progress("asking") as progress:
            for number, question in enumerate(questions, start=1):
                trials.append(tried(scope, question))
                progress(number, len(questions))
        asked = [(trial.question, trial.replies["text"]) for trial in trials]
        other = memos.scope(OTHER_USER)
        rows = distilled_some(terminal, other, [alone(other)]) if lora else []
        rows += distilled_some(terminal, scope, list(teachable(asked))[:distil])
    if terminal.as_json:
        terminal.document({**trials_json(report, trials), "adapters": distilled_json(rows)})
        return
    show_trials(terminal, report, trials)
    if rows:
        typer.echo("\none memory at a time, in every form:\n")
        show_distilled(terminal, rows)


def distilled_some(
    terminal: Terminal, scope: Scope, pairs: Sequence[tuple[BundledQuestion, MemCube]]
) -> list[Distilled]:
    """Distil memories of a scope, showing how far it is."""
    if not pairs:
        return []
    told = "a memory into an adapter" if len(pairs) == 1 else f"{len(pairs)} memories into adapters"
    with terminal.progress(f"distilling {told}") as progress:
        return distilled(scope, pairs, progress)


def tried(scope: Scope, question: BundledQuestion) -> Trial:
    """Ask one question in every mode."""
    replies = {mode: ask(scope, question.text, mode) for mode in ("off", "text")}
    ask(scope, question.text, "kv")  # builds the KV of these memories; the next request is served from it
    return Trial(question, {**replies, "kv": ask(scope, question.text, "kv")})  # type: ignore[dict-item]


def ask(scope: Scope, question: str, mode: Any) -> Reply:
    return scope.chat(question, inject=mode, max_tokens=MAX_ANSWER_TOKENS)


def summary(trials: Sequence[Trial]) -> dict[str, Any]:
    """Return accuracy and median time to first token of each mode, and whether text and KV agree."""
    modes = {
        mode: {
            "right": sum(trial.right(mode) for trial in trials),
            "accuracy": sum(trial.right(mode) for trial in trials) / len(trials),
            "median_ttft_seconds": median(trial.replies[mode].usage.ttft_seconds for trial in trials),
        }
        for mode in MODES
    }
    equal = sum(trial.replies["text"].text == trial.replies["kv"].text for trial in trials)
    recalled = sum(trial.evidence_recalled for trial in trials)
    return {"questions": len(trials), "modes": modes, "text_equals_kv": equal, "evidence_recalled": recalled}


def trials_json(report: IngestReport, trials: Sequence[Trial]) -> dict[str, JsonValue]:
    """Return the whole outcome as JSON."""
    rows: list[JsonValue] = [
        {
            "question": trial.question.text,
            "kind": trial.question.kind,
            "answer": trial.question.answer,
            "evidence_recalled": trial.evidence_recalled,
            "modes": {
                mode: {
                    "text": reply.text,
                    "right": trial.right(mode),
                    "prompt_tokens": reply.usage.prompt_tokens,
                    "memory_tokens": reply.usage.memory_tokens,
                    "ttft_seconds": reply.usage.ttft_seconds,
                }
                for mode, reply in trial.replies.items()
            },
        }
        for trial in trials
    ]
    return {"turns": report.turns, "ingest_seconds": report.seconds, **summary(trials), "trials": rows}


def show_trials(terminal: Terminal, report: IngestReport, trials: Sequence[Trial]) -> None:
    """Print one table, and below it what it comes to."""
    table = columns("question (answer)", "mode", "reply", "", ">prompt\ntokens", ">from\nmemory", ">first\ntoken")
    for trial in trials:
        for mode in MODES:
            reply = trial.replies[mode]
            right = Text("right", "green") if trial.right(mode) else Text("wrong", "red")
            first = f"{trial.question.text} ({trial.question.answer})" if mode == MODES[0] else ""
            tokens = (f"{reply.usage.prompt_tokens}", f"{reply.usage.memory_tokens}")
            time = f"{reply.usage.ttft_seconds * 1000:.1f} ms"
            answer = Text(short(reply.text, 60))
            table.add_row(Text(first), mode, answer, right, *tokens, time, end_section=mode == MODES[-1])
    typer.echo(
        f"{report.turns} turns ingested in {report.seconds:.1f} s; {len(trials)} questions, answers in brackets\n"
    )
    terminal.out.print(table)
    typer.echo(
        "\nkv is served from stored KV: the request before it, not shown, built the KV of the same memories."
        "\nTimes count from the start of the engine's work on a request, the model being loaded."
    )
    total = summary(trials)
    for mode in MODES:
        figures = total["modes"][mode]
        typer.echo(
            f"memory {mode:<5} {figures['right']:>3} of {len(trials)} right ({figures['accuracy']:.0%}), "
            f"median time to first token {figures['median_ttft_seconds'] * 1000:.1f} ms"
        )
    typer.echo(f"text and kv gave the same answer to {total['text_equals_kv']} of {len(trials)} questions")
    typer.echo(f"all evidence was among the memories of {total['evidence_recalled']} of {len(trials)} questions")


# Annotated conversations


def recall_evidence(terminal: Terminal, path: Path, limit: int | None) -> None:
    """Ingest a file and report how much of the annotated evidence its questions recall."""
    evidence = read_evidence(path)
    questions = (
        spread(evidence.questions, limit, key=lambda question: question.category) if limit else list(evidence.questions)
    )
    with terminal.memos(create=True) as memos:
        with terminal.progress(f"ingesting {path.name}") as progress:
            report = ingest(memos, path, progress=progress)
        with terminal.progress("searching") as progress:
            found = evidence.recall_all(memos, questions, progress)
    shown = spread(found, SHOWN_QUESTIONS, key=lambda item: item.question.category)
    if terminal.as_json:
        terminal.document(recall_json(report, evidence, found, shown))
    else:
        show_recall(terminal, report, evidence, found, shown)


def recall_json(
    report: IngestReport, evidence: Evidence, found: Sequence[Recalled], shown: Sequence[Recalled]
) -> dict[str, JsonValue]:
    """Return the whole outcome as JSON; ``recall@k`` over all questions stand at the top."""
    table = recall_table(found)
    sample: list[JsonValue] = [
        {
            "question": item.question.text,
            "user": item.question.user,
            "category": item.question.category,
            "answer": item.question.answer,
            "evidence": list(item.question.gold),
            "recalled": list(item.refs),
        }
        for item in shown
    ]
    return {
        "users": list(report.users),
        "turns": report.turns,
        "committed": report.committed,
        "duplicates": report.duplicates,
        "rejected": report.rejected,
        "ingest_seconds": report.seconds,
        "questions_in_file": len(evidence.questions),
        **table["all"],
        "categories": {name: dict(row) for name, row in table.items() if name != "all"},
        "sample": sample,
    }


def show_recall(
    terminal: Terminal,
    report: IngestReport,
    evidence: Evidence,
    found: Sequence[Recalled],
    shown: Sequence[Recalled],
) -> None:
    """Print a sample of questions with what was recalled, then the figures over all."""
    typer.echo(
        f"{report.turns} turns of {len(report.users)} conversations: {report.committed} new, "
        f"{report.duplicates} known, {report.rejected} rejected; {report.seconds:.1f} s\n"
    )
    sample = columns("category", "question", "recalled, best first; *evidence*", ">evidence")
    for item in shown:
        hit = len(set(item.question.gold).intersection(item.refs))
        cells = (Text(item.question.category), Text(short(item.question.text, 120)), marked(item))
        sample.add_row(*cells, f"{hit} of {len(item.question.gold)}", end_section=True)
    terminal.out.print(sample)
    figures = columns("category", ">questions", *(f">recall@{k}" for k in CUTOFFS))
    table = recall_table(found)
    for name, row in table.items():
        figures.add_row(Text(name), f"{row['questions']:.0f}", *(f"{row[f'recall@{k}']:.3f}" for k in CUTOFFS))
    typer.echo()
    terminal.out.print(figures)
    typer.echo(f"\nover {len(found)} of the {len(evidence.questions)} questions with evidence in this file:")
    for k in CUTOFFS:
        typer.echo(f"evidence recall@{k} {table['all'][f'recall@{k}']:.3f}")


def marked(item: Recalled) -> Text:
    """Return the references that were recalled, with those of the evidence between stars."""
    text = Text()
    for ref in item.refs:
        gold = ref in item.question.gold
        text.append(f"*{ref}* " if gold else f"{ref} ", "bold green" if gold else "dim")
    return text if item.refs else Text("nothing")
