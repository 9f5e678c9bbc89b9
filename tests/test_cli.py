"""The command line, with a deterministic embedder: what it prints, for people and for machines, and its exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import memos_core
from memos_core.engine import Engine
from memos_core.interface.cli import COMMANDS, build_app
from memos_core.memos import MemOS
from memos_core.testing import HashEmbedder

Invoke = Callable[..., Result]

NOTES = "# Cats\n\nBiscuit is a cat.\n\n# Dogs\n\nRex is a dog.\n"


def open_light(path: Path, *, engine: Engine | None = None) -> MemOS:
    return MemOS.open(path, engine=engine, embedder=HashEmbedder(), max_text_chars=500)


@pytest.fixture
def invoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """Runs a command on a vault of the test's own, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEMOS_VAULT", str(tmp_path / "vault"))
    monkeypatch.setenv("COLUMNS", "200")
    app, runner = build_app(open_light), CliRunner()

    def call(*args: str, **options: Any) -> Result:
        return runner.invoke(app, list(args), **options)

    return call


def document(result: Result) -> Any:
    """Return the one JSON document of a command that succeeded."""
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def error(result: Result) -> Any:
    """Return the JSON error of a command that failed, and nothing else did it print."""
    assert result.exit_code == 1
    assert result.stdout == ""
    return json.loads(result.stderr)["error"]


def added(invoke: Invoke, text: str, *args: str) -> str:
    cube_id: str = document(invoke("add", text, "--json", *args))["cube_id"]
    return cube_id


def test_what_was_added_is_found(invoke: Invoke) -> None:
    result = invoke("add", "Biscuit is my cat.", "--speaker", "Ada", "--at", "2026-03-02T09:30", "--tag", "pets")
    assert result.exit_code == 0
    assert result.stdout.startswith("committed 01")
    (hit,) = document(invoke("search", "Who is Biscuit?", "--json"))["hits"]
    assert (hit["text"], hit["speaker"], hit["at"]) == ("Biscuit is my cat.", "Ada", "2026-03-02T09:30:00+00:00")
    assert hit["tags"] == ["pets"]
    assert 0 < hit["score"] <= 1
    shown = invoke("search", "Biscuit")
    assert "Biscuit is my cat." in shown.stdout
    assert "Ada" in shown.stdout


def test_shared_options_stand_before_or_after_the_command(invoke: Invoke, tmp_path: Path) -> None:
    other = str(tmp_path / "other")
    added(invoke, "hello", "--vault", other, "--user", "bob")
    for args in (
        ("--vault", other, "--user", "bob", "--json", "list"),
        ("list", "--vault", other, "--user", "bob", "--json"),
    ):
        assert [memory["text"] for memory in document(invoke(*args))["memories"]] == ["hello"]
    assert document(invoke("list", "--vault", other, "--json"))["memories"] == []


