"""When memories change their form by themselves: hot text becomes KV, what stays hot an adapter, what cools is dropped.

The rules read what memories have been used for and what their forms have cost; they decide, and never compute: what is
to be made goes to the queue, what is to be dropped is a derived cube whose source stays. So nothing is lost whatever a
policy says, and nothing here stands on the way of a request.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from memos_core.cube import MemCube, MemoryType, State
from memos_core.infrastructure.governance import MemGovernance
from memos_core.infrastructure.vault import MemVault, ReadSession, Visibility, WriteSession
from memos_core.infrastructure.vault.derivation import sources_among
from memos_core.infrastructure.vault.heat import hottest
from memos_core.operation.background import TransformTask, last_failure
from memos_core.operation.forms.derived import Rates, age, bytes_of, coolest, fits, is_kv, made_from, rates, span
from memos_core.operation.forms.forms import drop_form
from memos_core.operation.forms.fusion import together, unproven
from memos_core.operation.jobs import JobQueue
from memos_core.operation.policies import BackgroundPreference
from memos_core.principal import Principal
from memos_core.records import InjectionPlan, Placement

__all__ = ["Decision", "EvolutionPolicy", "MemEvolution", "decide"]

CANDIDATES = 4
"""Hot memories that are looked at for each one that may be promoted: most of the hottest have their form already."""


class EvolutionPolicy(BaseModel):
    """When memories change their form. Heat is reads and injections, each halved for every week that has passed.

    Attributes:
        hot: Heat from which a text is kept as KV as well.
        cold: Heat under which KV or an adapter is dropped. Below ``hot``, so that nothing is made and dropped in turns.
        settle_seconds: A text that was edited within this time is left alone.
        keep_seconds: What was made or used within this time is not dropped.
        min_chars: Texts shorter than this cost less to compute than to keep.
        min_saving_seconds: Nor is a text kept that takes less than this to compute, by what earlier builds took for
            each character. 0: no such limit. Worth setting for a small model, see docs/jobs-and-evolution.md.
        least_contribution: Nor is a text kept whose contribution to answers is known and below this: it is given and
            not used. What was made of such texts alone is dropped, from half of this on. 0: no such limit.
        parametric_hot: Heat from which texts go into an adapter together; None: never. Needs a pathway for it.
        parametric_settle_seconds: Only texts that were not edited for this long.
        parametric_group: Memories of one adapter, at least 1.
        fuse_from: Small adapters of a scope from which on they become one, distilled anew from all their memories;
            None: never.
        fuse_max_memories: Most memories of an adapter that is made so.
        max_builds: What is queued in one run for one scope, at most.
        max_derived_bytes: Room for KV and adapters of one scope; of what is over it the least used by byte goes.
        max_build_seconds: Expected time of what is queued in one run, by what earlier ones have taken.
        every_seconds: How often ``memos.work`` and ``memos.run_pending`` look, where ``MemOS.open`` was given a policy.
        build: Where ``inject="auto"`` sees that memories come back: ``request`` keeps the KV that the request computes
            anyway, ``queue`` leaves it to a worker, so that no request waits for a disk.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    hot: float = Field(default=3.0, gt=0)
    cold: float = Field(default=0.5, ge=0)
    settle_seconds: float = Field(default=600.0, ge=0)
    keep_seconds: float = Field(default=86400.0, ge=0)
    min_chars: int = Field(default=40, ge=0)
    min_saving_seconds: float = Field(default=0.0, ge=0)
    least_contribution: float = Field(default=0.0, ge=0, lt=1)
    parametric_hot: float | None = Field(default=None, gt=0)
    parametric_settle_seconds: float = Field(default=7 * 86400.0, ge=0)
    parametric_group: int = Field(default=8, ge=1)
    fuse_from: int | None = Field(default=None, ge=2)
    fuse_max_memories: int = Field(default=24, ge=2)
    max_builds: int = Field(default=16, ge=0)
    max_derived_bytes: int = Field(default=2 * 2**30, ge=0)
    max_build_seconds: float = Field(default=600.0, ge=0)
    every_seconds: float = Field(default=3600.0, gt=0)
    build: Literal["request", "queue"] = "request"

    @model_validator(mode="after")
    def _hysteresis(self) -> Self:
        if self.cold >= self.hot:
            raise ValueError(
                f"cold ({self.cold}) must be below hot ({self.hot}), or memories change form back and forth"
            )
        return self


