"""Memories change their form by what they are used for, and what was made of them goes when they change."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError

from memos_core import EvolutionPolicy, MemCube, MemOS, Scope
from memos_core.cube import HEAT_HALF_LIFE_SECONDS, Behaviour, MemoryType
from memos_core.engine import HFEngine
from memos_core.errors import CubeNotFound
from memos_core.infrastructure.vault import UsageDelta, heat
from memos_core.operation.evolve import MemEvolution, decide
from memos_core.testing import FakeClock, HashEmbedder
from memos_core.testing.models import tiny_model

TEXT = "My cat is called Biscuit and sleeps on the kitchen shelf."
DAY = 86400.0


@pytest.fixture(scope="module")
def engine() -> Iterator[HFEngine]:
    engine = HFEngine.from_model(*tiny_model("llama"), name="tiny")
    yield engine
    engine.close()


@pytest.fixture
def memos(tmp_path: Path, engine: HFEngine, clock: FakeClock) -> Iterator[MemOS]:
    with MemOS.open(tmp_path / "vault", engine=engine, embedder=HashEmbedder(), clock=clock) as memos:
        yield memos


@pytest.fixture
def ada(memos: MemOS) -> Scope:
    return memos.scope(user="ada")


def add(scope: Scope, text: str = TEXT, **fields: object) -> str:
    cube_id = scope.add(text, **fields).cube_id  # type: ignore[arg-type]
    assert cube_id is not None
    return cube_id


def use(scope: Scope, cube_id: str, times: int) -> None:
    """Count a memory as used, as searches and requests do."""
    now = scope._layers.governance.clock.now()
    scope._layers.lifecycle.count([cube_id], UsageDelta(injected_text=times, last_used=now))


def activations(scope: Scope) -> list[MemCube]:
    return list(scope.list(type="activation"))


# Heat


def test_heat_counts_uses_and_halves_in_a_week(ada: Scope, clock: FakeClock) -> None:
    cube_id = add(ada)
    use(ada, cube_id, 4)
    assert ada.get(cube_id).header.behaviour.heat == 4
    clock.advance(HEAT_HALF_LIFE_SECONDS)
    assert ada.get(cube_id).header.behaviour.heat_at(clock.now()) == pytest.approx(2)
    use(ada, cube_id, 1)
    assert ada.get(cube_id).header.behaviour.heat == pytest.approx(3)


def test_uses_that_are_told_of_late_count_for_less(ada: Scope, clock: FakeClock) -> None:
    cube_id = add(ada)
    early = clock.now()
    clock.advance(HEAT_HALF_LIFE_SECONDS)
    use(ada, cube_id, 1)
    ada._layers.lifecycle.count([cube_id], UsageDelta())
    ada.get(cube_id)
    ada._layers.lifecycle.count([cube_id], UsageDelta(reads=2, last_used=early))
    behaviour = ada.get(cube_id).header.behaviour
    assert (behaviour.heat, behaviour.last_used) == (pytest.approx(2), clock.now())


def test_what_was_never_used_is_cold(clock: FakeClock) -> None:
    assert Behaviour().heat_at(clock.now()) == 0


# Policy


def contribute(scope: Scope, cube_id: str, share: float) -> None:
    """Count a share in answers, as learning does."""
    with scope._layers.vault.write() as session:
        heat.contribute(session, {cube_id: share})


def test_what_is_given_and_not_used_by_answers_is_not_kept_as_kv(memos: MemOS, ada: Scope, clock: FakeClock) -> None:
    policy = EvolutionPolicy(least_contribution=0.1)
    used, idle, unknown = add(ada), add(ada, TEXT + " It is so."), add(ada, TEXT + " Nobody knows.")
    contribute(ada, used, 0.1)
    contribute(ada, idle, 0.09)
    clock.advance(DAY)
    for cube_id in (used, idle, unknown):
        use(ada, cube_id, 5)
    assert {each.cube_ids[0] for each in ada.evolve(policy=policy, dry_run=True)} == {used, unknown}
    assert len(ada.evolve(dry_run=True)) == 3  # off by default


def test_kv_that_answers_do_not_use_is_dropped_however_hot_and_not_made_in_turns(
    memos: MemOS, ada: Scope, clock: FakeClock
) -> None:
    policy = EvolutionPolicy(least_contribution=0.1)
    cube_id = add(ada)
    kv = ada.transform(cube_id, to="activation").id
    contribute(ada, cube_id, 0.06)  # too little to be made, too much to be dropped
    clock.advance(DAY)
    use(ada, cube_id, 50)
    use(ada, kv, 50)
    assert ada.evolve(policy=policy) == ()
    contribute(ada, cube_id, 0.04)
    (planned,) = ada.evolve(policy=policy)
    assert (planned.action, planned.cube_ids) == ("demote", (kv,))
    assert "4.0%" in planned.reason
    assert ada.get(cube_id).state == "active"
    assert ada.evolve(policy=policy) == ()


def test_a_policy_without_hysteresis_is_refused() -> None:
    with pytest.raises(ValidationError, match="back and forth"):
        EvolutionPolicy(hot=1, cold=1)
    with pytest.raises(ValidationError):
        EvolutionPolicy(warm=1)  # type: ignore[call-arg]


def test_hot_text_becomes_kv_and_the_dry_run_says_so_and_does_nothing(
    memos: MemOS, ada: Scope, clock: FakeClock
) -> None:
    hot, cool = add(ada), add(ada, TEXT + " Not so often.")
    clock.advance(DAY)
    use(ada, hot, 5)
    use(ada, cool, 2)
    (planned,) = memos.evolve(dry_run=True)
    assert (planned.user, planned.action, planned.cube_ids, planned.job_id) == ("ada", "activate", (hot,), None)
    assert "heat 5.00 is at least 3" in planned.reason
    assert "24 hours" in planned.reason
    assert ada.jobs() == []
    (done,) = ada.evolve()
    assert done.job_id == ada.jobs()[0].id
    memos.run_pending()
    (derived,) = activations(ada)
    assert derived.header.descriptive.lineage.sources == ((hot, 1),)
    assert ada.evolve() == ()


@pytest.mark.parametrize(
    ("changes", "uses", "wait"),
    [({}, 2, DAY), ({"settle_seconds": 2 * DAY}, 5, DAY), ({"min_chars": 500}, 5, DAY), ({"max_builds": 0}, 5, DAY)],
    ids=["cool", "edited lately", "short", "no budget"],
)
def test_text_is_left_alone_that_is(
    ada: Scope, clock: FakeClock, changes: dict[str, float], uses: int, wait: float
) -> None:
    cube_id = add(ada)
    clock.advance(wait)
    use(ada, cube_id, uses)
    assert ada.evolve(policy=EvolutionPolicy(**changes), dry_run=True) == ()  # type: ignore[arg-type]


def test_what_has_cooled_is_dropped_and_its_source_stays(memos: MemOS, ada: Scope, clock: FakeClock) -> None:
    cube_id = add(ada)
    derived = ada.transform(cube_id, to="activation")
    ada.chat("What is my cat called?", memory_ids=[cube_id], inject="kv", max_tokens=2)
    assert ada.evolve() == (), "used a moment ago"
    clock.advance(4 * HEAT_HALF_LIFE_SECONDS)
    (decision,) = ada.evolve(dry_run=True)
    assert (decision.action, decision.cube_ids) == ("demote", (derived.id,))
    assert "28 days unused" in decision.reason
    assert "tokens saved" in decision.reason
    ada.evolve()
    memos.run_pending()
    assert activations(ada) == []
    assert memos.stats()["blobs"] == 0
    assert ada.get(cube_id).text == TEXT
    memos.verify()


def test_nothing_is_made_and_dropped_in_turns(memos: MemOS, ada: Scope, clock: FakeClock) -> None:
    cube_id = add(ada)
    clock.advance(DAY)
    use(ada, cube_id, 4)
    changes = 0
    for _ in range(30):
        changes += len(ada.evolve())
        memos.run_pending()
        clock.advance(2 * DAY)
        if ada.get(cube_id).header.behaviour.heat_at(clock.now()) < 2:
            use(ada, cube_id, 1)  # hovers between cold and hot for two months
    assert changes <= 2


def test_kv_of_a_model_that_is_gone_keeps_no_memory_from_that_of_the_new_one(
    tmp_path: Path, memos: MemOS, ada: Scope, clock: FakeClock
) -> None:
    cube_id = add(ada)
    old = ada.transform(cube_id, to="activation")
    memos.close()
    other = HFEngine.from_model(*tiny_model("llama"), name="another")
    with MemOS.open(tmp_path / "vault", engine=other, embedder=HashEmbedder(), clock=clock) as again:
        ada = again.scope(user="ada")
        clock.advance(2 * DAY)
        use(ada, cube_id, 9)
        decisions = {each.action: each.cube_ids for each in ada.evolve(dry_run=True)}
        assert decisions == {"demote": (old.id,), "activate": (cube_id,)}
    other.close()


def test_frozen_kv_stays(ada: Scope, clock: FakeClock) -> None:
    derived = ada.transform(add(ada), to="activation")
    ada.freeze(derived.id)
    clock.advance(99 * DAY)
    assert ada.evolve(policy=EvolutionPolicy(max_derived_bytes=0), dry_run=True) == ()


def test_over_the_room_for_kv_the_least_used_goes_and_nothing_is_made(ada: Scope, clock: FakeClock) -> None:
    texts = [add(ada, f"{TEXT} Number {number}.") for number in range(3)]
    first, second = (ada.transform(each, to="activation") for each in texts[:2])
    clock.advance(DAY)
    for each in texts:
        use(ada, each, 9)
    use(ada, first.id, 5)
    use(ada, second.id, 1)
    size = first.payload.blob.size_bytes  # type: ignore[union-attr]
    tight = EvolutionPolicy(max_derived_bytes=int(1.5 * size))
    assert [each.cube_ids for each in ada.evolve(policy=tight, dry_run=True)] == [(second.id,)]
    roomy = EvolutionPolicy(max_derived_bytes=4 * size)
    assert [each.cube_ids for each in ada.evolve(policy=roomy, dry_run=True)] == [(texts[2],)]
    slow = EvolutionPolicy(max_build_seconds=0)
    assert ada.evolve(policy=slow, dry_run=True) == ()


def test_texts_that_stay_hot_go_into_an_adapter_together_where_there_is_a_pathway(ada: Scope, clock: FakeClock) -> None:
    texts = [ada.get(add(ada, f"{TEXT} Number {number}.")) for number in range(5)]
    now = clock.now() + timedelta(days=8)
    warm = Behaviour(reads=30, heat=30, last_used=now)
    hot = [cube.model_copy(update={"header": cube.header.model_copy(update={"behaviour": warm})}) for cube in texts]
    policy = EvolutionPolicy(parametric_hot=10, parametric_group=2, max_builds=99)
    decisions = decide("ada", hot, [], policy, now)
    assert [len(each.cube_ids) for each in decisions if each.action == "parametrise"] == [2, 2]
    evolution = ada._layers.evolution
    without = MemEvolution(
        evolution.vault, evolution.governance, evolution.queue, policy, pathways=(), dropped=evolution.dropped
    )
    for each in texts:
        use(ada, each.id, 30)
    ada.get(texts[0].id)
    clock.advance(8 * DAY)
    assert {each.action for each in without.evolve(ada._principal, dry_run=True)} == {"activate"}
    within = MemEvolution(
        evolution.vault,
        evolution.governance,
        evolution.queue,
        policy,
        pathways={(MemoryType.PLAINTEXT, MemoryType.PARAMETRIC)},
        dropped=evolution.dropped,
    )
    assert "parametrise" in {each.action for each in within.evolve(ada._principal, dry_run=True)}


def test_what_one_use_would_hardly_save_is_not_kept_once_that_is_measured(ada: Scope, clock: FakeClock) -> None:
    built, hot = add(ada), add(ada, TEXT + " And again.")
    derived = ada.transform(built, to="activation")
    clock.advance(DAY)
    use(ada, hot, 9)
    texts = [ada.get(hot)]
    for seconds, expected in ((1.0, (hot,)), (0.001, None)):
        lineage = derived.header.descriptive.lineage.model_copy(update={"parameters": {"seconds": seconds}})
        what = derived.header.descriptive.model_copy(update={"lineage": lineage})
        kv = derived.model_copy(update={"header": derived.header.model_copy(update={"descriptive": what})})
        policy = EvolutionPolicy(min_saving_seconds=0.1)
        decisions = decide("ada", texts, [kv], policy, clock.now(), sources=[ada.get(built)])
        assert [each.cube_ids for each in decisions if each.action == "activate"] == ([expected] if expected else [])
    assert decide("ada", texts, [], EvolutionPolicy(min_saving_seconds=0.1), clock.now()), "not measured yet"


def test_a_vault_that_is_opened_with_a_policy_evolves_by_itself(
    tmp_path: Path, engine: HFEngine, clock: FakeClock
) -> None:
    options = {"engine": engine, "embedder": None, "clock": clock}
    with MemOS.open(tmp_path / "vault", evolution=EvolutionPolicy(hot=2), **options) as memos:  # type: ignore[arg-type]
        ada = memos.scope(user="ada")
        cube_id = add(ada)
        clock.advance(DAY)
        use(ada, cube_id, 2)
        memos.run_pending()
        assert len(activations(ada)) == 1
        other = add(ada, TEXT + " Another one.")
        clock.advance(600)
        use(ada, other, 9)
        memos.run_pending()
        assert len(activations(ada)) == 1, "the hour is not over"
        clock.advance(3600)
        memos.run_pending()
        assert len(activations(ada)) == 2


def test_with_a_queue_no_request_builds_and_a_worker_does(tmp_path: Path, engine: HFEngine, clock: FakeClock) -> None:
    options = {"engine": engine, "embedder": HashEmbedder(), "clock": clock}
    policy = EvolutionPolicy(build="queue", hot=1000)
    with MemOS.open(tmp_path / "vault", evolution=policy, **options) as memos:  # type: ignore[arg-type]
        ada = memos.scope(user="ada")
        ids = [add(ada), add(ada, "Ben lives in the old town by the harbour.")]
        ask = {"memory_ids": ids, "inject": "auto", "max_tokens": 2}
        replies = [ada.chat("What is my cat called?", **ask) for _ in range(4)]  # type: ignore[arg-type]
        assert activations(ada) == []
        assert [reply.usage.memory_tokens for reply in replies] == [0, 0, 0, 0]
        (job,) = ada.jobs()
        assert job.cube_ids == tuple(ids)
        memos.run_pending()
        (derived,) = activations(ada)
        served = ada.chat("What is my cat called?", **{**ask, "inject": "kv"})  # type: ignore[arg-type]
        assert (served.plan.prefix_cube_id, served.text) == (derived.id, replies[0].text)
        ada.chat("What is my cat called?", **ask)  # type: ignore[arg-type]
        assert ada.jobs(states=["waiting"]) == [], "whether or not it was worth loading, there it is"


# What was made goes when its source changes


@pytest.mark.parametrize("change", ["edit", "archive", "expire", "merge", "restore"])
def test_what_has_lost_a_source_is_out_of_use_at_once_and_off_the_disk_after_the_next_round(
    memos: MemOS, ada: Scope, clock: FakeClock, change: str
) -> None:
    cube_id, other = add(ada, ttl_seconds=DAY), add(ada, "Ben lives in the old town.")
    ada.snapshot("before")
    if change == "restore":
        ada.update(cube_id, "My cat is called Crumble.")
    derived = ada.transform([cube_id, other], to="activation")
    if change == "edit":
        ada.update(cube_id, "My cat is called Crumble.")
    elif change == "archive":
        ada.archive(cube_id)
    elif change == "expire":
        clock.advance(DAY)
    elif change == "merge":
        ada.merge([cube_id, other], "Ben's cat is called Biscuit.")
    else:
        ada.restore("before")
    fingerprint = derived.payload.fingerprint  # type: ignore[union-attr]
    assert ada._layers.activations(ada._principal, ()).find(fingerprint) == []
    memos.run_pending()
    rebuilt = activations(ada)
    with pytest.raises(CubeNotFound):
        ada.get(derived.id)
    if change in ("edit", "restore"):
        versions = {cube.id: cube.version for cube in ada.list()}
        sources = rebuilt[0].header.descriptive.lineage.sources
        assert sources == tuple((each, versions[each]) for each in (cube_id, other))
    else:
        assert rebuilt == []
    assert memos.stats()["blobs"] == len(rebuilt)
    memos.verify()


def test_a_source_that_comes_back_in_time_keeps_what_was_made_from_it(memos: MemOS, ada: Scope) -> None:
    cube_id = add(ada)
    derived = ada.transform(cube_id, to="activation")
    ada.archive(cube_id)
    from memos_core.operation.forms.refresh import queue_refreshes

    assert queue_refreshes(ada._layers.vault, memos.jobs) == 1
    ada.archive(cube_id, archived=False)
    memos.run_pending()
    assert [cube.id for cube in activations(ada)] == [derived.id]


def test_kv_that_was_taken_out_of_use_is_dropped(memos: MemOS, ada: Scope) -> None:
    derived = ada.transform(add(ada), to="activation")
    ada.archive(derived.id)
    (decision,) = ada.evolve()
    assert decision.cube_ids == (derived.id,)
    memos.run_pending()
    with pytest.raises(CubeNotFound):
        ada.get(derived.id)


def test_policies_of_one_scope_leave_others_alone(memos: MemOS, ada: Scope, clock: FakeClock) -> None:
    ben = memos.scope(user="ben")
    mine, his = add(ada), add(ben)
    clock.advance(DAY)
    use(ada, mine, 9)
    use(ben, his, 9)
    assert [each.cube_ids for each in ada.evolve(dry_run=True)] == [(mine,)]
    assert {each.user for each in memos.evolve(dry_run=True)} == {"ada", "ben"}


# Lineage


def test_lineage_is_a_tree_up_and_down(ada: Scope, memos: MemOS) -> None:
    first, second = add(ada, "one"), add(ada, "two")
    merged = ada.merge([first, second], "one and two").cube_id or ""
    derived = ada.transform(merged, to="activation")
    tree = ada.lineage(merged)
    assert (tree.pathway, tree.size_bytes) == ("merge", 11)
    assert [(each.cube.id, each.version, each.stands) for each in tree.sources] == [
        (first, 1, False),
        (second, 1, False),
    ]
    assert [each.cube.id for each in tree.derived] == [derived.id]
    assert tree.derived[0].pathway == "plaintext->activation"
    assert tree.derived[0].parameters["seconds"] > 0
    below = ada.lineage(first)
    assert [each.cube.id for each in below.derived] == [merged]
    assert [each.cube.id for each in below.derived[0].derived] == [derived.id]
    with pytest.raises(CubeNotFound):
        memos.scope(user="ben").lineage(merged)


async def test_the_async_twins_do_the_same(ada: Scope) -> None:
    cube_id = add(ada)
    assert await ada.aevolve(dry_run=True) == ()
    assert (await ada.alineage(cube_id)).cube.id == cube_id