def test_without_an_option_or_variable_the_vault_is_the_folder_memory(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MEMOS_VAULT")
    added(invoke, "hello")
    assert Path("memory").is_dir()


def test_users_agents_and_sessions_do_not_see_each_other(invoke: Invoke) -> None:
    added(invoke, "for ada", "--user", "ada")
    added(invoke, "for the scout", "--user", "ada", "--agent", "scout", "--session", "s1")
    assert document(invoke("list", "--json", "--user", "bob"))["count"] == 0
    assert document(invoke("list", "--json", "--user", "ada", "--agent", "other"))["count"] == 1
    assert document(invoke("list", "--json", "--user", "ada", "--agent", "scout"))["count"] == 2
    foreign = added(invoke, "for ada too", "--user", "ada")
    assert error(invoke("show", foreign, "--json", "--user", "bob"))["type"] == "CubeNotFound"


def test_add_reads_standard_input(invoke: Invoke) -> None:
    cube_id = document(invoke("add", "-", "--json", input="from a pipe\n"))["cube_id"]
    assert document(invoke("show", cube_id, "--json"))["payload"]["text"] == "from a pipe"
    assert error(invoke("add", "-", "--json", input=b"\xff\xfe\x00"))["type"] == "InvalidMemory"


def test_a_duplicate_is_reported_as_one(invoke: Invoke) -> None:
    first = added(invoke, "the same")
    assert document(invoke("add", "the same", "--json")) == {
        "cube_id": first,
        "version": 1,
        "outcome": "duplicate",
        "reason": "the same text is held already",
        "near": [],
    }


def test_a_listing_goes_on_at_its_cursor(invoke: Invoke) -> None:
    for number in range(5):
        added(invoke, f"note {number}")
    first = document(invoke("list", "--limit", "3", "--json"))
    assert (len(first["memories"]), first["count"]) == (3, 5)
    rest = document(invoke("list", "--cursor", first["cursor"], "--json"))
    assert [memory["text"] for memory in rest["memories"]] == ["note 3", "note 4"]
    assert rest["cursor"] is None
    assert f"go on with --cursor {first['cursor']}" in invoke("list", "--limit", "3").stdout


def test_search_takes_conditions(invoke: Invoke) -> None:
    added(invoke, "cats are fine", "--speaker", "Ada", "--at", "2026-01-01")
    added(invoke, "cats are loud", "--speaker", "Ben", "--at", "2026-02-01")
    added(invoke, "cats are soft", "--speaker", "Cid", "--at", "2026-03-01")

    def speakers(*args: str) -> set[str]:
        return {hit["speaker"] for hit in document(invoke("search", "cats", "--json", *args))["hits"]}

    assert speakers() == {"Ada", "Ben", "Cid"}
    assert speakers("--filter", "speaker=Ada", "--filter", "speaker=Cid") == {"Ada", "Cid"}
    assert speakers("--before", "2026-02-01") == {"Ada"}
    assert len(document(invoke("search", "cats", "-k", "2", "--json"))["hits"]) == 2
    assert error(invoke("search", "cats", "--filter", "colour=red", "--json"))["type"] == "UnknownField"


def test_history_shows_all_versions(invoke: Invoke, tmp_path: Path) -> None:
    cube_id = added(invoke, "first")
    with open_light(tmp_path / "vault") as memos:
        memos.scope("me").update(cube_id, "second")
    versions = document(invoke("history", cube_id, "--json"))["versions"]
    assert [(version["version"], version["text"]) for version in versions] == [(1, "first"), (2, "second")]
    assert "second" in invoke("history", cube_id).stdout
    assert "second" in invoke("show", cube_id).stdout


def test_forget_asks_first(invoke: Invoke) -> None:
    cube_id = added(invoke, "a secret")
    asked = invoke("forget", cube_id, input="n\n")
    assert asked.exit_code == 1
    assert "a secret" in asked.stdout
    assert document(invoke("list", "--json"))["count"] == 1
    assert invoke("forget", cube_id, "--json").exit_code == 2
    assert document(invoke("forget", cube_id, "--json", "--yes"))["cube_ids"] == [cube_id]
    assert document(invoke("list", "--json"))["count"] == 0
    assert error(invoke("show", cube_id, "--json"))["type"] == "CubeNotFound"


def test_forget_takes_several_and_says_what_went(invoke: Invoke) -> None:
    ids = [added(invoke, f"note {number}") for number in range(3)]
    result = invoke("forget", *ids[:2], input="y\n")
    assert result.exit_code == 0
    assert "erased 2 memories" in result.stdout


def test_a_file_is_ingested_once(invoke: Invoke) -> None:
    Path("notes.md").write_text(NOTES)
    first = document(invoke("ingest", "notes.md", "--json"))
    assert (first["users"], first["turns"], first["committed"], first["duplicates"]) == (["me"], 2, 2, 0)
    assert document(invoke("ingest", "notes.md", "--json"))["duplicates"] == 2
    assert "2 turns for me: 0 new, 2 known" in invoke("ingest", "notes.md").stdout
    assert document(invoke("ingest", "notes.md", "--format", "text", "--json"))["turns"] == 4


def test_a_bad_file_is_a_typed_error_with_its_line(invoke: Invoke) -> None:
    Path("chat.jsonl").write_text('{"role": "user", "content": "x"}\n{"role": ')
    failed = error(invoke("ingest", "chat.jsonl", "--json"))
    assert failed["type"] == "InvalidFile"
    assert failed["message"].startswith("chat.jsonl:2: malformed JSON")
    assert error(invoke("ingest", "absent.txt", "--json"))["type"] == "InvalidFile"


def test_export_writes_every_memory(invoke: Invoke) -> None:
    added(invoke, "one")
    added(invoke, "two")
    assert document(invoke("export", "out.jsonl", "--json")) == {"path": "out.jsonl", "memories": 2}
    assert [json.loads(line)["payload"]["text"] for line in Path("out.jsonl").read_text().splitlines()] == [
        "one",
        "two",
    ]
    assert error(invoke("export", "absent/out.jsonl", "--json"))["type"] == "VaultWriteFailed"


def test_stats_and_verify_count_what_is_there(invoke: Invoke) -> None:
    added(invoke, "one")
    assert document(invoke("stats", "--json"))["cubes"] == 1
    report = document(invoke("verify", "--json"))
    assert (report["ok"], report["cubes"], report["vectors"]) == (True, 1, 1)
    assert "the vault is sound" in invoke("verify").stdout
    assert "cubes" in invoke("stats").stdout


def test_reembed_makes_all_vectors_anew(invoke: Invoke) -> None:
    added(invoke, "one")
    assert document(invoke("reembed", "--json")) == {"collection": "default", "memories": 1}
    assert invoke("reembed").exit_code == 0


@pytest.mark.parametrize(
    ("args", "kind"),
    [
        (("add", ""), "InvalidMemory"),
        (("add", "x" * 501), "InvalidMemory"),
        (("add", "x", "--user", "a/b"), "InvalidName"),
        (("search", " "), "InvalidInput"),
        (("show", "nonsense"), "CubeNotFound"),
        (("history", "01ARZ3NDEKTSV4RRFFQ69G5FAV"), "CubeNotFound"),
        (("chat", "hello", "--model", "absent/folder/of/a/model"), "ModelNotFound"),
    ],
)
def test_wrong_input_is_a_typed_error_and_changes_nothing(invoke: Invoke, args: tuple[str, ...], kind: str) -> None:
    added(invoke, "kept")
    assert error(invoke(*args, "--json"))["type"] == kind
    plain = invoke(*args)
    assert plain.exit_code == 1
    assert plain.stderr.startswith("error: ")
    assert "Traceback" not in plain.output
    assert document(invoke("verify", "--json"))["cubes"] == 1


@pytest.mark.parametrize(
    "args",
    [("nonsense",), ("add",), ("list", "--limit", "0"), ("add", "x", "--at", "soon"), ("search", "x", "--filter", "y")],
)
def test_wrong_usage_has_exit_code_2(invoke: Invoke, args: tuple[str, ...]) -> None:
    added(invoke, "kept")
    assert invoke(*args).exit_code == 2


@pytest.mark.parametrize(
    "command", ["search x", "list", "show x", "history x", "forget x -y", "export f", "stats", "verify"]
)
def test_a_vault_that_is_not_there_is_an_error_and_is_not_made(invoke: Invoke, tmp_path: Path, command: str) -> None:
    failed = error(invoke(*command.split(), "--json"))
    assert failed["type"] == "VaultError"
    assert not (tmp_path / "vault").exists()


def test_a_damaged_vault_is_named_with_its_problems(invoke: Invoke, tmp_path: Path) -> None:
    added(invoke, "one")
    for path in (tmp_path / "vault").iterdir():
        if path.suffix in {".db", ".sqlite", ".sqlite3"}:
            path.write_bytes(b"not a database, however long it is" * 200)
    result = invoke("verify", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stderr)["error"]["type"] in {"VaultDamaged", "VaultError"}


def test_text_that_looks_like_markup_is_printed_as_it_is(invoke: Invoke) -> None:
    added(invoke, "[bold]not markup[/bold] [/] [red")
    assert "[bold]not markup[/bold] [/] [red" in invoke("list").stdout


def test_the_version_and_help_need_no_vault(invoke: Invoke) -> None:
    assert invoke("--version").stdout.strip() == f"memos-mag {memos_core.__version__}"
    for command in COMMANDS:
        result = invoke(command, "--help")
        assert result.exit_code == 0
        assert "--vault" in result.stdout
