"""Committed means durable; refused means unchanged; damaged means told; and processes see each other."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from memos_core.errors import (
    BlobDamaged,
    VaultBusy,
    VaultClosed,
    VaultDamaged,
    VaultError,
    VaultWriteFailed,
)
from memos_core.infrastructure.vault import MemVault, SearchFilter, Visibility
from memos_core.testing.conformance_index import Shelf

ADA = Visibility("ada")
WORKER = Path(__file__).with_name("vault_worker.py")
posix = pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals and limits")


@pytest.fixture
def worker(tmp_path):
    """Starts workers on the test's vault and ends those that still run."""
    started = []

    def start(*arguments, index="exact"):
        command = [sys.executable, "-W", "error", str(WORKER), str(tmp_path / "vault"), index, *map(str, arguments)]
        environment = {**os.environ, "PYTHONPATH": str(WORKER.parent.parent)}
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@posix
@pytest.mark.parametrize("index", ["exact", "chroma"])
@pytest.mark.parametrize("after", [3, 41])
def test_a_kill_loses_nothing_that_was_acknowledged(worker, open_vault, clock, index, after):
    process = worker("stream", index=index)
    acknowledged = [process.stdout.readline().strip() for _ in range(after)]
    process.send_signal(signal.SIGKILL)
    acknowledged += process.stdout.read().split()
    process.wait()
    vault = open_vault(index=index)
    vault.verify()
    with vault.read() as session:
        stored = [cube.id for cube in session.listing(ADA, limit=10_000, now=clock.now())]
    assert stored[: len(acknowledged)] == acknowledged
    assert len(stored) - len(acknowledged) in (0, 1)
    shelf = Shelf(vault, clock, vault.embedder)
    assert set(shelf.search("text", k=10_000)) == set(stored)
    (late,) = shelf.add("volcano")
    assert shelf.search("volcano", k=1) == [late.id]


@pytest.mark.parametrize("index", ["exact", "chroma"])
def test_a_write_in_one_process_is_found_by_the_next_search_in_another(worker, open_vault, clock, embedder, index):
    shelf = Shelf(open_vault(index=index), clock, embedder)
    shelf.add("first words here")
    process = worker("serve", index=index)
    assert process.stdout.readline().strip() == "ready"
    for text in ("volcano island", "quiet harbour", "seven bridges"):
        process.stdin.write(text + "\n")
        process.stdin.flush()
        told = process.stdout.readline().strip()
        assert shelf.search(text, k=1) == [told]
        (own,) = shelf.add(f"{text} again and again")
        assert shelf.search(f"{text} again and again", k=1) == [own.id]
    assert len(shelf.search("first", k=50)) == 7


@posix
def test_a_full_ledger_refuses_and_stays_whole(worker, open_vault, clock):
    process = worker("fill", 400_000)
    lines = process.communicate(timeout=60)[0].split()
    assert process.returncode == 0
    *stored, error, last = lines
    assert error == "VaultWriteFailed"
    vault = open_vault()
    vault.verify()
    with vault.read() as session:
        assert [cube.id for cube in session.listing(ADA, limit=10_000, now=clock.now())] == [*stored, last]


@posix
def test_a_full_blob_store_refuses_and_leaves_nothing(worker):
    process = worker("blob", 1_000_000)
    assert process.communicate(timeout=60)[0].split() == ["VaultWriteFailed", "0"]
    assert process.returncode == 0


def try_in_child(vault, answers):
    try:
        with vault.read():
            answers.put("read")
    except VaultClosed as error:
        answers.put(str(error))
    vault.close()


@posix
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # forking beside threads, which is what is tested
def test_a_handle_inherited_through_a_fork_says_so_and_leaves_the_parents_alone(vault, make):
    cube = make("a")
    make.store(vault, cube)
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    child = context.Process(target=try_in_child, args=(vault, answers))
    child.start()
    assert "fork" in answers.get(timeout=30)
    child.join(30)
    make.store(vault, make("b"))
    with vault.read() as session:
        assert session.cube(ADA, cube.id) == cube
    vault.verify()


def test_many_threads_write_and_search_at_once(vault, clock, embedder):
    failures = []

    def work(number):
        shelf = Shelf(vault, clock, embedder)
        try:
            for turn in range(8):
                (cube,) = shelf.add(f"thread{number} turn{turn}")
                assert shelf.search(f"thread{number} turn{turn}", k=1) == [cube.id]
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with vault.read() as session:
        assert session.count(ADA, now=clock.now()) == 64
    vault.verify()


def test_a_held_lock_is_waited_for_and_then_told(open_vault, make):
    vault, impatient = open_vault(), open_vault(busy_timeout_seconds=0.1)
    with vault.write() as session:
        session.ensure_namespace("ada")
        with pytest.raises(VaultBusy):
            make.store(impatient, make("a"))
    make.store(impatient, make("a"))


def test_a_file_is_no_vault(tmp_path):
    (tmp_path / "file").write_text("text")
    with pytest.raises(VaultError, match="is a file"):
        MemVault.open(tmp_path / "file", embedder=None)
    with pytest.raises(VaultError):
        MemVault.open(tmp_path / "file" / "below", embedder=None)


