"""Use and feedback change how a user's own memories are ranked: bounded, reversible, and for nobody else."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import numpy as np
import pytest

from memos_core import HFEngine, Judgement, LearningSettings, MemOS, Scope
from memos_core.errors import CubeNotFound, InvalidInput
from memos_core.infrastructure.vault import learning as rows
from memos_core.infrastructure.vault.learning import Recall, RecalledCube, lineage_of
from memos_core.operation.finding.ranker import Ranker
from memos_core.operation.finding.signals import SIGNALS, SITUATION
from memos_core.operation.learning.experience import ALL_SIGNALS, Experience, Use, past_of
from memos_core.operation.learning.fitting import Trust, fitted
from memos_core.operation.learning.lessons import Lesson, lessons_of, turns_of, uses_of
from memos_core.operation.learning.used import shares_used
from memos_core.principal import Principal
from memos_core.testing import FakeClock

Open = Callable[..., MemOS]
SOON = LearningSettings(enabled=True, least_requests=10, sure=0.0)
TRUST = Trust(sure=0.0)
THINGS = ("cat", "dog", "boat", "car", "house", "fish", "piano", "tractor")
NAMES = ("Biscuit", "Rex", "Anna", "Betty", "Villa", "Bob", "Clara", "Fred")


@pytest.fixture
def memos(open_memos: Open) -> MemOS:
    return open_memos(learning=SOON)


@pytest.fixture
def ada(memos: MemOS) -> Scope:
    return memos.scope(user="ada")


def fill(scope: Scope) -> list[str]:
    receipts = scope.add_many(
        [f"The {thing} of Ada is called {name}." for thing, name in zip(THINGS, NAMES, strict=True)]
    )
    return [str(receipt.cube_id) for receipt in receipts]


def ask(scope: Scope, clock: FakeClock, question: str, answer: str, *, pause: float = 3600) -> tuple[str, ...]:
    """Ask a model of one's own, and say what it answered."""
    context = scope.context(question, max_tokens=400)
    scope.feedback(context, answer=answer)
    clock.advance(pause)
    return context.plan.cube_ids


def use_the_last(scope: Scope, clock: FakeClock, times: int = 12) -> None:
    """Questions that nothing answers better by its words; of what is given, the same memory is always used."""
    for number in range(times):
        ask(scope, clock, f"What is called what of Ada, question {number}?", "Fred")


def scores(scope: Scope, question: str = "What is called what of Ada?") -> list[tuple[str, float]]:
    return [(hit.id, hit.score) for hit in scope.search(question, k=8)]


# What an answer used


def test_an_answer_used_the_memory_that_holds_what_it_says() -> None:
    memories = ["My cat is called Biscuit.", "My dog is called Rex."]
    assert shares_used("It is Biscuit.", memories, "What is my cat called?") == [1.0, 0.0]


def test_what_the_prompt_says_already_tells_nothing() -> None:
    assert shares_used("Your cat!", ["My cat is called Biscuit."], "What is my cat called?") is None
    assert shares_used("I do not know.", ["My cat is called Biscuit."], "?") is None
    assert shares_used("", [], "") is None


def test_a_word_of_several_memories_counts_for_each_in_part() -> None:
    assert shares_used("Bergen, 42", ["Bergen 42", "Bergen"]) == [0.75, 0.25]


def test_answers_without_spaces_between_words_are_read() -> None:
    shares = shares_used("东京", ["他住在东京", "他住在大阪"], "他住在哪里")
    assert shares is not None
    assert shares[0] > shares[1]


# What is noted


