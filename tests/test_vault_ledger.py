"""The ledger: what is written is read again, by whom it may be, and nothing else."""

from __future__ import annotations

from datetime import timedelta

import pytest

from memos_core.cube import Link, MemoryType, PlaintextPayload, State
from memos_core.errors import CubeConflict, CubeNotFound, EmbedderMismatch, InvalidInput, VaultClosed
from memos_core.infrastructure.vault import SearchFilter, UsageDelta, Visibility
from memos_core.testing import HashEmbedder

ADA = Visibility("ada")


def wanted(clock, visibility=ADA, **conditions):
    return SearchFilter(visibility, clock.now(), **conditions)


def found(vault, clock, words, visibility=ADA, **conditions):
    with vault.read() as session:
        matches = session.word_matches(wanted(clock, visibility, **conditions), words.split())
        return [session.cube(visibility, match.cube_id).text for match in matches]


def next_version(cube, text):
    return cube.model_copy(update={"version": cube.version + 1, "payload": PlaintextPayload(text=text)})


def test_a_cube_is_read_as_it_was_written(vault, make):
    cube = make(
        "Ünïcödé 猫 🐱\n\ttext",
        speaker="Ben",
        ref="D1:1",
        tags=("b", "a"),
        ttl_seconds=60.5,
        kind="turn",
        language="de",
    )
    make.store(vault, cube)
    with vault.read() as session:
        assert session.cube(ADA, cube.id) == cube
        assert session.cubes(ADA, [cube.id]) == [cube]


@pytest.mark.parametrize("cube_id", ["", "nonsense", "01ARZ3NDEKTSV4RRFFQ69G5FAV", "' OR 1=1 --"])
def test_malformed_and_absent_ids_are_no_cube(vault, make, cube_id):
    make.store(vault, make("text"))
    with vault.read() as session:
        assert session.cube(ADA, cube_id) is None
        assert session.cubes(ADA, [cube_id]) == []
        assert session.versions(ADA, cube_id) == []


def test_another_namespace_sees_nothing(vault, make, clock, embedder):
    cube = make("secret plans")
    make.store(vault, cube)
    bob = Visibility("bob")
    with vault.read() as session:
        assert session.cube(bob, cube.id) is None
        assert session.cubes(bob, [cube.id]) == []
        assert session.listing(bob, limit=9, now=clock.now()) == []
        assert session.count(bob, now=clock.now()) == 0
        assert session.corpus(bob, clock.now()) == (0, 0.0)
        assert session.newest_change("bob") == session.bytes_used("bob") == 0
    assert found(vault, clock, "secret", bob) == []
    assert vault.vector_search(wanted(clock, bob), embedder.embed_query("secret"), 5) == []


@pytest.mark.parametrize(
    ("agent", "session", "seen"),
    [
        (None, None, {"free", "agent", "session", "both"}),
        ("scout", None, {"free", "agent", "session", "both"}),
        ("other", None, {"free", "session"}),
        (None, "S1", {"free", "agent", "session", "both"}),
        (None, "S2", {"free", "agent"}),
        ("other", "S2", {"free"}),
    ],
)
def test_a_bound_scope_sees_its_own_and_the_unbound(vault, make, clock, agent, session, seen):
    make.store(
        vault,
        make("free"),
        make("agent", agent="scout"),
        make("session", session="S1"),
        make("both", agent="scout", session="S1"),
    )
    with vault.read() as read:
        cubes = read.listing(Visibility("ada", agent, session), limit=9, now=clock.now())
    assert {cube.text for cube in cubes} == seen


def test_the_statistics_of_words_count_only_what_the_scope_sees(vault, make, clock):
    make.store(vault, make("one two"), make("one two three four", session="S1"), make("many words here", user="bob"))
    with vault.read() as session:
        assert session.corpus(ADA, clock.now()) == (2, 3.0)
        assert session.corpus(Visibility("ada", session="S2"), clock.now()) == (1, 2.0)


def test_words_are_found_with_their_counts(vault, make, clock):
    make.store(vault, make("cat cat dog"), make("bird"))
    with vault.read() as session:
        (match,) = session.word_matches(wanted(clock), ["cat", "dog", "fish"])
    assert (match.counts, match.length, match.start, match.end) == ({"cat": 2, "dog": 1}, 3, 0, 11)


def test_thousands_of_words_and_ids_fit_one_question(vault, make, clock):
    cube = make("cat")
    make.store(vault, cube)
    with vault.read() as session:
        assert len(session.word_matches(wanted(clock), [f"w{i}" for i in range(40_000)] + ["cat"])) == 1
        ids = [make.ids.new(clock.now()) for _ in range(40_000)]
        assert session.cubes(ADA, [*ids, cube.id]) == [cube]


