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
from memos_core.engine.lora.plan import LoRAPlan, hooked
from memos_core.engine.work import Reuse
from memos_core.errors import UnsupportedOption
from memos_core.records import Message
from memos_core.render import MemoryBlock, render_block
from memos_core.transform.study import Question

__all__ = ["Batch", "Lesson", "Reading", "loaded_of"]


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


@dataclass(frozen=True, slots=True)
class Batch:
    """Lessons as one batch, padded on the right.

    Attributes:
        ids: ``[lessons, seq]``.
        mask: 1 where there is a token, ``[lessons, seq]``.
        tail: 1 where the adapter acts, ``[lessons, seq]``.
        said: 1 where the next token is part of the answer, ``[lessons, seq]``.
    """

    ids: torch.Tensor
    mask: torch.Tensor
    tail: torch.Tensor
    said: torch.Tensor

    @classmethod
    def of(cls, lessons: Sequence[Lesson], device: Any) -> Batch:
        width = max(len(each.prompt) + len(each.answer) for each in lessons) - 1
        ids, mask, tail, said = (torch.zeros(len(lessons), width, dtype=torch.long) for _ in range(4))
        for row, each in enumerate(lessons):
            sequence = [*each.prompt, *each.answer[:-1]]
            ids[row, : len(sequence)] = torch.tensor(sequence)
            mask[row, : len(sequence)] = 1
            tail[row, each.start : len(sequence)] = 1
            said[row, len(each.prompt) - 1 : len(sequence)] = 1
        return cls(*(tensor.to(device) for tensor in (ids, mask, tail, said)))

    def logits(self, model: Any) -> torch.Tensor:
        """Return the logits at the tokens of all answers, one after the other, ``[said, vocabulary]``."""
        logits: torch.Tensor = model(input_ids=self.ids, attention_mask=self.mask, use_cache=False).logits
        return logits[self.said.bool()].float()


class Reading:
    """Asks one model questions, with memories in the prompt, adapters at work, or neither. Thread-safe.

    Args:
        loaded: The model.
        max_answer_tokens: An answer that is longer is cut.
        top_k: Likeliest tokens that are kept of a distribution.
    """

    def __init__(self, loaded: LoadedModel, *, max_answer_tokens: int = 24, top_k: int = 16) -> None:
        self.loaded = loaded
        self.max_answer_tokens = max_answer_tokens
        self.top_k = top_k

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

    def text(self, answer: Sequence[int]) -> str:
        """Return the text of an answer."""
        return self.loaded.tokens.decode([each for each in answer if each not in self.loaded.end_ids]).strip()

    @torch.inference_mode()
    def taught(self, lessons: Sequence[Lesson], size: int = 16) -> list[Lesson]:
        """Return the lessons with the teacher's distributions, as the model without adapters has them there."""
        done = []
        for first in range(0, len(lessons), size):
            part = lessons[first : first + size]
            weights = Batch.of(part, self.loaded.model.device).logits(self.loaded.model).softmax(-1)
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
                batch = Batch.of(part, self.loaded.model.device)
                uses = plan.rows[0] if plan is not None else ()
                acting = plan.masked([batch.tail] * len(uses)) if plan is not None else nullcontext()
                with acting:
                    choices = batch.logits(self.loaded.model).argmax(-1).cpu()
                counts = [len(each.answer) for each in part]
                for each, chosen in zip(part, torch.split(choices, counts), strict=True):
                    found.append(tuple(chosen.tolist()) == each.answer)
        return found
