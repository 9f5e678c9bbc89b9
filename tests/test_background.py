"""Other forms of memories, made by a worker: end to end, with a real (tiny, random) model."""

import asyncio
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from memos_core import MemOS, Scope
from memos_core.engine import HFEngine
from memos_core.errors import CubeNotFound, InvalidInput, JobNotFound
from memos_core.events import Event
from memos_core.testing import FakeClock, HashEmbedder
from memos_core.testing.models import tiny_model


@pytest.fixture(scope="module")
def engine() -> Iterator[HFEngine]:
    engine = HFEngine.from_model(*tiny_model("llama"), name="tiny")
    yield engine
    engine.close()


@pytest.fixture
def events() -> list[Event]:
    return []


@pytest.fixture
def memos(tmp_path: Path, engine: HFEngine, events: list[Event]) -> Iterator[MemOS]:
    clock = FakeClock(datetime(2026, 3, 1, tzinfo=UTC))
    with MemOS.open(
        tmp_path / "vault", engine=engine, embedder=HashEmbedder(), clock=clock, on_event=events.append
    ) as memos:
        yield memos


@pytest.fixture
def ada(memos: MemOS) -> Scope:
    ada = memos.scope(user="ada")
    ada.add_many(["My cat is called Biscuit.", "My cat likes to sleep.", "Ben lives in the old town."])
    return ada


def ids(scope: Scope) -> list[str]:
    return [cube.id for cube in scope.list()]


def test_a_form_that_is_asked_for_later_is_made_when_pending_work_is_run(
    memos: MemOS, ada: Scope, events: list[Event]
) -> None:
    first, second, _ = ids(ada)
    job = ada.transform_later([second, first], to="activation")
    assert (job.state, ada.count(type="activation")) == ("waiting", 0)
    assert memos.run_pending() == ()
    (derived,) = ada.list(type="activation")
    assert [source for source, _ in derived.header.descriptive.lineage.sources] == [first, second]
    assert (ada.job(job.id).state, ada.job(job.id).result) == ("done", derived.id)
    assert [event.name for event in events if event.name in ("kv.built", "job.done")] == ["kv.built", "job.done"]
    reply = ada.chat("What is my cat called?", memory_ids=[first, second], inject="kv", max_tokens=4)
    assert reply.plan.prefix_cube_id == derived.id


def test_equal_work_is_done_once(memos: MemOS, ada: Scope) -> None:
    first, second, _ = ids(ada)
    assert ada.transform_later(first, to="activation").id == ada.transform_later([first], to="activation").id
    assert ada.transform_later([first, second], to="activation").id != ada.jobs()[0].id
    assert memos.work() == 2
    again = ada.transform_later(first, to="activation")
    memos.run_pending()
    assert ada.count(type="activation") == 2
    assert ada.job(again.id).result in {cube.id for cube in ada.list(type="activation")}


def test_forgetting_a_memory_forgets_what_was_to_be_made_of_it(memos: MemOS, ada: Scope) -> None:
    first, second, _ = ids(ada)
    ada.transform_later([first, second], to="activation")
    ada.forget(first)
    assert ada.jobs() == []
    assert memos.work() == 0


def test_a_memory_that_is_out_of_use_by_then_makes_a_dead_letter(memos: MemOS, ada: Scope) -> None:
    first = ids(ada)[0]
    job = ada.transform_later(first, to="activation")
    ada.archive(first)
    memos.run_pending()
    assert ada.job(job.id).state == "dead"
    assert "archived" in (ada.job(job.id).reason or "")
    ada.archive(first, archived=False)
    assert ada.retry_job(job.id).state == "waiting"
    memos.run_pending()
    assert ada.job(job.id).state == "done"


def test_what_is_edited_while_it_is_made_is_made_again_of_the_new_text(
    memos: MemOS, ada: Scope, engine: HFEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ids(ada)[0]
    job = ada.transform_later(first, to="activation")
    prefill = engine.prefill

    def edited_meanwhile(block, store):  # type: ignore[no-untyped-def]
        built = prefill(block, store)
        if ada.get(first).version == 1:
            ada.update(first, "My cat is called Crumble.")
        return built

    monkeypatch.setattr(engine, "prefill", edited_meanwhile)
    memos.run_pending()
    assert (ada.job(job.id).state, ada.count(type="activation")) == ("waiting", 0)
    assert "SourcesChanged" in (ada.job(job.id).reason or "")
    memos._layers.vault.clock.advance(60)  # type: ignore[attr-defined]
    memos.run_pending()
    (derived,) = ada.list(type="activation")
    assert derived.header.descriptive.lineage.sources == ((first, 2),)


def test_nobody_queues_or_sees_work_on_what_is_not_theirs(memos: MemOS, ada: Scope) -> None:
    first = ids(ada)[0]
    ben = memos.scope(user="ben")
    with pytest.raises(CubeNotFound):
        ben.transform_later(first, to="activation")
    job = ada.transform_later(first, to="activation")
    assert ben.jobs() == []
    for act in (ben.job, ben.cancel_job, ben.retry_job):
        with pytest.raises(JobNotFound):
            act(job.id)
    assert ada.cancel_job(job.id).state == "cancelled"
    assert [each.id for each in memos.jobs.list()] == [job.id]


def test_work_that_makes_no_sense_is_refused_when_it_is_queued(ada: Scope) -> None:
    with pytest.raises(InvalidInput, match="at least one"):
        ada.transform_later([], to="activation")
    with pytest.raises(InvalidInput, match="plaintext, activation"):
        ada.transform_later(ids(ada)[0], to="gold")
    with pytest.raises(InvalidInput, match="a job is"):
        ada.jobs(states=["lost"])
    assert ada.jobs() == []


def test_without_a_model_the_work_waits_for_who_has_one(tmp_path: Path, engine: HFEngine) -> None:
    with MemOS.open(tmp_path / "vault", embedder=None) as memos:
        ada = memos.scope(user="ada")
        receipt = ada.add("My cat is called Biscuit.")
        ada.transform_later(receipt.cube_id or "", to="activation")
        assert memos.run_pending() == ("1 transform job for a worker that can do them",)
    with MemOS.open(tmp_path / "vault", embedder=None, engine=engine) as memos:
        assert memos.run_pending() == ()
        assert memos.scope(user="ada").count(type="activation") == 1


def test_each_memory_alone_with_progress(ada: Scope) -> None:
    told: list[tuple[int, int]] = []
    derived = ada.transform_each(ids(ada), to="activation", progress=lambda done, total: told.append((done, total)))
    assert [cube.header.descriptive.lineage.sources[0][0] for cube in derived] == ids(ada)
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_a_worker_thread_does_what_comes_until_it_is_told_to_stop(memos: MemOS, ada: Scope) -> None:
    stop, results = threading.Event(), []
    thread = threading.Thread(target=lambda: results.append(memos.work(stop, poll_seconds=0.01)))
    thread.start()
    job = ada.transform_later(ids(ada)[0], to="activation")
    waited = threading.Event()
    for _ in range(1000):
        if ada.job(job.id).state == "done" or waited.wait(0.02):
            break
    stop.set()
    thread.join()
    assert (ada.job(job.id).state, results) == ("done", [1])


async def test_the_async_twins_do_the_same(memos: MemOS, ada: Scope) -> None:
    job = await ada.atransform_later(ids(ada)[0], to="activation")
    assert [each.id for each in await ada.ajobs()] == [job.id]
    await asyncio.to_thread(memos.run_pending)
    assert (await ada.ajob(job.id)).state == "done"
