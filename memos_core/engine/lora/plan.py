"""Adapters in a forward pass: which act on which row of the batch, from which position on, and how strongly.

A plan is data and belongs to a request. Forward hooks on the linear modules read the plan of the thread that computes
(a context variable) and add what it says, so no module ever holds an adapter, and threads with different plans can use
one model at once. Switching is setting that variable. Several adapters of a row are one adapter whose matrices are
concatenated along the rank, which is exact: ``B1 A1 x + B2 A2 x = [B1 B2] [A1; A2] x``. Rows with different adapters
are one batched product, after S-LoRA (arXiv 2311.03285, section 5) without its kernels.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import baddbmm, bmm
from torch.nn.functional import pad
from torch.utils.hooks import RemovableHandle

from memos_core.engine.lora.adapter import Adapter, linear_modules
from memos_core.errors import InvalidInput, UnsupportedOption

__all__ = ["LoRAPlan", "Use", "applied", "hooked", "recalled"]


Look = Callable[[torch.Tensor, torch.Tensor], None]


@dataclass(frozen=True, slots=True)
class Use:
    """One adapter at work on one row.

    Attributes:
        adapter: Which.
        weight: How strongly.
        start: The first position that it acts on; 0: all of them.
    """

    adapter: Adapter
    weight: float = 1.0
    start: int = 0


class Patch(NamedTuple):
    """What is added in one module, laid out for batched products.

    Attributes:
        down: ``[rows, in, rank]``.
        up: ``[rows, rank, out]``.
        ranks: For each row the rank of each of its adapters, which is how a mask is laid out.
    """

    down: torch.Tensor
    up: torch.Tensor
    ranks: tuple[tuple[int, ...], ...]


class LoRAPlan:
    """The adapters of each row of a batch. Immutable but for what it has worked out; thread-safe.

    Args:
        rows: For each row its adapters. A plan of one row serves batches of any size, all rows alike.

    Raises:
        InvalidInput: There is no row, or a start is negative.
    """

    def __init__(self, rows: Sequence[Sequence[Use]]) -> None:
        self.rows = tuple(tuple(row) for row in rows)
        if not self.rows or any(use.start < 0 for row in self.rows for use in row):
            raise InvalidInput("a plan needs a row, and adapters that start at a position")
        if all(row == self.rows[0] for row in self.rows):
            self.rows = self.rows[:1]
        self.starts = tuple(tuple(use.start for use in row) for row in self.rows)
        self.patches: dict[str, Patch | None] = {}

    @property
    def modules(self) -> frozenset[str]:
        """Names of the modules that any of the adapters acts on."""
        return frozenset(name for row in self.rows for use in row for name in use.adapter.modules)

    @property
    def identity(self) -> tuple[tuple[tuple[str, float], ...], ...]:
        """What acts, wherever it begins: equal for plans that do the same to a position behind all starts."""
        return tuple(tuple((use.adapter.digest, use.weight) for use in row) for row in self.rows)

    @contextmanager
    def at(self, position: int, length: int) -> Iterator[None]:
        """Let the plan act in this thread on a forward pass over ``length`` positions from ``position`` on.

        The hooks must be there: see ``hooked``.
        """
        token = ACTIVE.set(Moment(self, position, length) if self.acts(position + length) else None)
        try:
            yield
        finally:
            ACTIVE.reset(token)

    @contextmanager
    def masked(self, masks: Sequence[torch.Tensor], look: Look | None = None) -> Iterator[None]:
        """Let the plan act where ``masks`` say, one for each adapter of its only row: ``[batch, seq]``, 1 or 0.

        For training, where each sequence of a batch has its memory prefix and its peers of its own. Gradients flow.

        Args:
            look: Is shown in each module what the first adapter adds and what the module gives.
        """
        token = ACTIVE.set(MaskedMoment(self, masks, look))
        try:
            yield
        finally:
            ACTIVE.reset(token)

    def acts(self, end: int) -> bool:
        """Tell whether any adapter acts on a position before ``end``."""
        return any(start < end for row in self.starts for start in row)

    def patch(self, name: str) -> Patch | None:
        """Return what is added in the module of that name."""
        if name not in self.patches:
            self.patches[name] = self._make(name)
        return self.patches[name]

    def _make(self, name: str) -> Patch | None:
        pairs = [[(use, use.adapter.modules.get(name)) for use in row] for row in self.rows]
        present = [pair for row in pairs for _, pair in row if pair is not None]
        if not present:
            return None
        like = present[0]
        downs, ups = [], []
        for row in pairs:
            held = [(use.weight, pair) for use, pair in row if pair is not None]
            downs.append(joined([pair.down for _, pair in held], 0, like.down))
            ups.append(joined([pair.up if weight == 1 else pair.up * weight for weight, pair in held], 1, like.up))
        ranks = tuple(tuple(0 if pair is None else pair.down.shape[0] for _, pair in row) for row in pairs)
        if len(downs) == 1:
            return Patch(downs[0].mT[None], ups[0].mT[None], ranks)
        rank = max(down.shape[0] for down in downs)
        down = torch.stack([pad(each, (0, 0, 0, rank - each.shape[0])) for each in downs])
        up = torch.stack([pad(each, (0, rank - each.shape[1])) for each in ups])
        return Patch(down.mT, up.mT, ranks)


def applied(plan: LoRAPlan | None, position: int, length: int) -> AbstractContextManager[None]:
    """Return ``plan.at(position, length)``, or a context that does nothing where there is no plan."""
    return nullcontext() if plan is None else plan.at(position, length)


def recalled() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Return a context for a part of a forward pass and one for computing it again, maybe in another thread, later."""
    return nullcontext(), again(active())


