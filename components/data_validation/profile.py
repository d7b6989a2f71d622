"""What a night's training data looks like in numbers, and how far it has moved from the last accepted night's.

The measure is the population stability index: the sum over bins of (new - old) * ln(new / old), over shares. Numbers are
binned by the accepted night's deciles, so that every bin is worth asking about; names (teacher, class) are their own bins.
Two samples of one distribution differ too: their index is about (1/n + 1/m) times a chi-square variable of bins - 1 degrees
of freedom (Yurdakul 2018), so what such a variable hardly ever reaches is given beside it.
"""

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from components.shared.contracts.records import Record

if TYPE_CHECKING:
    from components.data_validation.duplicates import Row

NUMBERS = ("prompt_tokens", "completion_tokens", "steps", "score", "mean_step_reward", "difficulty")
"""Measures of a trajectory."""
NAMES = ("source", "kind")
"""Fields of a row that are names."""
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


class Profile(Record):
    """Distributions of a dataset's training trajectories."""

    rows: int = Field(ge=0)
    numbers: dict[str, Histogram] = {}
    names: dict[str, dict[str, int]] = {}


def profile_of(rows: Sequence["Row"], accepted: Profile | None) -> Profile:
    """The profile of these rows: in the accepted night's bins to compare with it, else in their own deciles."""
    numbers = {}
    for i, name in enumerate(NUMBERS):
        values = sorted(row.numbers[i] for row in rows)
        old = accepted.numbers.get(name) if accepted else None
        numbers[name] = _histogram(values, old.edges if old else _deciles(values))
    names = {name: dict(sorted(Counter(getattr(row, name) for row in rows).items())) for name in NAMES}
    return Profile(rows=len(rows), numbers=numbers, names=names)


class Moved(Record):
    """How far one distribution has moved."""

    index: float
    """Population stability index."""
    chance: float
    """Index that two samples of these sizes and one distribution hardly ever reach."""


def drift(accepted: Profile, rows: Sequence["Row"]) -> dict[str, Moved]:
    """How far each measure and name that both nights have has moved."""
    new = profile_of(rows, accepted)
    found = {}
    for name, old in accepted.numbers.items():
        if name in new.numbers:
            found[name] = moved(old.counts, new.numbers[name].counts)
    for name, old_names in accepted.names.items():
        new_names = new.names.get(name, {})
        keys = sorted({*old_names, *new_names})
        found[name] = moved([old_names.get(key, 0) for key in keys], [new_names.get(key, 0) for key in keys])
    return found


def moved(old: Sequence[int], new: Sequence[int]) -> Moved:
    """Compare two histograms with the same bins."""
    n, m = max(1, sum(old)), max(1, sum(new))
    shares = [[max(count / total, FLOOR) for count in counts] for counts, total in ((old, n), (new, m))]
    index = sum((b - a) * math.log(b / a) for a, b in zip(*shares, strict=True))
    free = max(1, len(old) - 1)
    # Wilson and Hilferty's cube root of a chi-square variable is nearly normal.
    quantile = free * (1 - 2 / (9 * free) + NEVER * math.sqrt(2 / (9 * free))) ** 3
    return Moved(index=index, chance=(1 / n + 1 / m) * quantile)


def _deciles(values: Sequence[float]) -> tuple[float, ...]:
    if not values:
        return ()
    inner = {values[len(values) * i // BINS] for i in range(1, BINS)}
    return tuple(sorted(inner - {values[-1]}))


def _histogram(values: Sequence[float], edges: tuple[float, ...]) -> Histogram:
    counts = [0] * (len(edges) + 1)
    for value in values:
        counts[bisect_left(edges, value)] += 1
    low, high = (values[0], values[-1]) if values else (0.0, 0.0)
    return Histogram(edges=edges, counts=tuple(counts), low=low, high=high)
