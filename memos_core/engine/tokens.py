"""A tokenizer as engines need it: ids with character offsets, safe under threads, blind to special tokens in data."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from memos_core.engine.kv.fingerprint import tokenizer_digest

__all__ = ["Encoding", "Tokens", "common_prefix"]

JOINER = "\u200d"
REPLACEMENT = "\ufffd"
Encoding = tuple[list[int], list[int] | None]
"""Token ids, and for each the character offset at which it ends; None where the tokenizer does not tell."""


class Tokens:
    """Wraps a transformers tokenizer. Thread-safe; the tokenizer itself is never changed.

    Args:
        tokenizer: Any ``PreTrainedTokenizerBase``. One without a fast backend has no offsets.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._backend = private_backend(tokenizer)
        self.digest = tokenizer_digest(tokenizer)
        self.reserved = reserved_strings(tokenizer)
        self.leading_bos = leading_bos(tokenizer)
        self._pattern = re.compile("|".join(map(re.escape, self.reserved))) if self.reserved else None
        # Only a normaliser can make a special token out of other characters (full-width ones, for example).
        self._control = self._control_ids() if self._backend is not None and self._backend.normalizer else frozenset()

    def chat_template(self, *, tools: bool = False) -> str | None:
        """Return the source of the model's template; of several named ones that for ``tools``, or the default."""
        template = self.tokenizer.chat_template
        if isinstance(template, dict):
            template = template.get("tool_use" if tools and "tool_use" in template else "default")
        return template if isinstance(template, str) else None

    def encode(self, text: str) -> Encoding:
        """Return the ids of ``text``, and nothing before or after them; strings of special tokens count as such."""
        if self._backend is None:
            return list(self.tokenizer.encode(text, add_special_tokens=False)), None
        encoding = self._backend.encode(text, add_special_tokens=False)
        return encoding.ids, [end for _, end in encoding.offsets]

    def serialised(self) -> str | None:
        """Return the fast tokenizer as JSON, or None for one that is written in Python."""
        return None if self._backend is None else str(self._backend.to_str())

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of ``token_ids`` without special tokens."""
        return str(self.tokenizer.decode(list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def neutralise(self, text: str, ends: Sequence[int] = ()) -> tuple[str, tuple[int, ...]]:
        """Return ``text`` in which no special token is spelt out, and ``ends`` (character offsets) moved along.

        An invisible joiner goes after the first character of each such string, so that people read the same and the
        tokenizer sees ordinary characters.
        """
        moved = tuple(ends)
        while cuts := self._spelt_out(text):
            text, moved = split_at(text, cuts, JOINER, moved)
        for mark in (JOINER, " ", REPLACEMENT):  # a normaliser may drop the joiner too
            if not (cuts := self._made_by_normaliser(text)):
                break
            text, moved = split_at(text, cuts, mark, moved)
        return text, moved

    def _spelt_out(self, text: str) -> list[int]:
        """Return the offset after the first character of each string that is a special token."""
        return [match.start() + 1 for match in self._pattern.finditer(text)] if self._pattern else []

    def _made_by_normaliser(self, text: str) -> list[int]:
        """Return the offset after the first character of each span that becomes a special token all the same."""
        if not self._control:
            return []
        encoding = self._backend.encode(text, add_special_tokens=False)
        pairs = zip(encoding.ids, encoding.offsets, strict=True)
        return [start + 1 for token_id, (start, _) in pairs if token_id in self._control]

    def _control_ids(self) -> frozenset[int]:
        ids = (self._backend.token_to_id(text) for text in self.reserved)
        return frozenset(token_id for token_id in ids if token_id is not None)


def split_at(text: str, cuts: Sequence[int], mark: str, ends: Sequence[int]) -> tuple[str, tuple[int, ...]]:
    """Return ``text`` with ``mark`` put in at each of ``cuts`` (rising offsets), and ``ends`` moved along."""
    edges = [0, *cuts, len(text)]
    pieces = [text[start:end] for start, end in pairwise(edges)]
    return mark.join(pieces), tuple(end + len(mark) * bisect_left(cuts, end) for end in ends)


def leading_bos(tokenizer: Any) -> tuple[int, ...]:
    """Return the beginning-of-sequence token where ``tokenizer`` sets one before plain text."""
    bos = tokenizer.bos_token_id
    return (bos,) if bos is not None and list(tokenizer.encode(""))[:1] == [bos] else ()


def private_backend(tokenizer: Any) -> Any:
    """Return a copy of the Rust tokenizer that nobody else configures, or None for a tokenizer written in Python.

    A call of the Python wrapper may set truncation and padding on the shared backend, which fails while another
    thread encodes; encoding alone is safe.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    copy = type(backend).from_str(backend.to_str())
    copy.no_truncation()
    copy.no_padding()
    return copy


def reserved_strings(tokenizer: Any) -> list[str]:
    """Return the strings that would become control tokens, longest first: special ones and those of the template."""
    template = str(tokenizer.chat_template or "")
    added = tokenizer.added_tokens_decoder.values()
    found = {token.content for token in added if token.special or (token.content.strip() and token.content in template)}
    found.update(str(token) for token in tokenizer.all_special_tokens)
    return sorted((text for text in found if len(text) > 1), key=len, reverse=True)


def common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    """Return how many tokens two sequences share from the start."""
    for index, (one, other) in enumerate(zip(left, right, strict=False)):
        if one != other:
            return index
    return min(len(left), len(right))
