"""Figures in the pages come from committed results, and every benchmark says how it is used."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PARTS = {"kv_tables.py", "table_parts.py", "tables.py", "surroundings.py", "peers.py", "fidelity.py"}
SCRIPTS = sorted(path for path in (ROOT / "benchmarks").glob("*.py") if path.name not in PARTS)
RESULTS = sorted((ROOT / "benchmarks" / "results").glob("*.json"))


def test_the_tables_of_the_pages_are_made_from_the_results() -> None:
    spec = importlib.util.spec_from_file_location("tables", ROOT / "benchmarks" / "tables.py")
    assert spec is not None
    assert spec.loader is not None
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    texts = [page.read_text(encoding="utf-8") for page in tables.PAGES]
    for text in texts:
        assert tables.filled(text) == text, "run python benchmarks/tables.py"
    assert {place["name"] for text in texts for place in tables.PLACE.finditer(text)} == set(tables.TABLES)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_benchmark_explains_itself(script: Path) -> None:
    told = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True, check=True).stdout
    assert "--out" in told


@pytest.mark.parametrize("result", RESULTS, ids=lambda path: path.name)
def test_a_result_tells_what_it_was_measured_on(result: Path) -> None:
    told = json.loads(result.read_text(encoding="utf-8"))
    assert {"hardware", "versions", "workload"} <= told.keys()
    assert "date" in told or "when" in told
