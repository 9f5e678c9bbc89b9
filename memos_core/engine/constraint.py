"""Constrained decoding: of all tokens only those are left that keep an answer within a grammar.

llguidance (https://github.com/guidance-ai/llguidance) tells which tokens these are; see docs/adr/0010. On top of it
stands a promise: an answer is not cut in the middle. At each moment a short way to its end is known, and where the next
token would leave no room for one, the answer is closed along that way instead.
"""

from __future__ import annotations

import math
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from memos_core.engine.grammar import Grammar
from memos_core.errors import InvalidInput, MissingExtra, UnsupportedOption

if TYPE_CHECKING:
    from memos_core.engine.tokens import Tokens

__all__ = ["Constraint", "Constraints"]

KEPT_GRAMMARS = 64
MAX_WAY = 2048
"""Longest way to a complete answer that is looked for, in tokens."""

SHORT = 32
"""A way of so many tokens or fewer is not worth another search."""

MAX_SKIPPED = 8
"""Tokens at the beginning of a known way without which it may go on to be one."""

MAX_REFUSALS = 4
"""Tokens from which no way to the end is found, before the answer is closed instead."""


class Constraints:
    """The grammars of one tokenizer, compiled once each. Thread-safe.

    Args:
        tokens: The tokenizer; it must have a fast backend.
        vocabulary: How many logits the model gives.
        end_ids: Tokens that end a turn.

    Raises:
        MissingExtra: llguidance is not installed.
        UnsupportedOption: The tokenizer is a slow one, or no token ends a turn.
    """

    def __init__(self, tokens: Tokens, vocabulary: int, end_ids: frozenset[int]) -> None:
        try:
            import llguidance
        except ImportError as error:
            raise MissingExtra("llguidance", extra="local") from error
        source = tokens.serialised()
        if source is None:
            raise UnsupportedOption("structured output needs a fast tokenizer, and this model has a slow one")
        if not end_ids:
            raise UnsupportedOption("structured output needs a token that ends a turn, and this model names none")
        self._library = llguidance
        self._tokenizer = llguidance.LLTokenizer(source, n_vocab=vocabulary, eos_token=sorted(end_ids))
        self._end_ids = end_ids
        self._closer = Closer(self._tokenizer, min(end_ids))
        self._compiled: OrderedDict[Grammar, tuple[Any, list[int] | None]] = OrderedDict()
        self._lock = threading.Lock()

    def start(self, grammar: Grammar, max_tokens: int) -> Constraint:
        """Return a constraint for one answer of at most ``max_tokens``.

        Raises:
            InvalidInput: The grammar is wrong or asks for what is not supported, or even the shortest answer is longer.
        """
        matcher, path = self._compile(grammar)
        if path is not None and len(path) > max_tokens:
            raise InvalidInput(
                f"an answer of this form takes at least {len(path)} tokens, and max_tokens leaves {max_tokens}"
            )
        return Constraint(matcher.deep_copy(), path, self._closer, self._end_ids)

    def _compile(self, grammar: Grammar) -> tuple[Any, list[int] | None]:
        with self._lock:
            if grammar not in self._compiled:
                matcher = self._matcher(grammar)
                self._compiled[grammar] = matcher, self._way_through(matcher)
                if len(self._compiled) > KEPT_GRAMMARS:
                    self._compiled.popitem(last=False)
            self._compiled.move_to_end(grammar)
            return self._compiled[grammar]

    def _way_through(self, matcher: Any) -> list[int] | None:
        try:
            return self._closer.shortest(matcher)
        except UnsupportedOption as error:
            raise InvalidInput(f"the answer cannot be held to this form: {error}") from error

    def _matcher(self, grammar: Grammar) -> Any:
        made = self._library.LLMatcher
        write = {
            "json_schema": made.grammar_from_json_schema,
            "regex": made.grammar_from_regex,
            "lark": made.grammar_from_lark,
        }[grammar.kind]
        matcher = made(self._tokenizer, write(grammar.source), log_level=0)
        if matcher.is_error():
            raise InvalidInput(f"the answer cannot be held to this form: {complaint(matcher)}")
        return matcher


