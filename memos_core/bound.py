"""What every scope is: layers of a vault, bound to a principal; and the methods that one layer does whole."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from memos_core.delegation import of_layer
from memos_core.engine.base import Engine
from memos_core.interface.chat import ChatPipeline
from memos_core.operation.background import Background
from memos_core.operation.evolve import MemEvolution
from memos_core.operation.forms.forms import MemForms
from memos_core.operation.learning.feedback import MemFeedback
from memos_core.operation.learning.learning import MemLearning
from memos_core.operation.learning.restructuring import MemRestructuring
from memos_core.operation.lifecycle import MemLifecycle
from memos_core.operation.lineage import MemLineage
from memos_core.operation.merging import MemMerging
from memos_core.operation.operator import MemOperator
from memos_core.operation.retention import MemRetention
from memos_core.operation.sharing import MemSharing
from memos_core.operation.snapshots import MemSnapshots
from memos_core.principal import Principal
from memos_core.twins import in_thread

if TYPE_CHECKING:
    from memos_core.memos import Layers

__all__ = ["BoundScope"]


def lifecycle(layers: Layers) -> MemLifecycle:
    return layers.lifecycle


def merging(layers: Layers) -> MemMerging:
    return layers.restructuring.merging


def time_machine(layers: Layers) -> MemSnapshots:
    return layers.snapshots


def kinship(layers: Layers) -> MemLineage:
    return layers.lineage


def operator(layers: Layers) -> MemOperator:
    return layers.operator


def pipeline(layers: Layers) -> ChatPipeline:
    return layers.chat


def background(layers: Layers) -> Background:
    return layers.background


def retention(layers: Layers) -> MemRetention:
    layers.lifecycle.flush()  # policies go by the counts
    return layers.retention


def forms(layers: Layers) -> MemForms:
    return replace(layers.forms, engine=lambda: layers.chat.engine)  # of a scope with another model, that one


def evolution(layers: Layers) -> MemEvolution:
    layers.lifecycle.flush()  # policies go by the counts
    return layers.evolution


def judging(layers: Layers) -> MemFeedback:
    return layers.feedback


def lessons(layers: Layers) -> MemLearning:
    return layers.learning


def restructuring(layers: Layers) -> MemRestructuring:
    layers.feedback.flush()  # what was noted a moment ago counts
    return layers.restructuring


def rights(layers: Layers) -> MemSharing:
    return layers.sharing


class BoundScope:
    """The part of ``Scope`` that needs no more than its layers and its principal. Thread-safe."""

    def __init__(self, layers: Layers, principal: Principal) -> None:
        self._layers = layers
        self._principal = principal

    @property
    def user(self) -> str:
        return self._principal.user

    @property
    def agent(self) -> str | None:
        return self._principal.agent

    @property
    def session(self) -> str | None:
        return self._principal.session

    @property
    def path(self) -> Path:
        """The folder of the vault, absolute."""
        return self._layers.vault.root

    @property
    def engine(self) -> Engine | None:
        return self._layers.engine

    def now(self) -> datetime:
        """Return the time by the vault's clock."""
        return self._layers.governance.clock.now()

    def __repr__(self) -> str:
        return f"Scope(user={self.user!r}, agent={self.agent!r}, session={self.session!r})"

    # Life of a memory

    update = of_layer(lifecycle, MemLifecycle.update)
    rollback = of_layer(lifecycle, MemLifecycle.rollback)
    history = of_layer(lifecycle, MemLifecycle.history)
    freeze = of_layer(lifecycle, MemLifecycle.freeze)
    archive = of_layer(lifecycle, MemLifecycle.archive)
    renew = of_layer(lifecycle, MemLifecycle.renew)
    diff = of_layer(lifecycle, MemLifecycle.diff)
    link = of_layer(operator, MemOperator.link)
    reinstate = of_layer(operator, MemOperator.reinstate)
    pin = of_layer(pipeline, ChatPipeline.pin)
    prefetch = of_layer(pipeline, ChatPipeline.prefetch)
    lineage = of_layer(kinship, MemLineage.lineage)
    merge = of_layer(merging, MemMerging.merge)
    split = of_layer(merging, MemMerging.split)
    revert = of_layer(merging, MemMerging.revert)

    aupdate = in_thread(update)
    arollback = in_thread(rollback)
    ahistory = in_thread(history)
    afreeze = in_thread(freeze)
    aarchive = in_thread(archive)
    arenew = in_thread(renew)
    adiff = in_thread(diff)
    alink = in_thread(link)
    areinstate = in_thread(reinstate)
    apin = in_thread(pin)
    aprefetch = in_thread(prefetch)
    alineage = in_thread(lineage)
    amerge = in_thread(merge)
    asplit = in_thread(split)
    arevert = in_thread(revert)

    # Rights of others

    grant = of_layer(rights, MemSharing.grant)
    revoke = of_layer(rights, MemSharing.revoke)
    grants = of_layer(rights, MemSharing.grants)

    agrant = in_thread(grant)
    arevoke = in_thread(revoke)
    agrants = in_thread(grants)

    # Time machine

    snapshot = of_layer(time_machine, MemSnapshots.snapshot)
    snapshots = of_layer(time_machine, MemSnapshots.snapshots)
    restore = of_layer(time_machine, MemSnapshots.restore)
    drop_snapshot = of_layer(time_machine, MemSnapshots.drop_snapshot)

    asnapshot = in_thread(snapshot)
    asnapshots = in_thread(snapshots)
    arestore = in_thread(restore)
    adrop_snapshot = in_thread(drop_snapshot)

    # Background work

    demote = of_layer(forms, MemForms.demote)
    demotions = of_layer(forms, MemForms.demotions)
    remake = of_layer(forms, MemForms.remake)
    remake_later = of_layer(forms, MemForms.remake_later)
    transform_later = of_layer(background, Background.transform_later)
    jobs = of_layer(background, Background.jobs)
    job = of_layer(background, Background.job)
    cancel_job = of_layer(background, Background.cancel_job)
    retry_job = of_layer(background, Background.retry_job)

    tidy = of_layer(retention, MemRetention.tidy)
    evolve = of_layer(evolution, MemEvolution.evolve)

    # Feedback

    feedback = of_layer(judging, MemFeedback.feedback)
    proposals = of_layer(restructuring, MemRestructuring.proposals)
    adopt = of_layer(restructuring, MemRestructuring.adopt)
    learning = of_layer(lessons, MemLearning.learning)
    rollback_learning = of_layer(lessons, MemLearning.rollback_learning)
    reset_learning = of_layer(lessons, MemLearning.reset_learning)

    ademote = in_thread(demote)
    ademotions = in_thread(demotions)
    aremake = in_thread(remake)
    aremake_later = in_thread(remake_later)
    atransform_later = in_thread(transform_later)
    ajobs = in_thread(jobs)
    ajob = in_thread(job)
    acancel_job = in_thread(cancel_job)
    aretry_job = in_thread(retry_job)
    atidy = in_thread(tidy)
    aevolve = in_thread(evolve)
    afeedback = in_thread(feedback)
    aproposals = in_thread(proposals)
    aadopt = in_thread(adopt)
    alearning = in_thread(learning)
    arollback_learning = in_thread(rollback_learning)
    areset_learning = in_thread(reset_learning)
