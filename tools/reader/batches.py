"""Training batches: encoded contexts with attention masks, positions and labels."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
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
    Mix(4, rivals=0.8, plain=1.0),
    Mix(8, rivals=0.7, plain=0.8, absent=0.05, wrapped=0.0),
    Mix(8, chatter=0.2, rivals=0.4, two_hop=0.2, absent=0.1, update=0.04, wrapped=0.1, plain=0.3),
    Mix(12, chatter=0.4, rivals=0.3, two_hop=0.6, absent=0.15, update=0.08, wrapped=0.25, plain=0.1),
    Mix(24, chatter=0.4, rivals=0.2, two_hop=0.6, absent=0.15, update=0.08, wrapped=0.3, plain=0.06),
    Mix(40, chatter=0.4, rivals=0.2, two_hop=0.6, absent=0.15, update=0.08, wrapped=0.3, plain=0.06),
)


_NAME = re.compile(r"\b[A-Z][a-z]{2,}")


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
    gathers: Looks
    points: Looks


@dataclass
class Looks:
    """Where attention should go: the rows of the batch, the columns that look, and for each the columns to look at."""

    rows: Tensor
    columns: Tensor
    targets: Tensor


Look = tuple[int, list[int]]
"""A place, and the places that it should attend to."""


@dataclass
class Row:
    """One encoded context: tokens, positions, block numbers (0 is the shared part) and labels.

    ``gathers`` are looks from a value, or from the end of a question, to the name that it is about; ``points`` are
    looks from the place where a token is predicted to its like in the notes.
    """

    ids: list[int]
    positions: list[int]
    blocks: list[int]
    labels: list[int]
    gathers: list[Look] = field(default_factory=list)
    points: list[Look] = field(default_factory=list)


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
        notes = Notes(context.notes, self, ids)
        for number, (question, answer, kind) in enumerate(context.questions, 1):
            asked = self._ids(f"<|user|> {question}<|end|><|assistant|>")
            said = self._ids(f" {answer}<|end|>")
            if kind in {"direct", "two-hop"}:
                notes.supervise(row, question, asked, said[:-1])
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
        moved = [lambda place, head=head: place if place < head else place - head + split for head in heads]
        gathers, points = (
            looks([(number, moved[number](at), [moved[number](to) for to in targets])
                   for number, row in enumerate(rows) for at, targets in getattr(row, kind)], width)
            for kind in ("gathers", "points")
        )  # fmt: skip
        begins = (labels != IGNORED) & (np.roll(labels, 1, axis=1) == IGNORED)
        block = torch.from_numpy(blocks)
        seen = (block[:, None, :] == block[:, split:, None]) | (block[:, None, :] == 0)
        order = torch.ones(width, width, dtype=torch.bool).tril()[split:]
        answers = torch.from_numpy(np.cumsum(begins).reshape(labels.shape))
        return Batch(
            torch.from_numpy(ids), torch.from_numpy(positions), split, (seen & order)[:, None],
            torch.from_numpy(labels), answers, gathers, points,
        )  # fmt: skip


def looks(items: list[tuple[int, int, list[int]]], width: int) -> Looks:
    """Puts looks of several rows into tensors."""
    targets = torch.zeros(len(items), width, dtype=torch.bool)
    for place, (_row, _column, columns) in enumerate(items):
        targets[place, columns] = True
    rows = torch.tensor([row for row, _, _ in items], dtype=torch.long)
    return Looks(rows, torch.tensor([column for _, column, _ in items], dtype=torch.long), targets)


def places(tokens: list[int], part: list[int], start: int = 0, end: int | None = None) -> list[int]:
    """Lists the places at which ``part`` begins in ``tokens``."""
    end = len(tokens) if end is None else end
    return [at for at in range(start, end - len(part) + 1) if tokens[at : at + len(part)] == part]


class Notes:
    """The notes of one context, to find names and values in.

    Args:
        notes: The lines.
        encoder: Encoder that made ``ids``.
        ids: The encoded system message.
    """

    def __init__(self, notes: list[str], encoder: Encoder, ids: list[int]) -> None:
        self.encoder = encoder
        self.ids = ids
        ends = [place for place, token in enumerate(ids) if token == encoder.newline]
        self.lines = list(zip(ends, [*ends, len(ids)][1:], strict=True))[: len(notes)]
        self.words = [set(_NAME.findall(note)) for note in notes]

    def supervise(self, row: Row, question: str, asked: list[int], said: list[int]) -> None:
        """Adds the looks of a question whose answer stands once in the notes, in a line that names its subject."""
        found = [
            (line, at) for line, (start, end) in enumerate(self.lines) for at in places(self.ids, said, start, end)
        ]
        if len(found) != 1:
            return
        line, at = found[0]
        end = len(row.ids) + len(asked) - 1
        row.points += [(end + step, [at + step]) for step in range(len(said))]
        for name in self.words[line] & set(_NAME.findall(question)):
            tokens = self.encoder._ids(f" {name}")
            inside = places(self.ids, tokens, self.lines[line][0], at)
            asking = places(asked, tokens)
            if inside and asking:
                row.gathers.append((at, list(range(inside[-1], inside[-1] + len(tokens)))))
                first = len(row.ids) + asking[-1]
                row.gathers.append((end, list(range(first, first + len(tokens)))))


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

    def _context(self, rng: Random, mix: Mix, questions: int, repeat: bool, bare: float) -> Context:
        """Draws a context; a share of ``bare`` pairs, now and then one without notes or with a caller's system text."""
        mix = replace(mix, facts=max(1, mix.facts + rng.randint(-(mix.facts // 3), mix.facts // 4)))
        if rng.random() < bare:
            return self.maker.pairs(rng, mix.facts + mix.facts // 2, questions)
        if rng.random() < mix.plain:
            return self.maker.plain(rng, mix, questions)
        context = self.maker.make(rng, mix, questions, repeat)
        if mix.chatter and rng.random() < 0.03:
            asked = [(question, UNKNOWN, "absent") for question, _answer, _kind in context.questions[:4]]
            context = Context([], asked)
        if rng.random() < 0.12:
            context.tail = rng.choice(TAILS)
        return context

    def chats(self, rng: Random, stage: int) -> Batch:
        """Draws a batch of contexts of one stage."""
        shared = rng.random() < 0.8
        mix = STAGES[stage]
        if stage > 1 and rng.random() < 0.5:  # so that short contexts stay as familiar as long ones
            mix = replace(mix, facts=rng.randint(3, mix.facts))
        facts = mix.facts
        questions = max(6, facts) if shared else min(6, max(2, facts))
        width = 45 + facts * 31 + questions * 16
        count = max(1, round(self.budget / width))
        pool = []
        for _ in range(count * 2):
            context = self._context(rng, mix, questions, shared, bare=0.3 if stage == 0 else 0.05)
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