def test_a_chat_notes_by_itself_what_its_answer_used(open_memos: Open) -> None:
    engine = HFEngine.from_pretrained("memos-reader")
    memos = open_memos(learning=SOON, engine=engine)
    ada = memos.scope(user="ada")
    ids = [ada.add(text).cube_id for text in ("My cat is called Biscuit.", "My dog is called Rex.")]
    reply = ada.chat("What is my cat called?", inject="text", max_tokens=8)
    assert "Biscuit" in reply.text
    (recall,) = recalls(ada)
    shares = {cube.cube_id: cube.share for cube in recall.cubes}
    assert shares[str(ids[0])] == 1
    assert set(shares.values()) <= {0.0, 1.0}
    judgement = ada.feedback(reply, good=False)
    assert judgement.recalled
    assert {cube.verdict for cube in recalls(ada)[0].cubes} == {-1.0}
    engine.close()


def recalls(scope: Scope) -> list[Recall]:
    scope._layers.feedback.flush()
    with scope._layers.vault.read() as session:
        return rows.recalls_of(session, scope.user)


def test_requests_are_noted_as_ids_and_numbers(ada: Scope, clock: FakeClock) -> None:
    fill(ada)
    given = ask(ada, clock, "What is the cat called?", "Biscuit")
    (recall,) = recalls(ada)
    assert tuple(cube.cube_id for cube in recall.cubes) == given
    assert sum(cube.share or 0 for cube in recall.cubes) == pytest.approx(1)
    assert {len(cube.signals) for cube in recall.cubes} == {len(ALL_SIGNALS)}
    assert "cat" not in recall.question
    assert len(recall.question) == 64


def test_no_text_of_a_question_reaches_the_disk(ada: Scope, memos: MemOS, clock: FakeClock) -> None:
    fill(ada)
    ask(ada, clock, "What about xylophonists, what are they called?", "zinfandel")
    memos.close()
    for path in memos.path.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert b"xylophon" not in data
            assert b"zinfandel" not in data


def test_equal_questions_of_two_users_have_different_digests(memos: MemOS, clock: FakeClock) -> None:
    digests = set()
    for user in ("ada", "bob"):
        scope = memos.scope(user=user)
        fill(scope)
        ask(scope, clock, "What is the cat called?", "Biscuit")
        digests.add(recalls(scope)[0].question)
    assert len(digests) == 2


def test_nothing_is_noted_or_applied_when_learning_is_off(open_memos: Open, clock: FakeClock) -> None:
    memos = open_memos(learning=LearningSettings(enabled=False))
    ada = memos.scope(user="ada")
    ids = fill(ada)
    use_the_last(ada, clock)
    memos.run_pending()
    assert recalls(ada) == []
    assert ada.learning() == []
    judgement = ada.feedback(ids[0], good=True)  # what is said of a memory still counts for it
    assert not judgement.recalled
    assert ada.get(ids[0]).header.behaviour.feedback == 1


# Judgements


def test_a_judgement_counts_for_the_memory(ada: Scope) -> None:
    ids = fill(ada)
    ada.feedback(ids[0], good=True)
    ada.feedback(ids[:2], good=False)
    assert [ada.get(cube_id).header.behaviour.feedback for cube_id in ids[:3]] == [0, -1, 0]


def test_feedback_on_what_is_anothers_looks_like_feedback_on_nothing(memos: MemOS, ada: Scope) -> None:
    foreign = memos.scope(user="bob").add("Bob's secret.").cube_id
    assert foreign is not None
    for cube_id in (foreign, "nonsense"):
        with pytest.raises(CubeNotFound):
            ada.feedback(cube_id, good=True)


@pytest.mark.parametrize("given", [{}, {"answer": "x"}])
def test_feedback_that_says_nothing_is_refused(ada: Scope, given: dict[str, str]) -> None:
    ids = fill(ada)
    with pytest.raises(InvalidInput):
        ada.feedback(ids, **given)
    with pytest.raises(InvalidInput):
        ada.feedback([], good=True)


def test_feedback_on_a_context_without_memories_is_nothing(ada: Scope, clock: FakeClock) -> None:
    empty = ada.context("What is the cat called?", max_tokens=400)
    fill(ada)
    ask(ada, clock, "What is the cat called?", "Biscuit")
    assert ada.feedback(empty, good=False, answer="Biscuit") == Judgement((), False, {}, recalled=False)
    assert {cube.verdict for each in recalls(ada) for cube in each.cubes} == {None}


