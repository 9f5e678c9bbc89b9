"""Training batches: encoded contexts with attention masks, positions and labels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from .context import UNKNOWN, Context, ContextMaker, Mix

IGNORED = -100
TAILS = (
    "Answer briefly.",
    "You are a helpful assistant.",
    "Answer the question from the notes.",
    "You are a helpful assistant. Keep it short.",
    "Be brief and precise.",
    "Reply with the value only.",
)
STAGES = (
    Mix(2, absent=0.05, wrapped=0.05, rivals=0.2),
    Mix(4, chatter=0.2, rivals=0.25, two_hop=0.15, absent=0.1, update=0.02, wrapped=0.15),
    Mix(8, chatter=0.4, rivals=0.25, two_hop=0.3, absent=0.12, update=0.04, wrapped=0.25),
    Mix(12, chatter=0.5, rivals=0.25, two_hop=0.35, absent=0.13, update=0.05, wrapped=0.3),
    Mix(24, chatter=0.4, rivals=0.25, two_hop=0.35, absent=0.13, update=0.06, wrapped=0.3),
    Mix(40, chatter=0.4, rivals=0.25, two_hop=0.35, absent=0.13, update=0.06, wrapped=0.3),
)


@dataclass
class Batch:
    """Tensors of one training step.

    Attributes:
        ids: Token ids.
        positions: Position ids.
        split: Number of columns of the shared part, which attends causally.
        mask: Boolean attention mask of the other columns, true where a token may look.
        labels: Token ids to predict, ``IGNORED`` elsewhere; aligned with the predicting token.
        answers: Number of the answer each label belongs to.
    """

    ids: Tensor
    positions: Tensor
    split: int
    mask: Tensor
    labels: Tensor
    answers: Tensor


@dataclass
class Row:
    """One encoded context: tokens, positions, block numbers (0 is the shared part) and labels."""

    ids: list[int]
    positions: list[int]
    blocks: list[int]
    labels: list[int]


class Encoder:
    """Encodes contexts in the chat format.

    Args:
        tokenizer: The reader's tokenizer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.inner = tokenizer.backend_tokenizer
        self.pad = tokenizer.pad_token_id
        self.newline = self._ids("\n")[0]

    def _ids(self, text: str) -> list[int]:
        """Encodes a text in which special tokens count as such."""
        return self.inner.encode(text, add_special_tokens=False).ids

    def row(self, context: Context, shared: bool, rng: Random | None = None, stretch: int = 0) -> Row:
        """Encodes a context with all its questions.

        Args:
            context: Notes and questions.
            shared: Whether each question sees the notes alone, as if it were the only one.
            rng: Source of the gaps.
            stretch: Positions to leave out between the notes, in total.

        Returns:
            The encoded row.
        """
        system = context.system()
        ids = self._ids(f"<|system|> {system}<|end|>") if system else []
        positions = list(range(len(ids)))
        if stretch and rng:
            positions = self._stretched(ids, rng, stretch)
        start = positions[-1] + 1 if positions else 0
        row = Row(ids, positions, [0] * len(ids), [IGNORED] * len(ids))
        for number, (question, answer, _kind) in enumerate(context.questions, 1):
            asked = self._ids(f"<|user|> {question}<|end|><|assistant|>")
            said = self._ids(f" {answer}<|end|>")
            count = len(asked) + len(said) - (1 if shared else 0)
            row.ids += (asked + said)[:count]
            row.positions += range(start, start + count)
            row.blocks += [number if shared else 0] * count
            row.labels += ([IGNORED] * (len(asked) - 1) + said + [IGNORED])[:count]
            start = start if shared else start + count
        return row

    def _stretched(self, ids: list[int], rng: Random, stretch: int) -> list[int]:
        """Numbers the positions with gaps after line ends."""
        places = [place for place, token in enumerate(ids) if token == self.newline]
        gaps = dict.fromkeys(places, 0)
        for place in rng.choices(places, k=min(len(places), 12)) if places else []:
            gaps[place] += stretch // 12
        positions, now = [], 0
        for place in range(len(ids)):
            positions.append(now)
            now += 1 + gaps.get(place, 0)
        return positions

    def collate(self, rows: list[Row]) -> Batch:
        """Pads rows into a batch whose shared parts end at the same column."""
        heads = [row.blocks.count(0) for row in rows]
        split = max(heads)
        width = split + max(len(row.ids) - head for row, head in zip(rows, heads, strict=True))
        ids, positions, blocks, labels = (
            np.full((len(rows), width), fill) for fill in (self.pad, 0, -1, IGNORED)
        )  # fmt: skip
        for place, (row, head) in enumerate(zip(rows, heads, strict=True)):
            rest = split + len(row.ids) - head
            for table, line in ((ids, row.ids), (positions, row.positions), (blocks, row.blocks), (labels, row.labels)):
                table[place, :head], table[place, split:rest] = line[:head], line[head:]
        begins = (labels != IGNORED) & (np.roll(labels, 1, axis=1) == IGNORED)
        block = torch.from_numpy(blocks)
        seen = (block[:, None, :] == block[:, split:, None]) | (block[:, None, :] == 0)
        order = torch.ones(width, width, dtype=torch.bool).tril()[split:]
        answers = torch.from_numpy(np.cumsum(begins).reshape(labels.shape))
        return Batch(
            torch.from_numpy(ids), torch.from_numpy(positions), split, (seen & order)[:, None],
            torch.from_numpy(labels), answers,
        )  # fmt: skip