@dataclass(frozen=True, slots=True)
class Decision:
    """One change of form, and why.

    Attributes:
        user: Whose memory.
        action: ``activate``, ``parametrise`` and ``fuse`` queue a job, ``demote`` drops a derived cube.
        cube_ids: For the first two the texts, for ``fuse`` the adapters, for the last the derived cube.
        reason: In words, with the figures that it was decided by.
        job_id: Of the job that was queued; None in a dry run.
    """

    user: str
    action: Literal["activate", "parametrise", "fuse", "demote"]
    cube_ids: tuple[str, ...]
    reason: str
    job_id: str | None = None

    @property
    def target(self) -> MemoryType | None:
        """What is to be made; None: nothing is."""
        if self.action == "demote":
            return None
        return MemoryType.ACTIVATION if self.action == "activate" else MemoryType.PARAMETRIC

    def __str__(self) -> str:
        return f"{self.user}: {self.action} {', '.join(self.cube_ids)}: {self.reason}"


def no_model() -> str | None:
    """No model serves, or it is not known which."""
    return None


class MemEvolution:
    """Looks at scopes and carries out a policy. Thread-safe.

    Args:
        pathways: The changes of form that there are, as pairs of memory types.
        dropped: Is told which derived cubes are gone, so that no engine holds them in memory any longer.
        model: Name of the model that serves now; what was made for another one counts only as far as it is used.
    """

    def __init__(
        self,
        vault: MemVault,
        governance: MemGovernance,
        queue: JobQueue,
        policy: EvolutionPolicy,
        *,
        pathways: Collection[tuple[MemoryType, str]],
        dropped: Callable[[Principal, Sequence[str]], None],
        model: Callable[[], str | None] = no_model,
    ) -> None:
        self.vault = vault
        self.governance = governance
        self.queue = queue
        self.policy = policy
        self.pathways = pathways
        self.dropped = dropped
        self.model = model

    def evolve(
        self, principal: Principal, *, policy: EvolutionPolicy | None = None, dry_run: bool = False
    ) -> tuple[Decision, ...]:
        """Decide what changes its form in this scope, and do it: queue what is to be made, drop what has cooled.

        Args:
            policy: Instead of the one that the vault was opened with.
            dry_run: Only say what would be done, and why.
        """
        decisions = self.decisions(principal, policy or self.policy)
        return decisions if dry_run else tuple(self._carry_out(principal, each) for each in decisions)

    def decisions(self, principal: Principal, policy: EvolutionPolicy) -> tuple[Decision, ...]:
        """Return what the policy says to this scope as it is now."""
        visibility = self.governance.visibility(principal)
        with self.vault.read() as session:
            least = min(policy.hot, policy.parametric_hot or policy.hot)
            limit = CANDIDATES * max(policy.max_builds, 1)
            texts = hottest(session, visibility, at_least=least, limit=limit)
            derived = session.listing(
                visibility,
                limit=100_000,
                types=(MemoryType.ACTIVATION, MemoryType.PARAMETRIC),
                states=(State.ACTIVE, State.ARCHIVED),
                now=session.now,
            )
            kept = sources_among(session, [cube.id for cube in derived])
            sources = session.cubes(visibility, sorted({source for cube in derived for source, _ in made_from(cube)}))
        if (MemoryType.PLAINTEXT, MemoryType.PARAMETRIC) not in self.pathways:
            policy = policy.model_copy(update={"parametric_hot": None})
        now = self.governance.clock.now()
        found = decide(principal.user, texts, derived, policy, now, sources=sources, kept=kept, model=self.model())
        with self.vault.read() as session:
            return tuple(each for each in found if not self._given_up(session, visibility, each))

    def _given_up(self, session: ReadSession, visibility: Visibility, decision: Decision) -> bool:
        """Tell whether just this failed for good or was cancelled, and no memory of it has changed since."""
        if decision.target is None:
            return False
        wanted = {"to": str(decision.target)}
        last = last_failure(session, visibility, TransformTask.kind, decision.cube_ids, wanted)
        cubes = session.cubes(visibility, decision.cube_ids)
        return last is not None and all(cube.header.descriptive.updated <= last for cube in cubes)

    def evolve_all(self, *, policy: EvolutionPolicy | None = None, dry_run: bool = False) -> tuple[Decision, ...]:
        """``evolve`` for every user of the vault."""
        with self.vault.read() as session:
            users = session.namespaces()
        return tuple(each for user in users for each in self.evolve(Principal(user), policy=policy, dry_run=dry_run))

    def observe(self, principal: Principal, plan: InjectionPlan) -> None:
        """Queue the KV of the memories of a request that come back together, if the policy leaves that to a worker."""
        if self.policy.build != "queue" or plan.inject != "auto" or not plan.memories:
            return
        if all(memory.placed is Placement.KV for memory in plan.memories) or any(m.passage for m in plan.memories):
            return
        if not all(BackgroundPreference.comes_back(memory) for memory in plan.memories):
            return
        parameters = {"to": str(MemoryType.ACTIVATION)}
        with self.vault.write() as session:
            if not self._held(session, principal, [memory.cube for memory in plan.memories]):
                self.queue.add(session, principal, TransformTask.kind, plan.cube_ids, parameters=parameters)

    def _held(self, session: WriteSession, principal: Principal, cubes: Sequence[MemCube]) -> bool:
        """Tell whether there is KV of just these memories; it may not have been worth loading."""
        visibility = self.governance.visibility(principal)
        made = session.cubes(visibility, session.derived(visibility, [cubes[-1].id], recursive=False))
        wanted = tuple((cube.id, cube.version) for cube in cubes)
        return any(made_from(each) == wanted and is_kv(each) for each in made)

    def _carry_out(self, principal: Principal, decision: Decision) -> Decision:
        with self.vault.write() as session:
            if decision.action == "demote":
                return self._demote(session, principal, decision)
            parameters = {"to": str(decision.target)}
            job = self.queue.add(session, principal, TransformTask.kind, decision.cube_ids, parameters=parameters)
            return replace(decision, job_id=job.id)

    def _demote(self, session: WriteSession, principal: Principal, decision: Decision) -> Decision:
        for cube in session.cubes(Visibility(principal.namespace), decision.cube_ids):
            drop_form(session, principal, cube, decision.reason, self.dropped)
        return decision


