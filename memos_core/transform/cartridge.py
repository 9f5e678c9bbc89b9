"""activation -> cartridge: a few trained positions of keys and values in the place of the KV of a whole memory."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import ClassVar, NamedTuple

import torch

from memos_core.cube import ActivationPayload, BlobRef, MemoryType
from memos_core.engine.base import BuiltActivation
from memos_core.engine.generate import Session
from memos_core.engine.kv.cartridge import CODEC, cartridge_fingerprint, encode_cartridge, obstacle, slots_of
from memos_core.engine.kv.codec import RAW, KVBlob, decode, token_digest
from memos_core.engine.loading import LoadedModel
from memos_core.engine.resolve import kv_refusal
from memos_core.engine.work import Reuse
from memos_core.errors import GateFailed, InjectionUnavailable, InvalidInput
from memos_core.render import render_block
from memos_core.transform.base import Gate, Material, Meter, Pathway, Progress, Proposal
from memos_core.transform.course import Maker, answered_as, shortened
from memos_core.transform.from_kv import check_standing
from memos_core.transform.gates import share
from memos_core.transform.lessons import Lesson, Reading, loaded_of
from memos_core.transform.strangers import Strangers, invented
from memos_core.transform.study import Question, StudyTemplates, bundled_templates
from memos_core.transform.trained_kv import CartridgeSettings, CartridgeTrainer, Slots, behind

__all__ = ["Cartridge", "TextCartridge"]

CHECKED = 96
"""About how many lessons are looked at to tell whether training goes on."""
SHORTENED = 5
"""Forms of each question in which words that the memory does not hold are left out: with two, held-out phrasings
were missed in two of four runs, with five in none (docs/log.md)."""
FOREIGN, UNRELATED = 80, 40
"""Questions that the memory does not answer, to learn by and for the examination."""


class Tried(NamedTuple):
    """A cartridge that was trained.

    Attributes:
        made: It.
        gate: What it showed.
        unrelated: Share of the questions that the memory does not answer that are answered as when reading it.
        steps: How many steps it took.
    """

    made: KVBlob
    gate: Gate
    unrelated: float
    steps: int


class Cartridge(Pathway):
    """Trains a cartridge, and examines it on the way by which it is served.

    Args:
        settings: How it is trained.
        recall: Of the held-out questions that the model answers right while it reads all of the memory, the share that
            it must answer right behind the cartridge.
        templates: What questions are made with; None: those that ship with MemOS.
    """

    source: ClassVar = MemoryType.ACTIVATION
    target: ClassVar = MemoryType.ACTIVATION

    def __init__(
        self,
        settings: CartridgeSettings | None = None,
        *,
        recall: float = 0.99,
        templates: StudyTemplates | None = None,
    ) -> None:
        self.settings = settings or CartridgeSettings()
        self.recall = recall
        self.templates = templates or bundled_templates()

    @property
    def name(self) -> str:
        return f"{self.source}->cartridge"

    def propose(self, material: Material) -> Proposal:
        """Train and examine a cartridge. Its lineage names the memories alone, so the KV that it began with may go.

        Raises:
            GateFailed: There is nothing to train with: a memory in which no statement is found that a question can be
                made of, or one that the model does not even read right. Nothing was trained.
            InjectionUnavailable: This model's KV cannot be stored, or slides out of a window.
            InvalidInput: The KV was made by another model, or from memories that are not what they were.
        """
        self.check(material)
        loaded = loaded_of(material.engine, self.name)
        reason = kv_refusal(loaded) or obstacle(loaded.config)
        if reason is not None:
            raise InjectionUnavailable("kv", {cube.id: reason for cube in material.cubes})
        with Meter.running() as meter:
            prefix = self.prefix(material, loaded)
            school = School(Reading(loaded), material, self.templates, self.name)
            tried: list[Tried] = []
            for number, ratio in enumerate(self.settings.ratios):
                slots, seed = max(1, int(prefix.tokens / ratio)), material.seed + number
                trainer = CartridgeTrainer(loaded.model, prefix, slots, self.settings, seed=seed)
                tried.append(self.attempt(trainer, school, prefix, material.progress))
                if tried[-1].gate.passed:
                    break
        made, gate, unrelated, steps = tried[-1]
        built = BuiltActivation(
            data=encode_cartridge(made),
            fingerprint=made.fingerprint,
            token_digest=token_digest(made.token_ids),
            token_count=made.tokens,
            model=loaded.name,
            codec=CODEC,
            cube_ids=tuple(cube.id for cube in material.cubes),
        )
        parameters = {
            **self.settings.model_dump(mode="json"),
            "templates": self.templates.name,
            "seed": material.seed,
            "slots": slots_of(made),
            "tokens": made.tokens,
            "facts": school.facts,
            "steps_done": steps,
            "tried": [{"slots": slots_of(each.made), "recall": each.gate.measured} for each in tried],
        }
        fidelity = {
            "recall": gate.measured,
            "recall reading them together": school.together,
            "unrelated questions as when reading": unrelated,
        }
        sources = tuple((cube.id, cube.version) for cube in material.cubes)
        return Proposal(self.name, sources, built, parameters, meter.cost(len(built.data)), fidelity, (gate,))

    def attempt(
        self, trainer: CartridgeTrainer, school: School, prefix: KVBlob, progress: Callable[[Progress], None]
    ) -> Tried:
        """Train one cartridge and examine it."""
        trainer.train(school.own, school.foreign, learned=school.learned, progress=progress)
        made = stored_form(prefix, trainer.kept, school.reading.loaded.fingerprint)
        progress(Progress("examining", trainer.steps_done, self.settings.steps))
        return Tried(made, *school.examined(made, self.recall), trainer.steps_done)

    def prefix(self, material: Material, loaded: LoadedModel) -> KVBlob:
        """Return exact KV of the memories: what was given, or else computed."""
        form = material.form
        if form is None or not isinstance(form.cube.payload, ActivationPayload):
            raise InvalidInput(f"{self.name} begins with activation memory, and none was given")
        if form.cube.payload.fingerprint != loaded.fingerprint:
            raise InvalidInput(f"the KV of {form.cube.id} was made by another model, or is no plain KV")
        check_standing(material, form)
        return decode(form.data, form.cube.payload).to(loaded.model.device)


class TextCartridge(Cartridge):
    """plaintext -> cartridge: the same, beginning with the memories; their exact KV is computed and not kept."""

    source: ClassVar = MemoryType.PLAINTEXT

    def prefix(self, material: Material, loaded: LoadedModel) -> KVBlob:
        built = material.engine.prefill(render_block(material.cubes), material.activations)
        if built.codec != RAW:
            reason = f"the engine stores KV as {built.codec}, and a cartridge begins with exact KV"
            raise InjectionUnavailable("kv", dict.fromkeys(built.cube_ids, reason))
        return decode(built.data, payload_of(built)).to(loaded.model.device)


class School:
    """The lessons of a cartridge. The teacher reads all of the memory; where it is wrong, the memory alone.

    Attributes:
        own: Questions that the memory answers, and shortened forms of them.
        foreign: Questions that it does not answer.
        facts: How many statements were found in the memories.
        together: Share of the held-out questions that the model answers right while it reads all of the memory.
    """

    def __init__(self, reading: Reading, material: Material, templates: StudyTemplates, pathway: str) -> None:
        self.reading = reading
        self.cubes = material.cubes
        maker = Maker(reading, self.cubes, templates, material.seed)
        refuse_what_cannot_be_taught(maker, pathway)
        self.facts = maker.facts
        rng = random.Random(material.seed)
        learned = [*maker.questions.learned]
        for question in maker.questions.learned:
            learned += (shortened(question, self.cubes[question.cube], rng) for _ in range(SHORTENED))
        read = self.read(learned)
        self.own = [each if self.right(each) else answered_as(each, maker.taught[each.question.fact]) for each in read]
        self.foreign = self.read(list(strange(maker, maker.to_learn, FOREIGN)))
        self.unrelated = self.read(list(strange(maker, maker.to_examine, UNRELATED)))
        self.held_out = self.read(maker.questions.held_out)
        self.together = share([self.right(each) for each in self.held_out])

    def read(self, questions: Sequence[Question]) -> list[Lesson]:
        """Return each question behind all of the memory, with what the model says there."""
        reading = self.reading
        asked = [reading.lesson(question, self.cubes) for question in questions]
        said = reading.answers(asked)
        return reading.taught([replace(each, answer=answer) for each, answer in zip(asked, said, strict=True)])

    def right(self, lesson: Lesson) -> bool:
        return lesson.question.answered_by(self.reading.text(lesson.answer))

    def learned(self, slots: Slots) -> float:
        """Return the share of some lessons that the model says word for word behind these slots."""
        asked = [*self.own[:: 1 + len(self.own) // CHECKED], *self.foreign[: CHECKED // 4]]
        return share(
            [mark for first in range(0, len(asked), 16) for mark in self.says(slots, asked[first : first + 16])]
        )

    @torch.inference_mode()
    def says(self, slots: Slots, lessons: Sequence[Lesson]) -> list[bool]:
        choices = behind(self.reading.loaded.model, slots, lessons).argmax(-1).cpu()
        counts = [len(each.answer) for each in lessons]
        pairs = zip(lessons, torch.split(choices, counts), strict=True)
        return [tuple(chosen.tolist()) == each.answer for each, chosen in pairs]

    def examined(self, made: KVBlob, required: float) -> tuple[Gate, float]:
        """Return the gate of recall, and how many unrelated questions are answered word for word as when reading."""
        able = [each for each in self.held_out if self.right(each)]
        marks = [each.question.answered_by(self.reading.text(self.answer(each, made))) for each in able]
        note = f"of {len(self.held_out)} held-out questions the model that reads everything answers {len(able)} right"
        same = [self.answer(each, made) == each.answer for each in self.unrelated]
        return Gate("recall behind the cartridge", share(marks), required, len(able), note), share(same)

    @torch.inference_mode()
    def answer(self, lesson: Lesson, made: KVBlob) -> tuple[int, ...]:
        """Return what the model answers behind the cartridge, on the way that requests take."""
        reading = self.reading
        session = Session(reading.loaded, Reuse(None, made, lesson.start), lesson.prompt, snapshots=False)
        for _ in session.prefill(lesson.prompt[lesson.start :]):
            pass
        said: list[int] = []
        while len(said) < reading.max_answer_tokens:
            said.append(int(session.logits.argmax()))
            if said[-1] in reading.loaded.end_ids:
                break
            session.feed(said[-1:])
        return tuple(said)


def strange(maker: Maker, strangers: Strangers, count: int) -> Iterator[Question]:
    """Yield questions about strangers, every second one asking of them what the memory tells of somebody else."""
    for index in range(count):
        _, statement = maker.rng.choice(maker.statements)
        rival = strangers.of_another(statement) if index % 2 else None
        asked = maker.questions_to(invented(rival or strangers.draw()), strangers)
        if asked:
            yield maker.rng.choice(asked)


def refuse_what_cannot_be_taught(maker: Maker, pathway: str) -> None:
    if maker.uncovered:
        some = ", ".join(maker.uncovered[:3])
        found = f"no question could be made of {len(maker.uncovered)} of {len(maker.cubes)} memories ({some})"
        raise GateFailed(pathway, [found])
    if maker.unread == maker.facts:
        raise GateFailed(pathway, [f"the model answers 0 of {maker.facts} statements right while it reads them"])


def stored_form(prefix: KVBlob, slots: Slots, fingerprint: str) -> KVBlob:
    """Return slots as what stands for ``prefix``."""
    keys, values = (tuple(pair[index] for pair in slots) for index in (0, 1))
    return KVBlob(prefix.token_ids, keys, values, prefix.layer_types, cartridge_fingerprint(fingerprint))


def payload_of(built: BuiltActivation) -> ActivationPayload:
    blob = BlobRef(address="computed now", size_bytes=len(built.data))
    return ActivationPayload(
        blob=blob,
        fingerprint=built.fingerprint,
        token_digest=built.token_digest,
        token_count=built.token_count,
        model=built.model,
        codec=built.codec,
    )
