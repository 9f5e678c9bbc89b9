"""Questions with evidence as examples for the fit: the signals of every passage, and which of them answer.

The signals come from the search itself, over a real vault, so that what is learned is what will be used.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from memos_core import MemOS, Scope
from memos_core.embedding.base import Embedder, Vectors
from memos_core.embedding.minilm import MiniLM
from memos_core.interface.reader import MemReader
from memos_core.principal import Principal
from tools.ranker.sources import Annotated, Moment, brought, of_file, of_talk
from tools.ranker.talks import Talk
from tools.ranker.variants import VARIANTS, Variant

__all__ = ["Example", "KeptVectors", "examples_of_file", "examples_of_talks"]


@dataclass(frozen=True, slots=True)
class Example:
    """One question.

    Attributes:
        group: Whose memory it is about; what is held out together.
        signals: Shape ``[passages, signals]``.
        situation: Shape ``[situation]``.
        gold: How many of the turns that are evidence each passage's memory holds, shape ``[passages]``.
        cubes: Number of each passage's memory, shape ``[passages]``.
        wanted: Number of turns that are evidence, found or not.
    """

    group: str
    signals: NDArray[np.float32]
    situation: NDArray[np.float32]
    gold: NDArray[np.float32]
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


def examples_of_file(path: Path, embedder: KeptVectors, variant: str = "as given") -> list[Example]:
    """Return the questions of a file of annotated conversations."""
    return examples_of(of_file(path), embedder, VARIANTS[variant])


def examples_of_talks(talks: Sequence[Talk], embedder: KeptVectors, variant: str = "as given") -> list[Example]:
    """Return the questions of conversations made by program."""
    return examples_of([of_talk(talk) for talk in talks], embedder, VARIANTS[variant])


def examples_of(sources: Sequence[Annotated], embedder: KeptVectors, variant: Variant) -> list[Example]:
    """Return the questions of conversations that are brought to memory in one way."""
    found = []
    embedder.embed([variant.asked(one.text) for source in sources for one in source.questions])
    with tempfile.TemporaryDirectory() as folder, MemOS.open(folder, embedder=embedder) as memos:
        for source in sources:
            for at in brought(memos.scope(source.user), source, variant):
                found.append(example_of(memos, source.user, at))
    embedder.save()
    return found


def example_of(memos: MemOS, user: str, at: Moment) -> Example:
    call = MemReader().read(at.question.text, now=at.end or datetime.now(UTC)).model_copy(update={"before": at.before})
    look = memos._layers.operator.finder.look(Principal(user), call)
    ids = [at.held[look.survey.cube_ids[number]] for number in look.survey.rows["cube"].tolist()]
    gold = np.array([len(set(at.question.gold).intersection(of)) for of in ids], np.float32)
    return Example(user, look.signals, look.situation, gold, look.survey.rows["cube"], len(at.question.gold))


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
