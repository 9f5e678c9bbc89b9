"""What is erased is unreachable at once and leaves no trace in any file."""

from __future__ import annotations

import random
import re
import struct
from collections import Counter

import pytest

from memos_core.cube import BlobRef, Link, PlaintextPayload
from memos_core.infrastructure.vault import Passage, SearchFilter, Visibility
from memos_core.infrastructure.vault.index.scrub import scrub

ADA = Visibility("ada")
SEEDS = (6, 9)  # without the rewriting of the ledger, words stay with these


def erase(vault, *cube_ids, visibility=ADA):
    with vault.write() as session:
        return session.erase(visibility, cube_ids)


def bytes_on_disk(vault):
    files = [path for path in vault.root.rglob("*") if path.is_file()]
    return b"".join(path.read_bytes() for path in files)


def words_on_disk(vault):
    """Every place where a word of ``long_text`` can stand, whatever stands before it."""
    return set(re.findall(rb"(?=(q[0-9a-f]{15}))", bytes_on_disk(vault)))


def change(vault, make, cube, text):
    newer = cube.model_copy(update={"version": cube.version + 1, "payload": PlaintextPayload(text=text)})
    with vault.write() as session:
        session.replace(newer, passages=make.passages(newer), dedup_key=None, author="t", reason="r")
    return newer


def long_text(seed):
    """Words that occur nowhere else, some texts so long that they spill over pages of the database."""
    dice = random.Random(seed)
    length = dice.choice([5, 30, 300, 2000])
    return " ".join(f"q{dice.getrandbits(60):015x}" for _ in range(length))


@pytest.mark.parametrize("index", ["exact", "chroma"])
def test_no_byte_of_the_erased_stays(open_vault, make, clock, embedder, index):
    if index == "chroma":
        pytest.importorskip("chromadb")
    vault = open_vault(index=index)
    kept = [make(long_text(f"kept {i}"), speaker=f"Speaker{i}") for i in range(40)]
    gone = [make(long_text(f"gone {i}"), title=f"Doomed title {i}", tags=(f"doomedtag{i}",)) for i in range(40)]
    for pair in zip(kept, gone, strict=True):
        make.store(vault, *pair)
    changed = []
    for cube in gone[:10]:
        newer = cube.model_copy(update={"version": 2, "payload": PlaintextPayload(text=long_text("newer " + cube.id))})
        changed.append(newer)
        with vault.write() as session:
            session.replace(newer, passages=make.passages(newer), dedup_key=None, author="t", reason="r")
            session.record_audit("ada", "ada", "link", [cube.id], {"relation": f"doomed relation {cube.id}"})
    wanted = SearchFilter(ADA, clock.now())
    assert vault.vector_search(wanted, embedder.embed_query("x"), 5)
    blob = b"doomed tensors " * 100
    derived = make.activation(vault, gone[0], gone[1], data=blob)
    doomed = {word.encode() for cube in (*gone, *changed) for word in cube.text.split()}
    needles = [embedder.embed([cube.text])[0].tobytes() for cube in (*gone, *changed)]
    needles += [b"Doomed title", b"doomedtag", b"doomed relation", b"doomed tensors", derived.id.encode()]
    assert len(doomed & words_on_disk(vault)) > 0.9 * len(doomed)  # some are cut in two by the end of a page

    rows = erase(vault, *[cube.id for cube in gone])
    assert rows.derived_ids == (derived.id,)
    assert (rows.versions, rows.vectors, len(rows.blob_addresses)) == (51, 40, 1)
    assert vault.purge() == ()
    disk = bytes_on_disk(vault)
    assert [needle for needle in needles if needle in disk] == []
    assert doomed & words_on_disk(vault) == set()
    assert all(cube.text.encode()[:20] in disk for cube in kept)
    vault.close()
    assert [needle for needle in needles if needle in bytes_on_disk(vault)] == []
    again = open_vault(index=index)
    assert len(again.vector_search(wanted, embedder.embed_query("x"), 99)) == 40
    again.verify()