def test_what_is_not_a_ledger_is_refused_and_left_alone(tmp_path):
    ledger = tmp_path / "ledger.sqlite3"
    ledger.write_bytes(b"This is no database at all. " * 300)
    with pytest.raises(VaultError):
        MemVault.open(tmp_path, embedder=None)
    assert ledger.read_bytes().startswith(b"This is no database")
    ledger.unlink()
    with sqlite3.connect(ledger) as other:
        other.execute("CREATE TABLE recipes (name TEXT)")
    other.close()
    with pytest.raises(VaultError, match="not the ledger"):
        MemVault.open(tmp_path, embedder=None)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="permissions do not bind this user")
def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(VaultWriteFailed):
        MemVault.open(tmp_path, embedder=None)


def test_a_vault_of_a_later_release_says_how_to_upgrade(vault, open_vault):
    vault.close()
    damage(vault, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(VaultError, match="pip install -U"):
        open_vault()


def damage(vault, statement, *values):
    connection = sqlite3.connect(vault.ledger.path)
    connection.execute(statement, values)
    connection.commit()
    connection.close()


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("UPDATE versions SET payload = replace(payload, 'tea', 'mud')", "payload"),
        ("UPDATE cubes SET header = replace(header, 'Ben', 'Eve')", "header"),
        ("UPDATE cubes SET speaker = 'Eve'", "speaker"),
        ("UPDATE cubes SET expires_at = 5", "expires_at"),
        ("UPDATE cubes SET version = 2", "version"),
        ("UPDATE vectors SET data = zeroblob(256)", "vector"),
        ("UPDATE postings SET count = 9 WHERE term = 'tea'", "words"),
        ("UPDATE postings SET term = 'mud' WHERE term = 'tea'", "words"),
        ("DELETE FROM tags", "tags"),
        ("DELETE FROM usage", "counters"),
        ("DELETE FROM versions", "version"),
        ("UPDATE versions SET header = replace(header, 'Ben', 'Eve')", "header of version 1"),
        ("UPDATE versions SET size_bytes = 7", "size_bytes of version 1"),
        ("UPDATE versions SET version = 2", "version"),
        ("UPDATE cubes SET state = 'gone'", "gone"),
        ("UPDATE tags SET tag = 'food'", "tags"),
        ("UPDATE postings SET namespace_id = 2", "words"),
        ("DELETE FROM postings WHERE term = 'tea'", "words"),
        ("UPDATE namespaces SET bytes_used = 1", "bytes"),
    ],
)
def test_damage_in_the_ledger_is_named(vault, make, statement, told):
    make.store(vault, make("green tea", speaker="Ben", tags=("drink",)))
    vault.verify()
    damage(vault, statement)
    with pytest.raises(VaultDamaged, match=told):
        vault.verify()


def test_a_damaged_memory_raises_and_never_reads_as_something_else(vault, open_vault, make, clock, embedder):
    cube = make("green tea")
    make.store(vault, cube)
    damage(vault, "UPDATE versions SET payload = replace(payload, 'tea', 'mud')")
    with vault.read() as session, pytest.raises(VaultDamaged, match=cube.id):
        session.cube(ADA, cube.id)
    damage(vault, "UPDATE vectors SET data = zeroblob(256)")
    with pytest.raises(VaultDamaged):  # this handle still holds the vector that it wrote; another one reads it
        open_vault().vector_search(SearchFilter(ADA, clock.now()), embedder.embed_query("x"), 1)


def test_an_overwritten_page_is_told(vault, open_vault, make):
    make.store(vault, *[make(f"text {i} " * 50) for i in range(30)])
    vault.close()
    with vault.ledger.path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        for offset in range(size // 2, size - 4096, 4096):
            file.seek(offset)
            file.write(b"\xff" * 512)
    with pytest.raises(VaultDamaged):  # while opening, where the overwritten pages are among those that opening reads
        open_vault().verify()


@pytest.mark.parametrize("harm", ["missing", "truncated", "flipped"])
def test_a_damaged_blob_is_told_and_stored_anew(vault, make, harm):
    source = make("a")
    make.store(vault, source)
    kv = make.activation(vault, source, data=b"tensors of some length")
    address = kv.payload.blob.address
    with vault.read() as session:
        salt = session.namespace("ada").salt
    assert vault.blobs.read(address, salt) == b"tensors of some length"
    (path,) = [path for path in (vault.root / "blobs").rglob("*") if path.is_file()]
    if harm == "missing":
        path.unlink()
    else:
        path.write_bytes(b"tensors" if harm == "truncated" else b"tensors of some lengtH")
    with pytest.raises(BlobDamaged):
        vault.blobs.read(address, salt)
    with pytest.raises(VaultDamaged, match=address):
        vault.verify()
    assert vault.blobs.put(b"tensors of some length", salt).address == address
    vault.verify()


@pytest.mark.parametrize("address", ["", "../../etc/passwd", "A" * 64, "0" * 64])
def test_an_address_that_leads_nowhere_is_a_damaged_blob(vault, address):
    with pytest.raises(BlobDamaged):
        vault.blobs.read(address, b"salt")


def test_blobs_live_in_any_store_of_fsspec(open_vault, tmp_path):
    import fsspec

    vault = open_vault(blob_store="memory://blobs-of-a-test")
    ref = vault.blobs.put(b"data", b"salt")
    assert vault.blobs.read(ref.address, b"salt") == b"data"
    assert (list(vault.blobs.addresses()), vault.blobs.size) == ([ref.address], 4)
    vault.blobs.delete(ref.address)
    vault.blobs.delete(ref.address)
    assert list(vault.blobs.addresses()) == []
    fsspec.filesystem("memory").store.clear()
