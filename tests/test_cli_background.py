"""The commands for other forms of memories and for background work, with the bundled reader."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from test_cli import Invoke, added, document, error, invoke  # noqa: F401  (a fixture)

ROOT = Path(__file__).parent.parent


def test_a_memory_is_given_another_form_at_once_or_later(invoke: Invoke) -> None:  # noqa: F811
    first, second = added(invoke, "Biscuit is my cat."), added(invoke, "Rex is my dog.")
    (together,) = document(invoke("transform", first, second, "--json"))["derived"]
    assert together["type"] == "activation"
    queued = document(invoke("transform", first, second, "--each", "--later", "--json"))["jobs"]
    assert [job["state"] for job in queued] == ["waiting", "waiting"]
    assert document(invoke("worker", "--once", "--json")) == {"done": 2, "waiting": []}
    shown = document(invoke("jobs", "show", queued[0]["id"], "--json"))["jobs"][0]
    assert (shown["state"], shown["cube_ids"], shown["parameters"]) == ("done", [first], {"to": "activation"})
    assert len(document(invoke("list", "--type", "activation", "--json"))["memories"]) == 3
    table = invoke("jobs").stdout
    assert "transform" in table
    assert "1/5" in table
    assert document(invoke("jobs", "--state", "dead", "--json")) == {"jobs": []}
    assert invoke("jobs", "list", "--state", "dead").stdout == "no jobs\n"


def test_a_job_is_cancelled_and_tried_again(invoke: Invoke) -> None:  # noqa: F811
    cube_id = added(invoke, "Biscuit is my cat.")
    (job,) = document(invoke("transform", cube_id, "--later", "--json"))["jobs"]
    assert document(invoke("jobs", "cancel", job["id"], "--json"))["jobs"][0]["state"] == "cancelled"
    assert document(invoke("worker", "--once", "--json"))["done"] == 0
    assert document(invoke("jobs", "retry", job["id"], "--json"))["jobs"][0]["state"] == "waiting"
    assert invoke("worker", "--once").stdout == "1 job done\n"
    assert error(invoke("jobs", "retry", job["id"], "--json"))["type"] == "InvalidInput"
    assert error(invoke("jobs", "show", job["id"], "--user", "bob", "--json"))["type"] == "JobNotFound"


def test_wrong_use_is_told(invoke: Invoke) -> None:  # noqa: F811
    added(invoke, "Biscuit is my cat.")
    assert invoke("jobs", "cancel").exit_code == 2
    assert invoke("jobs", "list", "01ARZ3NDEKTSV4RRFFQ69G5FAV").exit_code == 2
    assert error(invoke("transform", "01ARZ3NDEKTSV4RRFFQ69G5FAV", "--later", "--json"))["type"] == "CubeNotFound"


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
def test_a_worker_that_is_told_to_terminate_leaves_in_order(invoke: Invoke, tmp_path: Path) -> None:  # noqa: F811
    added(invoke, "Biscuit is my cat.")
    command = [sys.executable, "-m", "memos_core.interface.cli", "worker", "--json", "--poll", "0.05"]
    environment = {**os.environ, "MEMOS_VAULT": str(tmp_path / "vault"), "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stderr is not None
    assert process.stderr.readline() == "Working; Ctrl-C leaves.\n"
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert json.loads(out) == {"done": 0, "waiting": []}


def test_lineage_is_shown_as_a_tree(invoke: Invoke) -> None:  # noqa: F811
    cube_id = added(invoke, "Biscuit is my [bold] cat.")
    (derived,) = document(invoke("transform", cube_id, "--json"))["derived"]
    tree = document(invoke("lineage", cube_id, "--json"))
    assert [each["id"] for each in tree["derived"]] == [derived["id"]]
    assert tree["derived"][0]["parameters"]["bytes"] > 0
    shown = invoke("lineage", cube_id).stdout
    assert "made into" in shown
    assert "plaintext->activation" in shown
    assert "[bold]" in shown
    up = invoke("lineage", derived["id"]).stdout
    assert "made from" in up
    assert cube_id in up
    assert error(invoke("lineage", cube_id, "--user", "bob", "--json"))["type"] == "CubeNotFound"


def test_a_form_is_dropped_listed_and_made_again(invoke: Invoke) -> None:  # noqa: F811
    cube_id = added(invoke, "Biscuit is my cat.")
    (kv,) = document(invoke("transform", cube_id, "--json"))["derived"]
    assert invoke("demote", "--list").stdout == "nothing was dropped\n"
    (gone,) = document(invoke("demote", kv["id"], "--json"))["demotions"]
    assert (gone["id"], gone["lineage"]["pathway"]) == (kv["id"], "plaintext->activation")
    assert "plaintext->activation" in invoke("demote", "--list").stdout
    (again,) = document(invoke("remake", kv["id"], "--json"))["derived"]
    assert again["type"] == "activation"
    assert document(invoke("remake", kv["id"], "--later", "--json"))["jobs"][0]["state"] == "waiting"
    text = document(invoke("transform", again["id"], "--to", "plaintext", "--json"))["derived"]
    assert [each["id"] for each in text] == [cube_id]
    assert invoke("demote").exit_code == 2
    assert error(invoke("demote", cube_id, "--json"))["type"] == "InvalidInput"


def test_a_policy_says_what_it_would_do_and_does_it(invoke: Invoke, tmp_path: Path) -> None:  # noqa: F811
    cube_id = added(invoke, "Biscuit is my cat and sleeps on the kitchen shelf.")
    for _ in range(3):
        invoke("search", "Biscuit")
    assert invoke("policy", "--dry-run").stdout == "nothing changes\n"
    now = ("--set", "hot=2.5", "--set", "settle_seconds=0")
    planned = document(invoke("policy", "--dry-run", *now, "--json"))
    assert planned["policy"]["hot"] == 2.5
    assert [(each["action"], each["cube_ids"]) for each in planned["decisions"]] == [("activate", [cube_id])]
    assert "would" in invoke("policy", "--dry-run", "--all", *now).stdout
    assert document(invoke("jobs", "--json"))["jobs"] == []
    file = tmp_path / "policy.json"
    file.write_text('{"hot": 2.5, "settle_seconds": 0}')
    (done,) = document(invoke("policy", "--file", str(file), "--json"))["decisions"]
    assert document(invoke("jobs", "show", done["job_id"], "--json"))["jobs"][0]["state"] == "waiting"
    file.write_text('{"hot": -1}')
    assert error(invoke("policy", "--file", str(file), "--json"))["type"] == "InvalidFile"
    for wrong in ("hot", "hot=0.1", "warm=1", "hot=much"):
        assert invoke("policy", "--dry-run", "--set", wrong).exit_code == 2
