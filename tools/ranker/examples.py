"""Questions with evidence as examples for the fit: the signals of every passage, and which of them answer.

The signals come from the search itself, over a real vault, so that what is learned is what will be used.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from memos_core import MemOS, Scope
from memos_core.embedding.base import Embedder, Vectors
from memos_core.embedding.minilm import MiniLM
from memos_core.interface.evidence import Evidence, Question, read_evidence
from memos_core.interface.ingest import ingest
from memos_core.interface.reader import MemReader
from memos_core.principal import Principal
from tools.ranker.talks import Talk

__all__ = ["Example", "KeptVectors", "examples_of_file", "examples_of_talks"]


@dataclass(frozen=True, slots=True)
class Example:
    """One question.

    Attributes:
        group: Whose memory it is about; what is held out together.
        signals: Shape ``[passages, signals]``.
        situation: Shape ``[situation]``.
        gold: Whether each passage is evidence, shape ``[passages]``.
        cubes: Number of each passage's memory, shape ``[passages]``.
        wanted: Number of turns that are evidence, found or not.
    """

    group: str
    signals: NDArray[np.float32]
    situation: NDArray[np.float32]
    gold: NDArray[np.bool_]
    cubes: NDArray[np.int32]
    wanted: int


class KeptVectors(Embedder):
    """MiniLM with its vectors kept in a file, by digest of the text.

    Args:
        path: The file, ``.npz``.
    """

    def __init__(self, path: Path) -> None:
        self.inner = MiniLM()
        self.path = path
        self.kept: dict[str, NDArray[np.float32]] = {}
        if path.exists():
            with np.load(path) as stored:
                self.kept = dict(zip(stored["keys"].tolist(), stored["vectors"], strict=True))

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def dimension(self) -> int:
        return self.inner.dimension

    def passages(self, text: str) -> list[tuple[int, int]]:
        return self.inner.passages(text)

    def embed(self, texts: Sequence[str]) -> Vectors:
        keys = [hashlib.sha256(text.encode()).hexdigest() for text in texts]
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in self.kept}
        if missing:
            self.kept.update(zip(missing, self.inner.embed(list(missing.values())), strict=True))
        return np.stack([self.kept[key] for key in keys]) if keys else np.empty((0, self.dimension), np.float32)

    def save(self) -> None:
        """Write what was embedded since."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(self.path, keys=np.array(list(self.kept)), vectors=np.stack(list(self.kept.values())))


def examples_of_file(path: Path, embedder: KeptVectors) -> list[Example]:
    """Return the questions of a file of annotated conversations."""
    evidence = read_evidence(path)
    with tempfile.TemporaryDirectory() as folder, MemOS.open(folder, embedder=embedder) as memos:
        ingest(memos, path)
        embedder.embed([question.text for question in evidence.questions])
        embedder.save()
        refs = {user: refs_of(memos.scope(user)) for user in evidence.turns}
        return [example_of(memos, evidence, question, refs[question.user]) for question in evidence.questions]


def example_of(memos: MemOS, evidence: Evidence, question: Question, refs: dict[str, str | None]) -> Example:
    order = evidence.turns[question.user]
    before, _ = order.window(question.before)
    times = [moment for moment in order.times.values() if moment is not None]
    call = MemReader().read(question.text, now=before or max(times)).model_copy(update={"before": before})
    look = memos._layers.operator.finder.look(Principal(question.user), call)
    named = [refs[look.survey.cube_ids[number]] for number in look.survey.rows["cube"].tolist()]
    exists = np.array([order.exists(ref, question.before) for ref in named])
    gold = np.array([ref in question.gold for ref in named])
    return Example(
        question.user,
        look.signals[exists],
        look.situation,
        gold[exists],
        look.survey.rows["cube"][exists],
        len(question.gold),
    )


def refs_of(scope: Scope) -> dict[str, str | None]:
    """Return the reference of each memory of a scope, by id."""
    found: dict[str, str | None] = {}
    cursor = None
    while True:
        page = scope.list(limit=500, cursor=cursor)
        found.update((cube.id, cube.ref) for cube in page.cubes)
        cursor = page.cursor
        if cursor is None:
            return found


def examples_of_talks(talks: Sequence[Talk], embedder: KeptVectors) -> list[Example]:
    """Return the questions of conversations made by program."""
    found = []
    with tempfile.TemporaryDirectory() as folder, MemOS.open(folder, embedder=embedder) as memos:
        for talk in talks:
            scope = memos.scope(talk.name)
            scope.add_many([asdict(turn) for turn in talk.turns])
            refs = refs_of(scope)
            for asked in talk.questions:
                call = MemReader().read(asked.text, now=talk.turns[-1].at + timedelta(days=1))
                look = memos._layers.operator.finder.look(Principal(talk.name), call)
                gold = np.array(
                    [refs[look.survey.cube_ids[n]] in asked.gold for n in look.survey.rows["cube"].tolist()]
                )
                found.append(
                    Example(talk.name, look.signals, look.situation, gold, look.survey.rows["cube"], len(asked.gold))
                )
        embedder.save()
    return found