class BatchMaker:
    """Draws training batches.

    Args:
        encoder: Encoder of the contexts.
        maker: Source of the contexts.
        vocabulary: Number of tokens.
        budget: Tokens of a batch, padding included.
    """

    def __init__(self, encoder: Encoder, maker: ContextMaker, vocabulary: int, budget: int) -> None:
        self.encoder = encoder
        self.maker = maker
        self.vocabulary = vocabulary
        self.budget = budget

    def _context(self, rng: Random, stage: int, questions: int, repeat: bool) -> Context:
        """Draws a context of a stage; now and then one without notes or with a caller's system text."""
        mix = STAGES[stage]
        mix = replace(mix, facts=max(1, mix.facts + rng.randint(-(mix.facts // 3), mix.facts // 4)))
        if rng.random() < 0.08:
            return self.maker.pairs(rng, 2 * mix.facts, questions)
        context = self.maker.make(rng, mix, questions, repeat)
        if stage and rng.random() < 0.03:
            asked = [(question, UNKNOWN, "absent") for question, _answer, _kind in context.questions[:4]]
            context = Context([], asked)
        if rng.random() < 0.12:
            context.tail = rng.choice(TAILS)
        return context

    def chats(self, rng: Random, stage: int) -> Batch:
        """Draws a batch of contexts of one stage."""
        shared = rng.random() < 0.8
        facts = STAGES[stage].facts
        questions = max(6, facts) if shared else min(6, max(2, facts))
        width = 45 + facts * 31 + questions * 16
        count = max(1, round(self.budget / width))
        pool = []
        for _ in range(count * 2):
            context = self._context(rng, stage, questions, shared)
            stretch = rng.randint(50, 5000) if stage > 1 and rng.random() < 0.15 else 0
            pool.append(self.encoder.row(context, shared, rng, stretch))
        pool.sort(key=lambda row: len(row.ids))
        return self.encoder.collate(pool[:count] if rng.random() < 0.5 else pool[count:])

    def echoes(self, rng: Random, tokens: int) -> Batch:
        """Draws random token sequences that repeat; the repetition is to be predicted."""
        rows = []
        for _ in range(max(1, tokens // 64)):
            word = rng.sample(range(5, self.vocabulary), rng.randint(4, 24))
            lead = rng.choices(range(5, self.vocabulary), k=rng.randint(0, 8))
            first = len(lead) + len(word)
            ids = (lead + word * 16)[:64]
            labels = [IGNORED] * first + ids[first + 1 :] + [IGNORED]
            offset = rng.choice([0, rng.randint(0, 2000)])
            rows.append(Row(ids, list(range(offset, offset + 64)), [0] * 64, labels))
        return self.encoder.collate(rows)
