"""A tokenizer as engines need it: ids with character offsets, safe under threads, blind to special tokens in data."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from memos_core.engine.kv.fingerprint import tokenizer_digest

__all__ = ["Encoding", "Tokens", "common_prefix"]

JOINER = "\u200d"
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
        self._pattern = re.compile("|".join(map(re.escape, self.reserved))) if self.reserved else None

    @property
    def chat_template(self) -> str | None:
        template = self.tokenizer.chat_template
        if isinstance(template, dict):  # several named ones
            template = template.get("default")
        return template if isinstance(template, str) else None

    def encode(self, text: str) -> Encoding:
        """Return the ids of ``text``, and nothing before or after them; strings of special tokens count as such."""
        if self._backend is None:
            return list(self.tokenizer.encode(text, add_special_tokens=False)), None
        encoding = self._backend.encode(text, add_special_tokens=False)
        return encoding.ids, [end for _, end in encoding.offsets]

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of ``token_ids`` without special tokens."""
        return str(
            self.tokenizer.decode(list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        )

    def leading_bos(self) -> list[int]:
        """Return the beginning-of-sequence token where this tokenizer sets one before plain text."""
        bos = self.tokenizer.bos_token_id
        return [bos] if bos is not None and list(self.tokenizer.encode(""))[:1] == [bos] else []

    def neutralise(self, text: str, ends: Sequence[int] = ()) -> tuple[str, tuple[int, ...]]:
        """Return ``text`` in which no special token is spelt out, and ``ends`` (character offsets) moved along.

        An invisible joiner goes after the first character of each such string, so that people read the same and the
        tokenizer sees ordinary characters.
        """
        moved = list(ends)
        while self._pattern is not None and (match := self._pattern.search(text)):
            cut = match.start() + 1
            text = text[:cut] + JOINER + text[cut:]
            moved = [end + 1 if end >= cut else end for end in moved]
        return text, tuple(moved)


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
