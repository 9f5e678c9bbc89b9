"""Migrations, re-embedding, choice of the index, and what is told about all of it."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import create_engine

from memos_core import MemOS
from memos_core.errors import EmbedderMismatch, InvalidInput, MissingExtra
from memos_core.infrastructure.vault import MemVault, Passage, SearchFilter, Visibility, migrate, schema
from memos_core.infrastructure.vault import vault as vault_module
from memos_core.testing import HashEmbedder

ADA = Visibility("ada")


def structure(embedder, cubes):
    """One passage for each word."""
    return [
        [
            Passage(start, start + len(word), {word: 1}, embedder.embed([word])[0])
            for word in cube.text.split()
            for start in [cube.text.index(word)]
        ]
        for cube in cubes
    ]


def hits(vault, clock, text, k=9):
    found = vault.vector_search(SearchFilter(ADA, clock.now()), vault.embedder.embed_query(text), k)
    return [hit.cube_id for hit in found]


def test_the_migrations_make_the_tables_of_the_schema():
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory

    engine = create_engine("sqlite://")
    with engine.begin() as connection:
        migrate.upgrade(connection)
        assert migrate.recorded(connection) == migrate.HEAD
        differences = compare_metadata(MigrationContext.configure(connection), schema.metadata)
    engine.dispose()
    assert differences == []
    assert ScriptDirectory(str(migrate.FOLDER)).get_heads() == [migrate.HEAD]


def test_a_migration_that_fails_leaves_an_empty_file(tmp_path, monkeypatch):
    def fail(connection):
        migrate.run(connection)
        raise RuntimeError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(migrate, "upgrade", fail)
        with pytest.raises(RuntimeError):
            MemVault.open(tmp_path, embedder=None)
    vault = MemVault.open(tmp_path, embedder=None)
    vault.verify()
    vault.close()


def test_opening_again_needs_no_migration_library(vault):
    vault.close()
    code = (
        "import sys; from memos_core.infrastructure.vault import MemVault; "
        f"MemVault.open({str(vault.root)!r}, embedder=None).close(); "
        "print([m for m in ('alembic', 'chromadb', 'torch') if m in sys.modules])"
    )
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout.strip() == "[]"


def test_several_openings_at_once_make_one_vault(tmp_path):
    opened, failures = [], []

    def work():
        try:
            opened.append(MemVault.open(tmp_path / "new", embedder=None))
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    for vault in opened:
        vault.verify()
        vault.close()


@pytest.mark.parametrize("index", ["exact", "chroma"])
def test_reembedding_moves_a_collection_to_another_embedder(open_vault, make, clock, index):
    if index == "chroma":
        pytest.importorskip("chromadb")
    vault = open_vault(index=index)
    cubes = [make("green tea"), make("black coffee")]
    make.store(vault, *cubes)
    assert hits(vault, clock, "green tea", 1) == [cubes[0].id]
    told = []
    bigger = HashEmbedder(128)
    moved = vault.reembed(structure=structure, embedder=bigger, batch_size=1, progress=lambda *step: told.append(step))
    assert (moved, told) == (2, [(1, 2), (2, 2)])
    assert hits(vault, clock, "coffee", 1) == [cubes[1].id]
    with vault.read() as session:
        (match,) = session.word_matches(SearchFilter(ADA, clock.now()), ["coffee"])
    assert (match.start, match.end, match.length) == (6, 12, 1)
    assert vault.stats()["collections"] == {"default": {"embedder": "hash-128", "dimension": 128, "metric": "cosine"}}
    vault.verify()
    old = open_vault(index=index)
    with pytest.raises(EmbedderMismatch):
        hits(old, clock, "coffee")
    again = open_vault(index=index, embedder=bigger)
    assert hits(again, clock, "coffee", 1) == [cubes[1].id]


def test_an_interrupted_reembedding_changes_nothing(vault, make, clock):
    cubes = [make("green tea"), make("black coffee")]
    make.store(vault, *cubes)
    before = hits(vault, clock, "tea")

    def stop(embedder, them):
        if them[0].text == "black coffee":
            raise KeyboardInterrupt
        return structure(embedder, them)

    with pytest.raises(KeyboardInterrupt):
        vault.reembed(structure=stop, embedder=HashEmbedder(16), batch_size=1)
    assert hits(vault, clock, "tea") == before
    vault.verify()


def test_what_is_written_during_a_reembedding_is_moved_too(vault, make, clock):
    first = make("green tea")
    make.store(vault, first)
    late = []

    def write_one_more(embedder, them):
        if not late:
            late.append(make("red wine"))
            make.store(vault, *late)
        return structure(embedder, them)

    assert vault.reembed(structure=write_one_more, embedder=HashEmbedder(16)) == 2
    assert hits(vault, clock, "wine", 1) == [late[0].id]
    vault.verify()


def test_memory_without_vectors_gets_them_by_reembedding(open_vault, make, clock, embedder):
    plain = open_vault(embedder=None)
    cube = make("green tea")
    with plain.write() as session:
        session.insert(cube, passages=[Passage(0, 9, Counter(["tea"]), None)], dedup_key=None, author="t")
    with pytest.raises(InvalidInput):
        plain.reembed(structure=structure)
    vault = open_vault()
    assert hits(vault, clock, "tea") == []
    assert vault.reembed(structure=structure) == 1
    assert hits(vault, clock, "tea", 1) == [cube.id]


def test_collections_are_kept_apart(vault, make, clock, embedder):
    one, two = make("green tea"), make("green tea")
    make.store(vault, one)
    make.store(vault, two, collection="documents")
    wanted = SearchFilter(ADA, clock.now())
    found = vault.vector_search(wanted, embedder.embed_query("tea"), 9, collection="documents")
    assert [hit.cube_id for hit in found] == [two.id]
    assert vault.vector_search(wanted, embedder.embed_query("tea"), 9, collection="none") == []
    assert vault.similarities([1, 2, 99], embedder.embed_query("green tea")) == {1: pytest.approx(1, abs=1e-5)}


@pytest.mark.parametrize("vector", [[1.0], [[0.0] * 64], [float("nan")] * 64, [float("inf")] * 64])
def test_a_query_that_is_no_vector_is_refused(vault, make, clock, vector):
    make.store(vault, make("a"))
    with pytest.raises(InvalidInput):
        vault.vector_search(SearchFilter(ADA, clock.now()), vector, 1)


def test_no_hits_cannot_be_asked_for(vault, clock, embedder):
    with pytest.raises(InvalidInput):
        vault.vector_search(SearchFilter(ADA, clock.now()), embedder.embed_query("a"), 0)


def test_auto_takes_chroma_for_large_namespaces_only(open_vault, make, clock, monkeypatch):
    pytest.importorskip("chromadb")
    monkeypatch.setattr(vault_module, "EXACT_UP_TO", 5)
    events = []
    vault = open_vault(on_event=events.append)
    cubes = [make(f"text {i}") for i in range(5)]
    make.store(vault, *cubes)
    assert len(hits(vault, clock, "text")) == 5
    assert events == []
    make.store(vault, make("text 5"))
    assert len(hits(vault, clock, "text")) == 6
    assert [(event.name, event.detail["vectors"]) for event in events] == [("index.rebuilt", 6)]
    assert vault.apply_outbox() == 0


def test_chroma_without_its_package_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setattr(vault_module, "chroma_installed", lambda: False)
    with pytest.raises(MissingExtra, match=r"memos-mag\[chroma\]"):
        MemVault.open(tmp_path, embedder=None, index="chroma")


def test_an_unknown_index_is_refused(tmp_path):
    with pytest.raises(InvalidInput):
        MemVault.open(tmp_path, embedder=None, index="faiss")


@pytest.mark.parametrize("harm", ["chroma.sqlite3", "data_level0.bin"])
def test_damaged_files_of_the_index_are_replaced(open_vault, make, clock, harm):
    pytest.importorskip("chromadb")
    vault = open_vault(index="chroma")
    cubes = [make(f"text {i}") for i in range(1010)]  # enough for Chroma to write its graph to the disk
    make.store(vault, *cubes)
    assert hits(vault, clock, "text 77", 1) == [cubes[77].id]
    vault.close()
    files = [path for path in (vault.root / "index").rglob("*") if path.is_file() and path.name != "lock"]
    chosen = [path for path in files if path.name == harm]
    assert chosen
    for path in chosen:
        path.write_bytes(b"\x13" * 100)
    again = open_vault(index="chroma")
    assert hits(again, clock, "text 77", 1) == [cubes[77].id]
    assert hits(again, clock, "text 78", 1) == [cubes[78].id]
    again.verify()


def test_stats_count_what_is_there(vault, make):
    source = make("a")
    make.store(vault, source)
    make.activation(vault, source, data=b"12345")
    stats = vault.stats()
    assert (stats["cubes"], stats["versions"], stats["vectors"], stats["blobs"], stats["blob_bytes"]) == (2, 2, 1, 1, 5)
    assert stats["ledger_bytes"] > 0


def test_a_vault_with_other_indexes_is_brought_up_to_date_without_loss(tmp_path, clock, monkeypatch):
    from alembic import command

    old, upgrade = tmp_path / "old", command.upgrade
    with monkeypatch.context() as patch:
        patch.setattr(command, "upgrade", lambda config, _: upgrade(config, "0011"))
        patch.setattr(migrate, "HEAD", "0011")
        with MemOS.open(old, embedder=HashEmbedder(), clock=clock) as memos:
            ada = memos.scope("ada")
            receipts = ada.add_many([f"tea {number}" for number in range(20)])
            ada.items().put(("a",), "k", 1)
            ada.search("tea 3")
            ada.forget(receipts[0].cube_id)
            ada.update(receipts[1].cube_id, "coffee")
        before = contents(old)
    MemVault.open(tmp_path / "new", embedder=None).close()
    assert tables(old) != tables(tmp_path / "new")
    with MemOS.open(old, embedder=HashEmbedder(), clock=clock) as memos:
        memos.verify()
        assert memos.scope("ada").items().get(("a",), "k").value == 1
    assert contents(old) == before
    assert tables(old) == tables(tmp_path / "new")


def tables(folder):
    """Return tables and indexes as they were made, whatever they were called on the way."""
    with closing(sqlite3.connect(folder / "ledger.sqlite3")) as ledger:
        rows = ledger.execute("SELECT type, name, tbl_name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
    return {(kind, name, table, sql.replace(f'"{name}"', name)) for kind, name, table, sql in rows}


def contents(folder):
    """Return the rows of the tables whose form changes."""
    with closing(sqlite3.connect(folder / "ledger.sqlite3")) as ledger:
        return [ledger.execute(f"SELECT * FROM {name} ORDER BY 1, 2").fetchall() for name in ("usage", "audit_cubes")]
