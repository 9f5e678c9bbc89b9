"""Grants against a brute-force oracle: whatever users do in whatever order, each sees what the oracle says."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from memos_core import MemOS
from memos_core.errors import CubeNotFound, InvalidInput
from memos_core.scope import Scope
from memos_core.testing import FakeClock, HashEmbedder

RUNS = itertools.count()
NAMES = ("ada", "bob", "carol")
WHO = st.sampled_from(NAMES)
SESSIONS = st.sampled_from([None, "S1", "S2"])


@dataclass
class Memory:
    owner: str
    session: str | None
    secret: bool
    active: bool = True


@dataclass(frozen=True)
class Given:
    owner: str
    grantee: str
    cube_id: str | None
    session: str | None
    until: float | None


class GrantMachine(RuleBasedStateMachine):
    """One run: three users of their own in a vault that all runs share."""

    ids = Bundle("ids")

    def __init__(self, memos: MemOS, clock: FakeClock) -> None:
        super().__init__()
        self.run = next(RUNS)
        self.clock = clock
        self.scopes = {name: memos.scope(user=f"{name}{self.run}") for name in NAMES}
        self.memories: dict[str, Memory] = {}
        self.given: list[Given] = []
        self.now = 0.0
        self.count = itertools.count()

    # The oracle

    def covers(self, grant: Given, cube_id: str) -> bool:
        memory = self.memories[cube_id]
        if grant.cube_id is not None:
            return grant.cube_id == cube_id
        bound = grant.session is None or grant.session == memory.session
        return grant.owner == memory.owner and bound and not memory.secret

    def granted(self, who: str) -> set[str]:
        return {
            cube_id
            for cube_id, memory in self.memories.items()
            if memory.active and any(grant.grantee == who and self.covers(grant, cube_id) for grant in self.given)
        }

    def own(self, who: str, *, active: bool) -> set[str]:
        return {key for key, each in self.memories.items() if each.owner == who and (each.active or not active)}

    # What users do

    @rule(target=ids, who=WHO, session=SESSIONS, secret=st.sampled_from([False, False, True]))
    def add(self, who: str, session: str | None, secret: bool) -> str:
        level = "secret" if secret else "internal"
        receipt = self.scopes[who].add(f"note {next(self.count)}", session=session, sensitivity=level)
        assert receipt.cube_id is not None
        self.memories[receipt.cube_id] = Memory(who, session, secret)
        return receipt.cube_id

    @rule(who=WHO, grantee=WHO, cube_id=ids, seconds=st.sampled_from([None, None, 5, 50]))
    def grant(self, who: str, grantee: str, cube_id: str, seconds: int | None) -> None:
        until = None if seconds is None else self.clock.now() + timedelta(seconds=seconds)
        name = self.scopes[grantee].user
        if who == grantee:
            with pytest.raises(InvalidInput):
                self.scopes[who].grant(name, cube_id=cube_id)
        elif cube_id not in self.own(who, active=False):
            with pytest.raises(CubeNotFound):
                self.scopes[who].grant(name, cube_id=cube_id)
        else:
            self.scopes[who].grant(name, cube_id=cube_id, until=until)
            self.replace(Given(who, grantee, cube_id, None, None if seconds is None else self.now + seconds))

    @rule(who=WHO, grantee=WHO, session=SESSIONS)
    def grant_scope(self, who: str, grantee: str, session: str | None) -> None:
        if who != grantee:
            self.bound(who, session).grant(self.scopes[grantee].user, whole_scope=True)
            self.replace(Given(who, grantee, None, session, None))

    @rule(who=WHO, grantee=WHO, cube_id=ids)
    def revoke(self, who: str, grantee: str, cube_id: str) -> None:
        if who == grantee or cube_id not in self.own(who, active=False):
            return
        touching = [each for each in self.given if each.grantee == grantee and self.covers(each, cube_id)]
        if any(each.cube_id is None for each in touching):
            with pytest.raises(InvalidInput):
                self.scopes[who].revoke(self.scopes[grantee].user, cube_id=cube_id)
        else:
            self.scopes[who].revoke(self.scopes[grantee].user, cube_id=cube_id)
            self.given = [each for each in self.given if each not in touching]

    @rule(who=WHO, grantee=WHO)
    def revoke_all(self, who: str, grantee: str) -> None:
        if who != grantee:
            self.scopes[who].revoke(self.scopes[grantee].user)
            self.given = [each for each in self.given if (each.owner, each.grantee) != (who, grantee)]

    @rule(who=WHO, cube_id=ids, archived=st.booleans())
    def archive(self, who: str, cube_id: str, archived: bool) -> None:
        if cube_id in self.own(who, active=False):
            self.scopes[who].archive(cube_id, archived=archived)
            self.memories[cube_id].active = not archived
        else:
            with pytest.raises(CubeNotFound):
                self.scopes[who].archive(cube_id, archived=archived)

    @rule(who=WHO, cube_id=ids)
    def update(self, who: str, cube_id: str) -> None:
        if cube_id in self.own(who, active=False):
            self.scopes[who].update(cube_id, f"note {next(self.count)}")
        else:
            with pytest.raises(CubeNotFound):
                self.scopes[who].update(cube_id, "taken over")

    @rule(who=WHO, cube_id=ids)
    def forget(self, who: str, cube_id: str) -> None:
        if cube_id in self.own(who, active=False):
            self.scopes[who].forget(cube_id)
            del self.memories[cube_id]
            self.given = [each for each in self.given if each.cube_id != cube_id]
        else:
            with pytest.raises(CubeNotFound):
                self.scopes[who].forget(cube_id)

    @rule(seconds=st.sampled_from([1, 10, 100]))
    def wait(self, seconds: int) -> None:
        self.clock.advance(seconds)
        self.now += seconds
        self.given = [each for each in self.given if each.until is None or each.until > self.now]

    # What they see

    @invariant()
    def everyone_finds_their_own_and_what_was_granted(self) -> None:
        for who, scope in self.scopes.items():
            hits = scope.search("note", k=500)
            assert {hit.id for hit in hits if not hit.shared} == self.own(who, active=True)
            assert {hit.id for hit in hits if hit.shared} == self.granted(who)

    @rule()
    def everyone_lists_and_filters_the_same(self) -> None:
        for who, scope in self.scopes.items():
            own, shared = self.own(who, active=True), self.granted(who)
            assert {cube.id for cube in scope.list(limit=500, include_shared=True)} == own | shared
            assert scope.count(include_shared=True) == len(own | shared)
            assert scope.count() == len(own)
            assert {hit.id for hit in scope.search("note", k=500, filters={"session": "S1"})} == {
                cube_id for cube_id in own | shared if self.memories[cube_id].session == "S1"
            }

    @rule(who=WHO, cube_id=ids)
    def get(self, who: str, cube_id: str) -> None:
        if cube_id in self.own(who, active=False) | self.granted(who):
            assert self.scopes[who].get(cube_id).shared == (self.memories[cube_id].owner != who)
        else:
            with pytest.raises(CubeNotFound):
                self.scopes[who].get(cube_id)

    @rule(who=WHO)
    def list_grants(self, who: str) -> None:
        told = {(each.grantee, each.cube_id, each.session) for each in self.scopes[who].grants()}
        assert told == {
            (self.scopes[each.grantee].user, each.cube_id, each.session) for each in self.given if each.owner == who
        }

    def bound(self, who: str, session: str | None) -> Scope:
        return self.scopes[who] if session is None else self.scopes[who].scope(session=session)

    def replace(self, grant: Given) -> None:
        key = (grant.owner, grant.grantee, grant.cube_id, grant.session)
        kept = [each for each in self.given if (each.owner, each.grantee, each.cube_id, each.session) != key]
        self.given = [*kept, grant]


def test_each_user_sees_what_the_oracle_says(memory_folder: Path) -> None:
    clock = FakeClock()
    with MemOS.open(memory_folder, clock=clock, embedder=HashEmbedder()) as memos:
        machine: Callable[[], GrantMachine] = lambda: GrantMachine(memos, clock)  # noqa: E731
        run_state_machine_as_test(  # type: ignore[no-untyped-call]
            machine,
            settings=settings(
                max_examples=8,
                stateful_step_count=20,
                deadline=None,
                derandomize=True,
                suppress_health_check=list(HealthCheck),
                phases=[Phase.generate],
            ),
        )
        memos.verify()


TEXTS = st.sampled_from(
    ["the cat sleeps", "a cat and a dog", "green tea", "tea with the cat", "the dog barks?", "rain on Friday"]
)
TURNS = st.lists(st.tuples(TEXTS, SESSIONS, st.sampled_from(["Ada", "Ben"]), st.booleans()), min_size=1, max_size=10)


@settings(max_examples=12, deadline=None, derandomize=True, phases=[Phase.generate])
@given(turns=TURNS, own=st.lists(TEXTS, max_size=3))
def test_a_reader_finds_as_if_nothing_else_existed(
    tmp_path_factory: pytest.TempPathFactory,
    empty_ledger: Path,
    turns: list[tuple[str, str | None, str, bool]],
    own: list[str],
) -> None:
    """Neither scores nor order nor neighbours tell of what was not granted: two vaults that differ in it look alike."""
    seen = []
    for everything in (True, False):
        clock = FakeClock()
        folder = tmp_path_factory.mktemp("twin")
        shutil.copy(empty_ledger, folder)
        with MemOS.open(folder, clock=clock, embedder=HashEmbedder()) as memos:
            ada, bob = memos.scope(user="ada"), memos.scope(user="bob")
            for number, (text, session, speaker, granted) in enumerate(turns):
                clock.advance(60)
                if granted or everything:
                    cube_id = ada.add(f"{text} {number}", session=session, speaker=speaker).cube_id or ""
                if granted:
                    ada.grant("bob", cube_id=cube_id)
            for text in own:
                bob.add(text, session="S1")
            hits = [
                hit for query in ("Where is the cat?", "When does it rain, Ben?") for hit in bob.search(query, k=30)
            ]
            seen.append([(hit.text, hit.score, hit.why, hit.owner, hit.metadata) for hit in hits])
    assert seen[0] == seen[1]


def test_a_grant_to_one_changes_no_score_of_another(memory_folder: Path) -> None:
    with MemOS.open(memory_folder, clock=FakeClock(), embedder=HashEmbedder()) as memos:
        ada, carol = memos.scope(user="ada"), memos.scope(user="carol")
        ids = [ada.add(text, session="S1").cube_id or "" for text in ("the cat sleeps", "green tea", "the dog barks")]
        carol.add_many(["a cat and a dog", "tea with the cat", "rain"])
        before = {scope.user: [(h.id, h.score, h.why) for h in scope.search("cat tea")] for scope in (ada, carol)}
        revision = carol.revision()
        ada.grant("bob", whole_scope=True)
        ada.grant("bob", cube_id=ids[0])
        memos.scope(user="bob").search("cat tea")
        after = {scope.user: [(h.id, h.score, h.why) for h in scope.search("cat tea")] for scope in (ada, carol)}
        assert before == after
        assert carol.revision() == revision
