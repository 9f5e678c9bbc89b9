"""Trains a cartridge: slots of keys and values that make the model answer as it does while it reads the memory.

After Cartridges (Eyuboglu et al. 2025, arXiv 2506.06266, section 4 and appendix A): the likeliest tokens of the model
that reads the whole memory are the target, and the first slot is frozen, since every later position leans on it. The
slots begin as keys and values of the memory itself, of positions spread over all of it, turned to their new places.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field

from memos_core.engine.kv.cache import unwindowed
from memos_core.engine.kv.codec import KVBlob
from memos_core.engine.kv.rope import Rotation, read_rotation, rotate
from memos_core.errors import UnsupportedOption
from memos_core.transform.base import Progress, ignore_progress
from memos_core.transform.lessons import Lesson

__all__ = ["CartridgeSettings", "CartridgeTrainer", "Slots", "behind", "spread"]

Slots = Sequence[tuple[torch.Tensor, torch.Tensor]]
"""Keys and values of each layer, ``[kv_heads, slots, head_dim]``."""


class CartridgeSettings(BaseModel):
    """How a cartridge is trained.

    Attributes:
        ratios: Tokens of the memory for each slot, at least; the next one is tried where the last one failed its gate.
        steps: Most steps.
        batch: Own lessons in a step.
        foreign_batch: Foreign lessons in a step: questions that the memory does not answer.
        learning_rate: Of Adam, in the units of keys and values.
        patience: Checks without an improvement after which training ends.
        check_every: Steps between two checks of whether all is learned.
        sure: Checks in a row in which all is learned, after which training ends.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    ratios: tuple[Annotated[float, Field(ge=1)], ...] = Field(default=(10.0, 6.0), min_length=1)
    steps: int = Field(default=800, gt=0)
    batch: int = Field(default=16, gt=0)
    foreign_batch: int = Field(default=8, ge=0)
    learning_rate: float = Field(default=2e-2, gt=0)
    patience: int = Field(default=6, gt=0)
    check_every: int = Field(default=25, gt=0)
    sure: int = Field(default=3, gt=0)


def spread(tokens: int, slots: int) -> list[int]:
    """Return the positions that ``slots`` slots begin with: the first one, and the others evenly over the rest."""
    if slots == 1:
        return [0]
    return [0, *(1 + round(index * (tokens - 2) / max(1, slots - 2)) for index in range(slots - 1))]