def decide(
    user: str,
    texts: Sequence[MemCube],
    derived: Sequence[MemCube],
    policy: EvolutionPolicy,
    now: datetime,
    *,
    sources: Iterable[MemCube] = (),
    kept: Collection[str] = (),
    model: str | None = None,
) -> tuple[Decision, ...]:
    """Return what ``policy`` says to these memories. Pure: the same memories at the same moment, the same decisions.

    Args:
        texts: Live text memories, the hottest first.
        derived: KV caches and adapters of the scope, in any state.
        sources: What they were made from, as it is now.
        kept: Those of them that something else was made from; they stay.
        model: Name of the model that serves; None: not known, so whatever was made counts.
    """
    # What was made from nothing that stays, such as an adapter from outside, is not a policy's to drop.
    loose = [c for c in derived if c.id not in kept and not c.header.governance.frozen and made_from(c)]
    known = {cube.id: cube for cube in sources}
    fitting = {cube.id for cube in derived if model is None or fits(cube, model)}
    lent = {cube.id: coolest(cube, known, now) for cube in loose if cube.id in fitting}
    waiting = unproven(derived)
    proven = [cube for cube in loose if cube.id not in waiting]
    going = list(cooled(user, proven, lent, policy, now, sources=known))
    gone = {cube_id for each in going for cube_id in each.cube_ids}
    staying = [cube for cube in derived if cube.id not in gone]
    serving = [cube for cube in staying if cube.id in fitting]
    known |= {cube.id: cube for cube in texts}
    measured = rates([cube for cube in derived if cube.id in fitting], known)
    coming = [
        *promoted(user, texts, serving, policy, now, measured=measured),
        *parametrised(user, texts, serving, policy, now),
        *fused(user, serving, policy),
    ]
    room = policy.max_derived_bytes - sum(bytes_of(cube) for cube in staying)
    loose = [cube for cube in loose if cube.id not in gone]
    return (*going, *overflowing(user, loose, -room, now), *within_budget(coming, known, measured, policy, room))


def cooled(
    user: str,
    derived: Sequence[MemCube],
    lent: Mapping[str, float],
    policy: EvolutionPolicy,
    now: datetime,
    *,
    sources: Mapping[str, MemCube],
) -> Iterable[Decision]:
    """Yield what is dropped because it is out of use, or because neither it nor what it was made from is used.

    Args:
        lent: Heat that a derived cube has from its sources.
        sources: What they were made from, by id.
    """
    for cube in derived:
        behaviour = cube.header.behaviour
        idle = (now - (behaviour.last_used or cube.created)).total_seconds()
        heat = max(behaviour.heat_at(now), lent.get(cube.id, 0.0))
        if cube.state is not State.ACTIVE:
            yield Decision(user, "demote", (cube.id,), "it was taken out of use; its source serves as text")
        elif heat < policy.cold and idle >= policy.keep_seconds:
            saved = behaviour.tokens_saved
            reason = f"heat {heat:.2f} is below {policy.cold:g}, {span(idle)} unused, {saved:,} tokens saved so far"
            yield Decision(user, "demote", (cube.id,), reason)
        elif why := unused(cube, sources, policy, now):
            yield Decision(user, "demote", (cube.id,), why)


