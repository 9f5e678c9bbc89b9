"""The policies of the scheduler, packing under a budget, and what a session has pinned."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from memos_core import MemOS
from memos_core.cube import Behaviour, MemCube
from memos_core.errors import CubeNotFound, InvalidInput
from memos_core.operation.policies import POLICIES, Candidate, Packing, policy_named
from memos_core.operation.policies.learned import Learned
from memos_core.operation.policies.semantic import Semantic
from memos_core.operation.scheduler import MemScheduler, SchedulerSettings
from memos_core.testing import FakeClock, HashEmbedder

NOW = datetime(2026, 3, 2, tzinfo=UTC)


def candidate(make: Any, text: str, *, score: float = 0.5, tokens: int = 10, days: float = 0, **use: Any) -> Candidate:
    cube: MemCube = make(text, at=NOW - timedelta(days=days))
    behaviour = Behaviour(**use)
    cube = cube.model_copy(update={"header": cube.header.model_copy(update={"behaviour": behaviour})})
    return Candidate(cube, tokens, score, "")


@pytest.mark.parametrize(
    ("name", "better", "worse"),
    [
        ("lru", {"last_used": NOW}, {"last_used": NOW - timedelta(days=9), "score": 0.9}),
        ("lfu", {"reads": 9}, {"reads": 1, "score": 0.9}),
        ("recency", {"days": 1}, {"days": 30, "score": 0.9}),
        ("semantic", {"score": 0.9, "days": 300}, {"score": 0.8}),
        ("semantic_recency", {"score": 0.8}, {"score": 0.9, "days": 300}),
        ("hybrid", {"score": 0.9, "days": 300}, {"score": 0.8, "reads": 99}),
        ("hybrid", {"score": 0.9, "reads": 99}, {"score": 0.9, "days": 300}),
        ("learned", {"score": 0.9}, {"score": 0.2}),
    ],
)
def test_each_policy_prefers_what_its_name_says(make: Any, name: str, better: Any, worse: Any) -> None:
    pair = [candidate(make, "better", **better), candidate(make, "worse", **worse)]
    values = POLICIES[name]().values(pair, NOW)
    assert values[0] > values[1] >= 0


def test_fifo_keeps_what_was_stored_last(make: Any) -> None:
    first, second = candidate(make, "first", score=0.9), candidate(make, "second")
    assert POLICIES["fifo"]().values([first, second], NOW) == [0.5, 1.0]


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_takes_nothing_and_strange_scores(make: Any, name: str) -> None:
    policy = policy_named(name)
    assert policy.values([], NOW) == []
    assert all(value >= 0 for value in policy.values([candidate(make, "x", score=0.0, days=-9999)], NOW))


def test_chances_add_up_and_scores_do_not(make: Any) -> None:
    long = candidate(make, "long", score=0.9, tokens=100)
    short = [candidate(make, f"short {number}", score=0.8, tokens=50) for number in range(2)]
    chosen = Packing(Learned()).select([long, *short], 100, now=NOW)
    assert {one.cube.text for one in chosen.candidates} == {"short 0", "short 1"}
    assert "takes 100 tokens" in chosen.left_out[long.cube.id]
    chosen = Packing(Semantic()).select([long, *short], 100, now=NOW)
    assert [one.cube.text for one in chosen.candidates] == ["long"]


def test_packing_keeps_to_the_budget_and_is_the_same_every_time(make: Any) -> None:
    many = [candidate(make, f"text {n}", score=1 / (n + 1), tokens=7 + n % 5) for n in range(30)]
    packing = Packing(Semantic(), min_share=0)
    chosen = packing.select(many, 60, now=NOW)
    assert sum(one.tokens for one in chosen.candidates) <= 60
    assert chosen == packing.select(many, 60, now=NOW)
    assert len(chosen.candidates) + len(chosen.left_out) == 30


def test_stored_tensors_cost_no_prompt_tokens(make: Any, vault: Any) -> None:
    source = make("text")
    make.store(vault, source)
    kv = Candidate(make.activation(vault, source), 500, 0.9, "")
    assert kv.cost == 0
    assert Packing(Semantic()).select([kv], 0, now=NOW).candidates == (kv,)


PACKAGE = """
from memos_core.operation.policies import Policy

class Longest(Policy):
    name = "longest"

    def values(self, candidates, now):
        return [float(len(one.cube.text)) for one in candidates]
"""


def test_an_installed_package_brings_a_policy_by_an_entry_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "long_policy.py").write_text(PACKAGE)
    info = tmp_path / "long_policy-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: long-policy\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[memos.policies]\nlongest = long_policy:Longest\nbad = json:dumps\n")
    monkeypatch.syspath_prepend(tmp_path)
    selection = MemScheduler(SchedulerSettings(policy="longest")).selection
    assert isinstance(selection, Packing)
    assert selection.policy.name == "longest"
    with pytest.raises(InvalidInput, match="not a Policy"):
        policy_named("bad")
    with pytest.raises(InvalidInput, match=r"known are .*hybrid.*longest"):
        policy_named("lrv")


def test_what_a_session_pinned_is_in_its_prompts_until_it_is_let_go(tmp_path: Path) -> None:
    with MemOS.open(tmp_path / "m", embedder=HashEmbedder(), clock=FakeClock()) as memos:
        ada = memos.scope(user="ada")
        pinned = ada.add("Answer in Norwegian.").cube_id
        other = ada.add("My cat is called Biscuit.").cube_id
        assert pinned is not None
        chat = ada.scope(session="S1")
        chat.pin(pinned)
        chat.pin(pinned)
        context = chat.context("What is my cat called?", k=1)
        assert context.plan.cube_ids == (pinned, other)
        assert "pinned" in context.why
        assert ada.scope(session="S2").context("What is my cat called?", k=1).plan.cube_ids == (other,)
        chat.pin(pinned, pinned=False)
        assert chat.context("What is my cat called?", k=1).plan.cube_ids == (other,)
        with pytest.raises(CubeNotFound):
            memos.scope(user="ben").pin(pinned)


def test_what_was_forgotten_is_pinned_no_more(tmp_path: Path) -> None:
    with MemOS.open(tmp_path / "m", embedder=HashEmbedder()) as memos:
        ada = memos.scope(user="ada")
        cube_id = ada.add("A secret.").cube_id
        assert cube_id is not None
        ada.pin(cube_id)
        ada.forget(cube_id)
        assert ada.context("secret").plan.cube_ids == ()
