"""The command line as a process of its own: killed, stopped by the disk, piped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from memos_core.memos import MemOS
from memos_core.testing import HashEmbedder

ROOT = Path(__file__).resolve().parents[1]
NOTES = 120

PROGRAM = """
import sys
limit = int(sys.argv.pop(1))
if limit:
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
from memos_core.interface.cli import build_app
from memos_core.memos import MemOS
from memos_core.testing import HashEmbedder
build_app(lambda path, *, engine=None: MemOS.open(path, engine=engine, embedder=HashEmbedder()))()
"""
"""The command with a deterministic embedder, under a limit on the size of a file (0: none)."""

unix = pytest.mark.skipif(sys.platform == "win32", reason="signals and limits of Unix")


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    path = tmp_path / "notes.txt"
    path.write_text("\n\n".join(f"Note {number}: " + f"word{number} " * 40 for number in range(NOTES)))
    return path


def command(folder: Path, *args: str, limit: int = 0) -> list[str]:
    return [sys.executable, "-c", PROGRAM, str(limit), "--vault", str(folder / "vault"), "--json", *args]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def run(folder: Path, *args: str, limit: int = 0) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(folder, *args, limit=limit),
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        env=environment(),
        timeout=120,
    )


def document(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def stored(folder: Path) -> int:
    with MemOS.open(folder / "vault", embedder=HashEmbedder()) as memos:
        return memos.scope("me").count()


@unix
def test_an_ingest_that_is_killed_leaves_a_sound_vault_and_the_rest_comes_in(tmp_path: Path, notes: Path) -> None:
    process = subprocess.Popen(
        command(tmp_path, "ingest", str(notes), "--batch-size", "1"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment(),
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "vault").is_dir() or stored(tmp_path) < 5:
        assert process.poll() is None, "the ingest ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    assert process.wait(timeout=30) == -signal.SIGKILL
    before = stored(tmp_path)
    assert 5 <= before < NOTES
    assert document(run(tmp_path, "verify"))["cubes"] == before
    again = document(run(tmp_path, "ingest", str(notes)))
    assert (again["duplicates"], again["committed"]) == (before, NOTES - before)
    assert document(run(tmp_path, "verify"))["cubes"] == NOTES


@unix
def test_a_disk_that_refuses_is_a_typed_error_and_loses_nothing(tmp_path: Path, notes: Path) -> None:
    document(run(tmp_path, "add", "was here before"))
    size = max(path.stat().st_size for path in (tmp_path / "vault").rglob("*") if path.is_file())
    refused = run(tmp_path, "ingest", str(notes), "--batch-size", "8", limit=size + 100_000)
    assert refused.returncode == 1
    assert refused.stdout == ""
    assert json.loads(refused.stderr.splitlines()[-1])["error"]["type"] == "VaultWriteFailed"
    assert "Traceback" not in refused.stderr
    before = stored(tmp_path)
    assert document(run(tmp_path, "verify"))["cubes"] == before
    again = document(run(tmp_path, "ingest", str(notes)))
    assert again["committed"] == NOTES + 1 - before
    assert document(run(tmp_path, "verify"))["cubes"] == NOTES + 1


def test_output_is_utf_8_whatever_the_terminal_is(tmp_path: Path) -> None:
    env = {**environment(), "PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0"}
    code = "from memos_core.interface.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, check=True, env=env)
    assert "memory" in done.stdout.decode("utf-8").lower()


def test_the_module_runs_as_a_program(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "memos_core.interface.cli", "list", "--vault", str(tmp_path / "absent")],
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("error: there is no vault in")
