"""How far a distribution has moved from the one that was accepted: the population stability index.

The sum over bins of (new - old) * ln(new / old), over shares. Numbers are binned by the accepted sample's deciles, so that
every bin is worth asking about; names are their own bins. Two samples of one distribution differ too: their index is about
(1/n + 1/m) times a chi-square variable of bins - 1 degrees of freedom (Yurdakul 2018), so what such a variable hardly ever
reaches is given beside it.
"""

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence

from components.shared.contracts.records import Record

WARN, BLOCK = 0.1, 0.25
"""The index from which a distribution is said to drift, and from which it is another one."""
BINS = 10
NEVER = 4.0
"""Standard deviations that chance is given: 1 in 30,000 for each index."""
FLOOR = 1e-4
"""Share that an empty bin is counted as: without one the index is infinite."""


class Histogram(Record):
    """Counts between edges: bin i holds what is above edge i-1 and not above edge i; the last is open."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    low: float = 0.0
    """Least value."""
    high: float = 0.0
    """Greatest value."""


class Moved(Record):
    """How far one distribution has moved."""

    index: float
    """Population stability index."""
    chance: float
    """Index that two samples of these sizes and one distribution hardly ever reach."""


def histogram(values: Sequence[float], accepted: Histogram | None = None) -> Histogram:
    """Values in the accepted histogram's bins, else in their own deciles."""
    ordered = sorted(values)
    edges = accepted.edges if accepted else deciles(ordered)
    counts = [0] * (len(edges) + 1)
    for value in ordered:
        counts[bisect_left(edges, value)] += 1
    low, high = (ordered[0], ordered[-1]) if ordered else (0.0, 0.0)
    return Histogram(edges=edges, counts=tuple(counts), low=low, high=high)


def deciles(ordered: Sequence[float]) -> tuple[float, ...]:
    """The inner edges of ten bins that hold as much each, as far as equal values let them."""
    if not ordered:
        return ()
    inner = {ordered[len(ordered) * i // BINS] for i in range(1, BINS)}
    return tuple(sorted(inner - {ordered[-1]}))


def moved(old: Sequence[int], new: Sequence[int]) -> Moved:
    """Compare two histograms with the same bins."""
    n, m = max(1, sum(old)), max(1, sum(new))
    shares = [[max(count / total, FLOOR) for count in counts] for counts, total in ((old, n), (new, m))]
    index = sum((b - a) * math.log(b / a) for a, b in zip(*shares, strict=True))
    free = max(1, len(old) - 1)
    # Wilson and Hilferty's cube root of a chi-square variable is nearly normal.
    quantile = free * (1 - 2 / (9 * free) + NEVER * math.sqrt(2 / (9 * free))) ** 3
    return Moved(index=index, chance=(1 / n + 1 / m) * quantile)


def names_moved(old: Mapping[str, int], new: Mapping[str, int]) -> Moved:
    """Compare counts by name; a name that only one side has is an empty bin of the other."""
    keys = sorted({*old, *new})
    return moved([old.get(key, 0) for key in keys], [new.get(key, 0) for key in keys])
