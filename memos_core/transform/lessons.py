"""What a student is taught: a question, the context that it is asked in, and what the teacher says there.

The teacher is the same model reading the memory, and what is learned is its distribution over the next token at each
token of its answer, of which the likeliest few are kept (top-k logits, as in arXiv 2506.06266 and 2602.15902).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch

from memos_core.cube import MemCube
from memos_core.engine.base import Engine
from memos_core.engine.generate import Session
from memos_core.engine.hf import HFEngine
from memos_core.engine.loading import LoadedModel
from memos_core.engine.lora.plan import LoRAPlan, Use, hooked
from memos_core.engine.work import Reuse
from memos_core.errors import UnsupportedOption
from memos_core.records import Message
from memos_core.render import MemoryBlock, render_block
from memos_core.transform.prefixes import Past, Prefixes, divisible
from memos_core.transform.study import Question

__all__ = ["Batch", "Lesson", "Reading", "loaded_of", "placed"]


def loaded_of(engine: Engine, pathway: str) -> LoadedModel:
    """Return the model of a local engine.

    Raises:
        UnsupportedOption: The engine runs none here.
    """
    if not isinstance(engine, HFEngine):
        raise UnsupportedOption(f"{pathway} needs the model itself, which {type(engine).__name__} does not hold")
    return engine.loaded


@dataclass(frozen=True, slots=True)
class Lesson:
    """A question in a context, with what is to be said.

    Attributes:
        question: What is asked.
        prompt: The ids up to the answer.
        start: Positions of the memory prefix in it, behind which the student's adapter acts.
        answer: The ids of the answer with the token that ends it.
        top_ids: The likeliest tokens at each token of the answer, ``[answer, k]``.
        top_weights: Their probabilities, which sum to 1, ``[answer, k]``.
    """

    question: Question
    prompt: tuple[int, ...]
    start: int
    answer: tuple[int, ...]
    top_ids: torch.Tensor
    top_weights: torch.Tensor

    @property
    def prefix(self) -> tuple[int, ...]:
        """The ids of the memory prefix."""
        return self.prompt[: self.start]


@dataclass(frozen=True, slots=True)
class Batch:
    """Lessons as one batch, padded on the right. Where their prefixes are given, only what follows them.

    Attributes:
        ids: ``[lessons, seq]``.
        mask: 1 where there is a token, ``[lessons, seq]``.
        tail: 1 where the adapter acts, ``[lessons, seq]``.
        said: 1 where the next token is part of the answer, ``[lessons, seq]``.
        past: The prefixes; None: they are part of the sequences.
    """

    ids: torch.Tensor
    mask: torch.Tensor
    tail: torch.Tensor
    said: torch.Tensor
    past: Past | None = None

    @classmethod
    def of(cls, lessons: Sequence[Lesson], device: Any, prefixes: Prefixes | None = None) -> Batch:
        past = prefixes.past([each.prefix for each in lessons]) if prefixes is not None else None
        begins = [each.start if past is not None else 0 for each in lessons]
        lengths = [len(each.prompt) - begin for each, begin in zip(lessons, begins, strict=True)]
        width = max(length + len(each.answer) for each, length in zip(lessons, lengths, strict=True)) - 1
        ids, mask, tail, said = (torch.zeros(len(lessons), width, dtype=torch.long) for _ in range(4))
        for row, (each, begin, length) in enumerate(zip(lessons, begins, lengths, strict=True)):
            sequence = [*each.prompt[begin:], *each.answer[:-1]]
            ids[row, : len(sequence)] = torch.tensor(sequence)
            mask[row, : len(sequence)] = 1
            tail[row, each.start - begin : len(sequence)] = 1
            said[row, length - 1 : len(sequence)] = 1
        return cls(ids.to(device), mask.to(device), tail.to(device), said.to(device), past)

    def logits(self, model: Any) -> torch.Tensor:
        """Return the logits at the tokens of all answers, one after the other, ``[said, vocabulary]``."""
        given: dict[str, Any] = {"attention_mask": self.mask, "use_cache": False}
        if self.past is not None:
            positions = self.past.starts[:, None] + torch.arange(self.ids.shape[1], device=self.ids.device)
            cache = self.past.cache(model.config)
            mask = torch.cat([self.past.mask, self.mask], 1)
            given = {"attention_mask": mask, "position_ids": positions, "past_key_values": cache}
        logits: torch.Tensor = model(input_ids=self.ids, **given).logits
        return logits[self.said.bool()].float()


class Reading:
    """Asks one model questions, with memories in the prompt, adapters at work, or neither. For one thread.

    Args:
        loaded: The model.
        max_answer_tokens: An answer that is longer is cut.
        top_k: Likeliest tokens that are kept of a distribution.
    """

    def __init__(self, loaded: LoadedModel, *, max_answer_tokens: int = 24, top_k: int = 16) -> None:
        self.loaded = loaded
        self.max_answer_tokens = max_answer_tokens
        self.top_k = top_k
        self.prefixes = Prefixes(loaded.model) if divisible(loaded.model.config) else None

    def lesson(self, question: Question, context: Sequence[MemCube]) -> Lesson:
        """Return ``question`` after the memories ``context``, with no answer yet."""
        block = render_block(context) if context else MemoryBlock()
        prompt = self.loaded.prompts.build([Message(role="user", content=question.text)], block)
        nothing = torch.zeros(0, self.top_k)
        return Lesson(question, prompt.token_ids, prompt.memory_end, (), nothing.long(), nothing)

    def acting(self, plan: LoRAPlan | None) -> AbstractContextManager[None]:
        return nullcontext() if plan is None else hooked(self.loaded.model, plan)

    @torch.inference_mode()
    def answer(self, lesson: Lesson, plan: LoRAPlan | None = None) -> tuple[int, ...]:
        """Return the ids that the model answers, the likeliest at each step, with the one that ends the answer."""
        with self.acting(plan):
            session = Session(self.loaded, Reuse(), lesson.prompt, snapshots=False, lora=plan)
            for _ in session.prefill(lesson.prompt):
                pass
            said: list[int] = []
            while len(said) < self.max_answer_tokens:
                said.append(int(session.logits.argmax()))
                if said[-1] in self.loaded.end_ids:
                    break
                session.feed(said[-1:])
        return tuple(said)

    def answers(self, lessons: Sequence[Lesson], plan: LoRAPlan | None = None, size: int = 32) -> list[tuple[int, ...]]:
        """Return what ``answer`` returns for each lesson, with the adapters of a plan of one row behind its prefix."""
        if self.prefixes is None:
            return [self.answer(each, None if plan is None else placed(plan, each.start)) for each in lessons]
        found: dict[int, tuple[int, ...]] = {}
        # Of a length with their likes: padding is computed too.
        order = sorted(range(len(lessons)), key=lambda index: (lessons[index].start, len(lessons[index].prompt)))
        with self.acting(plan):
            for first in range(0, len(order), size):
                part = order[first : first + size]
                found |= zip(part, self.decode([lessons[index] for index in part], plan), strict=True)
        return [found[index] for index in range(len(lessons))]

    @torch.inference_mode()
    def decode(self, lessons: Sequence[Lesson], plan: LoRAPlan | None) -> list[tuple[int, ...]]:
        """Return the answers to lessons as one batch, padded on the left. The hooks must be there."""
        assert self.prefixes is not None
        model, uses = self.loaded.model, plan.rows[0] if plan is not None else ()
        past = self.prefixes.past([each.prefix for each in lessons])
        asked = [each.prompt[each.start :] for each in lessons]
        width = max(map(len, asked))
        ids = torch.tensor([[0] * (width - len(each)) + list(each) for each in asked], device=model.device)
        mask = torch.tensor([[0] * (width - len(each)) + [1] * len(each) for each in asked], device=model.device)
        positions = past.starts[:, None] + (mask.cumsum(1) - 1).clamp_min(0)
        mask, cache = torch.cat([past.mask, mask], 1), past.cache(model.config)
        said: list[list[int]] = [[] for _ in lessons]
        for _ in range(self.max_answer_tokens):
            acting = plan.masked([torch.ones_like(ids)] * len(uses)) if plan is not None else nullcontext()
            with acting:
                given = {"attention_mask": mask, "position_ids": positions, "past_key_values": cache}
                chosen = model(input_ids=ids, logits_to_keep=1, **given).logits[:, -1].argmax(-1)
            for answer, token in zip(said, chosen.tolist(), strict=True):
                if not answer or answer[-1] not in self.loaded.end_ids:
                    answer.append(token)
            if all(answer[-1] in self.loaded.end_ids for answer in said):
                break
            ids, positions = chosen[:, None], positions[:, -1:] + 1
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        return [tuple(answer) for answer in said]

    def text(self, answer: Sequence[int]) -> str:
        """Return the text of an answer."""
        return self.loaded.tokens.decode([each for each in answer if each not in self.loaded.end_ids]).strip()

    @torch.inference_mode()
    def taught(self, lessons: Sequence[Lesson], size: int = 16) -> list[Lesson]:
        """Return the lessons with the teacher's distributions, as the model without adapters has them there."""
        done = []
        for first in range(0, len(lessons), size):
            part = lessons[first : first + size]
            weights = Batch.of(part, self.loaded.model.device, self.prefixes).logits(self.loaded.model).softmax(-1)
            top = weights.topk(min(self.top_k, weights.shape[-1]), dim=-1)
            shares = (top.values / top.values.sum(-1, keepdim=True)).cpu()
            counts = [len(each.answer) for each in part]
            for each, ids, share in zip(
                part, torch.split(top.indices.cpu(), counts), torch.split(shares, counts), strict=True
            ):
                done.append(replace(each, top_ids=ids.clone(), top_weights=share.clone()))
        return done

    @torch.inference_mode()
    def says(self, lessons: Sequence[Lesson], plan: LoRAPlan | None = None, size: int = 16) -> list[bool]:
        """Tell for each lesson whether the model, choosing the likeliest token always, says exactly its answer.

        All of an answer is checked in one pass: each of its tokens is the model's choice after those before it.
        """
        found: list[bool] = []
        with self.acting(plan):
            for first in range(0, len(lessons), size):
                part = lessons[first : first + size]
                batch = Batch.of(part, self.loaded.model.device, self.prefixes)
                uses = plan.rows[0] if plan is not None else ()
                acting = plan.masked([batch.tail] * len(uses)) if plan is not None else nullcontext()
                with acting:
                    choices = batch.logits(self.loaded.model).argmax(-1).cpu()
                counts = [len(each.answer) for each in part]
                for each, chosen in zip(part, torch.split(choices, counts), strict=True):
                    found.append(tuple(chosen.tolist()) == each.answer)
        return found


def placed(plan: LoRAPlan, start: int) -> LoRAPlan:
    """Return ``plan`` with all adapters acting from ``start`` on."""
    return LoRAPlan([[Use(use.adapter, use.weight, start) for use in row] for row in plan.rows])
