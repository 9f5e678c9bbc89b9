"""The examples in the docstrings of the adapters' models run, in order, with the bundled reader."""

from __future__ import annotations

import re
from pathlib import Path
from textwrap import dedent

import pytest

import memos_langchain
import memos_llamaindex
from memos_core import MemOS

DOCUMENTED = (memos_langchain.ChatMemos, memos_llamaindex.MemosLLM)
FENCE = re.compile(r"^ *```python\n(?P<code>.*?)^ *```$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("documented", DOCUMENTED, ids=lambda documented: documented.__name__)
def test_the_examples_of_a_docstring_run(documented: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    examples = [dedent(match["code"]) for match in FENCE.finditer(documented.__doc__ or "")]
    assert examples
    namespace: dict[str, object] = {"__name__": "__main__"}
    for number, code in enumerate(examples):
        exec(compile(code, f"{documented.__name__} example {number}", "exec"), namespace)
    opened = [value for value in namespace.values() if isinstance(value, MemOS)]
    for memos in opened:
        memos.close()
