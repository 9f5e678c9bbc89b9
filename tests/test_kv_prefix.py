"""The prefix cache finds the longest chain that may be used, and keeps no more than it may."""

from __future__ import annotations

import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from memos_core.engine.base import StoredActivation
from memos_core.engine.kv import prefix as prefix_module
from memos_core.engine.kv.codec import KVBlob, as_token_ids, encode
from memos_core.engine.kv.prefix import PrefixCache
from memos_core.engine.kv.tiers import Place
from memos_core.errors import BlobDamaged
from memos_core.testing.models import payload_of


def blob_of(ids: list[int]) -> KVBlob:
    tensor = torch.zeros(1, len(ids), 2)
    return KVBlob(as_token_ids(ids), (tensor,), (tensor,), ("full_attention",), "mark")


def host(max_bytes: int) -> Place:
    return Place(torch.device("cpu"), max_bytes)


class Store:
    """Chains by cube id, with a count of what was read."""

    def __init__(self, *chains: list[int]) -> None:
        self.blobs = {f"kv-{index}": blob_of(ids) for index, ids in enumerate(chains)}
        self.reads: list[str] = []

    @property
    def stored(self) -> list[StoredActivation]:
        return [StoredActivation(name, payload_of(blob, encode(blob))) for name, blob in self.blobs.items()]

    def read(self, each: StoredActivation) -> bytes:
        self.reads.append(each.cube_id)
        return encode(self.blobs[each.cube_id])

    def longest(self, cache: PrefixCache, ids: list[int], owner: str = "ada") -> tuple[str, int] | None:
        found = cache.longest(owner, self.stored, as_token_ids(ids), self.read)
        return found and (found[0].cube_id, found[1])


def shared(left: list[int], right: list[int], limit: int) -> int:
    count = 0
    while count < min(len(left), len(right), limit) and left[count] == right[count]:
        count += 1
    return count


token_lists = st.lists(st.integers(0, 2), min_size=1, max_size=10)


@given(st.lists(token_lists, max_size=6), token_lists, st.none() | st.integers(2, 8))
def test_the_longest_shared_prefix_is_the_one_of_the_slow_definition(
    chains: list[list[int]], prompt: list[int], window: int | None
) -> None:
    store = Store(*chains)
    found = store.longest(PrefixCache(host(1 << 20), window), prompt)
    limit = len(prompt) - 1
    best = 0
    for chain in chains:
        length = shared(chain, prompt, limit)
        if window is None or len(chain) < window or length == len(chain):
            best = max(best, length)
    assert (found[1] if found else 0) == best
    if found:
        chain = chains[int(found[0].removeprefix("kv-"))]
        assert chain[:best] == prompt[:best]


def test_one_token_is_always_left_to_compute() -> None:
    assert Store([1, 2, 3]).longest(PrefixCache(host(1 << 20)), [1, 2, 3]) == ("kv-0", 2)
    assert Store([1, 2, 3]).longest(PrefixCache(host(1 << 20)), [1]) is None


def test_a_whole_chain_is_told_by_its_digest_without_reading_it() -> None:
    store = Store([1, 2, 3])
    assert store.longest(PrefixCache(host(1 << 20)), [1, 2, 3, 4]) == ("kv-0", 3)
    assert store.reads == []


def test_the_ids_of_a_chain_are_read_once() -> None:
    store, cache = Store([1, 2, 9]), PrefixCache(host(1 << 20))
    for _ in range(3):
        assert store.longest(cache, [1, 2, 3, 4]) == ("kv-0", 2)
    assert store.reads == ["kv-0"]


def test_a_forgotten_chain_is_not_used_and_leaves_memory() -> None:
    store, cache = Store([1, 2, 3], [1, 2]), PrefixCache(host(1 << 20))
    for each in store.stored:
        cache.load("ada", each, lambda each=each: store.blobs[each.cube_id])
    before = cache.loaded_bytes
    del store.blobs["kv-0"]
    assert store.longest(cache, [1, 2, 3, 4]) == ("kv-1", 2)
    assert 0 < cache.loaded_bytes < before


