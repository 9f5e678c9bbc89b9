"""Fixtures that all tests share. Everything is real: SQLite, Chroma, files; only time and vectors are made to order."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from memos_core import MemOS
from memos_core.cube import (
    ActivationPayload,
    Descriptive,
    Governance,
    Header,
    Lineage,
    MemCube,
    PlaintextPayload,
    Retention,
    Source,
)
from memos_core.ids import UlidFactory
from memos_core.infrastructure.vault import MemVault, Passage
from memos_core.testing import FakeClock, HashEmbedder

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports transformers
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# How long one example takes says nothing on a machine that does other things too.
settings.register_profile("memos", deadline=None)
settings.load_profile("memos")

SHARED_DATA = Path(__file__).parent.parent.parent / "shared" / "data"


@pytest.fixture(scope="session", autouse=True)
def one_torch_thread() -> None:
    """Small models are faster so, and results do not depend on the machine's cores."""
    try:
        import torch
    except ImportError:
        return
    torch.set_num_threads(1)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def embedder() -> HashEmbedder:
    return HashEmbedder()


@pytest.fixture
def shared_data() -> Path:
    """The folder of real conversations; tests that need it are skipped where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the shared data is not here")
    return SHARED_DATA


@pytest.fixture(scope="session")
def empty_ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger with tables and nothing in them: a copy is faster than migrating one for each test."""
    root = tmp_path_factory.mktemp("empty")
    MemVault.open(root, embedder=None).close()
    return root / "ledger.sqlite3"


@pytest.fixture
def memory_folder(tmp_path: Path, empty_ledger: Path) -> Path:
    """A folder in which ``MemOS.open`` finds an empty vault."""
    folder = tmp_path / "memory"
    folder.mkdir()
    shutil.copy(empty_ledger, folder)
    return folder


@pytest.fixture
def open_vault(
    tmp_path: Path, empty_ledger: Path, clock: FakeClock, embedder: HashEmbedder
) -> Iterator[Callable[..., MemVault]]:
    """Opens vaults, by default in one folder with the test's clock and embedder, and closes them in the end."""
    opened: list[MemVault] = []

    def factory(root: Path | None = None, **options: Any) -> MemVault:
        options = {"embedder": embedder, "clock": clock, **options}
        if root is None and not (tmp_path / "vault").exists():
            (tmp_path / "vault").mkdir()
            shutil.copy(empty_ledger, tmp_path / "vault")
        opened.append(MemVault.open(root or tmp_path / "vault", **options))
        return opened[-1]

    yield factory
    for vault in opened:
        vault.close()


@pytest.fixture
def vault(open_vault: Callable[..., MemVault]) -> MemVault:
    return open_vault()


class CubeMaker:
    """Makes cubes and passages with little typing."""

    def __init__(self, clock: FakeClock, embedder: HashEmbedder) -> None:
        self.clock = clock
        self.embedder = embedder
        self.ids = UlidFactory()

    def __call__(self, text: str, user: str = "ada", **fields: Any) -> MemCube:
        """Return a plaintext cube. ``fields`` of source, governance, retention and lineage find their own place."""
        now = self.clock.now()
        source = Source(**take(fields, Source))
        retention = Retention(**take(fields, Retention))
        agent = fields.pop("agent", None)
        lineage = Lineage(sources=fields.pop("sources", ()))
        payload = fields.pop("payload", PlaintextPayload(text=text))
        descriptive = Descriptive(
            id=self.ids.new(now), type=payload.type, created=now, updated=now, source=source, lineage=lineage, **fields
        )
        governance = Governance(owner=user, namespace=user, agent=agent, retention=retention)
        return MemCube(header=Header(descriptive=descriptive, governance=governance), payload=payload)

    def passages(self, cube: MemCube) -> list[Passage]:
        words = Counter(cube.text.casefold().split())
        return [Passage(0, len(cube.text), words, self.embedder.embed([cube.text])[0])]

    def store(self, vault: MemVault, *cubes: MemCube, **options: Any) -> None:
        with vault.write() as session:
            for cube in cubes:
                session.insert(cube, passages=self.passages(cube), dedup_key=None, author="test", **options)

    def activation(self, vault: MemVault, *sources: MemCube, data: bytes = b"tensors", user: str = "ada") -> MemCube:
        """Store a KV cache made from ``sources``, its blob included."""
        with vault.write() as session:
            blob = vault.blobs.put(data, session.ensure_namespace(user).salt)
            payload = ActivationPayload(blob=blob, fingerprint="f", token_digest="0" * 64, token_count=3, model="tiny")
            cube = self("", user, payload=payload, sources=tuple((source.id, source.version) for source in sources))
            session.insert(cube, passages=(), dedup_key=None, author="test")
        return cube


def take(fields: dict[str, Any], model: Any) -> dict[str, Any]:
    return {name: fields.pop(name) for name in list(fields) if name in model.model_fields}


@pytest.fixture
def make(clock: FakeClock, embedder: HashEmbedder) -> CubeMaker:
    return CubeMaker(clock, embedder)


@pytest.fixture
def open_memos(
    tmp_path: Path, empty_ledger: Path, clock: FakeClock, embedder: HashEmbedder
) -> Iterator[Callable[..., MemOS]]:
    """Opens the vault in ``tmp_path``, by default with the test's clock and embedder, and closes it in the end."""
    opened: list[MemOS] = []
    (tmp_path / "vault").mkdir()
    shutil.copy(empty_ledger, tmp_path / "vault")

    def factory(**options: Any) -> MemOS:
        opened.append(MemOS.open(tmp_path / "vault", **{"embedder": embedder, "clock": clock, **options}))
        return opened[-1]

    yield factory
    for memos in opened:
        memos.close()