class CartridgeTrainer:
    """Trains the slots of one memory prefix. The model is not changed; gradients are taken for the slots alone.

    Args:
        model: A causal language model of transformers with full attention.
        prefix: Exact KV of the whole memory.
        slots: How many positions the cartridge has.
        settings: How.
        seed: Of the choice of lessons.
    """

    def __init__(self, model: Any, prefix: KVBlob, slots: int, settings: CartridgeSettings, *, seed: int = 0) -> None:
        self.model = model
        self.settings = settings
        self.random = random.Random(seed)
        self.slots = slots
        keys, values = start(model, prefix, slots)
        # In float32 whatever the model is in: steps this small would be lost in bfloat16.
        self.first = [(k[:, :1].float(), v[:, :1].float()) for k, v in zip(keys, values, strict=True)]
        self.rest = [
            tuple(t[:, 1:].float().clone().requires_grad_() for t in pair) for pair in zip(keys, values, strict=True)
        ]
        self.parameters = [tensor for pair in self.rest for tensor in pair]
        self.optimizer = torch.optim.Adam(self.parameters, lr=settings.learning_rate, betas=(0.9, 0.98))
        self.steps_done = 0
        self.best = 0.0
        self.kept = self.tensors()

    def tensors(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Return keys and values of each layer as they are now, ``[kv_heads, slots, head_dim]``; copies."""
        return [(keys.detach().clone(), values.detach().clone()) for keys, values in self.joined()]

    def joined(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        dtype = self.model.dtype
        return [
            (torch.cat([first[0], rest[0]], 1).to(dtype), torch.cat([first[1], rest[1]], 1).to(dtype))
            for first, rest in zip(self.first, self.rest, strict=True)
        ]

    def train(
        self,
        own: Sequence[Lesson],
        foreign: Sequence[Lesson],
        *,
        learned: Callable[[Slots], float],
        progress: Callable[[Progress], None] = ignore_progress,
    ) -> None:
        """Train until everything is learned, nothing improves, or the steps are used up; ``kept`` is the best.

        Args:
            learned: Returns the share that these slots have learned, from 0 to 1.
        """
        waited, whole, settings = 0, 0, self.settings
        while self.steps_done < settings.steps and waited < settings.patience:
            loss = self.step(own, foreign)
            if self.steps_done % settings.check_every == 0 or self.steps_done == settings.steps:
                tensors = self.tensors()
                share = learned(tensors)
                waited = 0 if share > self.best else waited + 1
                if share >= self.best:
                    self.best, self.kept = share, tensors
                progress(Progress("training", self.steps_done, settings.steps, {"loss": loss, "learned": share}))
                whole = whole + 1 if share == 1.0 else 0
                if whole == settings.sure:
                    return

    def step(self, own: Sequence[Lesson], foreign: Sequence[Lesson]) -> float:
        """Take one step and return its loss."""
        chosen = [
            *self.random.sample(list(own), min(self.settings.batch, len(own))),
            *self.random.sample(list(foreign), min(self.settings.foreign_batch, len(foreign))),
        ]
        logits = behind(self.model, self.joined(), chosen)
        ids = torch.cat([each.top_ids for each in chosen]).to(logits.device)
        weights = torch.cat([each.top_weights for each in chosen]).to(logits.device)
        losses = -(weights * logits.log_softmax(-1).gather(-1, ids)).sum(-1)
        parts = torch.split(losses, [len(each.answer) for each in chosen])
        loss = torch.stack([part.mean() for part in parts]).mean()
        # Not loss.backward(): it would leave gradients on the model, which others use meanwhile.
        for tensor, gradient in zip(self.parameters, torch.autograd.grad(loss, self.parameters), strict=True):
            tensor.grad = gradient
        rate = self.settings.learning_rate * min(1.0, (self.steps_done + 1) / 10)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * (1 - 0.9 * self.steps_done / self.settings.steps)
        self.optimizer.step()
        self.steps_done += 1
        return float(loss.detach())


def start(model: Any, prefix: KVBlob, slots: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Return the keys and values that slots begin with: those of positions over all of the memory, moved together.

    Where the model's keys cannot be moved, those of its first tokens, as the paper does.
    """
    places = spread(prefix.tokens, slots)
    try:
        rotation: Rotation | None = read_rotation(model)
    except UnsupportedOption:
        rotation, places = None, list(range(slots))
    keys, values = [], []
    for layer, (all_keys, all_values) in enumerate(zip(prefix.keys, prefix.values, strict=True)):
        chosen = all_keys[:, places]
        if rotation is not None:
            moved = [
                rotate(chosen[:, slot : slot + 1], rotation.inverse_frequencies[layer], slot - place)
                for slot, place in enumerate(places)
            ]
            chosen = torch.cat(moved, 1)
        keys.append(chosen)
        values.append(all_values[:, places])
    return keys, values


def behind(model: Any, slots: Slots, lessons: Sequence[Lesson]) -> torch.Tensor:
    """Return the logits at the tokens of all answers, one after the other, ``[said, vocabulary]``, float32.

    What stands behind the memory in each lesson is read behind ``slots`` instead, from the position after them on.
    """
    count, held = len(lessons), slots[0][0].shape[1]
    rows = [[*each.prompt[each.start :], *each.answer[:-1]] for each in lessons]
    width = max(map(len, rows))
    ids, mask, said = (torch.zeros(count, width, dtype=torch.long) for _ in range(3))
    for row, (each, sequence) in enumerate(zip(lessons, rows, strict=True)):
        ids[row, : len(sequence)] = torch.tensor(sequence)
        mask[row, : len(sequence)] = 1
        said[row, len(each.prompt) - each.start - 1 : len(sequence)] = 1
    ids, mask, said = (tensor.to(model.device) for tensor in (ids, mask, said))
    keys = [k[None].expand(count, -1, -1, -1) for k, _ in slots]
    values = [v[None].expand(count, -1, -1, -1) for _, v in slots]
    positions = torch.arange(held, held + width, device=model.device)[None].expand(count, -1)
    output = model(
        input_ids=ids,
        attention_mask=torch.cat([mask.new_ones(count, held), mask], 1),
        position_ids=positions,
        past_key_values=unwindowed(model.config, keys, values),
        use_cache=True,
    )
    logits: torch.Tensor = output.logits[said.bool()].float()
    return logits
