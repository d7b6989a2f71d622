"""How failures go over nights: a rate a night for each rule, and whether it rises or falls beyond chance."""

from collections.abc import Sequence

from scipy.stats import norm

from components.shared.contracts.records import Record
from components.shared.contracts.weakness import Evaluated
from components.shared.performance.proportions import ALPHA, adjusted, cochran_armitage, wilson


class Trend(Record):
    """Failures of one kind over nights."""

    name: str
    """A rule, or `all scenarios`."""
    rates: tuple[float, ...]
    """Share of answers that fail, a number a night, the earliest first."""
    low: tuple[float, ...]
    """Bounds of their 95 % intervals (Wilson)."""
    high: tuple[float, ...]
    p_value: float
    """Of a two-sided Cochran-Armitage test for a trend, adjusted for all kinds."""
    direction: str
    """`rising`, `falling`, or `none` where no trend can be shown."""


def trends(nights: Sequence[Sequence[Evaluated]], role: str) -> list[Trend]:
    """How failures went over nights, the surest change first; nights need not share scenarios. None from one night."""
    if len(nights) < 2 or not all(nights):
        return []
    sizes = [len(night) for night in nights]
    counts = {"all scenarios": [sum(not a.outcomes[role].correct for a in night) for night in nights]}
    for rule in sorted({rule for night in nights for a in night for rule in a.outcomes[role].faults}):
        counts[rule] = [sum(rule in a.outcomes[role].faults for a in night) for night in nights]
    slopes = {name: cochran_armitage(found, sizes) for name, found in counts.items()}
    certain = dict(zip(slopes, adjusted([2 * norm.sf(abs(z)) for z in slopes.values()]), strict=True))
    found = [_trend(name, counts[name], sizes, slopes[name], certain[name]) for name in counts]
    return sorted(found, key=lambda t: (t.p_value, t.name))


def _trend(name: str, counts: Sequence[int], sizes: Sequence[int], slope: float, p: float) -> Trend:
    low, high = zip(*(wilson(k, n) for k, n in zip(counts, sizes, strict=True)), strict=True)
    return Trend(
        name=name,
        rates=tuple(k / n for k, n in zip(counts, sizes, strict=True)),
        low=low,
        high=high,
        p_value=p,
        direction="none" if p >= ALPHA else "rising" if slope > 0 else "falling",
    )
