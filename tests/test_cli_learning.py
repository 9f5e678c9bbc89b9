"""The commands for feedback and what is learned from it."""

from __future__ import annotations

from pathlib import Path

from test_cli import Invoke, added, document, error, invoke  # noqa: F401  (a fixture)

from memos_core import LearningSettings, MemOS
from memos_core.interface.cli_terminal import DEFAULT_USER
from memos_core.testing import FakeClock, HashEmbedder


def test_memories_are_judged(invoke: Invoke) -> None:  # noqa: F811
    cube_id = added(invoke, "Biscuit is a cat.")
    assert invoke("feedback", cube_id, "--good").stdout == f"noted as good: {cube_id}\n"
    assert document(invoke("feedback", cube_id, "--bad", "--json")) == {
        "cube_ids": [cube_id],
        "good": False,
        "recalled": False,
    }
    assert error(invoke("feedback", "nonsense", "--good", "--json"))["type"] == "CubeNotFound"
    assert invoke("feedback", cube_id).exit_code == 2


def test_nothing_learned_is_shown_as_such(invoke: Invoke) -> None:  # noqa: F811
    added(invoke, "Biscuit is a cat.")
    assert invoke("learning").stdout.startswith("nothing was learned")
    assert document(invoke("learning", "--reset", "--json")) == {"steps": []}
    assert error(invoke("learning", "--rollback", "3", "--json"))["type"] == "InvalidInput"
    assert invoke("learning", "--reset", "--rollback", "1").exit_code == 2


def test_proposals_are_shown_and_adopted(invoke: Invoke, tmp_path: Path) -> None:  # noqa: F811
    noted, clock = LearningSettings(enabled=True), FakeClock()
    with MemOS.open(tmp_path / "vault", embedder=HashEmbedder(), clock=clock, learning=noted) as memos:
        scope = memos.scope(DEFAULT_USER)
        scope.add_many(["The cat is called Biscuit.", "The cat is fed tuna on Fridays."])
        for number in range(3):
            scope.feedback(scope.context(f"What is the cat, {number}?", max_tokens=400), answer="Biscuit, tuna.")
            clock.advance(3600)
    (found,) = document(invoke("proposals", "--json"))["proposals"]
    assert (found["action"], found["questions"], found["made"]) == ("merge", 3, [])
    assert "3 of 3 questions" in invoke("proposals").stdout
    (done,) = document(invoke("proposals", "--adopt", found["id"], "--json"))["proposals"]
    (made,) = done["made"]
    assert [each["id"] for each in document(invoke("list", "--json"))["memories"]] == [made]
    assert invoke("proposals").stdout == "use speaks for no change\n"
    assert error(invoke("proposals", "--adopt", found["id"], "--json"))["type"] == "InvalidInput"
    assert sorted(document(invoke("revert", made, "--json"))["active_again"]) == sorted(found["cube_ids"])
