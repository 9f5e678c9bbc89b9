"""Vaults that are erased when nothing uses them any more."""

import gc
import subprocess
import sys
from pathlib import Path

import pytest

from memos_core import MemOS
from memos_core.errors import VaultClosed


def test_a_temporary_vault_is_erased_when_it_is_closed() -> None:
    with MemOS.temporary(embedder=None) as memos:
        ada = memos.scope(user="ada")
        ada.add("My cat is called Biscuit.")
        assert memos.path.is_dir()
        assert ada.search("cat")[0].text == "My cat is called Biscuit."
    assert not memos.path.exists()
    with pytest.raises(VaultClosed):
        ada.count()
    memos.close()


def test_it_lives_as_long_as_anything_that_works_on_it() -> None:
    memos = MemOS.temporary(embedder=None)
    path, items = memos.path, memos.scope(user="ada").items()
    del memos
    gc.collect()
    items.put(("a",), "k", {"x": 1})
    assert path.is_dir()
    del items
    gc.collect()
    assert not path.exists()


def test_two_temporary_vaults_are_two() -> None:
    with MemOS.temporary(embedder=None) as first, MemOS.temporary(embedder=None) as second:
        first.scope(user="ada").add("tea")
        assert second.users() == []


def test_it_is_erased_when_the_process_ends_but_not_by_a_child(tmp_path: Path) -> None:
    code = (
        "import os\nfrom memos_core import MemOS\nmemos = MemOS.temporary(embedder=None)\n"
        "child = os.fork()\nif not child:\n    raise SystemExit(0)\nos.waitpid(child, 0)\n"
        "assert memos.path.is_dir()\nmemos.scope('ada').add('tea')\nprint(memos.path)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=tmp_path)
    assert not Path(done.stdout.strip()).exists()