def test_a_granted_memory_keeps_its_owners_counters(memos: MemOS, ada: Scope) -> None:
    bob = memos.scope(user="bob")
    cube_id = bob.add("The ferry leaves at nine.").cube_id
    assert cube_id is not None
    bob.grant("ada", "read", cube_id=cube_id)
    ada.feedback(cube_id, good=False)
    assert bob.get(cube_id).header.behaviour.feedback == 0


# Lessons


def recall(
    number: int,
    question: str = "q",
    intent: str = "ask",
    *,
    at: timedelta,
    shares: tuple[float | None, ...] = (1.0, 0.0),
) -> Recall:
    cubes = tuple(
        RecalledCube(f"c{place}", (float(place),) * len(ALL_SIGNALS), share) for place, share in enumerate(shares)
    )
    start = FakeClock().now()
    return Recall(f"{number:026}", Principal("ada"), start + at, question, intent, "f", (0.0,) * len(SITUATION), cubes)


MINUTE = timedelta(minutes=1)


def taught(recalls: list[Recall], edits: dict[str, list[object]] | None = None) -> list[tuple[float, float]]:
    found = lessons_of(recalls, edits or {}, features="f", follow_seconds=600)  # type: ignore[arg-type]
    return [(float(lesson.apart[0, 0]), lesson.weight) for lesson in found]


def test_what_was_used_should_stand_above_what_was_not() -> None:
    assert taught([recall(1, at=MINUTE)]) == [(-1.0, 1.0)]
    assert taught([recall(1, at=MINUTE, shares=(None, None))]) == []


def test_a_correction_in_the_next_turn_turns_the_lesson_round() -> None:
    found = [recall(1, at=MINUTE), recall(2, "no, Rex", "correct", at=2 * MINUTE, shares=(None,))]
    assert taught(found) == [(1.0, 1.0)]
    assert taught([found[0], recall(2, "no, Rex", "correct", at=30 * MINUTE, shares=(None,))]) == [(-1.0, 1.0)]


def test_the_same_question_again_counts_against_what_was_given_first() -> None:
    found = [recall(1, at=MINUTE), recall(2, "other", at=2 * MINUTE), recall(3, at=3 * MINUTE)]
    assert taught(found) == [(1.0, 0.5), (-1.0, 1.0), (-1.0, 1.0)]
    assert turns_of(found, follow_seconds=600) == {found[0].id: -0.5}


def test_a_memory_that_is_edited_right_after_it_was_used_stood_too_high() -> None:
    one = recall(1, at=MINUTE)
    assert taught([one], {"c0": [one.at + MINUTE]}) == [(1.0, 1.0)]
    assert taught([one], {"c0": [one.at + 60 * MINUTE]}) == [(-1.0, 1.0)]


def test_only_what_was_used_and_not_rejected_counts_as_used() -> None:
    found = [recall(1, at=MINUTE), recall(2, "no", "correct", at=2 * MINUTE)]
    uses = list(uses_of(found, {}, follow_seconds=600))
    assert uses == [Use(0, "c0", used=False), Use(1, "c0", used=True), Use(1, "c1", used=False)]


# The fit


def lessons(count: int, seed: int = 0, *, toward: int = 0, inverted: bool = False) -> list[Lesson]:
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        apart = rng.normal(0, 0.2, (4, len(ALL_SIGNALS)))
        apart[:, toward] = np.abs(apart[:, toward]) + 0.3
        found.append(Lesson(-apart if inverted else apart, np.ones(len(SITUATION), np.float32), 1.0))
    return found


def test_what_is_added_stays_within_the_ball_whatever_is_taught() -> None:
    ranker = Ranker.load()
    radius = TRUST.radius * float(np.linalg.norm(ranker.table[:, 0]))
    for inverted in (False, True):
        for place in range(len(ALL_SIGNALS)):
            fit = fitted(lessons(200, toward=place, inverted=inverted), ranker, TRUST)
            assert np.linalg.norm(fit.added) <= radius + 1e-9
            assert np.isfinite(fit.added).all()


