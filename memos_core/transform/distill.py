"""The distiller: trains a LoRA adapter to say without the memory what the model says while reading it.

Each step takes lessons of three kinds, and sums their losses:

- *own*: a question to the memory, asked without it, half of the time among other memories in the context;
- *foreign*: a question to other memories that are in the context, where the model is to say what it says anyway;
- *quiet*: a question to other memories that are not in the context, likewise.

On foreign and quiet lessons the adapter is also to add as little as it can to what flows through the model, and its
inputs are whitened by what flows there (``whitening.py``), so that it leaves alone what it was not shown, too.

Peers, other adapters of the scope, act beside it on a part of the own lessons.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, Field

from memos_core.engine.lora.adapter import Adapter, Factors, linear_modules
from memos_core.engine.lora.plan import LoRAPlan, Use, hooked, recalled
from memos_core.errors import InvalidInput
from memos_core.transform.base import Checkpoint, Progress, ignore_progress
from memos_core.transform.lessons import Batch, Lesson
from memos_core.transform.prefixes import Prefixes, divisible
from memos_core.transform.whitening import second_moments, whiteners

__all__ = ["DistillSettings", "Distiller", "Lessons"]

MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""What AdamW keeps of each parameter."""
STATE = "memos-distillation/2"
WHITENED = 600
"""Foreign lessons, and as many quiet ones, that inputs are whitened by."""


