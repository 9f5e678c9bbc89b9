"""Changes of several threads share a transaction; each is durable when its caller goes on, and none spoils another."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection

from memos_core import MemOS
from memos_core.errors import CubeConflict, InvalidInput, VaultBusy, VaultClosed
from memos_core.infrastructure.vault import MemVault, NewCube, Visibility, WriteSession
from memos_core.testing import FakeClock, HashEmbedder

WORKER = Path(__file__).with_name("vault_worker.py")
ADA = Visibility("ada")
THREADS = 8


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(THREADS) as threads:
        yield threads


def gathered(vault: MemVault, pool: ThreadPoolExecutor, works: list[Callable[[], Any]]) -> list[Future[Any]]:
    """Start all ``works`` while the vault's write lock is held, and let them go once each of them waits."""
    with vault.write():
        futures = [pool.submit(work) for work in works]
        while len(vault._group._waiting) < len(works) - 1:  # all but the one whose turn it is
            time.sleep(0.002)
    return futures


def transactions(vault: MemVault, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Collect a mark for each transaction that commits a change from now on."""
    marks: list[str] = []
    write = vault.ledger.write

    @contextmanager
    def marked() -> Iterator[Connection]:
        with write() as connection:
            yield connection
        marks.append("commit")

    monkeypatch.setattr(vault.ledger, "write", marked)
    return marks


def test_adds_of_several_threads_share_transactions(
    tmp_path: Path, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    with MemOS.open(tmp_path, embedder=HashEmbedder(), clock=FakeClock(), index="exact") as memos:
        vault, scopes = memos._layers.vault, [memos.scope(f"user{number}") for number in range(THREADS)]
        marks = transactions(vault, monkeypatch)
        works = [lambda scope=scope: scope.add("tea", ref="1") for scope in scopes]
        receipts = [future.result() for future in gathered(vault, pool, works)]
        assert len(marks) <= 3  # the lock that held them, the one whose turn it was, all others
        assert [receipt.outcome for receipt in receipts] == ["committed"] * THREADS
        assert [scope.get(receipt.cube_id).text for scope, receipt in zip(scopes, receipts, strict=True)] == [
            "tea"
        ] * THREADS
        assert memos.verify().cubes == THREADS


def test_one_text_added_by_many_threads_at_once_is_one_memory(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    with MemOS.open(tmp_path, embedder=HashEmbedder(), clock=FakeClock(), index="exact") as memos:
        ada = memos.scope("ada")
        futures = gathered(memos._layers.vault, pool, [lambda: ada.add("tea")] * THREADS)
        receipts = [future.result() for future in futures]
        assert sorted(receipt.outcome for receipt in receipts) == ["committed"] + ["duplicate"] * (THREADS - 1)
        assert len({receipt.cube_id for receipt in receipts}) == 1
        assert memos.verify().cubes == 1


@pytest.mark.parametrize("error", [InvalidInput, CubeConflict])
def test_a_change_that_fails_spoils_no_other(vault: MemVault, make: Any, pool: ThreadPoolExecutor, error: Any) -> None:
    cubes = [make(f"text {number}") for number in range(THREADS)]

    def store(number: int) -> Callable[[WriteSession], str]:
        def work(session: WriteSession) -> str:
            session.collect(NewCube(cubes[number], make.passages(cubes[number]), None, "test"))
            if number == 5:
                raise error("no") if error is not CubeConflict else CubeConflict("a", "b")
            return cubes[number].id

        return work

    works = [lambda number=number: vault.commit(store(number)) for number in range(THREADS)]
    outcomes = [future.exception() or future.result() for future in gathered(vault, pool, works)]
    good = [cube.id for number, cube in enumerate(cubes) if number != 5]
    assert isinstance(outcomes[5], error)
    assert [outcome for outcome in outcomes if isinstance(outcome, str)] == good
    with vault.read() as session:
        stored = [cube.id for cube in session.listing(ADA, limit=50, now=vault.clock.now())]
    assert stored == good
    assert vault.verify().cubes == len(good)


def test_every_thread_hears_that_the_vault_is_busy(open_vault: Callable[..., MemVault], make: Any) -> None:
    other, vault = open_vault(), open_vault(busy_timeout_seconds=0.05)
    cube = make("tea")
    work = NewCube(cube, (), None, "test")
    with other.write(), ThreadPoolExecutor(3) as threads:
        futures = [threads.submit(vault.commit, lambda session: session.collect(work)) for _ in range(3)]
        assert all(isinstance(future.exception(), VaultBusy) for future in futures)
    vault.commit(lambda session: session.collect(work))
    assert vault.verify().cubes == 1


def test_a_closed_vault_says_so(vault: MemVault) -> None:
    vault.close()
    with pytest.raises(VaultClosed):
        vault.commit(lambda session: None)


def test_many_threads_in_many_rounds_lose_nothing(tmp_path: Path) -> None:
    with MemOS.open(tmp_path, embedder=HashEmbedder(), clock=FakeClock(), index="exact") as memos:
        start = threading.Barrier(THREADS)

        def add(thread: int) -> list[str]:
            start.wait()
            scope = memos.scope(f"user{thread % 3}")
            return [scope.add(f"text {number} of {thread}").cube_id or "" for number in range(5)]

        with ThreadPoolExecutor(THREADS) as threads:
            ids = [cube_id for own in threads.map(add, range(THREADS)) for cube_id in own]
        assert len(set(ids)) == 5 * THREADS
        assert memos.verify().cubes == 5 * THREADS
        found = {hit.cube.id for user in range(3) for hit in memos.scope(f"user{user}").search("text", k=50)}
        assert found == set(ids)


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
def test_a_kill_loses_nothing_that_any_thread_was_told_of(
    tmp_path: Path, open_vault: Callable[..., MemVault], clock: FakeClock
) -> None:
    command = [sys.executable, "-W", "error", str(WORKER), str(tmp_path / "vault"), "exact", "together"]
    environment = {**os.environ, "PYTHONPATH": str(WORKER.parent.parent)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        told = [process.stdout.readline().strip() for _ in range(60)]
        process.send_signal(signal.SIGKILL)
        told += process.stdout.read().split()
    vault = open_vault()
    vault.verify()
    with vault.read() as session:
        stored = {cube.id for cube in session.listing(ADA, limit=100_000, now=clock.now())}
    assert set(told) <= stored
    assert len(stored) - len(told) <= THREADS