def unused(cube: MemCube, sources: Mapping[str, MemCube], policy: EvolutionPolicy, now: datetime) -> str | None:
    """Return why a form is dropped that answers are given and do not use, however hot it is; None: it is not."""
    below = [sources[key] for key, _ in made_from(cube) if key in sources]
    limit = policy.least_contribution / 2  # half of what it takes to be made: nothing is made and dropped in turns
    old = (now - cube.created).total_seconds() >= policy.keep_seconds
    if not (old and below and idle_in_answers(below, limit)):
        return None
    share = max(each.header.behaviour.contribution or 0.0 for each in below)
    return f"answers that are given its memories take {share:.1%} of what they use from them, less than {limit:.1%}"


def idle_in_answers(texts: Sequence[MemCube], least: float) -> bool:
    """Tell whether all of these are known to contribute less than that to the answers that are given them."""
    shares = [cube.header.behaviour.contribution for cube in texts]
    return all(share is not None and share < least for share in shares)


def promoted(
    user: str,
    texts: Sequence[MemCube],
    derived: Sequence[MemCube],
    policy: EvolutionPolicy,
    now: datetime,
    *,
    measured: Rates,
) -> Iterable[Decision]:
    """Yield the texts that are to be kept as KV, the hottest first."""
    held = {made_from(cube) for cube in derived if is_kv(cube)}
    for cube in sorted(texts, key=lambda each: (-each.header.behaviour.heat_at(now), each.id)):
        heat, settled = cube.header.behaviour.heat_at(now), age(cube, now)
        if heat < policy.hot or settled < policy.settle_seconds or len(cube.text) < policy.min_chars:
            continue
        if idle_in_answers([cube], policy.least_contribution):
            continue
        if measured.known and len(cube.text) * measured.seconds_each < policy.min_saving_seconds:
            continue
        if ((cube.id, cube.version),) not in held:
            size = f"{len(cube.text)} characters"
            reason = f"heat {heat:.2f} is at least {policy.hot:g}, not edited for {span(settled)}, {size}"
            yield Decision(user, "activate", (cube.id,), reason)


def parametrised(
    user: str, texts: Sequence[MemCube], derived: Sequence[MemCube], policy: EvolutionPolicy, now: datetime
) -> Iterable[Decision]:
    """Yield groups of texts that go into an adapter together: hot for long, and in none yet."""
    if policy.parametric_hot is None:
        return
    held = {source for cube in derived if cube.type is MemoryType.PARAMETRIC for source in made_from(cube)}
    ready = [
        cube
        for cube in texts
        if cube.header.behaviour.heat_at(now) >= policy.parametric_hot
        and age(cube, now) >= policy.parametric_settle_seconds
        and not idle_in_answers([cube], policy.least_contribution)
        and (cube.id, cube.version) not in held
    ]
    for start in range(0, len(ready) - policy.parametric_group + 1, policy.parametric_group):
        group = sorted(cube.id for cube in ready[start : start + policy.parametric_group])
        since = span(policy.parametric_settle_seconds)
        reason = f"{len(group)} memories of heat {policy.parametric_hot:g} and more, none edited for {since}"
        yield Decision(user, "parametrise", tuple(group), reason)


def fused(user: str, derived: Sequence[MemCube], policy: EvolutionPolicy) -> Iterable[Decision]:
    """Yield the adapters that become one."""
    chosen = together(derived, policy)
    if chosen:
        memories = len({source for cube in chosen for source, _ in made_from(cube)})
        reason = f"{len(chosen)} adapters with {memories} memories in all, and {policy.fuse_from} are enough to fuse"
        yield Decision(user, "fuse", tuple(cube.id for cube in chosen), reason)


def overflowing(user: str, derived: Sequence[MemCube], excess: int, now: datetime) -> Iterable[Decision]:
    """Yield what has to go for the sake of room: the least heat for each byte first."""
    if excess <= 0:
        return
    for cube in sorted(
        derived, key=lambda each: (each.header.behaviour.heat_at(now) / max(bytes_of(each), 1), each.id)
    ):
        excess -= bytes_of(cube)
        reason = f"KV and adapters are over max_derived_bytes; of {bytes_of(cube):,} bytes, least used for its size"
        yield Decision(user, "demote", (cube.id,), reason)
        if excess <= 0:
            return


def within_budget(
    coming: Sequence[Decision], texts: Mapping[str, MemCube], measured: Rates, policy: EvolutionPolicy, room: int
) -> Iterable[Decision]:
    """Yield what may be made now: as many as ``max_builds``, in the room and time that are left.

    Size and time are expected from what earlier builds of the scope took for each character; the first has no measure.
    """
    seconds = policy.max_build_seconds
    for decision in coming[: policy.max_builds]:
        chars = sum(len(texts[cube_id].text) for cube_id in decision.cube_ids if cube_id in texts)
        room, seconds = room - round(chars * measured.bytes_each), seconds - chars * measured.seconds_each
        if room < 0 or seconds < 0:
            return
        yield decision