class DistillSettings(BaseModel):
    """How an adapter is trained. ``docs/adr/0045`` tells how the defaults were found.

    Attributes:
        rank: Rank of the adapter.
        targets: Ends of the names of the modules that it acts on; empty: all linear ones but the head.
        steps: Most steps; None: 100, and 75 for each statement that is taught, 1,500 at most.
        batch: Own lessons in a step.
        foreign_batch: Foreign lessons in a step.
        quiet_batch: Quiet lessons in a step.
        learning_rate: Of AdamW; None: 0.77 over the width of the model.
        locality: Weight of the foreign and quiet lessons.
        quiet: Weight of what the adapter adds where it is to add nothing.
        whitening: Floor of the foreign second moments that inputs are whitened by; 0: they are not.
        peers: Share of the steps in which other adapters act too.
        patience: Checks that bring nothing after which training ends.
        check_every: Steps between two checks of how much is learned; the adapter of the best one is kept.
        gradient_checkpointing: Compute activations twice and keep fewer, for large models.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rank: int = Field(default=12, gt=0)
    targets: tuple[str, ...] = ()
    steps: int | None = Field(default=None, gt=0)
    batch: int = Field(default=16, gt=0)
    foreign_batch: int = Field(default=26, ge=0)
    quiet_batch: int = Field(default=10, ge=0)
    learning_rate: float | None = Field(default=None, gt=0)
    locality: float = Field(default=2.0, ge=0)
    quiet: float = Field(default=2.0, ge=0)
    whitening: float = Field(default=0.003, ge=0)
    peers: float = Field(default=0.5, ge=0, le=1)
    patience: int = Field(default=6, gt=0)
    check_every: int = Field(default=50, gt=0)
    gradient_checkpointing: bool = False

    def most_steps(self, facts: int = 1) -> int:
        """Return the most steps for that many statements."""
        return self.steps or min(100 + 75 * facts, 1500)

    def for_facts(self, facts: int) -> DistillSettings:
        """Return the settings with their steps written out."""
        return self.model_copy(update={"steps": self.most_steps(facts)})


@dataclass(frozen=True, slots=True)
class Lessons:
    """What is taught, by kind."""

    own: Sequence[Lesson]
    foreign: Sequence[Lesson] = ()
    quiet: Sequence[Lesson] = ()


class Distiller:
    """Trains one adapter. The model itself is not changed: gradients are taken for the adapter alone.

    Args:
        model: A causal language model of transformers.
        settings: How.
        seed: Of the start and of the choice of lessons.
    """

    def __init__(self, model: Any, settings: DistillSettings, *, seed: int = 0) -> None:
        self.model = model
        self.student = recomputing(model) if settings.gradient_checkpointing else model
        self.settings = settings.for_facts(1)
        self.steps = settings.most_steps()
        self.random = random.Random(seed)
        self.factors = self._start(seed)
        self.whiteners: dict[str, torch.Tensor] = {}
        shareable = divisible(model.config) and not settings.gradient_checkpointing
        self.prefixes = Prefixes(model) if shareable else None
        parameters = [tensor for pair in self.factors.values() for tensor in pair]
        width = int(model.config.get_text_config(decoder=True).hidden_size)
        self.rate = settings.learning_rate or 0.77 / width
        self.optimizer = torch.optim.AdamW(parameters, lr=self.rate, betas=(0.9, 0.98), weight_decay=0.0)
        self.steps_done = 0
        self.seen = 0.0
        self.waited = 0
        self.best: dict[str, Factors] = {}

    def _start(self, seed: int) -> dict[str, Factors]:
        """Return matrices that add nothing yet."""
        generator = torch.Generator().manual_seed(seed)
        head = self.model.get_output_embeddings()
        factors = {}
        for name, module in linear_modules(self.model).items():
            if module is head or not name.endswith(self.settings.targets or ("",)):
                continue
            down = torch.randn(self.settings.rank, module.in_features, generator=generator) / module.in_features**0.5
            up = torch.zeros(module.out_features, self.settings.rank)
            # In float32 whatever the model is in: steps this small would be lost in bfloat16.
            factors[name] = Factors(*(each.to(module.weight.device).requires_grad_() for each in (down, up)))
        if not factors:
            raise InvalidInput(f"the model has no linear modules of the names {', '.join(self.settings.targets)}")
        return factors

    def adapter(self) -> Adapter:
        """Return the adapter of the best check so far, or as it is before the first, in the dtype of the model."""
        with torch.no_grad():
            return self._student(self.best or self.factors)

    def _student(self, factors: dict[str, Factors]) -> Adapter:
        dtype = self.model.dtype
        made = {}
        for name, (down, up) in factors.items():
            seen = down @ self.whiteners[name] if self.whiteners else down
            made[name] = Factors(seen.to(dtype), up.to(dtype))
        return Adapter("training", made)

    def whiten(self, lessons: Lessons) -> None:
        """See inputs relative to what flows on foreign and quiet lessons, the first of each."""
        some = [*lessons.foreign[:WHITENED], *lessons.quiet[:WHITENED]]
        if self.settings.whitening and some:
            moments = second_moments(self.model, some, [*self.factors], self.prefixes)
            self.whiteners = whiteners(moments, self.settings.whitening)

    def step(self, lessons: Lessons, peers: Sequence[Adapter]) -> float:
        """Take one step and return the loss of the own lessons."""
        settings = self.settings
        own = self._draw(lessons.own, settings.batch)
        foreign = self._draw(lessons.foreign, settings.foreign_batch)
        quiet = self._draw(lessons.quiet, settings.quiet_batch)
        beside = list(peers) if peers and self.random.random() < settings.peers else []
        asked = [each for each in own if not each.start]
        reading = [each for each in own if each.start]
        # Questions alone are a fifth as long as those behind memories; padded together they would cost as much.
        parts = [(asked, quiet), (reading, foreign)]
        own_loss, other_loss, added = (torch.zeros((), device=self.model.device) for _ in range(3))
        with ExitStack() as stack:
            for mine, others in parts:
                if mine or others:
                    means, more = self._forward([*mine, *others], len(mine), beside, stack)
                    own_loss = own_loss + means[: len(mine)].sum() / len(own)
                    other_loss = other_loss + means[len(mine) :].sum() / max(1, len(foreign) + len(quiet))
                    added = added + more / 2
            loss = own_loss + settings.locality * other_loss + settings.quiet * added
            self._update(loss)
        return float(own_loss.detach())

    def _update(self, loss: torch.Tensor) -> None:
        parameters = [tensor for pair in self.factors.values() for tensor in pair]
        # Not loss.backward(): it would leave gradients on the model, which others use meanwhile.
        for tensor, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            tensor.grad = gradient
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * self._share_of_rate()
        self.optimizer.step()
        self.steps_done += 1

    def _share_of_rate(self) -> float:
        """Return the share of the learning rate: up over ten steps, then down in a straight line to a tenth."""
        return min(1.0, (self.steps_done + 1) / 10) * (1 - 0.9 * self.steps_done / self.steps)

    def _draw(self, lessons: Sequence[Lesson], count: int) -> list[Lesson]:
        return self.random.sample(list(lessons), min(count, len(lessons)))

    def _forward(
        self, lessons: Sequence[Lesson], quiet_from: int, beside: Sequence[Adapter], stack: ExitStack
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the loss of each lesson, and how much is added from lesson ``quiet_from`` on.

        Args:
            stack: Keeps the hooks until the gradients are taken: activations may be computed again for them.
        """
        batch = Batch.of(lessons, self.model.device, self.prefixes)
        plan = LoRAPlan([[Use(self._student(self.factors)), *(Use(each) for each in beside)]])
        masks = [batch.tail, *(self._some(batch.tail, quiet_from) for _ in beside)]
        added = Added(batch.tail[quiet_from:] if self.settings.quiet else batch.tail[:0])
        stack.enter_context(hooked(self.model, plan))
        with plan.masked(masks, added.look if len(added.mask) else None):
            logits = batch.logits(self.student)
        ids = torch.cat([each.top_ids for each in lessons]).to(logits.device)
        weights = torch.cat([each.top_weights for each in lessons]).to(logits.device)
        chosen = logits.log_softmax(-1).gather(-1, ids)
        entropy = -(weights * weights.clamp_min(1e-9).log()).sum(-1)
        losses = -(weights * chosen).sum(-1) - entropy
        means = [part.mean() for part in torch.split(losses, [len(each.answer) for each in lessons])]
        return torch.stack(means), added.mean(losses)

    def _some(self, tail: torch.Tensor, own: int) -> torch.Tensor:
        """Return ``tail`` for about half of the first ``own`` sequences, and nothing for the others.

        Never for foreign ones: beside a peer that knows the answer, what the model says by itself would be learned as
        the right one, and the peer silenced.
        """
        kept = [row < own and self.random.random() < 0.5 for row in range(len(tail))]
        return tail * torch.tensor(kept, device=tail.device)[:, None]

    def train(
        self,
        lessons: Lessons,
        *,
        peers: Sequence[Adapter] = (),
        learned: Callable[[Adapter], float],
        progress: Callable[[Progress], None] = ignore_progress,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        """Train until everything is learned, nothing improves, or the steps are used up.

        Args:
            learned: Returns the share that the adapter has learned, from 0 to 1.
        """
        self.whiten(lessons)
        saved = checkpoint.load() if checkpoint is not None else None
        if saved is not None:
            self.restore(saved)
        while self.steps_done < self.steps and self.waited < self.settings.patience:
            loss = self.step(lessons, peers)
            if self.steps_done % self.settings.check_every and self.steps_done < self.steps:
                continue
            with torch.no_grad():
                share = learned(self._student(self.factors))
            self.waited = 0 if share > self.seen else self.waited + 1
            if share >= self.seen:
                self.seen = share
                self.best = {
                    key: Factors(*(each.detach().clone() for each in pair)) for key, pair in self.factors.items()
                }
            if checkpoint is not None:
                checkpoint.save(self.state())
            progress(Progress("training", self.steps_done, self.steps, {"loss": loss, "learned": share}))

    def state(self) -> bytes:
        """Return everything that a later run needs to go on as if there had been no break."""
        tensors: dict[str, torch.Tensor] = {}
        for name, pair in self.factors.items():
            for part, tensor in pair._asdict().items():
                moments = self.optimizer.state.get(tensor, {})
                kept = {"value": tensor, **{key: moments[key] for key in MOMENTS if key in moments}}
                if self.best:
                    kept["best"] = getattr(self.best[name], part)
                tensors |= {f"{name}:{part}:{key}": each.detach().cpu() for key, each in kept.items()}
        counts = {"steps_done": self.steps_done, "seen": self.seen, "waited": self.waited}
        record = {**counts, "random": self.random.getstate(), "settings": self.settings.model_dump(mode="json")}
        data: bytes = safetensors.torch.save(tensors, {STATE: json.dumps(record)})
        return data

    def restore(self, data: bytes) -> None:
        """Go on from what ``state`` returned.

        Raises:
            InvalidInput: It is no such state, or one of other settings or of another model.
        """
        try:
            tensors = safetensors.torch.load(data)
            length = int.from_bytes(data[:8], "little")
            record = json.loads(json.loads(data[8 : 8 + length])["__metadata__"][STATE])
        except (safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
            raise InvalidInput(f"this is no saved state of a distillation: {error}") from error
        named = {f"{name}:{part}": t for name, pair in self.factors.items() for part, t in pair._asdict().items()}
        fits = all(f"{key}:value" in tensors and tensors[f"{key}:value"].shape == t.shape for key, t in named.items())
        if record["settings"] != self.settings.model_dump(mode="json") or not fits:
            raise InvalidInput("the saved state is of a distillation with other settings or of another model")
        with torch.no_grad():
            for key, tensor in named.items():
                tensor.copy_(tensors[f"{key}:value"])
                moments = {
                    each: tensors[f"{key}:{each}"].to(tensor.device) for each in MOMENTS if f"{key}:{each}" in tensors
                }
                if moments:
                    # AdamW counts its steps on the CPU.
                    self.optimizer.state[tensor] = {**moments, "step": tensors[f"{key}:step"]}
        if all(f"{key}:best" in tensors for key in named):
            self.best = {
                name: Factors(*(tensors[f"{name}:{part}:best"].to(t.device) for part, t in pair._asdict().items()))
                for name, pair in self.factors.items()
            }
        self.steps_done, self.seen, self.waited = record["steps_done"], record["seen"], record["waited"]
        version, internal, gauss = record["random"]
        self.random.setstate((version, tuple(internal), gauss))


@dataclass
class Added:
    """What an adapter adds to the last sequences of a batch, relative to what flows there.

    Attributes:
        mask: 1 where the adapter acts on one of these sequences, ``[sequences, seq]``.
        found: For each module the mean square of what is added over that of what the module gives.
    """

    mask: torch.Tensor
    found: list[torch.Tensor] = field(default_factory=list)

    def mean(self, like: torch.Tensor) -> torch.Tensor:
        return torch.stack(self.found).mean() if self.found else like.new_zeros(())

    def look(self, delta: torch.Tensor, output: torch.Tensor) -> None:
        """Take in what is added in one module, and what the module gives, both ``[batch, seq, out]``."""
        count = len(self.mask)
        size = output[-count:].detach().pow(2).mean(-1) + 1e-3
        shares = delta[-count:].pow(2).mean(-1) / size
        self.found.append((shares * self.mask).sum() / self.mask.sum().clamp_min(1))


def recomputing(model: Any) -> Any:
    """Return a model like ``model`` that keeps few activations and computes the others again for the gradients.

    Modules are copied down to the linear ones, and nothing that the original does changes: others may be using it.
    """
    made: Any = copied(model)
    made.activation_checkpointing_enable({"use_reentrant": False, "context_fn": recalled})
    for module in made.modules():
        if hasattr(module, "gradient_checkpointing"):
            # transformers keeps activations in evaluation mode whatever it was told; not train(), which wakes dropout.
            module.training = True
    return made


def copied(module: torch.nn.Module) -> torch.nn.Module:
    """Return a copy of a tree of modules that shares every linear module and every tensor."""
    if isinstance(module, torch.nn.Linear):
        return module
    made = module.__class__.__new__(module.__class__)
    vars(made).update(vars(module))
    children = {name: None if child is None else copied(child) for name, child in module._modules.items()}
    vars(made)["_modules"] = children
    return made
