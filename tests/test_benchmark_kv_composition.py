"""The benchmark of composed KV runs, and its results hold what is needed to judge them."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "kv_composition.py"


def test_it_measures_every_mode_and_says_on_what(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("kv_composition", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    out = tmp_path / "out" / "result.json"
    small = ["--memories", "3", "--sentences", "1", "--blocks", "1", "--repeats", "1", "--ratios", "1"]
    benchmark.main([*small, "--layers", "2", "--out", str(out)])
    result = json.loads(out.read_text(encoding="utf-8"))
    assert set(result["modes"]) == {"full", "exact", "shift", "blend 1"}
    assert {"hardware", "versions", "workload", "model", "dtype"} <= set(result)
    assert result["workload"]["seed"] == 2026
    for mode in ("exact", "blend 1"):
        assert result["modes"][mode]["kl_max"] <= 1e-5
        assert result["modes"][mode]["greedy_agreement"] == 1.0
    assert result["modes"]["shift"]["kl_mean"] > result["modes"]["exact"]["kl_mean"]
    assert result["modes"]["shift"]["stored_tokens_mean"] > result["modes"]["exact"]["stored_tokens_mean"]