@contextmanager
def again(moment: Moment | None) -> Iterator[None]:
    token = ACTIVE.set(moment)
    try:
        yield
    finally:
        ACTIVE.reset(token)


def joined(parts: list[torch.Tensor], dim: int, like: torch.Tensor) -> torch.Tensor:
    """Return ``parts`` concatenated; of none an empty tensor that fits."""
    if not parts:
        return like.narrow(dim, 0, 0)
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)


class Moment:
    """A plan during one forward pass, with the masks that its positions need."""

    __slots__ = ("length", "masks", "patches", "plan", "position", "whole")

    def __init__(self, plan: LoRAPlan, position: int, length: int) -> None:
        self.plan = plan
        self.patches = plan.patches
        self.position = position
        self.length = length
        self.whole = all(start <= position for row in plan.starts for start in row)
        self.masks: dict[tuple[tuple[tuple[int, ...], ...], int], torch.Tensor] = {}

    def add(self, name: str, states: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """Return ``output`` with what the plan adds for ``states``, ``[batch, seq, in]``."""
        patch = self.plan.patch(name)
        if patch is None:
            return output
        down, up, _ = patch
        if states.dim() != 3 or states.size(0) != down.size(0):
            return self.add_widely(name, patch, states, output)
        low = bmm(states, down)
        return baddbmm(output, low if self.everywhere(states) else low * self.mask(patch, states), up)

    def add_widely(self, name: str, patch: Patch, states: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """Return what ``add`` does where rows share one plan, or where the model has joined rows and positions."""
        if len(patch.down) != 1 or not (self.whole or states.dim() == 3):
            raise UnsupportedOption(f"the plan has {len(patch.down)} rows and {name} is given {tuple(states.shape)}")
        low = states @ patch.down[0]
        everywhere = states.dim() != 3 or self.everywhere(states)
        return output + (low if everywhere else low * self.mask(patch, states)) @ patch.up[0]

    def everywhere(self, states: torch.Tensor) -> bool:
        """Tell whether all adapters act on all of ``states``, ``[batch, seq, in]``."""
        return self.whole and states.size(1) <= self.length

    def mask(self, patch: Patch, states: torch.Tensor) -> torch.Tensor:
        """Return 1 where an adapter acts on a position and 0 elsewhere, ``[rows, seq, rank]``."""
        # A model may compute its last module for the last positions only, and latent attention makes keys anew of all
        # that its cache holds. Either way the rows end with the newest position.
        seq, end = states.shape[-2], self.position + self.length
        if seq > end:
            raise UnsupportedOption("the model adds positions of its own, so an adapter cannot tell which are memory")
        key = patch.ranks, max(seq, self.length)
        made = self.masks.get(key)
        if made is None:
            made = self.masks[key] = self.make_mask(
                patch, states, torch.arange(end - key[1], end, device=states.device)
            )
        return made[:, -seq:]

    def make_mask(self, patch: Patch, states: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Return the mask for ``positions``, with the dtype and device of ``states``."""
        rank = patch.down.shape[-1]
        firsts = [
            [start for start, count in zip(starts, counts, strict=True) for _ in range(count)]
            for starts, counts in zip(self.plan.starts, patch.ranks, strict=True)
        ]
        padded = torch.tensor([row + [0] * (rank - len(row)) for row in firsts], device=states.device)
        return (positions[None, :, None] >= padded[:, None, :]).to(states.dtype)


class MaskedMoment(Moment):
    """A plan of one row during a forward pass over a batch in which each sequence has a mask of its own."""

    __slots__ = ("given", "look")

    def __init__(self, plan: LoRAPlan, masks: Sequence[torch.Tensor], look: Look | None) -> None:
        super().__init__(plan, 0, masks[0].shape[1])
        self.whole = False
        self.given = masks
        self.look = look

    def add(self, name: str, states: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        patch = self.plan.patch(name)
        if patch is None:
            return output
        low = (states @ patch.down[0]) * self.mask(patch, states)
        if self.look is not None:
            first = patch.ranks[0][0]
            self.look(low[..., :first] @ patch.up[0][:first], output)
        return output + low @ patch.up[0]

    def make_mask(self, patch: Patch, states: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        columns = [mask[:, :, None].expand(-1, -1, n) for mask, n in zip(self.given, patch.ranks[0], strict=True)]
        return torch.cat(columns, -1).to(states.dtype)


ACTIVE: ContextVar[Moment | None] = ContextVar("memos_lora", default=None)
"""The plan of the forward pass that this thread is in."""

active = ACTIVE.get


def hook(name: str, module: torch.nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor | None:
    """Add what the thread's plan says to the output of a linear module; without a plan, change nothing."""
    moment = active()
    if moment is None:
        return None
    states = args[0]
    if moment.whole and name in moment.patches and (patch := moment.patches[name]) is not None:
        # What ``add`` does for most tokens, without a call in between: it runs some 200 times for each token.
        down, up, _ = patch
        if states.dim() == 3 and states.size(0) == down.size(0) and states.size(1) <= moment.length:
            return baddbmm(output, bmm(states, down), up)
    if not isinstance(output, torch.Tensor):
        raise UnsupportedOption(f"{name} gives more than a product, so no adapter can act on it")
    if states.dim() > 3 and states.shape[1:-2].numel() == 1:
        # Latent attention gives what it makes keys of a dimension for heads, and there is one.
        return moment.add(name, states.flatten(0, -3), output.flatten(0, -3)).view_as(output)
    return moment.add(name, states, output)


class Hooks:
    """The hooks on one model: each is there while any user of it is."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users: dict[str, int] = {}
        self.handles: dict[str, RemovableHandle] = {}
        self.modules: dict[str, torch.nn.Linear] = {}

    def enter(self, model: torch.nn.Module, names: frozenset[str]) -> None:
        with self.lock:
            if not names <= self.modules.keys():
                self.modules = linear_modules(model)
            if missing := names - self.modules.keys():
                raise UnsupportedOption(f"the model has no linear module {min(missing)}")
            for name in names:
                if name not in self.users:
                    self.handles[name] = self.modules[name].register_forward_hook(partial(hook, name))
                self.users[name] = self.users.get(name, 0) + 1

    def leave(self, names: frozenset[str]) -> None:
        with self.lock:
            for name in names:
                self.users[name] -= 1
                if not self.users[name]:
                    del self.users[name]
                    self.handles.pop(name).remove()


_hooks: weakref.WeakKeyDictionary[torch.nn.Module, Hooks] = weakref.WeakKeyDictionary()
_hooks_lock = threading.Lock()


@contextmanager
def hooked(model: torch.nn.Module, plan: LoRAPlan) -> Iterator[None]:
    """Keep hooks on the modules that ``plan`` names, and take them off when nobody needs them any more.

    Alone, they change nothing: a plan acts only within ``plan.at(...)`` of the same thread.

    Raises:
        UnsupportedOption: The model has no linear module of one of the names.
    """
    names = plan.modules
    with _hooks_lock:
        hooks = _hooks.get(model)
        if hooks is None:
            hooks = _hooks[model] = Hooks()
    hooks.enter(model, names)
    try:
        yield
    finally:
        hooks.leave(names)
