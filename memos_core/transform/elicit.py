"""parametric -> plaintext: what an adapter knows, asked out of it and scored against the memories it was made from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from memos_core.cube import MemoryType, ParametricPayload
from memos_core.engine.lora.adapter import Adapter, check_fit, decode
from memos_core.errors import AdapterMismatch, InvalidInput
from memos_core.transform.base import BuiltText, Gate, Material, Meter, Pathway, Proposal
from memos_core.transform.gates import plan_of, share
from memos_core.transform.lessons import Reading, loaded_of
from memos_core.transform.study import Question, StudyTemplates, bundled_templates, study

__all__ = ["Elicitation"]


class Elicitation(Pathway):
    """Asks the questions that the memories of the lineage answer, and writes down question and answer.

    Args:
        required: Share of the answers that must be right.
        templates: What questions are made with; None: those that ship with MemOS.
    """

    source: ClassVar = MemoryType.PARAMETRIC
    target: ClassVar = MemoryType.PLAINTEXT

    def __init__(self, required: float = 0.95, templates: StudyTemplates | None = None) -> None:
        self.required = required
        self.templates = templates or bundled_templates()

    def propose(self, material: Material) -> Proposal:
        """Ask and score.

        Raises:
            AdapterMismatch: The adapter was made for another model.
            InvalidInput: No memory of its lineage is left that a question could be made of.
        """
        self.check(material)
        loaded = loaded_of(material.engine, self.name)
        questions = [*first_of_each(study(material.cubes, self.templates, held_out=0).learned)]
        form = material.form
        if form is None or not isinstance(form.cube.payload, ParametricPayload) or not questions:
            raise InvalidInput("no memory of its lineage is left that a question could be made of")
        if form.cube.payload.fingerprint != loaded.base_fingerprint:
            raise AdapterMismatch(form.cube.id, f"it was made for {form.cube.payload.model}")
        adapter = decode(form.data, form.cube.payload)
        check_fit(adapter.modules, loaded.model, form.cube.id)
        with Meter.running() as meter:
            told = ask(Reading(loaded), adapter.to(loaded.model.device, loaded.model.dtype), questions)
        text = "\n".join(f"{question.text} {answer}".rstrip() for question, answer in told)
        right = share([question.answered_by(answer) for question, answer in told])
        gate = Gate("answers that agree with the lineage", right, self.required, len(told))
        built = BuiltText(text, title=f"Asked out of {form.cube.id}", kind="elicited")
        parameters = {"templates": self.templates.name}
        size = len(text.encode())
        return Proposal(self.name, material.sources, built, parameters, meter.cost(size), {gate.name: right}, (gate,))


def first_of_each(questions: tuple[Question, ...]) -> Iterator[Question]:
    """Yield the commonest phrasing of each question."""
    seen: set[int] = set()
    for question in questions:
        if question.fact not in seen:
            seen.add(question.fact)
            yield question


def ask(reading: Reading, adapter: Adapter, questions: list[Question]) -> list[tuple[Question, str]]:
    """Return each question with what the model says under the adapter, nothing else being in the prompt."""
    plan = plan_of(adapter)
    return [(each, reading.text(reading.answer(reading.lesson(each, []), plan))) for each in questions]