class Constraint:
    """Holds one answer to its grammar. Used by one thread at a time.

    Args:
        matcher: A matcher of llguidance, at the start.
        path: A short way to a complete answer; None: none was found, and the answer may be cut.
        closer: Finds such ways.
        end_ids: Tokens that end a turn.

    Attributes:
        complete: Whether the answer is whole and nothing may follow.
        guarded: Whether a way to its end is known, so that ``max_tokens`` does not cut it.
        closed: Whether it was closed early, to stay within its tokens.
    """

    def __init__(self, matcher: Any, path: list[int] | None, closer: Closer, end_ids: frozenset[int]) -> None:
        self._matcher = matcher
        self._path = path
        self._closer = closer
        self._end_ids = end_ids
        self.complete: bool = matcher.is_stopped()
        self.closed = False
        self.guarded = path is not None

    def take(self, logits: torch.Tensor, pick: Callable[[torch.Tensor], int], room: int) -> list[int]:
        """Return the next tokens: one that ``pick`` chose among those allowed, and those that must follow it.

        Behind a complete answer stands a token that ends the turn.

        Args:
            logits: ``[vocabulary]``; not changed.
            pick: From masked logits to a token.
            room: How many more tokens the answer may have; at least 1.

        Raises:
            UnsupportedOption: The grammar outgrew the limits of llguidance on the way.
        """
        tokens = self._forced(room) or self._chosen(logits, pick, room)
        return [*tokens, min(self._end_ids)] if self.complete else tokens

    def _chosen(self, logits: torch.Tensor, pick: Callable[[torch.Tensor], int], room: int) -> list[int]:
        allowed = self._allowed(len(logits))
        for _ in range(MAX_REFUSALS):
            token = pick(logits.masked_fill(~allowed.to(logits.device), -math.inf))
            if token in self._end_ids:
                return [token]
            way = self._go(token)
            if way is not None and len(way) >= room:
                way = self._closer.search(self._matcher) or way
            if self._path is None or (way is not None and len(way) < room):
                self._arrive(way)
                return [token, *self._forced(room - 1)]
            self._matcher.rollback(1)
            allowed[token] = False
            if way is not None or not allowed.any():
                break
        return self._close()

    def _allowed(self, vocabulary: int) -> torch.Tensor:
        return torch.from_numpy(allowed_tokens(self._matcher)[:vocabulary])

    def _forced(self, room: int) -> list[int]:
        tokens: list[int] = self._matcher.compute_ff_tokens()[:room]
        if tokens:
            self._matcher.consume_tokens(tokens)
            self._arrive(self._way(tokens))
        return tokens

    def _go(self, token: int) -> list[int] | None:
        """Go on with ``token`` and return a way to the end from there, if one is found."""
        self._matcher.consume_token(token)
        return self._way([token])

    def _arrive(self, way: list[int] | None) -> None:
        self._path = way
        refuse_error(self._matcher)  # llguidance takes a matcher that failed for one that has ended
        self.complete = self._matcher.is_stopped()

    def _way(self, tokens: Sequence[int]) -> list[int] | None:
        """Return a way to the end after ``tokens``, which were just taken, or None."""
        if self._path is None:
            return None
        if self._path[: len(tokens)] == list(tokens):
            return self._path[len(tokens) :]
        # Most tokens, such as one more word of a string, leave the known way as it was; the search begins with it.
        return self._closer.search(self._matcher, self._path)

    def _close(self) -> list[int]:
        """Go the known way to the end."""
        path = self._path or []
        self._matcher.consume_tokens(path)
        self.complete = self.closed = True
        return path


