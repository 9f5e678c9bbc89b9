"""activation -> plaintext: the memories whose KV was kept, read back from the token ids that are kept with it."""

from __future__ import annotations

from typing import ClassVar

from memos_core.cube import ActivationPayload, MemoryType
from memos_core.engine.kv.codec import read_token_ids
from memos_core.errors import InvalidInput
from memos_core.render import NOTES_V1, render_memory
from memos_core.transform.base import BuiltText, Gate, Material, Meter, Pathway, Proposal
from memos_core.transform.lessons import loaded_of

__all__ = ["Recitation"]


class Recitation(Pathway):
    """Reads the memories back word for word: a KV cache names its tokens, and those are the text. No model runs."""

    source: ClassVar = MemoryType.ACTIVATION
    target: ClassVar = MemoryType.PLAINTEXT

    def propose(self, material: Material) -> Proposal:
        self.check(material)
        form = material.form
        if form is None or not isinstance(form.cube.payload, ActivationPayload):
            raise InvalidInput(f"{self.name} begins with activation memory, and none was given")
        loaded = loaded_of(material.engine, self.name)
        if form.cube.payload.fingerprint != loaded.fingerprint:
            raise InvalidInput(f"the KV of {form.cube.id} was made by another model, whose tokens this one cannot read")
        with Meter.running() as meter:
            prefix = loaded.tokens.decode(read_token_ids(form.data, form.cube.payload).tolist())
            lines = memories_in(prefix)
            text = "\n".join(lines)
        lost = [
            cube.id for cube in material.cubes if loaded.tokens.neutralise(said(render_memory(cube)))[0] not in lines
        ]
        total = len(material.cubes)
        note = f"lost: {', '.join(lost[:3])}" if lost else ""
        gate = Gate("memories read back word for word", 1 - len(lost) / max(1, total), 1.0, total, note)
        built = BuiltText(text, title=f"Read back from {form.cube.id}", kind="recited")
        fidelity = {gate.name: gate.measured} if total else {}
        return Proposal(self.name, material.sources, built, {}, meter.cost(len(text.encode())), fidelity, (gate,))


def memories_in(prefix: str) -> list[str]:
    """Return the memories in the text of a prompt prefix, without bullets and indents.

    Raises:
        InvalidInput: There is no memory block in it.
    """
    start = prefix.find(NOTES_V1.heading)
    if start < 0:
        raise InvalidInput("there is no memory block in the tokens of this KV cache")
    block = prefix[start + len(NOTES_V1.heading) :].strip("\n")
    return [said(line) for line in f"\n{block}".split(f"\n{NOTES_V1.bullet}")[1:]]


def said(bullet: str) -> str:
    """Return what a bullet says, over several lines as it was given."""
    return bullet.removeprefix(NOTES_V1.bullet).replace(f"\n{NOTES_V1.indent}", "\n")
