"""The exact index takes over what its own process commits, and holds what the ledger holds whoever wrote it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import pytest

from memos_core import MemOS, Scope
from memos_core.errors import InvalidInput
from memos_core.infrastructure.vault import MemVault
from memos_core.infrastructure.vault.index import Place
from memos_core.testing import FakeClock, HashEmbedder


@pytest.fixture
def opened(tmp_path: Path) -> Callable[[], MemOS]:
    clock = FakeClock()
    return lambda: MemOS.open(tmp_path, embedder=HashEmbedder(), clock=clock, index="exact")


def held(vault: MemVault, place: Place) -> list[int]:
    """Return the ids that are in memory, without a look at the ledger."""
    shelf = vault.exact._shelves.get(place)
    return [] if shelf is None else [int(number) for number in shelf.ids[: shelf.size]]


def stored(vault: MemVault, place: Place) -> tuple[list[int], np.ndarray]:
    """Return ids and vectors of a place as an index that has just been made reads them."""
    vector = np.zeros(place.dimension, np.float32)
    fresh = type(vault.exact)()
    with vault.ledger.read() as connection:
        ids, _ = fresh.similarities(connection, place, vector)
    return ids.tolist(), fresh._shelves[place].view()[1]


def test_what_was_just_added_need_not_be_read_again(opened: Callable[[], MemOS]) -> None:
    with opened() as memos:
        vault, ada, place = memos._layers.vault, memos.scope("ada"), Place(1, 1, HashEmbedder().dimension)
        ada.add_many([f"tea {number}" for number in range(20)])
        assert held(vault, place) == list(range(1, 21))
        for number in range(20, 25):
            ada.add(f"tea {number}")
        ids, vectors = stored(vault, place)
        assert held(vault, place) == ids == list(range(1, 26))
        assert np.array_equal(vault.exact._shelves[place].view()[1], vectors)


def test_what_a_transaction_took_back_is_not_taken_over(opened: Callable[[], MemOS]) -> None:
    with opened() as memos:
        vault, ada, place = memos._layers.vault, memos.scope("ada"), Place(1, 1, HashEmbedder().dimension)
        ada.add("tea")
        before = held(vault, place)
        with pytest.raises(InvalidInput), vault.write() as session:
            cube = ada.get(ada.list()[0].id)
            session.insert(cube.model_copy(update={"version": 2}), passages=(), dedup_key=None, author="ada")
        assert held(vault, place) == before == [1]


@pytest.mark.parametrize("seed", range(3))
def test_two_handles_that_write_in_turn_hold_what_the_ledger_holds(opened: Callable[[], MemOS], seed: int) -> None:
    rng, place = Random(seed), Place(1, 1, HashEmbedder().dimension)
    with opened() as one, opened() as two:
        scopes = [one.scope("ada"), two.scope("ada")]
        for number in range(40):
            step(rng, rng.choice(scopes), number)
        for memos in (one, two):
            vault = memos._layers.vault
            with vault.ledger.read() as connection:
                ids, _ = vault.exact.similarities(connection, place, np.zeros(place.dimension, np.float32))
            expected, vectors = stored(vault, place)
            assert ids.tolist() == expected
            assert np.array_equal(vault.exact._shelves[place].view()[1], vectors)


def step(rng: Random, scope: Scope, number: int) -> None:
    """Do something to the memories of a scope."""
    there = scope.list()
    choice = rng.random()
    if choice < 0.5 or not there:
        scope.add(f"tea {number}")
    elif choice < 0.65:
        scope.add_many([f"cake {number} {part}" for part in range(3)])
    elif choice < 0.8:
        scope.update(rng.choice(there).id, f"coffee {number}")
    elif choice < 0.9:
        scope.forget(rng.choice(there).id)
    else:
        scope.search("tea")
