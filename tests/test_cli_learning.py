"""The commands for feedback and what is learned from it."""

from __future__ import annotations

from test_cli import Invoke, added, document, error, invoke  # noqa: F401  (a fixture)


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
