"""The part of the demo with adapters: which memories it distils, and what it shows of one that stays text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from memos_core import HFEngine, MemOS, Scope
from memos_core.interface.cli_terminal import Terminal
from memos_core.interface.demo_adapters import alone, distilled, distilled_json, show_distilled, teachable
from memos_core.interface.demo_questions import BundledQuestion, bundled_questions
from memos_core.testing import HashEmbedder
from memos_core.testing.models import tiny_model

RENT = BundledQuestion("How much is Hana's rent?", "900 euros", ("S1:10",), "direct")


@pytest.fixture
def scope(tmp_path: Path) -> Iterator[Scope]:
    engine = HFEngine.from_model(*tiny_model("llama"), name="tiny")
    with MemOS.open(tmp_path / "memory", engine=engine, embedder=HashEmbedder()) as memos:
        ada = memos.scope("ada")
        ada.add("My rent is 900 euros. It hurts a little.", speaker="Hana", ref="S1:10")
        ada.add("Rents are what they are.", speaker="Ravi", ref="S1:11")
        yield ada
    engine.close()


def test_what_one_recalled_statement_answers_can_be_taught(scope: Scope) -> None:
    reply = scope.chat(RENT.text, inject="text", max_tokens=2)
    ((question, memory),) = teachable([(RENT, reply)])
    assert (question, memory.ref) == (RENT, "S1:10")
    two_hops = BundledQuestion(RENT.text, "900 euros", ("S1:10", "S1:11"), "two-hop")
    elsewhere = BundledQuestion(RENT.text, "900 euros", ("S1:11",), "direct")
    other = BundledQuestion(RENT.text, "800 euros", ("S1:10",), "direct")
    assert list(teachable([(two_hops, reply), (elsewhere, reply), (other, reply)])) == []


def test_a_memory_that_cannot_be_distilled_is_shown_as_text_with_the_reason(
    scope: Scope, capsys: pytest.CaptureFixture[str]
) -> None:
    reply = scope.chat(RENT.text, inject="text", max_tokens=2)
    told: list[tuple[int, int]] = []
    (row,) = distilled(scope, list(teachable([(RENT, reply)])), lambda done, total: told.append((done, total)))
    assert "answers 0 of 1 statements right while it reads them" in row.refused
    assert told
    show_distilled(Terminal(open_memos=MemOS.open, out=Console(width=160, highlight=False)), [row])
    shown = capsys.readouterr().out
    assert "lora (text)" in shown
    assert "0 of 1 memories are adapters now" in shown
    assert "stays text: plaintext->parametric" in shown
    (record,) = distilled_json([row])
    assert isinstance(record, dict)
    assert record["refused"] == row.refused
    assert row.replies["lora"].usage.carried_tokens == 0
    assert row.replies["lora"].usage.prompt_tokens == row.replies["text"].usage.prompt_tokens


def test_the_memory_that_the_demo_distils_is_stored_once_and_answers_its_question(scope: Scope) -> None:
    question, memory = alone(scope)
    assert alone(scope) == (question, memory)
    assert question.answer in memory.text
    reply = scope.chat(question.text, inject="text", memory_ids=[memory.id], max_tokens=2)
    pair = BundledQuestion(question.text, question.answer, (memory.id,), "direct")
    assert memory.ref is None
    assert not list(teachable([(pair, reply)]))  # it has no ref, so it is no memory of the conversation


def test_the_bundled_questions_are_spread() -> None:
    assert len(bundled_questions()) == 24
    assert len(bundled_questions(3)) == 3