def test_nothing_is_shared_across_owners() -> None:
    store, cache = Store([1, 2, 3]), PrefixCache(host(1 << 20))
    (each,) = store.stored
    made = []
    for owner in ("ada", "ben", "ada"):
        cache.load(owner, each, lambda owner=owner: made.append(owner) or store.blobs["kv-0"])
    assert made == ["ada", "ben"]
    cache.drop("ada")
    cache.load("ben", each, lambda: pytest.fail("ben's was dropped too"))
    cache.load("ada", each, lambda: made.append("again") or store.blobs["kv-0"])
    assert made[-1] == "again"


def test_the_budget_holds_and_what_is_used_least_goes_first() -> None:
    store = Store([1] * 8, [2] * 8, [3] * 8)
    size = store.blobs["kv-0"].size_bytes
    cache = PrefixCache(host(2 * size))
    first, second, third = store.stored
    made: list[str] = []

    def load(each: StoredActivation) -> None:
        cache.load("ada", each, lambda: made.append(each.cube_id) or store.blobs[each.cube_id])

    for each in (first, second, first, third, first, second):
        load(each)
    assert made == ["kv-0", "kv-1", "kv-2", "kv-1"]
    assert cache.loaded_bytes == 2 * size


def test_a_blob_above_the_budget_is_used_and_not_kept() -> None:
    store, cache = Store([1] * 8), PrefixCache(host(8))
    (each,) = store.stored
    assert cache.load("ada", each, lambda: store.blobs["kv-0"])[0] is store.blobs["kv-0"]
    assert cache.loaded_bytes == 0


def test_other_tensors_under_the_same_cube_are_loaded_anew() -> None:
    cache, before, after = PrefixCache(host(1 << 20)), Store([1, 2]), Store([3, 4])
    cache.load("ada", before.stored[0], lambda: before.blobs["kv-0"])
    assert cache.load("ada", after.stored[0], lambda: after.blobs["kv-0"])[0] is after.blobs["kv-0"]
    assert after.longest(cache, [3, 4, 5]) == ("kv-0", 2)


def test_one_request_reads_a_limited_number_of_blobs_for_their_ids() -> None:
    store = Store(*([1, index] for index in range(3, 3 + prefix_module.MAX_READ_FOR_IDS + 5)))
    cache = PrefixCache(host(1 << 20))
    # Each chain shares one token at most, so none after the first can be better and none is read in vain.
    assert store.longest(cache, [1, 2, 3]) == ("kv-0", 1)
    none_shared = Store(*([9, index] for index in range(prefix_module.MAX_READ_FOR_IDS + 5)))
    assert none_shared.longest(PrefixCache(host(1 << 20)), [1, 2, 3]) is None
    assert len(none_shared.reads) == prefix_module.MAX_READ_FOR_IDS


def test_damage_found_while_reading_ids_is_raised() -> None:
    store = Store([1, 2, 9])

    def read(each: StoredActivation) -> bytes:
        return encode(store.blobs[each.cube_id])[:-3]

    with pytest.raises(BlobDamaged):
        PrefixCache(host(1 << 20)).longest("ada", store.stored, as_token_ids([1, 2, 3]), lambda each: read(each)[:40])


def test_many_threads_agree() -> None:
    store, cache = Store([1, 2, 3], [1, 2, 3, 4, 5], [1, 9]), PrefixCache(host(200))
    stored = store.stored
    results = []

    def work() -> None:
        for _ in range(20):
            found = cache.longest("ada", stored, as_token_ids([1, 2, 3, 4, 5, 6]), store.read)
            assert found is not None
            results.append((found[1], cache.load("ada", found[0], lambda: store.blobs["kv-1"])[0].tokens))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [(5, 5)] * 160
