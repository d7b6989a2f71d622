"""Runs of words as numbers: what shingles, contamination and leaks are told by.

Every word gets 64 bits of its BLAKE2b; a run of n words is their polynomial in an odd base modulo 2^64, which one running
sum gives for every n. Two different runs share a number with chance about 2^-64 a pair.

    W  words of a text
"""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.uint64]
BASE = 0x9E3779B97F4A7C15
"""Odd, so that it has an inverse modulo 2^64."""
MOST_WORDS = 1 << 20
"""Words that are remembered; then the memory starts anew, so that no input fills it."""


class _Words(dict[str, int]):
    """The number of a word, computed once."""

    def __missing__(self, word: str) -> int:
        if len(self) >= MOST_WORDS:
            self.clear()
        number = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")
        self[word] = number
        return number


class _Powers:
    """Powers of a base, as many as the longest text has needed."""

    def __init__(self, base: int):
        self._base = np.uint64(base)
        self._values = np.ones(1, dtype=np.uint64)

    def first(self, count: int) -> Numbers:
        if count > len(self._values):
            steps = np.full(2 * count, self._base, dtype=np.uint64)
            steps[0] = 1
            self._values = np.multiply.accumulate(steps)
        return self._values[:count]


_WORDS = _Words()
_UP = _Powers(BASE)
_DOWN = _Powers(pow(BASE, -1, 1 << 64))


class Grams:
    """The runs of words of one normalised text."""

    __slots__ = ("_sums_W", "words")

    def __init__(self, text: str):
        words = text.split()
        words_W = np.fromiter(map(_WORDS.__getitem__, words), dtype=np.uint64, count=len(words))
        self.words = len(words_W)
        self._sums_W = np.zeros(self.words + 1, dtype=np.uint64)
        np.cumsum(words_W * _UP.first(self.words), out=self._sums_W[1:])

    def runs(self, n: int) -> Numbers:
        """The numbers of all runs of `n` words, in order; a shorter text has none."""
        count = self.words - n + 1
        if count < 1:
            return np.empty(0, dtype=np.uint64)
        return (self._sums_W[n:] - self._sums_W[:count]) * _DOWN.first(count)


def share(part: Sequence[str], whole: Sequence[str], n: int) -> float:
    """The share of `part`'s distinct runs of n words that `whole` has; for texts of a paragraph."""
    distinct, others = (set(zip(*(words[i:] for i in range(n)), strict=False)) for words in (part, whole))
    return len(distinct & others) / len(distinct) if distinct else 0.0


class RunIndex:
    """Many runs in a sorted array, and before it a table of bits that most lookups end at."""

    def __init__(self, runs: Numbers):
        self.runs = runs
        """Sorted; a run may stand there several times."""
        bits = max(10, len(runs).bit_length() + 4)
        self._shift = np.uint64(64 - bits)
        self._maybe = np.zeros(1 << bits, dtype=bool)
        self._maybe[runs >> self._shift] = True

    def met(self, runs: Numbers) -> Numbers:
        """Those of `runs` that the index holds."""
        likely = runs[self._maybe[runs >> self._shift]]
        if not len(likely):
            return likely
        at = np.minimum(np.searchsorted(self.runs, likely), len(self.runs) - 1)
        return likely[self.runs[at] == likely]
