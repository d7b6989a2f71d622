"""What the detector needs of statistics: proportions, and many tests at once."""

from collections.abc import Sequence

import numpy as np
from scipy.stats import binomtest, false_discovery_control

ALPHA = 0.05
"""Expected share of false finds among what is reported."""


def wilson(count: int, total: int) -> tuple[float, float]:
    """95 % interval of a proportion."""
    interval = binomtest(count, total).proportion_ci(0.95, "wilson")
    return max(0.0, float(interval.low)), min(1.0, float(interval.high))


def cochran_armitage(counts: Sequence[int], sizes: Sequence[int]) -> float:
    """The z statistic of a linear trend in proportions, with nights 0, 1, 2, ... as scores (Armitage 1955)."""
    k_T, n_T, t_T = np.asarray(counts, float), np.asarray(sizes, float), np.arange(len(counts))
    pooled = k_T.sum() / n_T.sum()
    spread = (n_T * t_T**2).sum() - (n_T * t_T).sum() ** 2 / n_T.sum()
    variance = pooled * (1 - pooled) * spread
    return float((t_T * (k_T - n_T * pooled)).sum() / np.sqrt(variance)) if variance > 0 else 0.0


def adjusted(p_values: Sequence[float]) -> list[float]:
    """p-values such that reporting those below q makes at most a share q of the reports false (Benjamini-Hochberg)."""
    return [float(p) for p in false_discovery_control(np.clip(p_values, 0, 1))] if p_values else []