@pytest.mark.parametrize(
    ("filters", "texts"),
    [
        ({"speaker": "Ben"}, {"a"}),
        ({"speaker": ["Ben", "Eve"]}, {"a", "b"}),
        ({"speaker": None}, {"c"}),
        ({"tags": "x"}, {"a", "b"}),
        ({"tags": ["y"], "speaker": "Ben"}, {"a"}),
        ({"tags": None}, {"c"}),
        ({"kind": "note", "ref": []}, set()),
        ({"ref": "1' OR '1'='1"}, set()),
        ({"uri": "file:///x", "language": "en", "role": "user", "session": "S"}, {"c"}),
    ],
)
def test_filters_match_exactly(vault, make, clock, filters, texts):
    make.store(
        vault,
        make("a word", speaker="Ben", tags=("x", "y"), ref="1"),
        make("b word", speaker="Eve", tags=("x",)),
        make("c word", uri="file:///x", language="en", role="user", session="S"),
    )
    assert {text[0] for text in found(vault, clock, "word", filters=filters)} == texts


@pytest.mark.parametrize("filters", [{"colour": "red"}, {"speaker": 3}, {"tags": {"a": 1}}, {"cubes.id; DROP": "x"}])
def test_unknown_filters_are_refused_even_where_nothing_is_stored(vault, clock, embedder, filters):
    with vault.read() as session, pytest.raises(InvalidInput):
        session.word_matches(wanted(clock, filters=filters), ["x"])
    with pytest.raises(InvalidInput):
        vault.vector_search(wanted(clock, filters=filters), embedder.embed_query("x"), 1)


def test_validity_and_time_are_conditions(vault, make, clock):
    now = clock.now()
    day = timedelta(days=1)
    make.store(
        vault,
        make("old word", valid_until=now - day, at=now - 9 * day),
        make("coming word", valid_from=now + day, at=now - 2 * day),
        make("current word"),
    )
    assert found(vault, clock, "word") == ["current word"]
    assert found(vault, clock, "word", as_of=now - 2 * day) == ["old word", "current word"]
    assert found(vault, clock, "word", as_of=now + 2 * day) == ["coming word", "current word"]
    assert found(vault, clock, "word", as_of=now - 2 * day, before=now) == ["old word"]


def test_an_expired_cube_is_gone_from_search_and_gives_up_its_key(vault, make, clock, embedder):
    cube = make("word", expires_at=clock.now() + timedelta(seconds=60))
    with vault.write() as session:
        session.insert(cube, passages=make.passages(cube), dedup_key="key", author="t")
        assert session.find_duplicate("ada", "key", clock.now()) == (cube.id, 1)
    clock.advance(61)
    assert found(vault, clock, "word") == []
    assert vault.vector_search(wanted(clock), embedder.embed_query("word"), 3) == []
    again = make("word")
    with vault.write() as session:
        assert session.count(ADA, now=clock.now()) == 0
        assert [c.id for c in session.listing(ADA, limit=5, states=(State.EXPIRED,), now=clock.now())] == [cube.id]
        assert session.find_duplicate("ada", "key", clock.now()) is None
        session.insert(again, passages=make.passages(again), dedup_key="key", author="t")
    with vault.read() as session:
        assert session.cube(ADA, cube.id).state is State.EXPIRED
    vault.verify()


def test_two_live_cubes_cannot_hold_one_key(vault, make):
    first, second = make("a"), make("b")
    with vault.write() as session:
        session.insert(first, passages=(), dedup_key="key", author="t")
    with pytest.raises(CubeConflict) as caught, vault.write() as session:
        session.insert(second, passages=(), dedup_key="key", author="t")
    assert caught.value.other_id == first.id
    with vault.read() as session:
        assert session.cube(ADA, first.id) == first
        assert session.cube(ADA, second.id) is None


def test_versions_stay_and_only_the_newest_is_searched(vault, make, clock):
    cube = make("green tea", tags=("drink",))
    make.store(vault, cube)
    newer = next_version(cube, "black coffee")
    with vault.write() as session:
        session.replace(newer, passages=make.passages(newer), dedup_key=None, author="ada", reason="changed")
    with vault.read() as session:
        records = session.versions(ADA, cube.id)
        assert [(r.version, r.text, r.author, r.reason) for r in records] == [
            (1, "green tea", "test", "added"),
            (2, "black coffee", "ada", "changed"),
        ]
        assert session.cube(ADA, cube.id, 1).text == "green tea"
        assert session.cube(ADA, cube.id, 3) is None
        assert session.bytes_used("ada") == len("green tea") + len("black coffee")
    assert found(vault, clock, "tea") == []
    assert found(vault, clock, "coffee") == ["black coffee"]
    with pytest.raises(InvalidInput), vault.write() as session:
        session.replace(newer, passages=(), dedup_key=None, author="t", reason="r")


