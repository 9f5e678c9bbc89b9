"""Collections: documents with vectors and metadata, found exactly, kept apart from memories, erased like them."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from memos_core import Document, MemOS
from memos_core.errors import CubeFrozen, CubeNotFound, EmbedderMismatch, InvalidInput, InvalidMemory, InvalidName
from memos_core.testing import FakeClock, HashEmbedder


@pytest.fixture
def memos(tmp_path, clock, embedder):
    with MemOS.open(tmp_path / "memory", embedder=embedder, clock=clock) as memos:
        yield memos


@pytest.fixture
def ada(memos):
    return memos.scope(user="ada")


@pytest.fixture
def notes(ada):
    return ada.collection("notes")


def filled(collection, count: int = 30):
    topics = ("tea", "rain", "chess")
    documents = [
        Document(f"{topics[i % 3]} note {i}", id=f"d{i}", metadata={"n": i, "topic": topics[i % 3]})
        for i in range(count)
    ]
    collection.upsert(documents)
    return documents


# Writing and reading


def test_a_document_comes_back_as_it_was_given(notes):
    metadata = {"a": 1, "b": 1.0, "c": [True, None, {"d": "é"}], "big": 2**80, "empty": {}, "Ünïcode 🐈": "x"}
    (name,) = notes.upsert([Document("Tee mit Zitrone 🍋", id="ü/1", metadata=metadata)])
    (found,) = notes.get([name])
    assert (found.text, found.id, found.metadata) == ("Tee mit Zitrone 🍋", "ü/1", metadata)
    assert type(found.metadata["b"]) is float
    assert found.cube_id


def test_ids_are_made_where_none_are_given_and_order_is_kept(notes):
    ids = notes.upsert(["one", {"text": "two"}, Document("three")])
    assert len(set(ids)) == 3
    assert [document.text for document in notes.get(ids[::-1])] == ["three", "two", "one"]


def test_absent_ids_are_passed_over(notes):
    filled(notes, 3)
    assert [document.id for document in notes.get(["d2", "nowhere", "d0"])] == ["d2", "d0"]
    assert notes.get([]) == []


def test_upsert_takes_the_place_of_what_the_id_held(notes, ada):
    notes.upsert([Document("old tea", id="x", metadata={"v": 1})])
    (old,) = notes.get(["x"])
    notes.upsert([Document("new rain", id="x", metadata={"v": 2})])
    (new,) = notes.get(["x"])
    assert (new.text, new.metadata, notes.count()) == ("new rain", {"v": 2}, 1)
    assert new.cube_id == old.cube_id
    assert [record.text for record in ada.history(new.cube_id)] == ["old tea", "new rain"]
    assert notes.query("old tea", mode="words", k=1) == []


def test_what_changes_nothing_makes_no_version(notes, ada):
    documents = [Document("tea", id="x", metadata={"v": True}, vector=None)]
    notes.upsert(documents)
    notes.upsert(documents)
    (held,) = notes.get(["x"], vectors=True)
    notes.upsert([Document("tea", id="x", metadata={"v": True}, vector=held.vector)])
    assert ada.get(held.cube_id).version == 1
    notes.upsert([Document("tea", id="x", metadata={"v": 1})])
    assert ada.get(held.cube_id).version == 2


def test_of_several_with_one_id_the_last_counts(notes):
    assert notes.upsert([Document("a", id="x"), Document("b", id="x")]) == ["x", "x"]
    assert [document.text for document in notes.list()] == ["b"]


@pytest.mark.parametrize(
    "document",
    [
        Document("t", metadata={"a": float("nan")}),
        Document("t", metadata={"a": (1, 2)}),
        Document("t", metadata={"a": object()}),
        Document("t", metadata={1: 2}),
        Document("t", metadata={"a": "\ud800"}),
        Document("t\x00"),
        Document("t", id=""),
        Document("t", id="x" * 2000),
        Document("t", ttl_seconds=0),
        Document("t", vector=[1.0]),
        Document("t", vector=[float("inf")] * 64),
        Document("t", vector=[[0.0] * 64]),
        Document("t", vector=["a"] * 64),
        Document("x" * 200_001),
        Document("t", metadata={"a": "x" * 200_001}),
    ],
    ids=range(15),
)
def test_what_cannot_be_kept_is_refused_and_nothing_is_written(notes, document):
    with pytest.raises(InvalidInput):
        notes.upsert([Document("good"), document])
    assert notes.count() == 0


def test_deep_metadata_is_refused(notes):
    deep: dict = {}
    for _ in range(500):
        deep = {"a": deep}
    with pytest.raises(InvalidMemory, match="levels deep"):
        notes.upsert([Document("t", metadata=deep)])


def test_what_is_no_document_is_refused(notes):
    with pytest.raises(InvalidMemory):
        notes.upsert([3])
    with pytest.raises(InvalidMemory):
        notes.upsert([{"text": "a", "colour": "red"}])


def test_the_quota_counts_text_and_metadata(tmp_path, embedder):
    with MemOS.open(tmp_path, embedder=embedder, max_bytes=100) as memos:
        notes = memos.scope(user="ada").collection("notes")
        notes.upsert([Document("x" * 40, metadata={"a": "b" * 20})])
        with pytest.raises(InvalidMemory, match="quota"):
            notes.upsert([Document("y" * 40)])
        assert notes.count() == 1
        memos.verify()


def test_pages_cover_everything_once(notes):
    filled(notes, 25)
    seen, cursor = [], None
    while True:
        page = notes.list(limit=7, cursor=cursor)
        seen += [document.id for document in page]
        cursor = page.cursor
        if cursor is None:
            break
    assert seen == [f"d{i}" for i in range(25)]
    assert [document.id for document in notes.list(where={"topic": "rain"}, limit=3)] == ["d1", "d4", "d7"]
    assert notes.count(where={"n": {"$gte": 20}}) == 5


def test_an_expired_document_is_gone_and_gives_its_id_up(notes, clock):
    notes.upsert([Document("tea", id="x", ttl_seconds=60)])
    assert notes.get(["x"])[0].ttl_seconds == 60
    clock.advance(61)
    assert notes.get(["x"]) == []
    assert notes.query("tea") == []
    notes.upsert([Document("rain", id="x")])
    assert [document.text for document in notes.list()] == ["rain"]


# Finding


def test_nearest_first_with_exact_scores(notes, embedder):
    documents = filled(notes, 60)
    query = embedder.embed_query("tea note 3")
    expected = np.sort(embedder.embed([d.text for d in documents]) @ query)[::-1]
    hits = notes.query("tea note 3", k=60)
    assert np.allclose([hit.score for hit in hits], expected, atol=1e-6)
    assert hits[0].id == "d3"


def test_filters_ids_and_offset_narrow_a_query(notes):
    filled(notes, 60)
    everything = [hit.id for hit in notes.query("note", k=60)]
    rainy = [hit.id for hit in notes.query("note", k=60, where={"topic": "rain"})]
    assert rainy == [name for name in everything if int(name[1:]) % 3 == 1]
    assert [hit.id for hit in notes.query("note", k=5, offset=10)] == everything[10:15]
    assert {hit.id for hit in notes.query("note", k=60, ids=["d1", "d2", "nowhere"])} == {"d1", "d2"}
    assert [hit.id for hit in notes.query("note", ids=["d1", "d2"], where={"topic": "rain"})] == ["d1"]
    assert notes.query("note", where={"topic": "snow"}) == []


def test_words_find_what_vectors_need_not(notes):
    filled(notes, 30)
    notes.upsert([Document("The password is xylophone.", id="pass", vector=[1.0] + [0.0] * 63)])
    assert [hit.id for hit in notes.query("xylophone", mode="words")] == ["pass"]
    assert notes.query("xylophone", mode="hybrid", alpha=0.0)[0].id == "pass"
    assert notes.query("xylophone", mode="hybrid", alpha=0.0, where={"n": 1}) == []


def test_hybrid_at_its_ends_is_one_part_alone(notes):
    filled(notes, 40)
    by_vector = [hit.id for hit in notes.query("tea note 9", k=5)]
    assert [hit.id for hit in notes.query("tea note 9", k=5, mode="hybrid", alpha=1.0)] == by_vector
    by_words = [hit.id for hit in notes.query("tea note 9", k=1, mode="words")]
    assert [hit.id for hit in notes.query("tea note 9", k=1, mode="hybrid", alpha=0.0)] == by_words


def test_mmr_takes_the_nearest_first_and_then_what_is_unlike_it(ada):
    points = ada.collection("points", embedder="mine")
    vectors = {"a": [1, 0, 0], "copy": [1, 0.001, 0], "b": [0.8, 0.6, 0], "far": [0, 0, 1]}
    points.upsert([Document(name, id=name, vector=vector) for name, vector in vectors.items()])
    assert [hit.id for hit in points.mmr(vector=[1, 0, 0], k=2, balance=1.0)] == ["a", "copy"]
    assert [hit.id for hit in points.mmr(vector=[1, 0, 0], k=2, balance=0.0)] == ["a", "far"]
    assert len(points.mmr(vector=[1, 0, 0], k=9, fetch_k=2)) == 4


def test_equal_documents_are_all_found_each_once(ada):
    points = ada.collection("points", embedder="mine")
    points.upsert([Document("same", id=str(i), vector=[1.0, 0.0]) for i in range(3000)])
    assert [hit.id for hit in points.query(vector=[1.0, 0.0], k=3000)] == [str(i) for i in range(3000)]


def test_ten_thousand_nodes_agree_with_the_definition(ada):
    rng = np.random.default_rng(7)
    vectors = rng.normal(size=(10_000, 16)).astype(np.float32)
    points = ada.collection("points", embedder="mine", dimension=16)
    points.upsert([Document("", id=str(i), metadata={"g": i % 50, "n": i}, vector=v) for i, v in enumerate(vectors)])
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for where, rows in (
        (None, np.arange(10_000)),
        ({"g": 7}, np.arange(7, 10_000, 50)),
        ({"$or": [{"n": {"$lt": 5}}, {"g": {"$in": [1, 2]}, "n": {"$gte": 9000}}]}, None),
    ):
        query = rng.normal(size=16)
        chosen = rows
        if chosen is None:
            chosen = np.array([i for i in range(10_000) if i < 5 or (i % 50 in (1, 2) and i >= 9000)])
        scores = units[chosen] @ (query / np.linalg.norm(query))
        best = chosen[np.argsort(-scores)][:20]
        hits = points.query(vector=query, k=20, where=where)
        assert [hit.id for hit in hits] == [str(i) for i in best]
        assert np.allclose([hit.score for hit in hits], np.sort(scores)[::-1][:20], atol=1e-5)


def test_the_dot_product_counts_length(ada):
    points = ada.collection("points", embedder="mine", metric="dot")
    points.upsert([Document("short", id="s", vector=[1, 0]), Document("long", id="l", vector=[3, 3])])
    hits = points.query(vector=[2, 0])
    assert [(hit.id, hit.score) for hit in hits] == [("l", 6.0), ("s", 2.0)]
    assert points.get(["l"], vectors=True)[0].vector == [3.0, 3.0]


def test_a_long_document_is_found_by_any_part_and_once(notes):
    notes.upsert([Document("filler words " * 200 + " the zebra sleeps " + "more padding " * 200, id="long"), "tea"])
    hits = notes.query("the zebra sleeps", k=5)
    assert [hit.id for hit in hits].count("long") == 1


@pytest.mark.parametrize(
    "options",
    [
        {"k": 0},
        {"offset": -1},
        {"alpha": 2.0, "mode": "hybrid"},
        {"mode": "telepathy"},
        {"where": {"a": {"$b": 1}}},
        {"vector": [1.0]},
    ],
)
def test_a_wrong_question_says_so(notes, options):
    with pytest.raises(InvalidInput):
        notes.query("tea", **options)


def test_a_question_needs_text_or_vector(notes, ada):
    with pytest.raises(InvalidInput):
        notes.query()
    with pytest.raises(InvalidInput, match="by vector"):
        ada.collection("points", embedder="mine").query("tea")


def test_chroma_finds_the_same(tmp_path, embedder):
    pytest.importorskip("chromadb")
    with MemOS.open(tmp_path, embedder=embedder, index="chroma") as memos:
        ada = memos.scope(user="ada")
        notes, points = ada.collection("notes"), ada.collection("points", embedder="mine")
        filled(notes, 30)
        points.upsert([Document("a", id="a", vector=[1, 0, 0]), Document("b", id="b", vector=[0, 1, 0])])
        ada.add("A memory of tea.")
        assert notes.query("tea note 3", k=1)[0].id == "d3"
        assert [hit.id for hit in points.query(vector=[0.1, 1, 0])] == ["b", "a"]
        notes.delete(["d3"])
        assert "d3" not in [hit.id for hit in notes.query("tea note 3", k=30)]
        memos.run_pending()
        assert len(notes.query("tea note 3", k=30)) == 29
        assert ada.search("tea", k=5)[0].text == "A memory of tea."


# Apart from memories, and from each other


def test_documents_never_appear_among_memories(ada, notes, tmp_path):
    filled(notes, 12)
    ada.add("I drink tea.", session=None)
    assert [hit.text for hit in ada.search("tea note", k=20)] == ["I drink tea."]
    assert (ada.count(), ada.count(type="any")) == (1, 1)
    assert [cube.text for cube in ada.list(type="any")] == ["I drink tea."]
    assert "note" not in ada.context("tea note").text.replace("Notes from memory", "")
    assert ada.export(tmp_path / "out.jsonl") == 1


def test_documents_do_not_move_the_scores_of_memories(ada, notes):
    ada.add_many(["I drink tea.", "It rained on Friday.", "We played chess."])
    before = [(hit.text, hit.score) for hit in ada.search("tea", k=5)]
    filled(notes, 60)
    assert [(hit.text, hit.score) for hit in ada.search("tea", k=5)] == before


def test_documents_of_a_session_are_no_neighbours_of_its_turns(ada):
    talk = ada.scope(session="S1")
    talk.add("I drink tea.")
    talk.collection("notes").upsert(["a stray document"])
    talk.add("It rained on Friday.")
    assert {hit.text for hit in talk.search("tea", k=9)} <= {"I drink tea.", "It rained on Friday."}


def test_each_scope_has_its_own_collection_of_a_name(memos, ada, notes, embedder):
    notes.upsert([Document("ada's", id="x")])
    others = [
        memos.scope(user="bob").collection("notes", embedder=HashEmbedder(8)),
        ada.scope(session="S1").collection("notes"),
        ada.scope(agent="scout").collection("notes"),
        ada.collection("other"),
    ]
    for other in others:
        assert other.get(["x"]) == []
        assert other.query("ada's") == []
        other.upsert([Document("theirs", id="x")])
    assert notes.get(["x"])[0].text == "ada's"
    with pytest.raises(CubeNotFound):
        memos.scope(user="bob").get(notes.get(["x"])[0].cube_id)


def test_a_collection_refuses_the_vectors_of_another_embedder(ada, notes):
    notes.upsert(["tea"])
    for other in (HashEmbedder(64, name="other"), HashEmbedder(8)):
        with pytest.raises(EmbedderMismatch, match="reembed"):
            ada.collection("notes", embedder=other).upsert(["rain"])
        with pytest.raises(EmbedderMismatch):
            ada.collection("notes", embedder=other).query("tea")
    with pytest.raises(EmbedderMismatch):
        ada.collection("notes", metric="dot").query("tea")
    points = ada.collection("points", embedder="mine")
    with pytest.raises(EmbedderMismatch):
        points.upsert([Document("a", vector=[1, 0]), Document("b", vector=[1, 0, 0])])
    assert points.count() == 0


def test_reembed_moves_a_collection_and_nothing_else(memos, ada, notes):
    filled(notes, 9)
    ada.add("I drink tea.")
    other = HashEmbedder(16, name="other")
    assert memos.reembed(notes.key, embedder=other) == 9
    assert ada.search("tea", k=1)[0].text == "I drink tea."
    moved = ada.collection("notes", embedder=other)
    assert moved.query("tea note 3", k=1)[0].id == "d3"
    memos.verify()


def test_a_vault_without_embedder_takes_vectors_and_words(tmp_path):
    with MemOS.open(tmp_path, embedder=None) as memos:
        ada = memos.scope(user="ada")
        with pytest.raises(InvalidInput, match="no embedder"):
            ada.collection("notes")
        points = ada.collection("points", embedder="mine")
        with pytest.raises(InvalidMemory, match="vector"):
            points.upsert(["tea"])
        points.upsert([Document("tea", id="a", vector=[1, 0])])
        assert points.query("tea", mode="words")[0].id == "a"


def test_a_collections_name_is_checked(ada):
    for name in ("", "a/b", "x" * 200):
        with pytest.raises(InvalidName):
            ada.collection(name)
    with pytest.raises(InvalidInput):
        ada.collection("notes", metric="manhattan")


def test_a_document_is_changed_in_its_collection_only(ada, notes):
    notes.upsert([Document("tea", id="x")])
    (document,) = notes.get(["x"])
    with pytest.raises(InvalidInput, match="upsert it there"):
        ada.update(document.cube_id, "rain")
    ada.freeze(document.cube_id)
    with pytest.raises(CubeFrozen):
        notes.upsert([Document("rain", id="x")])
    assert notes.get(["x"])[0].text == "tea"


# Durable, and erased like all memory


def test_a_collection_survives_reopening(tmp_path, embedder):
    with MemOS.open(tmp_path, embedder=embedder) as memos:
        filled(memos.scope(user="ada").collection("notes"), 10)
    with MemOS.open(tmp_path, embedder=embedder) as memos:
        notes = memos.scope(user="ada").collection("notes")
        assert notes.query("tea note 3", k=1)[0].id == "d3"
        memos.verify()


def test_deleting_by_id_and_by_filter(notes):
    filled(notes, 30)
    assert len(notes.delete(["d0", "nowhere"]).cube_ids) == 1
    assert len(notes.delete(where={"topic": "rain"}).cube_ids) == 10
    assert len(notes.delete(["d2", "d3"], where={"topic": "tea"}).cube_ids) == 1
    assert notes.count() == 18
    assert notes.delete([]).complete
    with pytest.raises(InvalidInput):
        notes.delete()


def test_what_is_erased_leaves_the_disk(tmp_path, embedder):
    folder = tmp_path / "memory"
    with MemOS.open(folder, embedder=embedder) as memos:
        notes = memos.scope(user="ada").collection("notes")
        notes.upsert([Document("The secret is zanzibar.", id="x", metadata={"k": "quetzalcoatl"}), "tea"])
        notes.upsert([Document("Now it is ouagadougou.", id="x")])
        erasure = notes.delete(["x"])
        assert not erasure.complete
        assert erasure.versions == 2
        memos.run_pending()
        assert notes.count() == 1
    stored = b"".join(path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()).lower()
    for word in (b"zanzibar", b"quetzalcoatl", b"ouagadougou"):
        assert word not in stored


def test_complete_erasure_says_so(notes):
    filled(notes, 5)
    assert notes.delete(["d1"], complete=True).complete


def test_clearing_frees_the_name(ada, notes, clock):
    filled(notes, 5)
    notes.upsert([Document("old", id="gone", ttl_seconds=1)])
    clock.advance(2)
    notes.clear()
    other = ada.collection("notes", embedder=HashEmbedder(8))
    other.upsert(["tea"])
    assert other.count() == 1


def test_forget_by_cube_takes_the_document(ada, notes):
    filled(notes, 3)
    (document,) = notes.get(["d1"])
    assert ada.forget(document.cube_id).complete
    assert notes.get(["d1"]) == []
    assert len(notes.query("note", k=9)) == 2


async def test_async_twins_do_the_same(notes):
    await notes.aupsert([Document("tea", id="a"), Document("rain", id="b")])
    found, listed, count = await asyncio.gather(notes.aquery("tea", k=1), notes.alist(), notes.acount())
    assert (found[0].id, len(listed), count) == ("a", 2, 2)
    assert [hit.id for hit in await notes.ammr("tea", k=1)] == ["a"]
    assert len((await notes.adelete(["a"])).cube_ids) == 1
    assert await notes.aget(["a"]) == []
    await notes.aclear()


def test_many_threads_write_and_read_at_once(notes):
    def work(number: int) -> None:
        notes.upsert([Document(f"tea {number} {i}", id=f"{number % 10}-{i}") for i in range(3)])
        assert notes.query("tea", k=3)
        notes.delete([f"{number % 10}-2"])

    with ThreadPoolExecutor(50) as pool:
        list(pool.map(work, range(50)))
    assert notes.count() == 20


def test_an_old_header_reads_as_it_did(ada):
    """A memory is stored without the fields that only documents use, so vaults of before keep their digests."""
    cube = ada.get(ada.add("tea").cube_id)
    assert "metadata" not in cube.to_json()
    assert "collection" not in cube.to_json()
    assert type(cube).from_json(cube.to_json()) == cube


def test_clock_is_the_vaults(notes, ada, clock: FakeClock):
    notes.upsert([Document("tea", id="x")])
    assert ada.get(notes.get(["x"])[0].cube_id).created == clock.now()


# From ids to memories


def test_ids_resolve_to_memories_and_documents(ada, notes, clock):
    receipt = ada.add("I drink tea.")
    filled(notes, 3)
    notes.upsert([Document("short lived", id="brief", ttl_seconds=5)])
    (document,) = notes.get(["d1"])
    found = ada.resolve([receipt.cube_id, "d2", document.cube_id, "brief", "nowhere", "d2"])
    assert [cube.text for cube in found.memories.values()] == [
        "I drink tea.",
        "chess note 2",
        "rain note 1",
        "short lived",
    ]
    assert set(found.left_out) == {"nowhere"}
    clock.advance(6)
    assert set(ada.resolve(["brief", "d2"]).memories) == {"d2"}


def test_an_id_of_two_documents_resolves_to_none(ada, notes):
    notes.upsert([Document("a", id="x")])
    ada.collection("other").upsert([Document("b", id="x")])
    assert "single" in ada.resolve(["x"]).left_out["x"]


def test_resolving_keeps_to_what_a_scope_sees(memos, ada, notes):
    notes.upsert([Document("a", id="x")])
    cube_id = notes.get(["x"])[0].cube_id
    assert memos.scope(user="bob").resolve(["x", cube_id]).memories == {}
    talk = ada.scope(session="S1").collection("notes")
    talk.upsert([Document("b", id="y")])
    assert set(ada.resolve(["x", "y"]).memories) == {"x", "y"}
    assert set(ada.scope(session="S2").resolve(["x", "y"]).memories) == {"x"}


def test_resolving_stops_at_the_budget(ada, notes):
    notes.upsert([Document("word " * 50, id="long"), Document("short", id="short")])
    found = ada.resolve(["long", "short"], max_tokens=40)
    assert list(found.memories) == ["short"]
    assert "tokens" in found.left_out["long"]
