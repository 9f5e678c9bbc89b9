"""plaintext -> parametric: a LoRA adapter that says without the memories what the model says while reading them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal

from memos_core.cube import BlobRef, MemoryType, ParametricPayload
from memos_core.engine.base import BuiltAdapter, Engine
from memos_core.engine.loading import LoadedModel
from memos_core.engine.lora.adapter import Adapter, check_fit, decode, encode, parse_config, peft_config
from memos_core.errors import GateFailed
from memos_core.transform.base import Material, Meter, Pathway, Peer, Progress, Proposal
from memos_core.transform.course import Course, Maker, Sizes
from memos_core.transform.distill import Distiller, DistillSettings
from memos_core.transform.gates import GateSettings, examine, plan_of, share
from memos_core.transform.lessons import Lesson, Reading, loaded_of
from memos_core.transform.strangers import bundled_strangers
from memos_core.transform.study import StudyTemplates, bundled_templates, study

__all__ = ["Distillation", "adapter_of", "from_files"]


class Distillation(Pathway):
    """Distils memories into an adapter of the scope ``tail`` and examines it.

    Args:
        settings: How it is trained.
        gates: What it must show.
        templates: What questions are made with; None: those that ship with MemOS.
        sizes: How many foreign questions it learns and is examined by.
    """

    source: ClassVar = MemoryType.PLAINTEXT
    target: ClassVar = MemoryType.PARAMETRIC

    def __init__(
        self,
        settings: DistillSettings | None = None,
        gates: GateSettings | None = None,
        templates: StudyTemplates | None = None,
        sizes: Sizes | None = None,
    ) -> None:
        self.settings = settings or DistillSettings()
        self.gates = gates or GateSettings()
        self.sizes = sizes or Sizes()
        self.templates = templates or bundled_templates()

    def propose(self, material: Material) -> Proposal:
        """Train and examine an adapter.

        Raises:
            GateFailed: There is nothing to train with: a memory in which no statement is found that a question can be
                made of, or one that the model does not even read right. Nothing was trained.
        """
        self.check(material)
        loaded = loaded_of(material.engine, self.name)
        reading = Reading(loaded)
        with Meter.running() as meter:
            material.progress(Progress("making questions", 0, self.settings.most_steps(len(material.cubes))))
            maker = Maker(reading, material.cubes, self.templates, material.seed, sizes=self.sizes)
            self.refuse_what_cannot_be_taught(maker)
            course = maker.course(material.foreign)
            settings = self.settings.for_facts(maker.facts)
            distiller = Distiller(loaded.model, settings, seed=material.seed)
            peers = [adapter_of(peer, loaded) for peer in material.peers]
            self.train(distiller, reading, course, peers, material)
            adapter = distiller.adapter()
            material.progress(Progress("examining", distiller.steps_done, distiller.steps))
            theirs = questions_to_peers(reading, material.peers, peers, self.templates)
            gates = examine(reading, adapter, course.exam, self.gates, peers=peers, theirs=theirs)
        data = encode(adapter.modules)
        built = BuiltAdapter(
            data=data,
            peft_config=peft_config(self.settings.rank, sorted(adapter.modules), loaded.name),
            fingerprint=loaded.base_fingerprint,
            model=loaded.name,
        )
        parameters = {
            **settings.model_dump(mode="json"),
            "templates": self.templates.name,
            "strangers": bundled_strangers().name,
            "seed": material.seed,
            "facts": maker.facts,
            "steps_done": distiller.steps_done,
        }
        fidelity = {
            "recall reading them together": course.exam.together,
            **{g.name: g.measured for g in gates if g.count},
        }
        return Proposal(self.name, material.sources, built, parameters, meter.cost(len(data)), fidelity, gates)

    def train(
        self, distiller: Distiller, reading: Reading, course: Course, peers: Sequence[Adapter], material: Material
    ) -> None:
        def learned(adapter: Adapter) -> float:
            return share(reading.says(course.checks, plan_of(adapter)))

        distiller.train(
            course.lessons,
            peers=peers,
            learned=learned,
            progress=material.progress,
            checkpoint=material.checkpoint,
        )

    def refuse_what_cannot_be_taught(self, maker: Maker) -> None:
        if maker.uncovered:
            some = ", ".join(maker.uncovered[:3])
            found = f"no question could be made of {len(maker.uncovered)} of {len(maker.cubes)} memories ({some})"
            raise GateFailed(self.name, [found])
        if 1 - maker.unread / maker.facts < self.gates.recall:
            right = f"{maker.facts - maker.unread} of {maker.facts} statements"
            raise GateFailed(self.name, [f"the model answers {right} right while it reads them; it cannot teach more"])


def questions_to_peers(
    reading: Reading, peers: Sequence[Peer], adapters: Sequence[Adapter], templates: StudyTemplates
) -> list[Lesson]:
    """Return questions to the memories of other adapters, with what these say where all of them act."""
    if not adapters:
        return []
    asked = [reading.lesson(each, []) for peer in peers for each in study(peer.cubes, templates).held_out]
    said = reading.answers(asked, plan_of(*adapters))
    return [replace(lesson, answer=answer) for lesson, answer in zip(asked, said, strict=True)]


def adapter_of(peer: Peer, loaded: LoadedModel) -> Adapter:
    """Return another adapter, checked, on the device of the model."""
    blob = BlobRef(address=peer.name, size_bytes=len(peer.data))
    payload = ParametricPayload(
        blob=blob, fingerprint=loaded.base_fingerprint, model=loaded.name, peft_config=peer.peft_config
    )
    adapter = decode(peer.data, payload)
    check_fit(adapter.modules, loaded.model, peer.name)
    return adapter.to(loaded.model.device, loaded.model.dtype)


def from_files(engine: Engine, data: bytes, config: str, scope: Literal["tail", "full"]) -> BuiltAdapter:
    """Return an adapter that PEFT wrote, after checking that it can be applied to the engine's model.

    Raises:
        AdapterMismatch: It acts on modules that the model does not have, or has otherwise.
        BlobDamaged: ``data`` is no adapter, or one of other shapes than the configuration says.
        InvalidInput: The configuration asks for more than plain LoRA.
    """
    loaded = loaded_of(engine, "importing an adapter")
    settings = parse_config(config)
    adapter_of(Peer("of these files", data, settings), loaded)
    return BuiltAdapter(data, settings, loaded.base_fingerprint, loaded.name, scope)
