"""Text into words for search, alike for questions and memories and for every script.

Words are NFKC, case folded and stemmed by the Snowball stemmer of their script. Scripts that are written without
spaces (Han, kana, Hangul, Thai, Lao, Khmer, Burmese) give single characters and pairs of neighbours, which needs no
dictionary and finds any substring of two characters or more.
"""

from __future__ import annotations

import itertools
import re
import threading
import unicodedata
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache

import snowballstemmer

__all__ = ["query_words", "telling_words", "words"]

UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u3040-\u30ff\u3130-\u318f\u31f0-\u31ff\u3400-\u4dbf"
    "\u4e00-\u9fff\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff\U00020000-\U0003ffff]+"
)
WORD = re.compile(r"[^\W_]+(?:['\u2019][^\W\d_]+)*")
MAX_WORD_CHARS = 64
"""A longer run is a key or a blob, not a word: it is cut here."""

STEMMERS = (
    (re.compile("[a-z]"), "english"),
    (re.compile("[\u0400-\u04ff]"), "russian"),
    (re.compile("[\u0370-\u03ff]"), "greek"),
    (re.compile("[\u0600-\u06ff]"), "arabic"),
    (re.compile("[\u0900-\u097f]"), "hindi"),
    (re.compile("[\u0530-\u058f]"), "armenian"),
)

STOP_WORDS = frozenset(
    re.findall(
        r"\w+",
        """
        a about after all also am an and any are as at be been before being but by can could did do does doing done
        for from get got had has have having he her hers him his how i if in into is it its just me more most my no
        not of on or our ours out over she should so some such than that the their theirs them then there these they
        this those to too up very was we were what when where which while who whom whose why will with would you
        your yours
        """,
    )
)
"""English words that carry no subject. Left out of questions only, unless a question has no others."""

_stemming = threading.Lock()


def words(text: str) -> Counter[str]:
    """Return how often each word occurs in ``text``."""
    return Counter(split(text))


def query_words(text: str) -> tuple[str, ...]:
    """Return the distinct words of a question that are worth looking up, in their order."""
    found = dict.fromkeys(split(text))
    stems = stop_stems()
    telling = tuple(word for word in found if word not in stems)
    return telling or tuple(found)


def telling_words(text: str) -> set[str]:
    """Return the distinct words of a text without those that carry no subject; none if it has no others."""
    return set(split(text)) - stop_stems()


def split(text: str) -> list[str]:
    """Return the words of ``text`` in order."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    found: list[str] = []
    position = 0
    for run in UNSPACED.finditer(folded):
        found += spaced(folded[position : run.start()])
        found += pairs(run.group())
        position = run.end()
    return found + spaced(folded[position:])


def spaced(text: str) -> list[str]:
    return [stem(word[:MAX_WORD_CHARS]) for word in WORD.findall(text)]


def pairs(run: str) -> Iterator[str]:
    yield from run
    for left, right in itertools.pairwise(run):
        yield left + right


@lru_cache(maxsize=1)
def stop_stems() -> frozenset[str]:
    return frozenset(stem(word) for word in STOP_WORDS)


@lru_cache(maxsize=65536)
def stem(word: str) -> str:
    """Return the stem of one folded word; accents on Latin letters are dropped."""
    plain = "".join(c for c in unicodedata.normalize("NFD", word) if not "\u0300" <= c <= "\u036f")
    plain = plain.replace("\u2019", "'")
    for script, language in STEMMERS:
        if script.match(plain):
            with _stemming:  # a stemmer keeps its word in its own state
                return str(stemmer(language).stemWord(plain))
    return plain


@lru_cache(maxsize=len(STEMMERS))
def stemmer(language: str) -> snowballstemmer.stemmer:
    return snowballstemmer.stemmer(language)
