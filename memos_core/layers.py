"""The layers of one open vault, and how they are put together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from weakref import WeakSet

from memos_core.cube import MemCube
from memos_core.engine.base import Engine
from memos_core.events import EventHook
from memos_core.ids import UlidFactory
from memos_core.infrastructure.governance import MemGovernance
from memos_core.infrastructure.vault import MemVault
from memos_core.interface.chat import ChatPipeline
from memos_core.interface.reader import MemReader, Reader
from memos_core.operation.background import Background, TransformTask
from memos_core.operation.chores import Chores
from memos_core.operation.evolve import EvolutionPolicy, MemEvolution
from memos_core.operation.finding.ranker import Ranker
from memos_core.operation.finding.search import SearchSettings
from memos_core.operation.forms.activations import ScopeActivations
from memos_core.operation.forms.adapters import MemAdapters
from memos_core.operation.forms.forms import MemForms
from memos_core.operation.forms.refresh import RefreshTask
from memos_core.operation.forms.transforms import MemTransform
from memos_core.operation.items.items import ItemOperator
from memos_core.operation.jobs import JobQueue, JobSettings, Task
from memos_core.operation.learning.feedback import MemFeedback
from memos_core.operation.learning.learning import LearningSettings, LearnTask, MemLearning, queue_learning
from memos_core.operation.learning.restructuring import MemRestructuring
from memos_core.operation.lifecycle import MemLifecycle
from memos_core.operation.lineage import MemLineage
from memos_core.operation.merging import MemMerging
from memos_core.operation.operator import MemOperator
from memos_core.operation.policies import BackgroundPreference
from memos_core.operation.retention import MemRetention, RetentionPolicy
from memos_core.operation.scheduler import MemScheduler
from memos_core.operation.sharing import MemSharing
from memos_core.operation.snapshots import MemSnapshots
from memos_core.operation.worker import Worker
from memos_core.principal import Principal
from memos_core.records import Reply
from memos_core.transform import PATHWAYS

__all__ = ["Layers", "Parts", "wire"]

Erased = Callable[[Principal, Sequence[str]], None]


@dataclass(frozen=True, slots=True)
class Layers:
    """The layers of one open vault, as its scopes use them."""

    vault: MemVault
    governance: MemGovernance
    operator: MemOperator
    scheduler: MemScheduler
    lifecycle: MemLifecycle
    snapshots: MemSnapshots
    sharing: MemSharing
    lineage: MemLineage
    chat: ChatPipeline
    engine: Engine | None
    activations: Callable[[Principal, Sequence[MemCube]], ScopeActivations]
    transforms: MemTransform
    forms: MemForms
    adapters: MemAdapters
    emit: EventHook
    items: ItemOperator
    jobs: JobQueue
    background: Background
    evolution: MemEvolution
    retention: MemRetention
    chores: Chores
    feedback: MemFeedback
    learning: MemLearning
    restructuring: MemRestructuring
    engines: WeakSet[Engine]
    """Every engine that has served these memories and may still hold KV of them."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What ``MemOS.open`` was given to put layers together from; None takes the default.

    Attributes:
        engine: Runs the model.
        scheduler: How memories are chosen.
        search: How memories are found.
        ranker: Weighs what speaks for a memory.
        reader: Reads what a prompt asks of memory.
        jobs: How background work is tried.
        evolution: When memories change their form by themselves.
        retention: How long memories stay in use.
        learning: How feedback changes the ranking.
    """

    engine: Engine | None = None
    scheduler: MemScheduler | None = None
    search: SearchSettings | None = None
    ranker: Ranker | None = None
    reader: Reader | None = None
    jobs: JobSettings | None = None
    evolution: EvolutionPolicy | None = None
    retention: RetentionPolicy | None = None
    learning: LearningSettings | None = None


def wire(vault: MemVault, governance: MemGovernance, parts: Parts, emit: EventHook) -> Layers:
    """Put the layers together."""
    ids, engine, engines = UlidFactory(), parts.engine, WeakSet([parts.engine] if parts.engine else [])
    learning, feedback = learning_of(vault, governance, parts, ids)
    operator = MemOperator(vault, governance, ids, parts.search, parts.ranker, learned=learning.experience)
    lifecycle, scheduler = MemLifecycle(vault, governance), scheduler_of(parts)

    def activations(principal: Principal, sources: Sequence[MemCube]) -> ScopeActivations:
        return ScopeActivations(vault, governance, principal, sources, commit=transforms.publish, emit=emit)

    erased = erasing(engines, activations)
    vault.on_lost = lambda namespace, cube_ids: erased(Principal(namespace), cube_ids)
    transforms = MemTransform(vault, governance, ids, activations=activations, emit=emit)
    adapters, queue = MemAdapters(vault, governance), JobQueue(vault, ids, settings=parts.jobs, emit=emit)
    model, policy = partial(model_of, engine), parts.evolution or EvolutionPolicy()
    evolution = MemEvolution(vault, governance, queue, policy, pathways=PATHWAYS, dropped=erased, model=model)
    retention = MemRetention(vault, governance, parts.retention, dropped=erased)
    items = ItemOperator(vault, governance, ids, erased)
    worker = Worker(queue, tasks_of(transforms, engine, [RefreshTask(vault, queue, erased), LearnTask(learning)]))
    restructuring = MemRestructuring(vault, governance, MemMerging(vault, governance, operator), learning)
    due = partial(Chores, vault, lifecycle, worker, evolution, retention, items=items, restructuring=restructuring)
    chat = ChatPipeline(
        engine=engine,
        governance=governance,
        reader=parts.reader or MemReader(),
        operator=operator,
        scheduler=scheduler,
        lifecycle=lifecycle,
        activations=activations,
        adapters=adapters,
        emit=emit,
        observe=observers(evolution, feedback),
    )
    return Layers(
        vault=vault,
        governance=governance,
        operator=operator,
        scheduler=scheduler,
        lifecycle=lifecycle,
        snapshots=MemSnapshots(vault, governance, ids),
        sharing=MemSharing(vault, governance),
        lineage=MemLineage(vault, governance),
        chat=chat,
        engine=engine,
        activations=activations,
        transforms=transforms,
        forms=MemForms(transforms, queue, erased, engine=lambda: chat.engine),
        adapters=adapters,
        emit=emit,
        items=items,
        jobs=queue,
        background=Background(queue, governance),
        evolution=evolution,
        retention=retention,
        chores=due(engine=engine, evolves=parts.evolution is not None, gather=gathering(feedback, learning, queue)),
        feedback=feedback,
        learning=learning,
        restructuring=restructuring,
        engines=engines,
    )


def erasing(
    engines: WeakSet[Engine], activations: Callable[[Principal, Sequence[MemCube]], ScopeActivations]
) -> Erased:
    """Return what has every engine let go of derived cubes that are gone."""

    def erased(principal: Principal, derived_ids: Sequence[str]) -> None:
        for one in list(engines):
            one.drop(activations(principal, ()).owner, derived_ids)

    return erased


def learning_of(
    vault: MemVault, governance: MemGovernance, parts: Parts, ids: UlidFactory
) -> tuple[MemLearning, MemFeedback]:
    """Return the layer of learning, around the ranker that searches go by, and what notes for it."""
    ranker = (parts.ranker or Ranker.load()).scaled((parts.search or SearchSettings()).factors)
    learning = MemLearning(vault, governance, ranker, parts.learning or LearningSettings())
    return learning, MemFeedback(vault, governance, ids, records=learning.settings.enabled)


def observers(evolution: MemEvolution, feedback: MemFeedback) -> Callable[[Principal, Reply], None]:
    """Return what looks at replies once they are there."""

    def observe(principal: Principal, reply: Reply) -> None:
        evolution.observe(principal, reply.plan)
        feedback.note(principal, reply.plan, reply.text)

    return observe


def gathering(feedback: MemFeedback, learning: MemLearning, queue: JobQueue) -> Callable[[], None]:
    """Return what writes down what was noted, and queues the learning from it."""

    def gather() -> None:
        feedback.flush()
        queue_learning(feedback.vault, queue, learning.settings)

    return gather


def tasks_of(transforms: MemTransform, engine: Engine | None, always: Sequence[Task]) -> list[Task]:
    """Return the background work that a process can do: with no engine, it leaves to others what needs one."""
    if engine is None:
        return [*always]
    return [*always, TransformTask(transforms, engine), TransformTask(transforms, engine, bound=True)]


def model_of(engine: Engine | None) -> str | None:
    return None if engine is None else engine.capabilities.model


def scheduler_of(parts: Parts) -> MemScheduler:
    """Return the scheduler; one that leaves building to a worker, where the policy says so."""
    scheduler = parts.scheduler or MemScheduler()
    if parts.evolution is None or parts.evolution.build == "request":
        return scheduler
    preference = BackgroundPreference(scheduler.preference)
    return MemScheduler(selection=scheduler.selection, preference=preference, working=scheduler.working)