def test_a_changed_header_makes_no_version_and_counts_for_earlier_ones(vault, make):
    cube, other = make("a"), make("b")
    make.store(vault, cube, other)
    newer = next_version(cube, "a2")
    with vault.write() as session:
        session.replace(newer, passages=make.passages(newer), dedup_key=None, author="t", reason="r")
        links = (Link(target=other.id, relation="about"),)
        descriptive = newer.header.descriptive.model_copy(update={"links": links})
        changed = newer.model_copy(update={"header": newer.header.model_copy(update={"descriptive": descriptive})})
        session.set_header(changed, author="t", reason="linked")
    with vault.read() as session:
        assert session.cube(ADA, cube.id) == changed
        assert session.cube(ADA, cube.id, 1).header.descriptive.links == links
        assert len(session.versions(ADA, cube.id)) == 2


def test_states_decide_what_is_found(vault, make, clock):
    cube = make("word")
    make.store(vault, cube)
    with vault.write() as session:
        session.set_state(cube.id, State.ARCHIVED, author="t", reason="r")
    assert found(vault, clock, "word") == []
    with vault.write() as session:
        session.set_state(cube.id, State.ACTIVE, author="t", reason="r")
    assert found(vault, clock, "word") == ["word"]
    with pytest.raises(CubeNotFound), vault.write() as session:
        session.set_state("01ARZ3NDEKTSV4RRFFQ69G5FAV", State.ACTIVE, author="t", reason="r")


def test_listing_goes_page_by_page_and_by_type(vault, make, clock):
    cubes = [make(f"text {i}") for i in range(5)]
    make.store(vault, *cubes)
    with vault.read() as session:
        first = session.listing(ADA, limit=3, now=clock.now())
        rest = session.listing(ADA, limit=3, after=first[-1].id, now=clock.now())
        assert first + rest == cubes
        assert session.count(ADA, types=(MemoryType.ACTIVATION,), now=clock.now()) == 0
        assert session.listing(ADA, limit=3, types=(MemoryType.ACTIVATION,), now=clock.now()) == []


def test_counters_add_up_beside_the_versions(vault, make, clock):
    cube = make("a")
    make.store(vault, cube)
    with vault.write() as session:
        session.touch({cube.id: UsageDelta(reads=2, feedback=0.5, last_used=clock.now()), "gone": UsageDelta(reads=1)})
        session.touch({cube.id: UsageDelta(reads=1, last_used=clock.now() - timedelta(days=1))})
    with vault.read() as session:
        behaviour = session.cube(ADA, cube.id).header.behaviour
    assert (behaviour.reads, behaviour.feedback, behaviour.last_used) == (3, 0.5, clock.now())


def test_a_failed_block_leaves_nothing(vault, make, clock):
    def fail():
        with vault.write() as session:
            session.insert(make("word"), passages=(), dedup_key=None, author="t")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    with vault.read() as session:
        assert session.namespaces() == []
        assert session.count(ADA, now=clock.now()) == 0


def test_a_reader_sees_one_state_while_others_write(vault, make, clock):
    make.store(vault, make("one"))
    with vault.read() as session:
        assert session.count(ADA, now=clock.now()) == 1
        make.store(vault, make("two"))
        assert session.count(ADA, now=clock.now()) == 1
    with vault.read() as session:
        assert session.count(ADA, now=clock.now()) == 2


def test_the_audit_tells_who_did_what(vault, make):
    cube = make("a")
    make.store(vault, cube)
    with vault.write() as session:
        session.record_audit("ada", "ada/scout", "add", [cube.id], {"count": 1})
    with vault.read() as session:
        (entry,) = session.audit("ada", 10)
        assert session.audit("bob", 10) == []
    assert (entry["principal"], entry["action"], entry["cube_ids"]) == ("ada/scout", "add", [cube.id])


def test_a_collection_refuses_another_embedder_when_used_but_not_when_opened(open_vault, make, clock):
    make.store(open_vault(), make("a"))
    stranger = HashEmbedder(32)
    vault = open_vault(embedder=stranger)
    with pytest.raises(EmbedderMismatch):
        vault.vector_search(wanted(clock), stranger.embed_query("a"), 1)
    make.embedder = stranger
    with pytest.raises(EmbedderMismatch, match="reembed"):
        make.store(vault, make("b"))
    assert found(vault, clock, "a") == ["a"]


def test_without_an_embedder_words_are_enough(open_vault, make, clock):
    vault = open_vault(embedder=None)
    cube = make("cat")
    with vault.write() as session:
        (passage,) = make.passages(cube)
        session.insert(cube, passages=[type(passage)(0, 3, passage.terms, None)], dedup_key=None, author="t")
    assert found(vault, clock, "cat") == ["cat"]
    vault.verify()


def test_a_closed_vault_says_so(vault):
    vault.close()
    vault.close()
    with pytest.raises(VaultClosed), vault.read():
        pass
    with pytest.raises(VaultClosed), vault.write():
        pass
    with pytest.raises(VaultClosed):
        vault.verify()
