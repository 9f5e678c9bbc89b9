"""The life of memories against a dictionary: whatever happens in whatever order, the scope says what the model says."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from memos_core import MemOS
from memos_core.errors import CubeConflict, CubeFrozen, CubeNotFound, IllegalTransition, InvalidInput
from memos_core.testing import FakeClock

TEXTS = st.sampled_from(["tea", "milk", "bread", "rain", "chess", "tram"])
REFUSALS = (CubeConflict, CubeFrozen, CubeNotFound, IllegalTransition, InvalidInput)
USERS = itertools.count()


@dataclass
class Memory:
    """What the model knows of one memory."""

    texts: list[str]
    state: str = "active"
    frozen: bool = False
    expires: float | None = None
    sources: tuple[str, ...] = ()
    operation: int | None = None

    @property
    def text(self) -> str:
        return self.texts[-1]


@dataclass
class Model:
    """Memories by id, and snapshots by name: id to text and state."""

    memories: dict[str, Memory] = field(default_factory=dict)
    snapshots: dict[str, dict[str, tuple[str, str]]] = field(default_factory=dict)
    now: float = 0.0

    def settle(self) -> None:
        for memory in self.memories.values():
            if memory.state == "active" and memory.expires is not None and memory.expires <= self.now:
                memory.state = "expired"

    def holder(self, text: str) -> str | None:
        live = (key for key, each in self.memories.items() if each.state == "active" and each.text == text)
        return next(live, None)

    def get(self, cube_id: str) -> Memory:
        if cube_id not in self.memories:
            raise CubeNotFound(cube_id)
        return self.memories[cube_id]

    def free(self, cube_id: str, text: str) -> None:
        holder = self.holder(text)
        if holder not in (None, cube_id):
            raise CubeConflict(cube_id, holder)

    def editable(self, cube_id: str) -> Memory:
        memory = self.get(cube_id)
        if memory.frozen:
            raise CubeFrozen(cube_id)
        if memory.state in ("merged", "expired"):
            raise IllegalTransition(cube_id, memory.state, "")
        return memory

    def update(self, cube_id: str, text: str) -> None:
        memory = self.editable(cube_id)
        self.free(cube_id, text)
        memory.texts.append(text)

    def archive(self, cube_id: str, archived: bool) -> None:
        memory = self.editable(cube_id)
        if not archived and memory.expires is not None and memory.expires <= self.now:
            raise IllegalTransition(cube_id, "expired", "")
        if not archived and memory.state != "active":
            self.free(cube_id, memory.text)
        memory.state = "archived" if archived else "active"

    def renew(self, cube_id: str, ttl: float | None) -> None:
        memory = self.get(cube_id)
        if memory.frozen:
            raise CubeFrozen(cube_id)
        if memory.state == "merged":
            raise IllegalTransition(cube_id, "merged", "")
        if memory.state == "expired":
            self.free(cube_id, memory.text)
            memory.state = "active"
        memory.expires = None if ttl is None else self.now + ttl

    def remake(self, cube_ids: list[str], made: dict[str, str], operation: int) -> None:
        sources = []
        for each in cube_ids:
            source = self.get(each)
            sources.append(source)
            if source.frozen:
                raise CubeFrozen(each)
            if source.state != "active":
                raise IllegalTransition(each, source.state, "")
        ends = [source.expires for source in sources if source.expires is not None]
        for source in sources:
            source.state = "merged"
        for cube_id, text in made.items():
            self.free(cube_id, text)
            self.memories[cube_id] = Memory(
                [text], expires=min(ends, default=None), sources=tuple(cube_ids), operation=operation
            )

    def revert(self, cube_id: str) -> None:
        memory = self.get(cube_id)
        if memory.operation is None:
            raise InvalidInput("no merge")
        for key, each in self.memories.items():
            if each.operation != memory.operation or each.state in ("archived", "expired"):
                continue
            if each.frozen:
                raise CubeFrozen(key)
            if each.state == "merged":
                raise IllegalTransition(key, "merged", "")
            each.state = "archived"
        for key in memory.sources:
            source = self.get(key)
            if source.state != "merged":
                raise IllegalTransition(key, source.state, "")
            if source.frozen:
                raise CubeFrozen(key)
            self.free(key, source.text)
            source.state = "active"
        self.settle()

    def forget(self, cube_id: str) -> None:
        self.get(cube_id)
        doomed, fresh = set(), {cube_id}
        while fresh:
            doomed |= fresh
            fresh = {key for key, each in self.memories.items() if doomed & set(each.sources)} - doomed
        for key in doomed:
            del self.memories[key]
            for held in self.snapshots.values():
                held.pop(key, None)

    def snapshot(self, name: str) -> None:
        if name in self.snapshots:
            raise InvalidInput("there is one")
        self.snapshots[name] = {key: (each.text, each.state) for key, each in self.memories.items()}

    def restore(self, name: str) -> None:
        if name not in self.snapshots:
            raise InvalidInput("there is none")
        then = self.snapshots[name]
        wanted: dict[str, str] = {}
        for key, memory in self.memories.items():
            if memory.frozen or memory.state == "expired" or (key in then and then[key][1] == "expired"):
                continue
            if key not in then:
                if memory.state == "active":
                    wanted[key] = "archived"
            elif (memory.text, memory.state) != then[key]:
                wanted[key] = then[key][1]
        for key in wanted:
            if self.memories[key].state == "active":
                self.memories[key].state = "archived"
        for key in sorted(wanted):
            memory = self.memories[key]
            if key in then and memory.text != then[key][0]:
                memory.texts.append(then[key][0])
            memory.state = wanted[key]
            others = [k for k, m in self.memories.items() if k != key and m.state == "active" and m.text == memory.text]
            if wanted[key] == "active" and others:
                memory.state = "archived"
        self.settle()


class Lives(RuleBasedStateMachine):
    """Does the same to a scope and to the model, and compares."""

    memos: MemOS
    clock: FakeClock
    ids = Bundle("ids")
    names = st.sampled_from(["monday", "tuesday"])

    def __init__(self) -> None:
        super().__init__()
        self.scope = self.memos.scope(user=f"user{next(USERS)}")
        self.model = Model()
        self.operations = itertools.count()

    def same(self, real: Callable[[], Any], model: Callable[[], Any]) -> Any:
        """Run both; both must be refused alike, and a refusal must change nothing."""
        before = copy.deepcopy(self.model)
        try:
            result = real()
        except REFUSALS as error:
            refusal: type[BaseException] | None = type(error)
            result = None
        else:
            refusal = None
        expected: type[BaseException] | None = None
        try:
            model()
        except REFUSALS as error:
            expected, self.model = type(error), before
        assert refusal is expected
        return result

    @rule(target=ids, text=TEXTS, ttl=st.sampled_from([None, 5.0, 50.0]))
    def add(self, text: str, ttl: float | None) -> str:
        receipt = self.scope.add(text, ttl_seconds=ttl)
        assert receipt.cube_id is not None
        holder = self.model.holder(text)
        assert (receipt.outcome == "duplicate") == (holder is not None)
        if holder is None:
            expires = None if ttl is None else self.model.now + ttl
            self.model.memories[receipt.cube_id] = Memory([text], expires=expires)
        return receipt.cube_id

    @rule(cube_id=ids, text=TEXTS)
    def update(self, cube_id: str, text: str) -> None:
        self.same(lambda: self.scope.update(cube_id, text), lambda: self.model.update(cube_id, text))

    @rule(cube_id=ids)
    def rollback(self, cube_id: str) -> None:
        first = self.model.memories[cube_id].texts[0] if cube_id in self.model.memories else ""
        self.same(lambda: self.scope.rollback(cube_id, 1), lambda: self.model.update(cube_id, first))

    @rule(cube_id=ids, archived=st.booleans())
    def archive(self, cube_id: str, archived: bool) -> None:
        real, model = self.scope.archive, self.model.archive
        self.same(lambda: real(cube_id, archived=archived), lambda: model(cube_id, archived))

    @rule(cube_id=ids, ttl=st.sampled_from([None, 5.0]))
    def renew(self, cube_id: str, ttl: float | None) -> None:
        self.same(lambda: self.scope.renew(cube_id, ttl_seconds=ttl), lambda: self.model.renew(cube_id, ttl))

    @rule(cube_id=ids, frozen=st.booleans())
    def freeze(self, cube_id: str, frozen: bool) -> None:
        def model() -> None:
            self.model.get(cube_id).frozen = frozen

        self.same(lambda: self.scope.freeze(cube_id, frozen=frozen), model)

    @rule(target=ids, first=ids, second=ids, text=TEXTS)
    def merge(self, first: str, second: str, text: str) -> str:
        made: dict[str, str] = {}

        def real() -> str:
            cube_id = self.scope.merge([first, second], text).cube_id
            assert cube_id is not None
            made[cube_id] = text
            return cube_id

        def model() -> None:
            if first == second:
                raise InvalidInput("one memory")
            self.model.remake([first, second], made or {"refused": text}, next(self.operations))

        return self.same(real, model) or first

    @rule(target=ids, cube_id=ids, texts=st.lists(TEXTS, min_size=2, max_size=2))
    def split(self, cube_id: str, texts: list[str]) -> str:
        made: dict[str, str] = {}

        def real() -> str:
            receipts = self.scope.split(cube_id, texts)
            made.update({receipt.cube_id or "": text for receipt, text in zip(receipts, texts, strict=True)})
            return next(iter(made))

        refused = {f"refused{number}": text for number, text in enumerate(texts)}
        operation = next(self.operations)
        return self.same(real, lambda: self.model.remake([cube_id], made or refused, operation)) or cube_id

    @rule(cube_id=ids)
    def revert(self, cube_id: str) -> None:
        self.same(lambda: self.scope.revert(cube_id), lambda: self.model.revert(cube_id))

    @rule(cube_id=ids)
    def forget(self, cube_id: str) -> None:
        self.same(lambda: self.scope.forget(cube_id), lambda: self.model.forget(cube_id))

    @rule(name=names)
    def snapshot(self, name: str) -> None:
        self.same(lambda: self.scope.snapshot(name), lambda: self.model.snapshot(name))

    @rule(name=names)
    def restore(self, name: str) -> None:
        self.same(lambda: self.scope.restore(name), lambda: self.model.restore(name))

    @rule(name=names)
    def restore_and_undo(self, name: str) -> None:
        if name not in self.model.snapshots:
            return
        before = {key: (each.text, each.state) for key, each in self.model.memories.items()}
        self.scope.restore(self.scope.restore(name).undo)
        self.model.restore(name)
        self.model.snapshots["undo"] = before
        self.model.restore("undo")
        del self.model.snapshots["undo"]

    @rule(seconds=st.sampled_from([1.0, 6.0, 60.0]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.model.now += seconds
        self.model.settle()

    @invariant()
    def the_scope_says_what_the_model_says(self) -> None:
        for state in ("active", "merged", "archived", "expired"):
            real = {cube.id: (cube.text, cube.version) for cube in self.scope.list(state=state, limit=1000)}
            expected = {
                key: (each.text, len(each.texts)) for key, each in self.model.memories.items() if each.state == state
            }
            assert real == expected, state


def test_lives_of_memories_match_the_model(tmp_path: Path) -> None:
    clock = FakeClock()
    with MemOS.open(tmp_path / "vault", embedder=None, clock=clock) as memos:
        bound = type("BoundLives", (Lives,), {"memos": memos, "clock": clock})
        run_state_machine_as_test(
            bound,
            settings=settings(
                max_examples=25,
                stateful_step_count=25,
                deadline=None,
                derandomize=True,
                phases=(Phase.generate,),  # to shrink takes minutes here; the failing run itself is printed
                suppress_health_check=list(HealthCheck),
                database=None,
            ),
        )
        memos.verify()
