"""The documentation runs: every Python block of README.md and docs/ is executed, file by file, in order."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FENCE = re.compile(r"^```python(?P<mark>[^\n]*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path) -> list[tuple[int, str, str]]:
    """Return ``(line, mark, code)`` of each Python block."""
    text = page.read_text(encoding="utf-8")
    return [(text.count("\n", 0, m.start()) + 2, m["mark"].strip(), m["code"]) for m in FENCE.finditer(text)]


RUNNABLE = [page for page in PAGES if page.exists() and any(mark != "no-run" for _, mark, _ in blocks(page))]


# Pages on moving here run what other packages have deprecated.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::PendingDeprecationWarning")
@pytest.mark.parametrize("page", RUNNABLE, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_python_block_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "__main__"}
    for line, mark, code in blocks(page):
        if mark != "no-run":
            # The blank lines give a traceback the line numbers of the page.
            exec(compile("\n" * (line - 1) + code, str(page), "exec"), namespace)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_block_that_does_not_run_says_why_on_the_line_before(page: Path) -> None:
    lines = page.read_text(encoding="utf-8").split("\n")
    for line, mark, _ in blocks(page):
        assert mark in ("", "no-run"), f"{page.name}:{line - 1}: unknown mark {mark!r}"
        if mark == "no-run":
            assert lines[line - 3].strip(), f"{page.name}:{line - 1}: say on the line before why this does not run"


def test_the_readme_names_the_commands_that_exist() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z]+)\b", text)) <= targets