@pytest.mark.parametrize("seed", SEEDS)
def test_no_word_stays_where_rows_have_moved_between_pages(vault, make, seed):
    dice = random.Random(seed)
    live, gone = [], set()
    for step in range(60):
        if dice.random() < 0.6 or not live:
            fresh = [make(long_text(f"{seed} {step} {i}")) for i in range(dice.choice([1, 5]))]
            make.store(vault, *fresh)
            live += fresh
            continue
        cube = live.pop(dice.randrange(len(live)))
        gone.update(word.encode() for word in cube.text.split())
        if dice.random() < 0.5:
            live.append(change(vault, make, cube, long_text(f"{seed} {step}")))
        else:
            erase(vault, cube.id)
    erase(vault, *[cube.id for cube in live if cube.version > 1])
    assert vault.purge() == ()
    assert words_on_disk(vault)
    assert gone & words_on_disk(vault) == set()
    vault.verify()


def test_erasure_follows_lineage_and_nothing_else(vault, make, clock):
    source, other, unrelated = make("a"), make("b"), make("c")
    make.store(vault, source, other, unrelated)
    kv = make.activation(vault, source, other)
    second = make.activation(vault, kv, data=b"more")
    alone = make.activation(vault, unrelated, data=b"alone")
    with vault.read() as session:
        assert session.derived(ADA, [source.id]) == [kv.id, second.id]
        assert session.derived("ada", [source.id], recursive=False) == [kv.id]
    rows = erase(vault, source.id)
    assert set(rows.cube_ids) == {source.id, kv.id, second.id}
    with vault.read() as session:
        assert {cube.id for cube in session.listing(ADA, limit=9, now=clock.now())} == {
            other.id,
            unrelated.id,
            alone.id,
        }
    assert vault.purge() == ()
    assert set(vault.blobs.addresses()) == {alone.payload.blob.address}
    vault.verify()


def test_a_blob_that_another_cube_uses_stays(vault, make):
    one, two = make("a"), make("b")
    make.store(vault, one, two)
    first, second = make.activation(vault, one), make.activation(vault, two)
    assert first.payload.blob == second.payload.blob
    assert erase(vault, one.id).blob_addresses == ()
    vault.purge()
    assert list(vault.blobs.addresses()) == [second.payload.blob.address]
    erase(vault, two.id)
    vault.purge()
    assert list(vault.blobs.addresses()) == []


def test_nobody_erases_what_they_cannot_see(vault, make):
    cube, session_cube = make("a"), make("b", session="S1")
    make.store(vault, cube, session_cube)
    assert erase(vault, cube.id, "nonsense", visibility=Visibility("bob")).cube_ids == ()
    assert erase(vault, session_cube.id, visibility=Visibility("ada", session="S2")).cube_ids == ()
    with vault.read() as session:
        assert session.cube(ADA, cube.id) == cube
        assert session.cube(ADA, session_cube.id) == session_cube


def test_what_was_made_in_another_session_goes_without_being_named(vault, make):
    source = make("a")
    make.store(vault, source)
    hidden = make("made", session="S1", sources=((source.id, 1),))
    make.store(vault, hidden)
    rows = erase(vault, source.id, visibility=Visibility("ada", session="S2"))
    assert rows.cube_ids == (source.id,)
    with vault.read() as session:
        assert session.cube(ADA, hidden.id) is None


def test_links_to_the_erased_go_with_it(vault, make):
    target = make("target")
    make.store(vault, target)
    cube = make("from", links=(Link(target=target.id, relation="about"),))
    make.store(vault, cube)
    erase(vault, target.id)
    with vault.read() as session:
        assert session.cube(ADA, cube.id).header.descriptive.links == ()
    vault.verify()


def test_a_reader_that_holds_the_log_leaves_the_erasure_pending(vault, make, clock):
    cube = make("secretword")
    make.store(vault, cube)
    with vault.read() as session:
        session.count(ADA, now=clock.now())
        erase(vault, cube.id)
        (pending,) = vault.purge()
        assert "reader" in pending
    with vault.read() as session:
        assert session.cube(ADA, cube.id) is None
    assert vault.purge() == ()
    assert vault.purge() == ()
    assert b"secretword" not in bytes_on_disk(vault)


def test_quota_is_given_back(vault, make):
    cube = make("äöü")
    make.store(vault, cube)
    with vault.read() as session:
        assert session.bytes_used("ada") == 6
    erase(vault, cube.id)
    with vault.read() as session:
        assert session.bytes_used("ada") == 0


