"""Means over seeds with Student's intervals, paired differences, and what was hoped for against what was found."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import sqrt
from statistics import fmean, stdev

from scipy.stats import t

CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A mean over seeds."""

    mean: float
    half: float | None
    """Half the width of its 95 % interval; none for a single seed, which has no spread."""
    n: int

    @property
    def low(self) -> float | None:
        """The interval's lower bound."""
        return None if self.half is None else self.mean - self.half


def estimate(values: Sequence[float]) -> Estimate:
    """The mean of one value a seed, with Student's interval. Raises ValueError for none."""
    if not values:
        raise ValueError("no seed was measured: there is no mean")
    n = len(values)
    half = t.ppf((1 + CONFIDENCE) / 2, n - 1) * stdev(values) / sqrt(n) if n > 1 else None
    return Estimate(mean=fmean(values), half=half, n=n)


def difference(ours: dict[int, float], theirs: dict[int, float]) -> Estimate | None:
    """Mean of ours - theirs over the seeds that both have; none where they have none in common."""
    seeds = sorted(ours.keys() & theirs.keys())
    return estimate([ours[s] - theirs[s] for s in seeds]) if seeds else None


def relative_gain(ours: dict[int, float], theirs: dict[int, float]) -> Estimate | None:
    """Mean of ours / theirs - 1 over the seeds that both have and where theirs is not 0; none where there are none."""
    seeds = [s for s in sorted(ours.keys() & theirs.keys()) if theirs[s] > 0]
    return estimate([ours[s] / theirs[s] - 1 for s in seeds]) if seeds else None


class Verdict(StrEnum):
    """What a measurement says of a hope."""

    SHOWN = "shown"
    """The whole interval is at or above it."""
    IN_THE_MEAN = "in the mean only: the interval reaches below"
    ONE_SEED = "on one seed, which shows nothing"
    NOT_FOUND = "not found"


def verdict(found: Estimate, hoped: float) -> Verdict:
    """Whether the gain is at least the one hoped for."""
    if found.mean < hoped:
        return Verdict.NOT_FOUND
    if found.low is None:
        return Verdict.ONE_SEED
    return Verdict.SHOWN if found.low >= hoped else Verdict.IN_THE_MEAN