class Closer:
    """Finds short ways to a complete answer, by trying what closes things first. Not always the shortest.

    Args:
        tokenizer: The tokenizer in llguidance's form.
        end: A token that ends a turn.
    """

    def __init__(self, tokenizer: Any, end: int) -> None:
        self._tokenizer = tokenizer
        self._end = end
        self._ids: dict[str, int] = {}
        for code in range(32, 127):
            ids = tokenizer.tokenize_bytes(bytes([code]))
            if len(ids) == 1:
                self._ids[chr(code)] = ids[0]
        others = set(self._ids) - {'"', *"}],:"}
        self._in_string = self._order('"', sorted(others, key=lambda each: (not each.isalnum(), each.isdigit(), each)))
        self._outside = self._order('}],":', sorted(others, key=lambda each: (not each.isdigit(), each)))

    def _order(self, closing: str, others: Sequence[str]) -> tuple[list[int], list[int]]:
        """Return the tokens that close something, best first, and those of other characters."""
        return [self._ids[each] for each in closing if each in self._ids], [self._ids[each] for each in others]

    def shortest(self, matcher: Any) -> list[int] | None:
        """Return a way to the end as ``search`` does, and where text must be long one of few, long tokens."""
        ways = [self.search(matcher)]
        if ways[0] is None or len(ways[0]) > SHORT:
            ways.append(self.search(matcher, filling=self._long_tokens()))
        return min((way for way in ways if way is not None), key=len, default=None)

    def _long_tokens(self) -> list[int]:
        """Return tokens of many lower-case letters, for some lengths one, the longest first."""
        lengths: dict[int, int] = {}
        for token in range(self._tokenizer.vocab_size):
            text = self._tokenizer.decode_bytes([token])
            if text.isalpha() and text.islower():
                lengths.setdefault(len(text), token)
        return [lengths[length] for length in sorted(lengths, reverse=True)]

    def search(self, matcher: Any, known: Sequence[int] = (), filling: Sequence[int] = ()) -> list[int] | None:
        """Return tokens that complete the answer from where ``matcher`` stands, which stays there; None: none found.

        Args:
            known: A way from where it stood before. What is new leads back to it as a rule; then the search is over.
            filling: Tokens that go before single characters where text must go on.
        """
        copy = matcher.deep_copy()
        uses: Counter[int] = Counter()
        path: list[int] = []
        while len(path) <= MAX_WAY:
            refuse_error(copy)
            rest = [] if copy.is_accepting() else self._joined(copy, known)
            if rest is not None:
                return path + rest
            tokens = copy.compute_ff_tokens() or [self._best(copy, uses, filling)]
            copy.consume_tokens(tokens)
            path += tokens
        return None

    def _joined(self, matcher: Any, known: Sequence[int]) -> list[int] | None:
        """Return the part of ``known`` that completes the answer, with a few tokens of its beginning left out."""
        for skipped in range(min(len(known), MAX_SKIPPED + 1)):
            rest = list(known[skipped:])
            if matcher.validate_tokens([*rest, self._end]) > len(rest):
                return rest
        return None

    def _best(self, matcher: Any, uses: Counter[int], filling: Sequence[int]) -> int:
        # No word of JSON begins with an x: where one may stand, a string is open. Asking for single tokens is much
        # faster than computing all that are allowed.
        closing, others = self._in_string if self._may(matcher, self._ids.get("x")) else self._outside
        # The least used go first, so that no loop of a grammar is gone round for ever.
        for token in (*closing, *filling, *sorted(others, key=lambda each: uses[each])):
            if self._may(matcher, token):
                uses[token] += 1
                return token
        allowed = np.flatnonzero(allowed_tokens(matcher))
        token = min((int(each) for each in allowed), key=lambda each: uses[each], default=self._end)
        uses[token] += 1
        return token

    def _may(self, matcher: Any, token: int | None) -> bool:
        return token is not None and bool(matcher.validate_tokens([token]))


def allowed_tokens(matcher: Any) -> NDArray[np.bool_]:
    """Return for each token whether it may come next.

    Raises:
        UnsupportedOption: The grammar outgrew the limits of llguidance on the way.
    """
    packed = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
    refuse_error(matcher)
    return np.unpackbits(packed, bitorder="little").view(np.bool_)


def refuse_error(matcher: Any) -> None:
    """Raise ``UnsupportedOption`` where ``matcher`` has failed, and not just ended."""
    if matcher.is_error():
        raise UnsupportedOption(f"the form is too complex: {complaint(matcher)}")


def complaint(matcher: Any) -> str:
    """Return the first sentence of what llguidance says is wrong; what follows is the state of its parser."""
    return str(matcher.get_error()).partition("\n<state>")[0].partition("\n\n")[0].strip()