@pytest.mark.parametrize("change", ["version", "state", "erase", "expiry", "session"])
def test_an_activation_serves_only_while_its_sources_stand(vault, make, clock, change):
    source = make("a", ttl_seconds=60, expires_at=clock.now().replace(hour=13), session="S1")
    make.store(vault, source)
    kv = make.activation(vault, source)
    with vault.read() as session:
        assert vault.activations.current(session, ADA, "f", clock.now()) == ((kv.id, kv.payload),)
        assert vault.activations.current(session, ADA, "other", clock.now()) == ()
        assert vault.activations.current(session, Visibility("bob"), "f", clock.now()) == ()
    visibility = ADA
    with vault.write() as session:
        if change == "version":
            newer = source.model_copy(update={"version": 2})
            session.replace(newer, passages=(), dedup_key=None, author="t", reason="r")
        elif change == "state":
            session.set_state(source.id, "archived", author="t", reason="r")
        elif change == "erase":
            session.erase(ADA, [source.id])
    if change == "expiry":
        clock.advance(7200)
    elif change == "session":
        visibility = Visibility("ada", session="S2")
    with vault.read() as session:
        assert vault.activations.current(session, visibility, "f", clock.now()) == ()


def test_blobs_of_two_namespaces_lie_at_two_addresses(vault, make):
    with vault.write() as session:
        salts = [session.ensure_namespace(name).salt for name in ("ada", "bob")]
    refs = [vault.blobs.put(b"same", salt) for salt in salts]
    assert isinstance(refs[0], BlobRef)
    assert refs[0].address != refs[1].address


def test_reembedding_leaves_no_trace_of_old_vectors_after_an_erasure(open_vault, make, clock, embedder):
    pytest.importorskip("chromadb")
    vault = open_vault(index="chroma")
    cubes = [make(f"text number {i}") for i in range(5)]
    make.store(vault, *cubes)
    wanted = SearchFilter(ADA, clock.now())
    vault.vector_search(wanted, embedder.embed_query("text"), 5)
    vault.reembed(
        structure=lambda model, them: [
            [Passage(0, len(c.text), Counter(c.text.split()), model.embed([c.text.upper() + " other"])[0])]
            for c in them
        ]
    )
    assert len(vault.vector_search(wanted, embedder.embed_query("text"), 5)) == 5
    erase(vault, cubes[0].id)
    assert vault.purge() == ()
    disk = bytes_on_disk(vault)
    assert embedder.embed([cubes[0].text])[0].tobytes() not in disk
    assert embedder.embed([cubes[0].text.upper() + " other"])[0].tobytes() not in disk


def graph_files(folder, *, slots, used, slot_bytes, version=1):
    """Writes graph files whose unused slots hold something."""
    folder.mkdir(parents=True)
    (folder / "header.bin").write_bytes(struct.pack("<iQQQQ", version, 0, slots, used, slot_bytes) + bytes(64))
    (folder / "data_level0.bin").write_bytes(b"u" * used * slot_bytes + b"x" * (slots - used) * slot_bytes)
    (folder / "length.bin").write_bytes(b"u" * used * 4 + b"x" * (slots - used) * 4)


@pytest.mark.parametrize("used", [0, 1, 6, 7])
def test_unused_slots_of_a_graph_are_zeroed_and_used_ones_kept(tmp_path, used):
    graph_files(tmp_path / "a" / "graph", slots=7, used=used, slot_bytes=10)
    assert scrub(tmp_path)
    data = (tmp_path / "a" / "graph" / "data_level0.bin").read_bytes()
    assert data == b"u" * used * 10 + bytes((7 - used) * 10)
    assert (tmp_path / "a" / "graph" / "length.bin").read_bytes() == b"u" * used * 4 + bytes((7 - used) * 4)


@pytest.mark.parametrize("change", [{"version": 2}, {"used": 9}])
def test_graph_files_of_an_unknown_layout_are_reported_and_left_alone(tmp_path, change):
    graph_files(tmp_path / "graph", **{"slots": 7, "used": 2, "slot_bytes": 10} | change)
    before = (tmp_path / "graph" / "data_level0.bin").read_bytes()
    assert not scrub(tmp_path)
    assert (tmp_path / "graph" / "data_level0.bin").read_bytes() == before
    (tmp_path / "graph" / "header.bin").write_bytes(b"short")
    assert not scrub(tmp_path)
