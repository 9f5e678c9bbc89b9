"""Every recipe of the cookbook runs from its first cell to its last, in a fresh interpreter and an empty folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "cookbook").glob("*.ipynb"))


def code_of(notebook: Path) -> str:
    """Return the code cells of ``notebook``, one after the other."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_recipe_runs(notebook: Path, tmp_path: Path) -> None:
    script = tmp_path / "recipe.py"
    script.write_text(code_of(notebook), encoding="utf-8")
    settings = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, script],
        cwd=tmp_path,
        env=settings,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_index_lists_the_recipe(notebook: Path) -> None:
    assert notebook.name in (ROOT / "cookbook" / "README.md").read_text(encoding="utf-8")
