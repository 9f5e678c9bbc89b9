"""The commands for the life of memories, with a deterministic embedder."""

from __future__ import annotations

from test_cli import Invoke, added, document, error, invoke  # noqa: F401  (a fixture)


def listed(invoke: Invoke, *args: str) -> set[str]:  # noqa: F811
    return {memory["text"] for memory in document(invoke("list", "--json", *args))["memories"]}


def test_memories_are_merged_and_the_merge_is_reverted(invoke: Invoke) -> None:  # noqa: F811
    ids = [added(invoke, "Biscuit is a cat."), added(invoke, "Biscuit is ginger.")]
    merged = document(invoke("merge", *ids, "--text", "Biscuit is a ginger cat.", "--json"))["cube_id"]
    assert listed(invoke) == {"Biscuit is a ginger cat."}
    assert listed(invoke, "--state", "merged") == {"Biscuit is a cat.", "Biscuit is ginger."}
    assert error(invoke("merge", ids[0], "--text", "alone", "--json"))["type"] == "InvalidInput"
    assert invoke("revert", merged).stdout == f"active again: {', '.join(ids)}\n"
    assert error(invoke("revert", merged, "--json"))["type"] == "IllegalTransition"
    assert invoke("merge", *ids, "--text", "Biscuit.").stdout.startswith("committed 01")


def test_a_difference_is_marked(invoke: Invoke, tmp_path: object) -> None:  # noqa: F811
    cube_id = added(invoke, "Let's meet on Friday.")
    assert invoke("diff", cube_id).stdout == "Let's meet on Friday.\n"
    told = document(invoke("diff", cube_id, "--json"))
    assert (told["changed"], told["after"]["version"]) == (False, 1)
    assert error(invoke("diff", cube_id, "--to", "3", "--json"))["type"] == "InvalidInput"


def test_the_time_machine(invoke: Invoke) -> None:  # noqa: F811
    added(invoke, "one")
    table = invoke("snapshot", "monday").stdout
    assert "monday" in table
    added(invoke, "two")
    done = document(invoke("restore", "monday", "--json"))
    assert len(done["archived"]) == 1
    assert listed(invoke) == {"one"}
    assert "1 back in use" in invoke("restore", done["undo"]).stdout
    assert listed(invoke) == {"one", "two"}
    snapshots = document(invoke("snapshot", "--json"))["snapshots"]
    assert (snapshots[0]["name"], snapshots[0]["memories"]) == ("monday", 1)
    invoke("snapshot", "monday", "--drop")
    assert error(invoke("restore", "monday", "--json"))["type"] == "InvalidInput"
    assert invoke("snapshot", "--drop").exit_code == 2


def test_memories_are_tidied(invoke: Invoke) -> None:  # noqa: F811
    for number in range(4):
        added(invoke, f"note {number}")
    added(invoke, "kept", "--tag", "important")
    assert invoke("tidy").stdout == "nothing to do\n"
    assert "would" in invoke("tidy", "--max", "3", "--dry-run").stdout
    assert len(document(invoke("tidy", "--max", "3", "--json"))["tidied"]) == 3
    assert "kept" in listed(invoke)
    assert len(listed(invoke, "--state", "archived")) == 3
    assert invoke("tidy", "--max", "0").exit_code == 2
