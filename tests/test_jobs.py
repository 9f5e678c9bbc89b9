"""Background work: durable, tried again, done once, and gone with the memories that it is about."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from job_worker import Note

from memos_core.errors import InvalidInput, JobLost, JobNotFound, VaultWriteFailed
from memos_core.ids import UlidFactory
from memos_core.infrastructure.vault import MemVault, Visibility
from memos_core.operation.jobs import JobQueue, JobSettings, Task
from memos_core.operation.worker import Heartbeat, Worker
from memos_core.principal import Principal

ADA, BOB = Principal("ada"), Principal("bob")
WORKER = Path(__file__).with_name("job_worker.py")
posix = pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")


class Failing(Task):
    kind = "note"

    def __init__(self, *errors):
        self.errors = list(errors)

    def prepare(self, job, report):
        if self.errors:
            raise self.errors.pop(0)
        return lambda session: "at last"


@pytest.fixture
def events():
    return []


@pytest.fixture
def queue(vault, events):
    return JobQueue(vault, UlidFactory(), emit=events.append)


def add(queue, *cube_ids, principal=ADA, kind="note", **options):
    with queue.vault.write() as session:
        return queue.add(session, principal, kind, cube_ids, **options)


def noted(vault, user="ada"):
    with vault.read() as session:
        return [entry["detail"]["job"] for entry in session.audit(user) if entry["action"] == "noted"]


def test_a_job_is_done_and_its_result_kept(queue, vault, events):
    job = add(queue, parameters={"to": "activation"})
    assert Worker(queue, [Note()]).run_due() == 1
    done = queue.get(job.id)
    assert (done.state, done.result, done.attempts, done.parameters) == ("done", job.id, 1, {"to": "activation"})
    assert (done.done, done.total) == (2, 2)
    assert noted(vault) == [job.id]
    assert [event.name for event in events] == ["job.done"]
    assert Worker(queue, [Note()]).run_due() == 0


def test_equal_work_is_queued_once_and_again_when_it_is_done(queue):
    first = add(queue, parameters={"a": 1})
    assert add(queue, parameters={"a": 1}).id == first.id
    assert add(queue, parameters={"a": 2}).id != first.id
    assert add(queue, parameters={"a": 1}, principal=BOB).id != first.id
    Worker(queue, [Note()]).run_due()
    assert add(queue, parameters={"a": 1}).id != first.id


def test_what_is_queued_is_part_of_the_transaction(queue):
    with pytest.raises(ZeroDivisionError), queue.vault.write() as session:
        queue.add(session, ADA, "note")
        1 / 0  # noqa: B018
    assert queue.list() == []


def test_priority_goes_before_age_and_nothing_is_begun_before_it_is_due(queue, clock):
    late = add(queue, parameters={"n": 1}, delay_seconds=60, priority=9)
    old = add(queue, parameters={"n": 2})
    urgent = add(queue, parameters={"n": 3}, priority=5)
    assert [queue.claim(["note"]).id, queue.claim(["note"]).id] == [urgent.id, old.id]
    assert queue.claim(["note"]) is None
    clock.advance(60)
    assert queue.claim(["note"]).id == late.id


def test_a_worker_leaves_alone_what_it_does_not_know(queue):
    add(queue, kind="distil")
    assert Worker(queue, [Note()]).run_due() == 0
    assert Worker(queue, []).run_due() == 0
    assert queue.outlook(["note"]) == ("1 distil job for a worker that can do them",)


def test_a_failure_waits_longer_each_time_and_ends_as_a_dead_letter_with_its_reason(queue, clock, events):
    job = add(queue)
    worker = Worker(queue, [Failing(*[OSError("no space")] * 9)])
    waits = []
    for _ in range(4):
        assert worker.run_due() == 1
        failed = queue.get(job.id)
        waits.append((failed.due - clock.now()).total_seconds())
        assert (failed.state, failed.reason) == ("waiting", "OSError: no space")
        assert worker.run_due() == 0
        clock.advance(waits[-1])
    assert waits == [5, 10, 20, 40]
    worker.run_due()
    dead = queue.get(job.id)
    assert (dead.state, dead.attempts, dead.reason) == ("dead", 5, "OSError: no space")
    assert events[-1].name == "job.dead"
    assert events[-1].detail["reason"] == "OSError: no space"


def test_a_passing_failure_passes(queue, clock):
    job = add(queue)
    worker = Worker(queue, [Failing(VaultWriteFailed("full"))])
    worker.run_due()
    clock.advance(5)
    worker.run_due()
    assert (queue.get(job.id).result, queue.get(job.id).reason) == ("at last", None)


def test_what_another_attempt_cannot_mend_is_a_dead_letter_at_once(queue):
    job = add(queue)
    Worker(queue, [Failing(InvalidInput("nothing to do"))]).run_due()
    assert queue.get(job.id).state == "dead"


def test_a_mistake_in_a_task_is_noted_and_reaches_whoever_runs_the_worker(queue):
    job = add(queue)
    with pytest.raises(TypeError):
        Worker(queue, [Failing(TypeError("oops"))]).run_due()
    assert (queue.get(job.id).state, queue.get(job.id).reason) == ("dead", "TypeError: oops")


def test_an_interrupted_worker_gives_its_job_back_and_the_attempt_does_not_count(queue):
    job = add(queue)
    with pytest.raises(KeyboardInterrupt):
        Worker(queue, [Failing(KeyboardInterrupt())]).run_due()
    assert (queue.get(job.id).state, queue.get(job.id).attempts) == ("waiting", 0)
    assert Worker(queue, [Note()]).run_due() == 1


def test_a_dead_letter_can_be_tried_again(queue):
    job = add(queue)
    Worker(queue, [Failing(InvalidInput("no"))]).run_due()
    with pytest.raises(InvalidInput, match="only waiting"):
        queue.cancel(job.id)
    again = queue.retry(job.id)
    assert (again.state, again.attempts, again.reason) == ("waiting", 0, None)
    with pytest.raises(InvalidInput, match="only dead"):
        queue.retry(job.id)
    Worker(queue, [Note()]).run_due()
    assert queue.get(job.id).state == "done"


def test_a_dead_letter_is_not_tried_again_beside_equal_work(queue):
    job = add(queue)
    Worker(queue, [Failing(InvalidInput("no"))]).run_due()
    twin = add(queue)
    with pytest.raises(InvalidInput, match=twin.id):
        queue.retry(job.id)


def test_a_cancelled_job_is_never_begun(queue, vault):
    job = add(queue)
    assert queue.cancel(job.id).state == "cancelled"
    assert Worker(queue, [Note()]).run_due() == 0
    assert noted(vault) == []


class Cancelled(Note):
    """Is cancelled, or forgotten, while it runs."""

    def __init__(self, meanwhile):
        super().__init__()
        self.meanwhile = meanwhile

    def prepare(self, job, report):
        publish = super().prepare(job, report)
        self.meanwhile(job)
        return publish


def test_a_job_that_is_cancelled_while_it_runs_publishes_nothing(queue, vault, events):
    job = add(queue)
    Worker(queue, [Cancelled(lambda running: queue.cancel(running.id))]).run_due()
    assert (queue.get(job.id).state, noted(vault)) == ("cancelled", [])
    assert [event.name for event in events] == ["job.cancelled", "job.lost"]


def test_progress_tells_a_cancelled_task_to_stop(queue):
    add(queue)
    job = queue.claim(["note"])
    with Heartbeat(queue, job, report_seconds=0) as heartbeat:
        heartbeat.report(1, 3)
        assert (queue.get(job.id).done, queue.get(job.id).total) == (1, 3)
        queue.cancel(job.id)
        with pytest.raises(JobLost):
            heartbeat.report(2, 3)


def test_progress_of_every_step_is_not_written_every_time(queue, vault):
    add(queue)
    with Heartbeat(queue, queue.claim(["note"]), report_seconds=3600) as heartbeat:
        for step in range(1, 1001):
            heartbeat.report(step, 1000)
            if step == 500:
                assert queue.list()[0].done == 1
    assert queue.list()[0].done == 1000


def test_forgetting_a_memory_takes_its_jobs_along_and_one_that_runs_publishes_nothing(queue, vault, make):
    kept, gone = make("kept"), make("gone")
    make.store(vault, kept, gone)
    other = add(queue, kept.id)
    waiting, running = add(queue, gone.id), add(queue, kept.id, gone.id, priority=1)

    def forget(job):
        assert job.id == running.id
        with vault.write() as session:
            session.erase(Visibility("ada"), [gone.id])

    Worker(queue, [Cancelled(forget)]).run_one()
    assert [job.id for job in queue.list()] == [other.id]
    assert noted(vault) == []
    for job in (waiting, running):
        with pytest.raises(JobNotFound):
            queue.get(job.id)


def test_a_scope_sees_and_changes_its_own_jobs_only(queue):
    own = add(queue, principal=Principal("ada", session="S1"))
    other = add(queue, principal=Principal("ada", session="S2"))
    foreign = add(queue, principal=BOB)
    assert {job.id for job in queue.list(Visibility("ada"))} == {own.id, other.id}
    seen = Visibility("ada", session="S1")
    assert [job.id for job in queue.list(seen)] == [own.id]
    for job_id in (other.id, foreign.id, "nonsense", "01ARZ3NDEKTSV4RRFFQ69G5FAV"):
        for act in (queue.get, queue.cancel, queue.retry):
            with pytest.raises(JobNotFound):
                act(job_id, seen)
    assert queue.cancel(own.id, seen).state == "cancelled"


def test_of_two_workers_that_believe_to_hold_a_job_one_publishes(queue, vault, clock):
    add(queue)
    slow = queue.claim(["note"])
    clock.advance(queue.settings.lease_seconds + 1)
    fast = queue.claim(["note"])
    assert (fast.id, fast.attempts) == (slow.id, 2)
    publish = Note().prepare(slow, lambda done, total: None)
    with pytest.raises(JobLost):
        queue.finish(slow, publish)
    queue.finish(fast, publish)
    for late in (lambda: queue.finish(slow, publish), lambda: queue.fail(slow, "late"), lambda: queue.release(slow)):
        with pytest.raises(JobLost):
            late()
    assert noted(vault) == [slow.id]


def test_a_job_that_kills_its_workers_is_buried(queue, clock):
    job = add(queue)
    for _ in range(queue.settings.max_attempts):
        assert queue.claim(["note"]).id == job.id
        clock.advance(queue.settings.lease_seconds + 1)
    assert queue.claim(["note"]) is None
    assert (queue.get(job.id).state, queue.get(job.id).reason) == ("dead", "its worker was lost 5 times without a word")


def test_a_publication_that_fails_leaves_the_job_to_be_tried_again(queue, vault, clock):
    job = add(queue)

    class HalfDone(Note):
        def prepare(self, job, report):
            def publish(session):
                session.record_audit("ada", "worker", "noted", [], {"job": job.id})
                raise OSError("pulled the plug")

            return publish

    Worker(queue, [HalfDone()]).run_due()
    assert (queue.get(job.id).state, noted(vault)) == ("waiting", [])


def test_a_living_worker_keeps_its_lease_however_long_it_takes(vault, events):
    queue = JobQueue(vault, UlidFactory(), settings=JobSettings(lease_seconds=0.06), emit=events.append)
    add(queue)
    job = queue.claim(["note"])
    with Heartbeat(queue, job) as heartbeat:
        before = time.monotonic()
        while heartbeat.job is job:
            assert time.monotonic() - before < 10
            time.sleep(0.01)
        assert queue.get(job.id).lease == job.lease


def test_what_ended_is_removed_after_a_while_but_dead_letters_stay(queue, clock):
    add(queue)
    dead = add(queue, parameters={"n": 1})
    waiting = add(queue, parameters={"n": 2}, delay_seconds=1e8)
    assert queue.claim(["note"]).id != dead.id
    Worker(queue, [Failing(InvalidInput("no"))]).run_due()
    clock.advance(100)
    Worker(queue, [Note()]).run_due()
    clock.advance(queue.settings.keep_finished_seconds + 1)
    assert queue.prune() == 1
    assert {job.id for job in queue.list()} == {dead.id, waiting.id}


@posix
def test_the_job_of_a_killed_process_is_taken_up_again_and_published_once(tmp_path):
    vault = MemVault.open(tmp_path / "vault", embedder=None)
    queue = JobQueue(vault, UlidFactory(), settings=JobSettings(lease_seconds=0.5), emit=lambda event: None)
    job = add(queue)
    process = start(tmp_path, "hang", 0.5)
    assert process.stdout.readline().strip() == job.id
    time.sleep(0.8)
    assert queue.claim(["note"]) is None, "a living worker keeps its lease"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert queue.get(job.id).state == "running"
    until = time.monotonic() + 20
    while not Worker(queue, [Note()]).run_due():
        assert time.monotonic() < until
        time.sleep(0.05)
    assert (queue.get(job.id).state, queue.get(job.id).attempts) == ("done", 2)
    assert noted(vault) == [job.id]
    vault.verify()
    vault.close()


def start(tmp_path, action, lease_seconds=60.0):
    command = [sys.executable, "-W", "error", str(WORKER), str(tmp_path / "vault"), action, str(lease_seconds)]
    environment = {**os.environ, "PYTHONPATH": str(WORKER.parent.parent)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def test_many_processes_share_the_work_and_each_job_is_done_once(tmp_path):
    vault = MemVault.open(tmp_path / "vault", embedder=None)
    queue = JobQueue(vault, UlidFactory(), emit=lambda event: None)
    jobs = [add(queue, parameters={"n": number}).id for number in range(40)]
    processes = [start(tmp_path, "drain") for _ in range(3)]
    printed = [line for process in processes for line in process.communicate(timeout=60)[0].split()]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert sorted(printed) == sorted(jobs) == sorted(noted(vault))
    vault.close()


def test_many_threads_share_the_work_and_each_job_is_done_once(queue, vault):
    jobs = [add(queue, parameters={"n": number}).id for number in range(30)]
    threads = [threading.Thread(target=Worker(queue, [Note()]).run_due) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(noted(vault)) == sorted(jobs)


@given(attempts=st.integers(1, 10_000), first=st.floats(0, 1e4), most=st.floats(0, 1e6))
def test_waits_grow_and_never_exceed_the_longest(attempts, first, most):
    settings = JobSettings(first_delay_seconds=first, max_delay_seconds=most)
    assert 0 <= settings.delay_seconds(attempts) <= settings.delay_seconds(attempts + 1) <= most
