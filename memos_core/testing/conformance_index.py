"""What every vector index has to keep, as tests that anyone can run over their own.

    class TestMyIndex(IndexConformance):
        def open(self, root, clock, embedder):
            return MemVault.open(root, embedder=embedder, clock=clock, index="exact")

Needs pytest.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from memos_core.cube import Descriptive, Governance, Header, MemCube, MemoryType, PlaintextPayload, Source
from memos_core.embedding.base import Embedder
from memos_core.ids import UlidFactory
from memos_core.infrastructure.vault import MemVault, Passage, SearchFilter, Visibility
from memos_core.testing.clock import FakeClock
from memos_core.testing.embedder import HashEmbedder

__all__ = ["IndexConformance", "Shelf"]

SUBJECTS = ("tea", "bread", "rain", "music", "chess", "trains", "gardens", "letters")


class Shelf:
    """A vault with little typing: texts go in, texts come out."""

    def __init__(self, vault: MemVault, clock: FakeClock, embedder: Embedder) -> None:
        self.vault = vault
        self.clock = clock
        self.embedder = embedder
        self.ids = UlidFactory()

    def add(self, *texts: str, user: str = "ada", session: str | None = None) -> list[MemCube]:
        """Store texts in one transaction."""
        cubes = [self.cube(text, user, session) for text in texts]
        with self.vault.write() as write:
            for cube in cubes:
                write.insert(cube, passages=self.passages(cube), dedup_key=None, author="test")
        return cubes

    def change(self, cube: MemCube, text: str) -> MemCube:
        """Store a next version."""
        newer = cube.model_copy(update={"payload": PlaintextPayload(text=text), "version": cube.version + 1})
        with self.vault.write() as write:
            write.replace(newer, passages=self.passages(newer), dedup_key=None, author="test", reason="changed")
        return newer

    def erase(self, *cubes: MemCube, user: str = "ada") -> tuple[str, ...]:
        """Erase cubes down to the disk; return what is pending."""
        with self.vault.write() as write:
            write.erase(Visibility(user), [cube.id for cube in cubes])
        return self.vault.purge()

    def search(self, text: str, k: int = 5, user: str = "ada", session: str | None = None) -> list[str]:
        """Return the ids of the nearest cubes, nearest first."""
        wanted = SearchFilter(Visibility(user, session=session), self.clock.now())
        return [hit.cube_id for hit in self.vault.vector_search(wanted, self.embedder.embed_query(text), k)]

    def cube(self, text: str, user: str, session: str | None) -> MemCube:
        """Return a cube that is not stored yet."""
        now = self.clock.now()
        descriptive = Descriptive(
            id=self.ids.new(now), type=MemoryType.PLAINTEXT, created=now, updated=now, source=Source(session=session)
        )
        header = Header(descriptive=descriptive, governance=Governance(owner=user, namespace=user))
        return MemCube(header=header, payload=PlaintextPayload(text=text))

    def passages(self, cube: MemCube) -> list[Passage]:
        """Return the whole text as one passage."""
        return [Passage(0, len(cube.text), {"word": 1}, self.embedder.embed([cube.text])[0])]


class IndexConformance(ABC):
    """Subclass it, say how a vault with the index is opened, and let pytest find the subclass."""

    @abstractmethod
    def open(self, root: Path, clock: FakeClock, embedder: Embedder) -> MemVault:
        """Open the vault at ``root`` with the index under test."""

    @pytest.fixture
    def shelf(self, tmp_path: Path) -> Iterator[Shelf]:
        """A fresh vault."""
        clock, embedder = FakeClock(), HashEmbedder()
        shelf = Shelf(self.open(tmp_path / "vault", clock, embedder), clock, embedder)
        yield shelf
        shelf.vault.close()

    def second(self, shelf: Shelf) -> Shelf:
        """Return another handle on the same vault."""
        return Shelf(self.open(shelf.vault.root, shelf.clock, shelf.embedder), shelf.clock, shelf.embedder)

    def test_nearest_first_with_exact_scores(self, shelf: Shelf) -> None:
        cubes = shelf.add(*texts(60))
        query = shelf.embedder.embed_query("tea and rain 7")
        hits = shelf.vault.vector_search(SearchFilter(Visibility("ada"), shelf.clock.now()), query, 10)
        expected = shelf.embedder.embed([cube.text for cube in cubes]) @ query
        assert np.allclose([hit.score for hit in hits], sorted(expected, reverse=True)[:10], atol=1e-6)

    def test_all_are_found_if_asked_for_all(self, shelf: Shelf) -> None:
        cubes = shelf.add(*texts(700))
        assert set(shelf.search("tea", k=1000)) == {cube.id for cube in cubes}

    def test_an_empty_vault_has_no_hits(self, shelf: Shelf) -> None:
        assert shelf.search("tea") == []

    def test_other_namespaces_are_never_proposed(self, shelf: Shelf) -> None:
        (own,) = shelf.add("tea with lemon")
        shelf.add(*texts(50), user="bob")
        assert shelf.search("tea with lemon", k=100) == [own.id]
        assert shelf.search("tea", user="eve") == []

    def test_a_narrow_scope_gets_its_full_number_of_hits(self, shelf: Shelf) -> None:
        shelf.add(*["tea"] * 900, session="loud")
        own = shelf.add("gardens", "letters", session="quiet")
        assert set(shelf.search("tea", k=2, session="quiet")) == {cube.id for cube in own}

    def test_a_write_is_found_by_the_next_search(self, shelf: Shelf) -> None:
        for text in texts(12):
            (cube,) = shelf.add(text)
            assert shelf.search(text, k=1) == [cube.id]

    def test_many_writes_are_taken_over(self, shelf: Shelf) -> None:
        shelf.add("first")
        assert shelf.search("first")
        cubes = shelf.add(*texts(600))
        assert shelf.search(cubes[599].text, k=1) == [cubes[599].id]
        shelf.vault.apply_outbox()
        assert shelf.search(cubes[300].text, k=1) == [cubes[300].id]
        assert shelf.vault.stats()["outbox"] == 0

    def test_a_new_version_takes_the_place_of_the_old(self, shelf: Shelf) -> None:
        cubes = shelf.add(*texts(20))
        shelf.search("tea")
        shelf.change(cubes[3], "volcano")
        for _ in range(2):
            hits = shelf.search("volcano", k=50)
            assert hits[0] == cubes[3].id
            assert sorted(hits) == sorted(cube.id for cube in cubes)
            shelf.vault.apply_outbox()

    def test_the_erased_is_not_found(self, shelf: Shelf) -> None:
        cubes = shelf.add(*texts(20))
        shelf.search("tea")
        assert shelf.erase(*cubes[:5]) == ()
        assert sorted(shelf.search("tea", k=50)) == sorted(cube.id for cube in cubes[5:])

    def test_two_handles_see_each_others_writes(self, shelf: Shelf) -> None:
        other = self.second(shelf)
        shelf.add(*texts(10))
        assert len(other.search("tea", k=20)) == 10
        (late,) = other.add("volcano")
        other.vault.apply_outbox()
        assert shelf.search("volcano", k=1) == [late.id]
        shelf.erase(late)
        assert late.id not in other.search("volcano", k=20)
        (again,) = shelf.add("volcano")
        assert other.search("volcano", k=1) == [again.id]
        other.vault.close()
        assert shelf.search("volcano", k=1) == [again.id]

    def test_it_survives_reopening_and_rebuilding(self, shelf: Shelf) -> None:
        cubes = shelf.add(*texts(30))
        before = shelf.search("music and chess", k=10)
        shelf.vault.close()
        again = self.second(shelf)
        assert again.search("music and chess", k=10) == before
        assert again.vault.rebuild_index() == len(cubes)
        assert again.search("music and chess", k=10) == before
        again.vault.close()

    def test_a_lost_index_is_made_anew(self, shelf: Shelf) -> None:
        shelf.add(*texts(30))
        before = shelf.search("music and chess", k=10)
        shelf.vault.close()
        for path in files_below(shelf.vault.root / "index"):
            path.unlink()
        again = self.second(shelf)
        assert again.search("music and chess", k=10) == before
        again.vault.verify()
        again.vault.close()


def texts(count: int) -> list[str]:
    """Return texts that differ and overlap."""
    names = len(SUBJECTS)
    return [f"{SUBJECTS[i % names]} and {SUBJECTS[i // names % names]} {i}" for i in range(count)]


def files_below(folder: Path) -> Sequence[Path]:
    return [path for path in folder.rglob("*") if path.is_file()] if folder.is_dir() else []