def test_feedback_that_is_noise_teaches_nothing() -> None:
    rng = np.random.default_rng(1)
    noise = [
        Lesson(rng.normal(0, 0.3, (4, len(ALL_SIGNALS))), np.ones(len(SITUATION), np.float32), 1.0) for _ in range(300)
    ]
    assert not fitted(noise, Ranker.load(), Trust(sure=3.0)).accepted


def test_few_requests_teach_nothing() -> None:
    assert not fitted(lessons(4), Ranker.load(), TRUST).added.any()
    assert not fitted([], Ranker.load(), TRUST).added.any()


def test_the_same_lessons_give_the_same_weights() -> None:
    first, second = (fitted(lessons(50, toward=17), Ranker.load(), TRUST).added for _ in range(2))
    assert np.array_equal(first, second)


# Experience


def test_with_nothing_learned_scores_are_the_shipped_ones_to_the_last_bit() -> None:
    rng = np.random.default_rng(0)
    signals, situation = rng.random((50, len(SIGNALS))).astype(np.float32), np.ones(len(SITUATION), np.float32)
    ranker = Ranker.load()
    given = [recall(1, at=MINUTE)]
    past = past_of(given, uses_of(given, {}, follow_seconds=600))
    plain = ranker.rank(signals, situation)
    for experience in (Experience(), Experience(1, past=past)):
        ranking = experience.rank(ranker, signals, situation, lambda row: f"c{row}", None)
        assert np.array_equal(ranking.scores, plain.scores)


def test_a_memory_used_for_a_question_like_this_one_has_a_signal() -> None:
    vector = np.array([1, 0], np.float32)
    one = recall(1, at=MINUTE)
    given = [Recall(**{**{name: getattr(one, name) for name in one.__dataclass_fields__}, "vector": vector})]
    past = past_of(given, uses_of(given, {}, follow_seconds=600))
    assert past is not None
    near = past.signals(["c0", "c1", "other"], vector)
    far = past.signals(["c0", "c1", "other"], np.array([0, 1], np.float32))
    assert near[0, 1] > 0 > near[1, 1]
    assert near[2].tolist() == [0, 0]
    assert far[:, 1].tolist() == [0, 0, 0]
    assert np.array_equal(near[:, 0], far[:, 0])


# The whole way


def test_what_is_used_again_and_again_rises(ada: Scope, memos: MemOS, clock: FakeClock) -> None:
    ids = fill(ada)
    before = [key for key, _ in scores(ada)]
    use_the_last(ada, clock, 30)
    memos.run_pending()
    use_the_last(ada, clock, 30)
    memos.run_pending()
    steps = ada.learning()
    assert [step.version for step in steps] == [1, 2]
    assert steps[-1].after
    assert steps[-1].before == steps[0].after
    after = [key for key, _ in scores(ada)]
    assert after.index(ids[-1]) <= before.index(ids[-1])
    assert "asked" in ada.search("What is called what of Ada?", k=8)[0].shares or after[0] == ids[-1]


def test_nothing_is_learned_before_requests_have_settled(ada: Scope, memos: MemOS, clock: FakeClock) -> None:
    fill(ada)
    for number in range(12):
        ask(ada, clock, f"Question {number} of Ada?", "Fred", pause=1)
    memos.run_pending()
    assert ada.learning() == []
    clock.advance(SOON.settle_seconds)
    memos.run_pending()
    assert len(ada.learning()) == 1


def test_learning_goes_back_and_forward_and_resets(ada: Scope, memos: MemOS, clock: FakeClock) -> None:
    fill(ada)
    shipped = scores(ada)
    for _ in range(2):
        use_the_last(ada, clock, 30)
        memos.run_pending()
    learned = scores(ada)
    assert learned != shipped
    assert ada.reset_learning() is not None
    assert scores(ada) == shipped
    ada.rollback_learning(2)
    assert scores(ada) == learned
    assert [step.author for step in ada.learning()] == ["memos", "memos", "ada", "ada"]
    with pytest.raises(InvalidInput):
        ada.rollback_learning(99)


def test_what_was_set_aside_is_not_learned_from_again(ada: Scope, memos: MemOS, clock: FakeClock) -> None:
    fill(ada)
    use_the_last(ada, clock, 30)
    memos.run_pending()
    ada.reset_learning()
    use_the_last(ada, clock, 10)
    memos.run_pending()
    assert ada.learning()[-1].recalls == 10
    assert ada.learning()[-1].parent == 2
    with memos._layers.vault.read() as session:
        assert lineage_of(rows.weights_of(session, "ada")) == {2, 3}


def test_another_scope_is_served_to_the_last_bit_as_before(memos: MemOS, ada: Scope, clock: FakeClock) -> None:
    bob = memos.scope(user="bob")
    fill(ada)
    fill(bob)
    before = scores(bob)
    use_the_last(ada, clock, 30)
    memos.run_pending()
    use_the_last(ada, clock, 30)
    memos.run_pending()
    assert scores(bob) == before
    assert bob.learning() == []


def test_what_a_session_teaches_belongs_to_its_user(memos: MemOS, ada: Scope, clock: FakeClock) -> None:
    fill(ada)
    use_the_last(ada.scope(session="S1"), clock, 12)
    memos.run_pending()
    assert len(ada.learning()) == 1


def test_forgetting_a_memory_takes_all_that_was_learned_from_it(ada: Scope, memos: MemOS, clock: FakeClock) -> None:
    ids = fill(ada)
    clock.advance(2 * 3600)  # so that it stands beside none of them
    other = ada.add("An unrelated remark on tides.").cube_id
    assert other is not None
    for _ in range(2):
        use_the_last(ada, clock, 30)
        memos.run_pending()
    assert ada.learning()
    ada.forget(other)  # it was never given
    assert ada.learning()
    ada.forget(ids[-1])
    assert ada.learning() == []
    assert all(ids[-1] not in {cube.cube_id for cube in each.cubes} for each in recalls(ada))
    memos.verify()


def test_notes_about_a_forgotten_memory_are_never_written(ada: Scope) -> None:
    ids = fill(ada)
    ada.context("What is the cat called?", max_tokens=400)
    ada.forget(ids)
    assert recalls(ada) == []


def test_requests_are_kept_up_to_a_number(open_memos: Open, clock: FakeClock) -> None:
    memos = open_memos(learning=SOON.model_copy(update={"max_requests": 15}))
    ada = memos.scope(user="ada")
    fill(ada)
    for _ in range(3):
        use_the_last(ada, clock, 12)
        memos.run_pending()
    assert len(recalls(ada)) == 15


def test_a_correction_and_a_repeat_count_against_the_memories(ada: Scope, memos: MemOS, clock: FakeClock) -> None:
    ids = fill(ada)
    ask(ada, clock, "What is the cat called?", "Biscuit", pause=10)
    ask(ada, clock, "What is the cat called?", "Biscuit", pause=10)
    ask(ada, clock, "No, that's wrong, it is called Bella.", "Sorry.", pause=3600)
    use_the_last(ada, clock, 10)
    memos.run_pending()
    assert ada.get(ids[0]).header.behaviour.feedback == -1.5


def test_two_jobs_for_one_user_publish_once(ada: Scope, memos: MemOS, clock: FakeClock) -> None:
    fill(ada)
    use_the_last(ada, clock, 12)
    ada._layers.feedback.flush()
    learning = memos._layers.learning
    with memos._layers.vault.read() as session:
        weights, new, _ = learning.step(session, "ada")
    memos.run_pending()
    with pytest.raises(RuntimeError), memos._layers.vault.write() as session:
        learning.publish(session, "ada", weights, new)
    assert len(ada.learning()) == 1
